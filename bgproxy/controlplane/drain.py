"""Watching the old colour empty after a cutover. Only meaningful once every worker has acknowledged the new one."""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import TYPE_CHECKING

import msgspec

from bgproxy.shm import worker_slot

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bgproxy.core.model import Colour
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
