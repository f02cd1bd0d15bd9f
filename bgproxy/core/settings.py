"""What a worker needs to know about itself, in seconds and bytes. Made by config, sent to workers, never changed."""

from __future__ import annotations

import msgspec


class Timeouts(msgspec.Struct, frozen=True):
    """Client side, in seconds."""

    header: float = 10.0
    body_idle: float = 30.0
    keep_alive: float = 75.0
    write_idle: float = 30.0
    shutdown: float = 30.0
    upgrade: float = 60.0


class Limits(msgspec.Struct, frozen=True):
    """Client side; sizes in bytes. 0 means no limit for `requests`, `body_bytes` and `buffered_bytes`."""

    connections: int = 10_000
    requests: int = 10_000
    pipeline: int = 8
    head_bytes: int = 32 * 1024
    header_count: int = 100
    target_bytes: int = 8 * 1024
    body_bytes: int = 0
    buffered_bytes: int = 256 * 1024 * 1024


class UpstreamSettings(msgspec.Struct, frozen=True):
    """Upstream side; times in seconds, `max_connections` per upstream and worker."""

    connect_timeout: float = 2.0
    response_timeout: float = 60.0
    body_idle: float = 300.0
    stream_idle: float = 3600.0
    idle_timeout: float = 4.0
    max_connections: int = 256
    max_waiting: int = 256
    retries: int = 1
    dns_refresh: float = 10.0
    passive_failures: int = 5
    passive_eject: float = 10.0


class UpstreamTls(msgspec.Struct, frozen=True):
    """TLS towards upstreams. Files as their bytes (PEM), so that a worker that is started later gets the same ones.

    `ca` empty: the system's store. `key` empty: it is in `cert`, which is empty where no client certificate is shown.
    """

    ca: bytes = b""
    verify: bool = True
    cert: bytes = b""
    key: bytes = b""

    def __repr__(self) -> str:  # a private key is for nobody's log
        return f"UpstreamTls(ca={len(self.ca)} bytes, verify={self.verify}, cert={len(self.cert)} bytes, key=***)"


class HoldSettings(msgspec.Struct, frozen=True):
    """Per worker: requests, bytes (heads and what came of bodies) and seconds that a request is held at most."""

    max: int = 1000
    bytes: int = 16 * 1024 * 1024
    timeout: float = 10.0


class HeaderSettings(msgspec.Struct, frozen=True):
    request_id: str = "X-Request-ID"
    expose: bool = False


class AccessLogSettings(msgspec.Struct, frozen=True):
    """`format` is json, combined or off; `file` is a path or "-" for standard output."""

    format: str = "off"
    file: str = "-"


# Stands among the networks of `trusted_proxies` for every peer on a unix socket: file permissions say who that is.
TRUSTED_UNIX = "unix"


class HttpsSettings(msgspec.Struct, frozen=True):
    """`hsts` is a max-age in seconds, 0 for no such field; `redirect_port` is the port of https to which plain requests
    are sent, 0 where they are served."""

    hsts: int = 0
    redirect_port: int = 0


class StreamPolicy(msgspec.Struct, frozen=True):
    """What becomes of a stream whose colour is live no more; times in seconds.

    `policy` is keep, close-after (`timeout`) or close-now; the ends are spread over `spread`. `close_code` is what a
    WebSocket is told, `retry` what an event stream is told at least.
    """

    policy: str = "keep"
    timeout: float = 600.0
    spread: float = 10.0
    close_code: int = 1012
    retry: float = 3.0


class StreamRoute(msgspec.Struct, frozen=True):
    """The policy of every path that begins with `path`, byte for byte."""

    path: str
    policy: StreamPolicy


class StreamSettings(msgspec.Struct, frozen=True):
    """The route with the longest `path` that fits counts, else `default`."""

    default: StreamPolicy = StreamPolicy()
    routes: tuple[StreamRoute, ...] = ()


class WorkerSettings(msgspec.Struct, frozen=True):
    """Everything a worker is told about its work, besides the pool table.

    `trusted_proxies` are networks, or TRUSTED_UNIX. With `proxy_protocol` each connection comes from one of them and
    begins with a PROXY header, or is refused.
    """

    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    upstream: UpstreamSettings = UpstreamSettings()
    headers: HeaderSettings = HeaderSettings()
    access_log: AccessLogSettings = AccessLogSettings()
    trusted_proxies: tuple[str, ...] = ()
    error_pages: dict[str, str] = {}  # file name → text, as core.error_pages takes them
    proxy_protocol: bool = False
    upstream_tls: UpstreamTls = UpstreamTls()
    https: HttpsSettings = HttpsSettings()
    hold: HoldSettings = HoldSettings()
    streams: StreamSettings = StreamSettings()
