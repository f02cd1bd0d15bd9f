"""What both pools are: those of the configuration, or what was set at run time, and who is drained.

What was set at run time counts until the configuration's own upstreams of that pool change.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec

from bgproxy.config.run_time import read_pool
from bgproxy.controlplane.pool_record import PoolRecord
from bgproxy.core.model import BLUE, COLOURS, GREEN, Address, Colour, Pool, PoolTable, parse_upstream
from bgproxy.core.pools import with_drained
from bgproxy.errors import ConfigError, StateCorrupt

if TYPE_CHECKING:
    from bgproxy.config import Config

FROM_FILE, AT_RUN_TIME = "file", "run time"


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Both pools as they are to be; everything per colour is (blue, green). Rows are given by core/pools.py.

    `overtaken` are colours whose change at run time gave way, because their upstreams in the configuration did.
    """

    pools: tuple[Pool, Pool]
    sources: tuple[str, str]
    min_healthy: tuple[int, int]
    record: PoolRecord
    overtaken: tuple[Colour, ...] = ()


def standing(config: Config, record: PoolRecord) -> Standing:
    """What configuration and record say together. StateCorrupt where what is recorded cannot be read."""
    pools: list[Pool] = []
    sources: list[str] = []
    overtaken: list[Colour] = []
    for colour in COLOURS:
        pool, source = config.pools.pool(colour), FROM_FILE
        changed = record.changed(colour)
        if changed is not None and changed.configured != fingerprint(pool):
            overtaken.append(colour)
            record = record.with_pool(colour, None)
        elif changed is not None:
            pool, source = _recorded(config, colour, list(changed.upstreams), changed.release), AT_RUN_TIME
        ids = {upstream.id for upstream in pool.upstreams}
        record = record.with_drained(colour, tuple(each for each in record.drained(colour) if each in ids))
        pools.append(with_drained(pool, record.drained(colour)))
        sources.append(source)
    return Standing(
        pools=(pools[BLUE], pools[GREEN]),
        sources=(sources[BLUE], sources[GREEN]),
        min_healthy=(_min_healthy(config, BLUE, pools[BLUE]), _min_healthy(config, GREEN, pools[GREEN])),
        record=record,
        overtaken=tuple(overtaken),
    )


def first_table(wanted: Standing) -> PoolTable:
    """The table of a start: rows in the order of the lists."""
    blue, green = (
        msgspec.structs.replace(
            pool,
            upstreams=tuple(msgspec.structs.replace(each, index=row) for row, each in enumerate(pool.upstreams)),
        )
        for pool in wanted.pools
    )
    return PoolTable(1, blue, green)


def fingerprint(pool: Pool) -> str:
    """Of what a change at run time replaces: upstreams and release."""
    facts = [pool.release, *([each.id, each.address.server_name, each.weight] for each in pool.upstreams)]
    return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()


def as_documents(pool: Pool) -> tuple[dict[str, Any], ...]:
    """The upstreams as `read_pool` reads them."""
    return tuple(
        {"address": str(each.address), "weight": each.weight}
        | ({"server_name": each.address.server_name} if _has_own_name(each.address) else {})
        for each in pool.upstreams
    )


def _has_own_name(address: Address) -> bool:
    return bool(address.server_name) and parse_upstream(str(address)) != address


def needed_healthy(config: Config, colour: Colour, count: int) -> int:
    """How many of so many upstreams [pools] min_healthy asks for; may be more than there are."""
    return count if config.all_healthy[colour] else config.min_healthy[colour]


def _min_healthy(config: Config, colour: Colour, pool: Pool) -> int:
    return min(needed_healthy(config, colour, len(pool.upstreams)), len(pool.upstreams))


def _recorded(config: Config, colour: Colour, upstreams: list[dict[str, Any]], release: str) -> Pool:
    try:
        return read_pool(
            upstreams, release, balance=config.pools.pool(colour).balance, server_name=config.upstream_server_name
        )
    except ConfigError as error:
        raise StateCorrupt(
            f"what was set at run time for {colour.label} is not usable: {error.detail}",
            hint=f"give [pools.{colour.label}] other upstreams or another release in the configuration: that counts",
        ) from None
