"""Every timeout of a worker from one coarse timer.

A connection says when it wants to be asked by setting `deadline` (nanoseconds of the monotonic clock, 0 for never).
That costs one attribute store per request where a `call_later` costs more than the request. Each is looked at once a
round; a deadline so fires up to a round, `ROUND_S`, late; where it was reckoned from `now`, up to a tick early.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

ROUND_S = 1.0
TICKS_PER_ROUND = 8  # each tick looks at an eighth: ten thousand connections cost 0.1 ms a tick, not 1 ms at once
TICK_S = ROUND_S / TICKS_PER_ROUND


class Timed(Protocol):
    deadline: int

    def on_deadline(self, now: int) -> None:
        """The deadline has passed; it is 0 by now."""


class Deadlines:
    """`now` is the time of the last tick, for whom an eighth of a second is near enough."""

    __slots__ = ("_buckets", "_expected", "_handle", "_loop", "_next", "lag_ns", "now", "on_tick")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._buckets: list[set[Timed]] = [set() for _ in range(TICKS_PER_ROUND)]
        self._next = 0
        self._handle: asyncio.TimerHandle | None = None
        self._expected = 0.0
        self.now = time.monotonic_ns()
        self.lag_ns = 0
        self.on_tick: Callable[[], None] = _nothing

    def watch(self, timed: Timed) -> None:
        min(self._buckets, key=len).add(timed)

    def forget(self, timed: Timed) -> None:
        for bucket in self._buckets:
            bucket.discard(timed)

    def start(self) -> None:
        self._expected = self._loop.time() + TICK_S
        self._handle = self._loop.call_at(self._expected, self._tick)

    def stop(self) -> None:
        if self._handle:
            self._handle.cancel()

    def _tick(self) -> None:
        late_s = self._loop.time() - self._expected
        self.lag_ns = max(0, int(late_s * 1e9))
        self.turn(time.monotonic_ns())
        self.on_tick()
        self.start()

    def turn(self, now: int) -> None:
        """Look at the next bucket."""
        self.now = now
        bucket = self._buckets[self._next]
        self._next = (self._next + 1) % TICKS_PER_ROUND
        for timed in tuple(bucket):
            if 0 < timed.deadline <= now:
                timed.deadline = 0
                timed.on_deadline(now)


def _nothing() -> None:
    pass
