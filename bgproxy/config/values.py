"""The configuration after it was read: resolved values, attributes named like the keys, in seconds and bytes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from bgproxy.config.certificates import Tls
from bgproxy.core.model import BLUE, Address, Colour, PoolTable
from bgproxy.core.settings import (
    AccessLogSettings,
    HeaderSettings,
    HoldSettings,
    HttpsSettings,
    Limits,
    StreamPolicy,
    StreamRoute,
    StreamSettings,
    Timeouts,
    UpstreamSettings,
    UpstreamTls,
    WorkerSettings,
)

Role: TypeAlias = Literal["read", "switch", "admin"]


def usable_cores() -> int:
    """Cores this process may run on: a container's CPU set counts, the machine's size does not."""
    return len(os.sched_getaffinity(0))


class Server(msgspec.Struct, frozen=True, kw_only=True):
    listen: tuple[Address, ...] = (Address(host="127.0.0.1", port=8080),)
    workers: int = msgspec.field(default_factory=usable_cores)
    error_pages: str = ""  # a directory; "" is none
    trusted_proxies: tuple[str, ...] = ()  # CIDRs in their canonical spelling, or "unix"
    proxy_protocol: bool = False
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()


class ProbeHeaders(dict[str, str]):
    """Extra fields of a probe. May hold credentials, so only the names show."""

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{name!r}: ***" for name in self) + "}"

    __str__ = __repr__


class Health(msgspec.Struct, frozen=True, kw_only=True):
    path: str = "/healthz"
    method: str = "GET"
    interval: float = 1.0
    timeout: float = 5.0
    jitter: float = 0.1  # share of the interval
    rise: int = 2
    fall: int = 3
    expect_status: tuple[tuple[int, int], ...] = ((200, 299),)  # inclusive ranges
    expect_body: str = ""  # a substring; "" accepts any body
    headers: ProbeHeaders = msgspec.field(default_factory=ProbeHeaders)
    max_body_bytes: int = 64 * 1024
    release_header: str = "X-Release"
    passive_failures: int = UpstreamSettings().passive_failures
    passive_eject: float = UpstreamSettings().passive_eject


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """What [[switch.route]] says otherwise than [switch.streams]; None where it says nothing."""

    path: str
    policy: str | None = None
    timeout: float | None = None
    spread: float | None = None
    close_code: int | None = None
    retry: float | None = None

    def over(self, default: StreamPolicy) -> StreamRoute:
        said = {key: value for key, value in msgspec.structs.asdict(self).items() if value is not None}
        return StreamRoute(path=said.pop("path"), policy=msgspec.structs.replace(default, **said))


class Switch(msgspec.Struct, frozen=True, kw_only=True):
    initial: Colour = BLUE
    mode: Literal["instant", "fence", "fence-writes"] = "instant"
    wait: Literal["acked", "drained"] = "acked"
    ack_timeout: float = 2.0
    drain_timeout: float = 30.0
    fence_timeout: float = 5.0
    fence_policy: Literal["abort", "cut"] = "abort"
    hold_max: int = HoldSettings().max
    hold_bytes: int = HoldSettings().bytes
    hold_timeout: float = HoldSettings().timeout
    streams: StreamPolicy = StreamPolicy()
    route: tuple[Route, ...] = ()


class State(msgspec.Struct, frozen=True, kw_only=True):
    dir: Path


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """Who may use the admin API. Only the hash of the token is known, and not even that is shown."""

    name: str
    role: Role
    sha256: str  # 64 lower-case hexadecimal digits

    def __repr__(self) -> str:
        return f"Token(name={self.name!r}, role={self.role!r}, sha256=***)"


class Admin(msgspec.Struct, frozen=True, kw_only=True):
    listen: Address | None
    socket: Path | None
    tokens: tuple[Token, ...]
    allowed_hosts: tuple[str, ...]  # lower case, without ports


class Log(msgspec.Struct, frozen=True, kw_only=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "text", "json"] = "auto"
    access: Literal["json", "combined", "off"] = "off"
    access_file: str = "-"  # a path, or "-" for standard output


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """The file the configuration came from; both empty where there was none."""

    file: str = ""
    sha256: str = ""


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything an operator decided. `min_healthy` is (blue, green), `all_healthy` where it was written "all";
    `upstream_server_name` is for upstreams over TLS that name none. `warnings` are sentences, not errors."""

    server: Server
    pools: PoolTable
    min_healthy: tuple[int, int]
    all_healthy: tuple[bool, bool] = (False, False)
    upstream_server_name: str = ""
    upstream: UpstreamSettings
    upstream_tls: UpstreamTls
    health: Health
    switch: Switch
    state: State
    admin: Admin
    headers: HeaderSettings
    log: Log
    error_pages: dict[str, str] = {}  # what is in [server] error_pages: file name → text
    tls: Tls = Tls()
    source: Source = Source()
    warnings: tuple[str, ...] = ()

    def worker_settings(self, *, tls_port: int = 443) -> WorkerSettings:
        """`tls_port` is the port of the first address that speaks TLS."""
        redirect_port = tls_port if self.tls.redirect_port < 0 else self.tls.redirect_port
        return WorkerSettings(
            timeouts=self.server.timeouts,
            limits=self.server.limits,
            upstream=self.upstream,
            headers=self.headers,
            access_log=AccessLogSettings(format=self.log.access, file=self.log.access_file),
            trusted_proxies=self.server.trusted_proxies,
            error_pages=self.error_pages,
            proxy_protocol=self.server.proxy_protocol,
            upstream_tls=self.upstream_tls,
            https=HttpsSettings(hsts=int(self.tls.hsts), redirect_port=redirect_port),
            hold=HoldSettings(max=self.switch.hold_max, bytes=self.switch.hold_bytes, timeout=self.switch.hold_timeout),
            streams=StreamSettings(
                default=self.switch.streams,
                routes=tuple(route.over(self.switch.streams) for route in self.switch.route),
            ),
        )
