"""Probes every upstream of both pools, always, and publishes which of them may take traffic.

One loop per upstream, so that a hanging one delays nobody; the board is written only when a row changes. Upstreams of a
table that is only considered are probed as well, and take no traffic before that table is joined.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec

from bgproxy.controlplane.bell import Bell
from bgproxy.controlplane.probe import HealthSettings, probe
from bgproxy.core.health import Change, Check, Tracker, UpstreamHealth, routable
from bgproxy.core.model import COLOURS, Address, Colour, PoolTable, Upstream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bgproxy.controlplane.events import Emit
    from bgproxy.shm.health_board import HealthBoard

# Between the checks of an upstream that has no verdict yet: a long interval must not keep a start waiting for it.
MIN_FAST_INTERVAL_S, MAX_FAST_INTERVAL_S = 0.05, 0.5

Probe = Callable[[Address, HealthSettings], Awaitable[Check]]


class _Watched:
    """An upstream, what is known of it, and how it is asked."""

    __slots__ = ("colour", "probe", "settings", "task", "tracker", "upstream")

    def __init__(
        self, colour: Colour, upstream: Upstream, settings: HealthSettings, probe: Probe, *, generation: int, now: float
    ) -> None:
        self.colour, self.upstream, self.settings, self.probe = colour, upstream, settings, probe
        self.tracker = Tracker(upstream, rise=settings.rise, fall=settings.fall, generation=generation, now=now)
        self.task: asyncio.Task[None] | None = None

    @property
    def fast_interval_s(self) -> float:
        interval_s = self.settings.interval
        return min(interval_s, MAX_FAST_INTERVAL_S, max(MIN_FAST_INTERVAL_S, interval_s / 5))

    @property
    def jittered_interval_s(self) -> float:
        share = self.settings.jitter
        return self.settings.interval * random.uniform(1 - share, 1 + share)

    def end(self) -> asyncio.Task[None] | None:
        self.tracker.retire()
        if self.task is not None:
            self.task.cancel()
        return self.task


class Prober:
    """`live` reads the live colour; `clock` is monotonic. Start and stop it on the loop that it runs on."""

    def __init__(
        self,
        settings: HealthSettings,
        table: PoolTable,
        board: HealthBoard,
        live: Callable[[], Colour],
        *,
        emit: Emit,
        clock: Callable[[], float] = time.monotonic,
        probe: Probe = probe,
    ) -> None:
        self._settings, self._table, self._board, self._live = settings, table, board, live
        self._emit, self._clock, self._probe = emit, clock, probe
        self._considered: PoolTable | None = None
        self._joined = False
        self._running = False
        self._generation = 1
        self._announced: Colour | None = None
        # rows that were up when last any was, while the colour was live
        self._last_up: dict[Colour, frozenset[int]] = dict.fromkeys(COLOURS, frozenset())
        self._degraded: dict[Colour, str] = dict.fromkeys(COLOURS, "")
        self._bell = Bell()
        self._watched: dict[tuple[Colour, int], _Watched] = {}
        self._watch_new(table, settings, probe)
        # (colour, upstream id, "passed" | "failed") → checks made
        self.checks: Counter[tuple[Colour, str, str]] = Counter()

    def start(self) -> None:
        self._running = True
        for colour in COLOURS:
            upstreams = self._table.pool(colour).upstreams
            for number, upstream in enumerate(upstreams):
                # Staggered: a pool is not probed in one burst.
                self._begin(self._watched[colour, upstream.index], number / len(upstreams))

    async def stop(self) -> None:
        """Ends every loop; a result that is still on its way is dropped."""
        self._running = False
        self._generation += 1
        ended = [task for each in self._watched.values() if (task := each.end()) is not None]
        await asyncio.gather(*ended, return_exceptions=True)

    def live_changed(self, colour: Colour, forced: bool = False) -> None:
        """Say which colour is about to be live, just before the word moves: a pool without a healthy upstream (as after
        a forced switch) then serves from the first request on. If the word did not move after all, name the old colour.
        """
        self._announced = colour
        for each in COLOURS:
            self._publish(each, forced=forced)

    def views(self, colour: Colour, table: PoolTable | None = None) -> list[UpstreamHealth]:
        """In the order of the table, the present one where none is given. A verdict that nobody renews any more is
        none: no gate may pass on it."""
        upstreams = (table or self._table).pool(colour).upstreams
        return [self._unless_stale(view) for view in self._plain_views(colour, upstreams)]

    def degraded(self, colour: Colour) -> str:
        """Why the pool is served against the checks; empty when it is not."""
        return self._degraded[colour]

    def is_stale(self, view: UpstreamHealth) -> bool:
        """Nothing was heard of the upstream for longer than a working prober can be silent."""
        last = view.since if view.checked_at is None else view.checked_at
        return self._clock() - last > 2 * (
            self._settings.interval * (1 + self._settings.jitter) + self._settings.timeout
        )

    def _unless_stale(self, view: UpstreamHealth) -> UpstreamHealth:
        if view.checked_at is None or not self.is_stale(view):
            return view
        old_s = self._clock() - view.checked_at
        return msgspec.structs.replace(view, up=None, error=f"the last check was {old_s:.0f}s ago")

    async def all_checked(self, timeout_s: float) -> bool:
        """Wait until every upstream has a verdict; False when some had none in time."""
        return await self._bell.until(
            lambda: all(each.tracker.view.up is not None for each in self._watched.values()), timeout_s
        )

    # --- from table to table ------------------------------------------------------------------------------------------

    def consider(self, table: PoolTable, settings: HealthSettings | None = None, probe: Probe | None = None) -> None:
        """Probe whoever is new in this table, with what may come to be the settings; nobody new takes traffic yet."""
        self._considered = table
        for watched in self._watch_new(table, settings or self._settings, probe or self._probe):
            self._begin(watched, 0.0)

    async def considered_checked(self, timeout_s: float) -> bool:
        """Wait until everybody who is new in the considered table has a verdict; False when some had none in time."""
        present = {(colour, each.index) for colour in COLOURS for each in self._table.pool(colour).upstreams}
        new = [watched for key, watched in self._watched.items() if key not in present]
        return await self._bell.until(lambda: all(each.tracker.view.up is not None for each in new), timeout_s)

    async def up_within(self, colour: Colour, row: int, timeout_s: float) -> bool:
        """Wait until this upstream is up."""
        key = (colour, row)
        return await self._bell.until(
            lambda: key in self._watched and self._watched[key].tracker.view.up is True, timeout_s
        )

    def withdraw(self) -> None:
        """The considered table is not to be."""
        self._considered, self._joined = None, False
        self._end_strangers()

    def join(self) -> None:
        """Workers are about to be told the considered table. Until all have it, both tables' upstreams take traffic:
        none of the two kinds of worker may find its pool empty. Who is no longer drained begins without a verdict."""
        assert self._considered is not None
        for colour in COLOURS:
            drained = {each.index for each in self._table.pool(colour).upstreams if each.drained}
            for upstream in self._considered.pool(colour).upstreams:
                if upstream.index in drained and not upstream.drained:
                    watched = self._watched[colour, upstream.index]
                    watched.end()
                    self._begin(self._watch(colour, upstream, watched.settings, watched.probe), 0.0)
        self._joined = True
        for colour in COLOURS:
            self._publish(colour)

    def adopt(self) -> None:
        """Every worker has the considered table: it is the present one."""
        assert self._considered is not None
        self._table, self._considered, self._joined = self._considered, None, False
        self._end_strangers()
        for colour in COLOURS:
            here = {upstream.index for upstream in self._table.pool(colour).upstreams}
            self._last_up[colour] &= here
            self._publish(colour)

    def configure(self, settings: HealthSettings, probe: Probe) -> None:
        """Other settings from now on; verdicts stay as they are until checks say otherwise."""
        self._settings, self._probe = settings, probe
        for watched in self._watched.values():
            if watched.settings == settings and watched.probe is probe:
                continue
            watched.settings, watched.probe = settings, probe
            watched.tracker.configure(rise=settings.rise, fall=settings.fall)
            if watched.task is not None:
                watched.task.cancel()
                self._begin(watched, 0.0)

    def _watch_new(self, table: PoolTable, settings: HealthSettings, probe: Probe) -> list[_Watched]:
        return [
            self._watch(colour, upstream, settings, probe)
            for colour in COLOURS
            for upstream in table.pool(colour).upstreams
            if (colour, upstream.index) not in self._watched
        ]

    def _watch(self, colour: Colour, upstream: Upstream, settings: HealthSettings, probe: Probe) -> _Watched:
        watched = _Watched(colour, upstream, settings, probe, generation=self._generation, now=self._clock())
        self._watched[colour, upstream.index] = watched
        return watched

    def _end_strangers(self) -> None:
        known = {(colour, upstream.index) for colour in COLOURS for upstream in self._table.pool(colour).upstreams}
        for key in self._watched.keys() - known:
            stranger = self._watched.pop(key)
            stranger.end()
            ids = {upstream.id for upstream in self._table.pool(stranger.colour).upstreams}
            if stranger.upstream.id not in ids:  # the label of a metric, bounded by the upstreams that there are
                for result in ("passed", "failed"):
                    self.checks.pop((stranger.colour, stranger.upstream.id, result), None)

    # --- watching -----------------------------------------------------------------------------------------------------

    def _begin(self, watched: _Watched, delay: float) -> None:
        """`delay` in fast intervals."""
        if self._running:
            loop = self._keep_asking(watched, watched.fast_interval_s * delay)
            watched.task = asyncio.create_task(loop, name=f"probe {watched.upstream.id}")

    async def _keep_asking(self, watched: _Watched, delay_s: float) -> None:
        generation = self._generation
        await asyncio.sleep(delay_s)
        was_broken = False
        while True:
            started = self._clock()
            try:
                check = await watched.probe(watched.upstream.address, watched.settings)
                self._take(watched, check, generation)
                was_broken = False
            except Exception as error:  # a fault of ours: the verdict grows stale, and the next check may go well
                if not was_broken:
                    self._emit(
                        "probe_broken", colour=watched.colour.label, upstream=watched.upstream.id, error=repr(error)
                    )
                was_broken = True
            interval_s = watched.fast_interval_s if watched.tracker.view.up is None else watched.jittered_interval_s
            # A probe that took longer than the interval must not be followed by the next one at once.
            await asyncio.sleep(max(watched.fast_interval_s, started + interval_s - self._clock()))

    def _take(self, watched: _Watched, check: Check, generation: int) -> None:
        tracker, colour = watched.tracker, watched.colour
        change = tracker.record(check, generation=generation, now=self._clock())
        if change is Change.DROPPED:
            return
        view = tracker.view
        self.checks[colour, view.id, "passed" if check.ok else "failed"] += 1
        self._publish(colour)
        if change is Change.WENT_UP:
            self._emit("upstream_up", colour=colour.label, upstream=view.id, checks=view.consecutive)
        if change is Change.WENT_DOWN:
            self._emit(
                "upstream_down", colour=colour.label, upstream=view.id, checks=view.consecutive, error=view.error
            )
        self._bell.ring()

    # --- the board ----------------------------------------------------------------------------------------------------

    def _plain_views(self, colour: Colour, upstreams: tuple[Upstream, ...]) -> list[UpstreamHealth]:
        views = []
        for upstream in upstreams:
            view = self._watched[colour, upstream.index].tracker.view
            views.append(msgspec.structs.replace(view, drained=True) if upstream.drained else view)
        return views

    def _tables(self) -> Iterator[PoolTable]:
        """Those that workers may have now."""
        yield self._table
        if self._joined and self._considered is not None:
            yield self._considered

    def _publish(self, colour: Colour, *, forced: bool = False) -> None:
        live = colour in (self._live(), self._announced)
        rows: set[int] = set()
        reason, any_healthy = "", False
        for table in self._tables():
            views = self._plain_views(colour, table.pool(colour).upstreams)
            last_up = [view.index in self._last_up[colour] for view in views]
            routing = routable(views, live=live, last_up=last_up)
            rows |= {view.index for view, on in zip(views, routing.rows, strict=True) if on}
            reason = routing.degraded
            any_healthy = any(view.is_healthy for view in views)
        if not live:
            self._last_up[colour] = frozenset()
        elif any_healthy:
            self._last_up[colour] = frozenset(rows)
        self._board.publish(colour, [row in rows for row in range(max(rows, default=-1) + 1)])
        if reason and not self._degraded[colour]:
            self._emit("pool_degraded", colour=colour.label, reason=reason, forced=forced)
        elif self._degraded[colour] and not reason and rows:
            self._emit("pool_recovered", colour=colour.label)
        self._degraded[colour] = reason
