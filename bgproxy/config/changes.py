"""From one configuration to the next: what differs, key by key, and what of it only a restart can bring about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from bgproxy.config.values import Config, ProbeHeaders, Token
from bgproxy.core.model import COLOURS, Address, Pool

Shown: TypeAlias = Any  # what JSON can hold
SECRET = "***"

# Not keys of their own: what they say is said by others.
_LEFT_OUT = {"source", "warnings", "pools", "min_healthy", "all_healthy", "upstream_server_name", "error_pages"}
_LEFT_OUT_IN = {"upstream": {"passive_failures", "passive_eject"}}


class Change(msgspec.Struct, frozen=True):
    """`key` as in the file, `server.timeouts.header`. Durations in seconds, sizes in bytes; no secrets."""

    key: str
    old: Shown
    new: Shown


def effective(running: Config, wanted: Config) -> Config:
    """`wanted`, with everything that only a restart can change as it is in `running`, and what must go with it."""
    server = msgspec.structs.replace(
        wanted.server,
        listen=running.server.listen,
        workers=running.server.workers,
        proxy_protocol=running.server.proxy_protocol,
    )
    if wanted.server.proxy_protocol != running.server.proxy_protocol:
        # Without them every connection would be refused while the header is still required.
        server = msgspec.structs.replace(server, trusted_proxies=running.server.trusted_proxies)
    admin = msgspec.structs.replace(wanted.admin, listen=running.admin.listen, socket=running.admin.socket)
    if wanted.admin.listen != running.admin.listen and not wanted.admin.tokens:
        # It may listen for the whole network now: without tokens everybody there would be admin.
        admin = msgspec.structs.replace(admin, tokens=running.admin.tokens)
    tls = msgspec.structs.replace(wanted.tls, listen=running.tls.listen)
    if bool(wanted.tls.listen) != bool(running.tls.listen):
        tls = running.tls
    return msgspec.structs.replace(wanted, server=server, admin=admin, tls=tls, state=running.state)


def differences(old: Config, new: Config) -> tuple[Change, ...]:
    """By key, in the order of the file."""
    before, after = _flat(old), _flat(new)
    return tuple(
        _change(key, before.get(key), after.get(key))
        for key in {**before, **after}
        if before.get(key) != after.get(key)
    )


def _change(key: str, old: object, new: object) -> Change:
    shown_old, shown_new = _shown(old), _shown(new)
    if shown_old == shown_new:  # what differs is not for everybody's eyes
        return Change(key, shown_old, "changed")
    return Change(key, shown_old, shown_new)


def _flat(config: Config) -> dict[str, object]:
    flat: dict[str, object] = {}
    for name in Config.__struct_fields__:
        if name == "pools":
            flat.update(_pools(config))
        elif name == "upstream_tls":
            flat.update(_below("upstream.tls", config.upstream_tls))
            flat["upstream.tls.server_name"] = config.upstream_server_name
        elif name == "error_pages":
            flat["server.error_pages (files)"] = config.error_pages
        elif name not in _LEFT_OUT:
            flat.update(_below(name, getattr(config, name)))
    return flat


def _below(at: str, struct: msgspec.Struct) -> Iterator[tuple[str, object]]:
    for name in struct.__struct_fields__:
        value = getattr(struct, name)
        if name in _LEFT_OUT_IN.get(at, ()):
            continue
        if isinstance(value, msgspec.Struct) and not isinstance(value, Address):
            yield from _below(f"{at}.{name}", value)
        else:
            yield f"{at}.{name}", value


def _pools(config: Config) -> Iterator[tuple[str, object]]:
    for colour in COLOURS:
        pool: Pool = config.pools.pool(colour)
        at = f"pools.{colour.label}"
        yield f"{at}.upstreams", tuple(_upstream(config, each) for each in pool.upstreams)
        yield f"{at}.release", pool.release
        yield f"{at}.balance", pool.balance
        yield f"{at}.min_healthy", "all" if config.all_healthy[colour] else config.min_healthy[colour]


def _upstream(config: Config, upstream: Any) -> str:
    weight = f" weight {upstream.weight}" if upstream.weight != 1 else ""
    name = upstream.address.server_name
    is_own = name and name != config.upstream_server_name and name != upstream.address.host
    return f"{upstream.address}{weight}" + (f" server_name {name}" if is_own else "")


def _shown(value: object) -> Shown:
    match value:
        case None | bool() | Path() | Address():
            return value if value is None or isinstance(value, bool) else str(value)
        case bytes():
            return f"{len(value)} bytes" if value else ""
        case Token():
            return f"{value.name} ({value.role})"
        case Enum():
            return value.name.lower()
        case ProbeHeaders():
            return dict.fromkeys(value, SECRET)
        case Mapping():
            return sorted(map(str, value))
        case msgspec.Struct():
            return {name: _shown(getattr(value, name)) for name in value.__struct_fields__}
        case tuple() | list():
            return [_shown(each) for each in value]
    return value
