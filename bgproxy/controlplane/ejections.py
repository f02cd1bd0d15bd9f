"""Which worker leaves out which upstream for now, because its own connects to it failed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from bgproxy.core.model import COLOURS, Colour
from bgproxy.shm.health_board import UPSTREAM_ROWS

if TYPE_CHECKING:
    from collections.abc import Callable

    from bgproxy.controlplane.events import Emit
    from bgproxy.core.messages import Ejected
    from bgproxy.core.model import PoolTable


class Ejection(msgspec.Struct, frozen=True):
    """One worker's report; `until` in monotonic seconds."""

    worker: int
    colour: Colour
    index: int
    until: float


class Ejections:
    """Reports that are not over. A report ends with its time, or with the worker that made it."""

    def __init__(self, table: PoolTable, *, emit: Emit, clock: Callable[[], float] = time.monotonic) -> None:
        self._table, self._emit, self._clock = table, emit, clock
        self._reports: dict[tuple[int, Colour, int], Ejection] = {}

    def add(self, worker: int, report: Ejected) -> None:
        """ValueError where there can be no such upstream. One that has left the table meanwhile is of no interest."""
        colour = Colour(report.colour)
        if not 0 <= report.index < UPSTREAM_ROWS:
            raise ValueError(f"there is no upstream {report.index} in {colour.label}")
        upstreams = {upstream.index: upstream for upstream in self._table.pool(colour).upstreams}
        if report.index not in upstreams:
            return
        until = self._clock() + report.for_s
        self._reports[worker, colour, report.index] = Ejection(worker, colour, report.index, until)
        self._emit(
            "upstream_ejected",
            colour=colour.label,
            upstream=str(upstreams[report.index].address),
            worker=worker,
            failures=report.failures,
            for_s=report.for_s,
            error=report.error,
        )

    def table_changed(self, table: PoolTable) -> None:
        """What was said about upstreams that are gone is forgotten: their rows may come to mean others."""
        self._table = table
        rows = {colour: {upstream.index for upstream in table.pool(colour).upstreams} for colour in COLOURS}
        self._reports = {key: each for key, each in self._reports.items() if each.index in rows[each.colour]}

    def forget(self, worker: int) -> None:
        self._reports = {key: each for key, each in self._reports.items() if each.worker != worker}

    def until(self, colour: Colour, index: int) -> float | None:
        """When the last worker takes the upstream back, None where none leaves it out now."""
        now = self._clock()
        untils = [e.until for e in self._reports.values() if (e.colour, e.index) == (colour, index) and e.until > now]
        return max(untils, default=None)
