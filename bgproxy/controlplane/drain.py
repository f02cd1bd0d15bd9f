"""Watching the old colour empty after a cutover. Only meaningful once every worker has acknowledged the new one."""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import TYPE_CHECKING

import msgspec

from bgproxy.errors import DrainTimedOut, StaleEpoch
from bgproxy.shm import worker_slot

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bgproxy.core.model import Colour
    from bgproxy.shm.live_pointer import Live
    from bgproxy.shm.segment import Segment
    from bgproxy.shm.worker_slot import WorkerSlot

LOOK_EVERY_S = 0.01
LOOK_OFTEN_S = 0.001  # while requests are held


class Outcome(Enum):
    EMPTY = "empty"
    TIMED_OUT = "timed_out"
    OVERTAKEN = "overtaken"  # the colour became live again, or another switch came


class Remaining(msgspec.Struct, frozen=True):
    """What still runs on a colour. Streams (tunnels, event streams) do not count as in flight: they may last days.
    `writes` are those of the requests whose method is unsafe."""

    requests: int
    streams: int
    writes: int = 0


def remaining(slots: Sequence[WorkerSlot], colour: Colour) -> Remaining:
    requests = streams = writes = 0
    for slot in slots:
        requests += slot.cells[worker_slot.IN_FLIGHT + colour]
        writes += slot.cells[worker_slot.WRITES + colour]
        streams += slot.cells[worker_slot.TUNNELS + colour] + slot.cells[worker_slot.EVENT_STREAMS + colour]
    return Remaining(requests, streams, writes)


def held(slots: Sequence[WorkerSlot]) -> int:
    """Requests that wait for the word to let them go, in all workers."""
    waiting: int = sum(slot.cells[worker_slot.HELD] for slot in slots)
    return waiting


def oldest_ns(slots: Sequence[WorkerSlot], colour: Colour) -> int:
    """When (CLOCK_MONOTONIC) the oldest one began of those that remain, as of an eighth of a second ago; 0 for none."""
    return min(filter(None, (slot.cells[worker_slot.OLDEST + colour] for slot in slots)), default=0)


def held_ever(slots: Sequence[WorkerSlot]) -> int:
    """A counter: requests that had to wait, now or before."""
    total: int = sum(slot.cells[worker_slot.HELD_TOTAL] for slot in slots)
    return total


async def until_empty(
    slots: Sequence[WorkerSlot], colour: Colour, timeout_s: float, overtaken: Callable[[], bool]
) -> Outcome:
    """Returns when nothing is in flight on `colour`, or why it was not waited for any longer."""
    return await until(lambda: not remaining(slots, colour).requests, timeout_s, overtaken)


async def until(
    is_empty: Callable[[], bool],
    timeout_s: float,
    overtaken: Callable[[], bool] = lambda: False,
    *,
    every_s: float = LOOK_EVERY_S,
) -> Outcome:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while True:
        if overtaken():
            return Outcome.OVERTAKEN
        if is_empty():
            return Outcome.EMPTY
        if loop.time() >= deadline:
            return Outcome.TIMED_OUT
        await asyncio.sleep(every_s)


class _Waiter(msgspec.Struct):
    """`epoch` is the one that is waited for, None while a switch is running."""

    since: float
    deadline: float
    streams: bool
    epoch: int | None = None


class DrainWatch:
    """Tells everybody who asks when the colour that was left is empty, by one look for all of them.

    `is_unsettled` while requests may still come to that colour, or run there unseen: in a switch, or on workers of an
    earlier supervisor. Times in seconds.
    """

    def __init__(self, segment: Segment, is_unsettled: Callable[[], bool], *, timeout_s: float) -> None:
        self._segment, self._is_unsettled, self.timeout_s = segment, is_unsettled, timeout_s
        self._waiters: dict[asyncio.Future[None], _Waiter] = {}
        self._task: asyncio.Task[None] | None = None

    async def until_drained(
        self, timeout_s: float | None = None, *, streams: bool = False, if_epoch: int | None = None
    ) -> None:
        """Back when nothing is in flight on the idle colour, with `streams` when none of them is left either.

        DrainTimedOut; StaleEpoch where the epoch is not `if_epoch`, or another switch came: another colour is idle now.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        now = loop.time()
        bound_s = self.timeout_s if timeout_s is None else timeout_s
        self._waiters[future] = _Waiter(now, now + bound_s, streams, if_epoch)
        self._look()
        if not future.done() and (self._task is None or self._task.done()):
            self._task = loop.create_task(self._watch(), name="drain-watch")
        try:
            await future
        finally:
            self._waiters.pop(future, None)

    def close(self) -> None:
        """Nobody is kept waiting by a shutdown."""
        live = self._segment.live.load()
        for future, waiter in self._waiters.items():
            if not future.done():
                future.set_exception(self._timed_out(live, waiter, "the proxy is shutting down"))

    async def _watch(self) -> None:
        while self._waiters:
            self._look()
            await asyncio.sleep(LOOK_EVERY_S)

    def _look(self) -> None:
        slots, live = self._segment.slots, self._segment.live.load()
        unsettled = self._is_unsettled()
        # A worker that was just replaced, or has not said that it saw the word, may still send somebody there.
        seen = not unsettled and all(slot.cells[worker_slot.EPOCH_SEEN] >= live.epoch for slot in slots)
        left = remaining(slots, live.colour.other)
        now = asyncio.get_running_loop().time()
        for future, waiter in self._waiters.items():
            if waiter.epoch is None and not unsettled:
                waiter.epoch = live.epoch
            if future.done():
                continue
            if waiter.epoch is not None and waiter.epoch != live.epoch:
                future.set_exception(_overtaken(live, waiter.epoch))
            elif seen and not left.requests and not (waiter.streams and left.streams):
                future.set_result(None)
            elif now >= waiter.deadline:
                future.set_exception(self._timed_out(live, waiter, f"after {now - waiter.since:.1f} s"))

    def _timed_out(self, live: Live, waiter: _Waiter, why: str) -> DrainTimedOut:
        old = live.colour.other
        left = remaining(self._segment.slots, old)
        runs = f"{left.requests} requests and {left.streams} streams still run on {old.label}"
        if not left.requests and not (waiter.streams and left.streams):
            runs = f"not every worker has confirmed that nothing more goes to {old.label}"
        return DrainTimedOut(
            f"{live.colour.label} is live (epoch {live.epoch}), but {why} {runs}",
            hint=f"wait before you stop {old.label}, or look at bgproxy status",
            extra={
                "epoch": live.epoch,
                "live": live.colour.label,
                "remaining": {"requests": left.requests, "streams": left.streams},
                "drain_s": round(asyncio.get_running_loop().time() - waiter.since, 3),
            },
        )


def _overtaken(live: Live, epoch: int) -> StaleEpoch:
    return StaleEpoch(
        f"the drain of epoch {epoch} was waited for, but the epoch is {live.epoch} now: "
        f"{live.colour.label} is live, and {live.colour.other.label} is idle",
        hint="look at bgproxy status for who made the later switch",
        extra={"epoch": live.epoch, "live": live.colour.label},
    )
