"""Probes every upstream of both pools, always, and publishes which of them may take traffic.

One loop per upstream, so that a hanging one delays nobody; the board is written only when a row changes.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec

from bgproxy.controlplane.probe import HealthSettings, probe
from bgproxy.core.health import Change, Check, Tracker, UpstreamHealth, routable
from bgproxy.core.model import COLOURS, Address, Colour, PoolTable, Upstream

if TYPE_CHECKING:
    from bgproxy.controlplane.events import Emit
    from bgproxy.shm.health_board import HealthBoard

# Between the checks of an upstream that has no verdict yet: a long interval must not keep a start waiting for it.
MIN_FAST_INTERVAL_S, MAX_FAST_INTERVAL_S = 0.05, 0.5

Probe = Callable[[Address, HealthSettings], Awaitable[Check]]


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
        self._generation = 1
        self._announced: Colour | None = None
        self._last_up: dict[Colour, tuple[bool, ...]] = dict.fromkeys(COLOURS, ())
        self._degraded: dict[Colour, str] = dict.fromkeys(COLOURS, "")
        self._decided = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._trackers = {
            colour: [self._tracker(upstream) for upstream in table.pool(colour).upstreams] for colour in COLOURS
        }
        # (colour, upstream id, "passed" | "failed") → checks made
        self.checks: Counter[tuple[Colour, str, str]] = Counter()

    def start(self) -> None:
        fast = self._fast_interval_s
        for colour in COLOURS:
            upstreams = self._table.pool(colour).upstreams
            for upstream in upstreams:
                delay_s = fast * upstream.index / len(upstreams)  # staggered: a pool is not probed in one burst
                watch = self._watch(colour, upstream, delay_s)
                self._tasks.append(asyncio.create_task(watch, name=f"probe {upstream.id}"))

    async def stop(self) -> None:
        """Ends every loop; a result that is still on its way is dropped."""
        self._generation += 1
        for tracker in self._every_tracker():
            tracker.retire()
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def live_changed(self, colour: Colour, forced: bool = False) -> None:
        """Say which colour is about to be live, just before the word moves: a pool without a healthy upstream (as after
        a forced switch) then serves from the first request on. If the word did not move after all, name the old colour.
        """
        self._announced = colour
        for each in COLOURS:
            self._publish(each, forced=forced)

    def views(self, colour: Colour) -> list[UpstreamHealth]:
        """In index order. A verdict that nobody renews any more is none: no gate may pass on it."""
        return [self._unless_stale(tracker.view) for tracker in self._trackers[colour]]

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
        try:
            async with asyncio.timeout(timeout_s):
                await self._decided.wait()
        except TimeoutError:
            return False
        return True

    @property
    def _fast_interval_s(self) -> float:
        fast_s = min(MAX_FAST_INTERVAL_S, max(MIN_FAST_INTERVAL_S, self._settings.interval / 5))
        return min(self._settings.interval, fast_s)

    def _tracker(self, upstream: Upstream) -> Tracker:
        settings = self._settings
        return Tracker(upstream, rise=settings.rise, fall=settings.fall, generation=self._generation, now=self._clock())

    def _every_tracker(self) -> list[Tracker]:
        return [tracker for colour in COLOURS for tracker in self._trackers[colour]]

    async def _watch(self, colour: Colour, upstream: Upstream, delay_s: float) -> None:
        generation = self._generation
        tracker = self._trackers[colour][upstream.index]
        await asyncio.sleep(delay_s)
        was_broken = False
        while True:
            started = self._clock()
            try:
                check = await self._probe(upstream.address, self._settings)
                self._take(colour, tracker, check, generation)
                was_broken = False
            except Exception as error:  # a fault of ours: the verdict grows stale, and the next check may go well
                if not was_broken:
                    self._emit("probe_broken", colour=colour.label, upstream=upstream.id, error=repr(error))
                was_broken = True
            interval_s = self._fast_interval_s if tracker.view.up is None else self._jittered_interval_s()
            # A probe that took longer than the interval must not be followed by the next one at once.
            await asyncio.sleep(max(self._fast_interval_s, started + interval_s - self._clock()))

    def _jittered_interval_s(self) -> float:
        share = self._settings.jitter
        return self._settings.interval * random.uniform(1 - share, 1 + share)

    def _take(self, colour: Colour, tracker: Tracker, check: Check, generation: int) -> None:
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
        if all(tracker.view.up is not None for tracker in self._every_tracker()):
            self._decided.set()

    def _publish(self, colour: Colour, *, forced: bool = False) -> None:
        views = [tracker.view for tracker in self._trackers[colour]]
        live = colour in (self._live(), self._announced)
        routing = routable(views, live=live, last_up=self._last_up[colour])
        if not live:
            self._last_up[colour] = ()
        elif any(view.up for view in views):
            self._last_up[colour] = routing.rows
        self._board.publish(colour, routing.rows)
        if routing.degraded and not self._degraded[colour]:
            self._emit("pool_degraded", colour=colour.label, reason=routing.degraded, forced=forced)
        elif self._degraded[colour] and not routing.degraded and any(routing.rows):
            self._emit("pool_recovered", colour=colour.label)
        self._degraded[colour] = routing.degraded
