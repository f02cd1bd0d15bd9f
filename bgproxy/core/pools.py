"""From one pool table to the next: who stays keeps its row, and no row means two upstreams at once.

Workers look at the health board by row. While some of them may still have an older table, a row of that table must not
come to mean somebody else: such rows are `held`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TypeAlias

import msgspec

from bgproxy.core.model import COLOURS, Address, Pool, PoolTable, Upstream

Identity: TypeAlias = tuple[str, Address]


def identity(upstream: Upstream) -> Identity:
    """What makes it the same server in another table; weight and row may differ."""
    return upstream.id, upstream.address


def successor(
    table: PoolTable, pools: Sequence[Pool], *, rows: int, held: Sequence[Collection[int]] = ((), ())
) -> PoolTable:
    """The table after `table`, with these (blue, green) pools. `rows` and `held` are per colour; ValueError where a
    pool and the one before it need more rows than there are."""
    blue, green = (_placed(table.pool(colour), pools[colour], rows, held[colour], colour.label) for colour in COLOURS)
    return PoolTable(table.version + 1, blue, green)


def _placed(before: Pool, after: Pool, rows: int, held: Collection[int], label: str) -> Pool:
    known = {identity(upstream): upstream.index for upstream in before.upstreams}
    taken = {*known.values(), *held}
    free = iter([row for row in range(rows) if row not in taken])
    placed = []
    for upstream in after.upstreams:
        row = known.get(identity(upstream))
        if row is None:
            row = next(free, None)
        if row is None:
            raise ValueError(
                f"{label}: the upstreams that come and those that go are more than {rows} together; "
                "change the pool in two steps"
            )
        placed.append(msgspec.structs.replace(upstream, index=row))
    return msgspec.structs.replace(after, upstreams=tuple(placed))


def with_drained(pool: Pool, ids: Collection[str]) -> Pool:
    """The same pool with exactly these upstreams drained."""
    return msgspec.structs.replace(
        pool,
        upstreams=tuple(msgspec.structs.replace(each, drained=each.id in ids) for each in pool.upstreams),
    )


def added(before: Pool, after: Pool) -> list[str]:
    """Ids of `after` that `before` does not have; the other way round for those that are gone."""
    known = {identity(upstream) for upstream in before.upstreams}
    return [upstream.id for upstream in after.upstreams if identity(upstream) not in known]
