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


class HeaderSettings(msgspec.Struct, frozen=True):
    request_id: str = "X-Request-ID"
    expose: bool = False


class AccessLogSettings(msgspec.Struct, frozen=True):
    """`format` is json, combined or off; `file` is a path or "-" for standard output."""

    format: str = "off"
    file: str = "-"


class WorkerSettings(msgspec.Struct, frozen=True):
    """Everything a worker is told about its work, besides the pool table."""

    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    upstream: UpstreamSettings = UpstreamSettings()
    headers: HeaderSettings = HeaderSettings()
    access_log: AccessLogSettings = AccessLogSettings()
    trusted_proxies: tuple[str, ...] = ()
