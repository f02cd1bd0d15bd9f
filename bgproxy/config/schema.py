"""Every key of the file: where it stands and what kind of value it takes. Defaults live in the structs alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from bgproxy.config.addresses import address, network, same_address, server_name, upstream
from bgproxy.config.kinds import (
    choice,
    colour,
    duration,
    number_of,
    number_of_version,
    number_or,
    share,
    size,
    status_range,
    text,
    true_or_false,
    whole_number,
)
from bgproxy.config.locate import Path
from bgproxy.config.nodes import ListOf, MapOf, Node, Section, TextOrTable
from bgproxy.config.tls import SECTION as TLS
from bgproxy.config.tls import TlsSection
from bgproxy.config.values import Health, Log, ProbeHeaders, Role, Route, Server, Switch, Token, usable_cores
from bgproxy.core.model import Address
from bgproxy.core.settings import TRUSTED_UNIX, HeaderSettings, Limits, StreamPolicy, Timeouts, UpstreamSettings
from bgproxy.shm.health_board import UPSTREAM_ROWS

# --- sections that are resolved further, in the shape of the file ---------------------------------------------------


class UpstreamEntry(msgspec.Struct, frozen=True, kw_only=True):
    address: Address
    weight: int = 1
    server_name: str = ""


class UpstreamTlsSection(msgspec.Struct, frozen=True, kw_only=True):
    ca: str = ""
    verify: bool = True
    server_name: str = ""
    cert: str = ""
    key: str = ""


class UpstreamSection(UpstreamSettings, frozen=True, kw_only=True):
    tls: UpstreamTlsSection = UpstreamTlsSection()


class PoolSection(msgspec.Struct, frozen=True, kw_only=True):
    upstreams: tuple[UpstreamEntry, ...] = ()
    release: str = ""
    balance: str = "least-requests"
    min_healthy: int | Literal["all"] = 1


class Pools(msgspec.Struct, frozen=True, kw_only=True):
    blue: PoolSection = PoolSection()
    green: PoolSection = PoolSection()


class StateSection(msgspec.Struct, frozen=True, kw_only=True):
    dir: str = "auto"


class AdminSection(msgspec.Struct, frozen=True, kw_only=True):
    listen: Address | None = Address(host="127.0.0.1", port=8081)
    socket: str = "auto"
    tokens: tuple[Token, ...] = ()
    allowed_hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]")


class Root(msgspec.Struct, frozen=True, kw_only=True):
    version: int = 1
    server: Server = msgspec.field(default_factory=Server)
    pools: Pools = Pools()
    upstream: UpstreamSection = UpstreamSection()
    health: Health = msgspec.field(default_factory=Health)
    switch: Switch = Switch()
    state: StateSection = StateSection()
    admin: AdminSection = AdminSection()
    headers: HeaderSettings = HeaderSettings()
    log: Log = Log()
    tls: TlsSection = TlsSection()


# --- the table ------------------------------------------------------------------------------------------------------

_FIELD_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}"
# A request id in one of these would change what the message means.
_TAKEN_FIELDS = (
    "Host|Connection|Content-.*|Transfer-Encoding|Te|Trailer|Upgrade|Expect|Via|Forwarded|X-Forwarded-.*|X-BG-.*|"
    "Client-Cert.*|X-Client-Cert-.*|"
    "Accept|Allow|Cache-Control|Date|Retry-After|Server|Vary|X-Content-Type-Options"
)
_MAYBE_PATH = r"[^\0-\x1f]{0,4096}"


def _pool() -> Section:
    entry = Section(
        UpstreamEntry, {"address": upstream(), "weight": whole_number(1, 1000), "server_name": server_name()}
    )
    return Section(
        PoolSection,
        {
            "upstreams": ListOf(
                TextOrTable(upstream(), lambda address: UpstreamEntry(address=address), entry),
                at_least=1,
                at_most=UPSTREAM_ROWS,
                identity=lambda entry: same_address(entry.address),
            ),
            "release": text("at most 128 printable ASCII characters", r"|[!-~](?:[ -~]{0,126}[!-~])?"),
            "balance": choice("least-requests", "round-robin"),
            "min_healthy": number_or("all", 1, UPSTREAM_ROWS, "all"),
        },
    )


def _stream_policy() -> dict[str, Node]:
    return {
        "policy": choice("keep", "close-after", "close-now"),
        "timeout": duration("0s"),
        "spread": duration("0s", "1d"),
        "close_code": number_of(1012, 1001),
        "retry": duration("0s", "1d"),
    }


_ROUTE = Section(
    Route,
    {
        "path": text('the beginning of a path: "/" and ASCII without spaces, "?" and "#"', r'/[!"$->@-~]{0,2047}'),
        **_stream_policy(),
    },
)

POOL = _pool()

_TOKEN = Section(
    Token,
    {
        "name": text("a name of at most 64 letters, digits or ._@-", r"[A-Za-z0-9._@-]{1,64}"),
        "role": choice(*Role.__args__),  # type: ignore[attr-defined]  # the alias of a Literal has them
        "sha256": text(
            '64 lower-case hexadecimal digits, as `printf %s "$TOKEN" | sha256sum` prints them',
            "[0-9a-f]{64}",
            secret=True,
        ),
    },
)

ROOT = Section(
    Root,
    {
        "version": number_of_version(1),
        "server": Section(
            Server,
            {
                "listen": ListOf(address(port_zero=True), at_most=64, identity=same_address),
                "workers": number_or("auto", 1, 256, usable_cores),
                "error_pages": text('a directory, or "" for none', r"[^\0-\x1f]{0,4096}"),
                "trusted_proxies": ListOf(network(TRUSTED_UNIX), identity=str),
                "proxy_protocol": true_or_false(),
                "timeouts": Section(
                    Timeouts,
                    {
                        "header": duration(),
                        "body_idle": duration(),
                        "keep_alive": duration(),
                        "write_idle": duration(),
                        "shutdown": duration("0s"),
                        "upgrade": duration("1s"),
                    },
                ),
                "limits": Section(
                    Limits,
                    {
                        "connections": whole_number(1, 1_000_000),
                        "requests": whole_number(0, 1_000_000_000),
                        "pipeline": whole_number(1, 1000),
                        "head_bytes": size("1KiB", "1MiB"),
                        "header_count": whole_number(1, 10_000),
                        "target_bytes": size("64B", "1MiB"),
                        "body_bytes": size("0", "1024TiB"),
                        "buffered_bytes": size("0", "1024TiB"),
                    },
                ),
            },
        ),
        "tls": TLS,
        "pools": Section(Pools, {"blue": POOL, "green": POOL}),
        "upstream": Section(
            UpstreamSection,
            {
                "connect_timeout": duration(),
                "response_timeout": duration(),
                "body_idle": duration(),
                "stream_idle": duration(),
                "idle_timeout": duration(),
                "max_connections": whole_number(1, 65_535),
                "max_waiting": whole_number(0, 1_000_000),
                "retries": whole_number(0, 10),
                "dns_refresh": duration("100ms"),
                "tls": Section(
                    UpstreamTlsSection,
                    {
                        "ca": text('the path of a PEM file, or "" for the system\'s store', _MAYBE_PATH),
                        "verify": true_or_false(),
                        "server_name": server_name(),
                        "cert": text('the path of a PEM file, or "" for none', _MAYBE_PATH),
                        "key": text('the path of a PEM file, or "" where cert holds the key', _MAYBE_PATH),
                    },
                ),
            },
        ),
        "health": Section(
            Health,
            {
                "path": text('a path that starts with "/", in ASCII without spaces', r"/[!-~]{0,2047}"),
                "method": choice("GET", "HEAD"),
                "interval": duration("10ms", "1d"),
                "timeout": duration("1ms", "1d"),
                "jitter": share(0.5),
                "rise": whole_number(1, 1000),
                "fall": whole_number(1, 1000),
                "expect_status": ListOf(status_range(), at_least=1, at_most=100),
                "expect_body": text("at most 4096 characters", r"[\s\S]{0,4096}"),
                "headers": MapOf(
                    ProbeHeaders,
                    key=text("the name of a header field", _FIELD_NAME),
                    item=text("one line of visible characters", r"|[!-~](?:[ -~\t]*[!-~])?", secret=True),
                ),
                "max_body_bytes": size("1B", "16MiB"),
                "release_header": text("the name of a header field", _FIELD_NAME),
                "passive_failures": whole_number(0, 1000),
                "passive_eject": duration(),
            },
        ),
        "switch": Section(
            Switch,
            {
                "initial": colour(),
                "mode": choice("instant", "fence", "fence-writes"),
                "wait": choice("acked", "drained"),
                "ack_timeout": duration("10ms", "10m"),
                "drain_timeout": duration("0s"),
                "fence_timeout": duration("10ms", "10m"),
                "fence_policy": choice("abort", "cut"),
                "hold_max": whole_number(0, 1_000_000),
                "hold_bytes": size("0", "1TiB"),
                "hold_timeout": duration(),
                "streams": Section(StreamPolicy, _stream_policy()),
                "route": ListOf(_ROUTE, identity=lambda route: route.path),
            },
        ),
        "state": Section(StateSection, {"dir": text('a directory, or "auto"', r"[^\0-\x1f]{1,4096}")}),
        "admin": Section(
            AdminSection,
            {
                "listen": address(port_zero=True, tcp_only="for a unix socket set [admin] socket", empty=True),
                "socket": text('the path of a unix socket, "auto", or "" for none', r"[^\0-\x1f]{0,4096}"),
                "tokens": ListOf(_TOKEN, identity=lambda token: token.name),
                "allowed_hosts": ListOf(
                    text("a host name or address without a port", r"[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]"),
                ),
            },
        ),
        "headers": Section(
            HeaderSettings,
            {
                "request_id": text(
                    "the name of a header field that has no other meaning",
                    f"(?i:(?!(?:{_TAKEN_FIELDS})$){_FIELD_NAME})",
                ),
                "expose": true_or_false(),
            },
        ),
        "log": Section(
            Log,
            {
                "level": choice("debug", "info", "warning", "error"),
                "format": choice("auto", "text", "json"),
                "access": choice("json", "combined", "off"),
                "access_file": text('a path, or "-" for standard output', r"[^\0-\x1f]{1,4096}"),
            },
        ),
    },
)


def keys(section: Section = ROOT, at: Path = ()) -> Iterator[tuple[Path, Node]]:
    """Every key with its path, sections left out."""
    for name, node in section.keys.items():
        path = (*at, name)
        if isinstance(node, Section):
            yield from keys(node, path)
        else:
            yield path, node


def label(path: Path) -> str:
    """How a path is written in an error: `[server.timeouts] header`, `[pools.blue] upstreams[1].weight`."""
    node: Node = ROOT
    depth = 0
    for part in path:
        if not isinstance(node, Section) or not isinstance(node.keys.get(str(part)), Section):
            break
        node = node.keys[str(part)]
        depth += 1
    section, rest = path[:depth], path[depth:]
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in rest).removeprefix(".")
    return " ".join(part for part in (f"[{'.'.join(map(str, section))}]" if section else "", name) if part)
