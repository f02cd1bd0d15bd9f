from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from bgproxy.controlplane.drain import DrainWatch, Outcome, Remaining, held, oldest_ns, remaining, until_empty
from bgproxy.core.model import BLUE, GREEN, Colour
from bgproxy.errors import DrainTimedOut, StaleEpoch
from bgproxy.shm import worker_slot
from bgproxy.shm.segment import Segment


@pytest.fixture
def slots():
    segment = Segment.create(2)
    yield segment.slots
    segment.close()


def never() -> bool:
    return False


def test_what_remains_is_summed_over_all_workers_by_colour(slots):
    for number, slot in enumerate(slots, start=1):
        slot.cells[worker_slot.IN_FLIGHT + BLUE] = number
        slot.cells[worker_slot.WRITES + BLUE] = number - 1
        slot.cells[worker_slot.HELD] = 5
        slot.cells[worker_slot.TUNNELS + BLUE] = 10 * number
        slot.cells[worker_slot.EVENT_STREAMS + BLUE] = 100 * number
    assert remaining(slots, BLUE) == Remaining(3, 330, writes=1)
    assert remaining(slots, GREEN) == Remaining(0, 0)
    assert held(slots) == 10


async def test_streams_do_not_hold_a_drain_up(slots):
    slots[0].cells[worker_slot.TUNNELS + BLUE] = 1
    assert await until_empty(slots, BLUE, 0.0, never) is Outcome.EMPTY


async def test_the_last_request_of_the_last_worker_ends_it(slots):
    for slot in slots:
        slot.cells[worker_slot.IN_FLIGHT + BLUE] = 1
    slots[0].cells[worker_slot.IN_FLIGHT + GREEN] = 9
    slots[0].cells[worker_slot.IN_FLIGHT + BLUE] = 0
    looks, looked_twice = itertools.count(1), asyncio.Event()

    def look() -> bool:
        if next(looks) == 2:
            looked_twice.set()
        return False

    waiting = asyncio.create_task(until_empty(slots, BLUE, 10.0, look))
    await looked_twice.wait()
    assert not waiting.done()
    slots[1].cells[worker_slot.IN_FLIGHT + BLUE] = 0
    assert await waiting is Outcome.EMPTY


async def test_it_ends_with_its_time_or_when_another_switch_comes(slots):
    slots[0].cells[worker_slot.IN_FLIGHT + BLUE] = 1
    assert await until_empty(slots, BLUE, 0.02, never) is Outcome.TIMED_OUT
    assert await until_empty(slots, BLUE, 10.0, lambda: True) is Outcome.OVERTAKEN


def test_the_oldest_is_the_one_that_began_first_in_any_worker(slots):
    assert oldest_ns(slots, BLUE) == 0
    slots[1].cells[worker_slot.OLDEST + BLUE] = 700
    assert (oldest_ns(slots, BLUE), oldest_ns(slots, GREEN)) == (700, 0)
    slots[0].cells[worker_slot.OLDEST + BLUE] = 600
    assert oldest_ns(slots, BLUE) == 600


# --- those who ask from outside ---------------------------------------------------------------------------------------


class Scene:
    """Two workers that have seen epoch 1, in which green is live."""

    def __init__(self) -> None:
        self.segment = Segment.create(2)
        self.unsettled = False
        self.looks = self._awaited = 0
        self._has_looked = asyncio.Event()
        self.watch = DrainWatch(self.segment, self.is_unsettled, timeout_s=10.0)
        self.switch(GREEN)

    def is_unsettled(self) -> bool:
        self.looks += 1
        if self.looks == self._awaited:
            self._has_looked.set()
        return self.unsettled

    def switch(self, to: Colour) -> None:
        self.segment.live.store(self.segment.live.load().epoch + 1, to)
        for slot in self.segment.slots:
            slot.cells[worker_slot.EPOCH_SEEN] = self.segment.live.load().epoch

    def runs(self, cell: int, count: int, colour: Colour = BLUE) -> None:
        self.segment.slots[1].cells[cell + colour] = count

    def wait(self, **how: Any) -> asyncio.Task[None]:
        return asyncio.ensure_future(self.watch.until_drained(**how))

    async def looked(self) -> None:
        """Until it has looked twice more: the second look began after we asked."""
        self._awaited = self.looks + 2
        self._has_looked.clear()
        await self._has_looked.wait()


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.segment.close()


async def test_where_nothing_runs_there_is_no_wait(scene):
    scene.runs(worker_slot.IN_FLIGHT, 5, GREEN)
    scene.runs(worker_slot.TUNNELS, 1)
    await scene.watch.until_drained(0.0)
    assert scene.looks == 1


async def test_all_who_wait_are_told_by_the_same_looks(scene):
    scene.runs(worker_slot.IN_FLIGHT, 1)
    waiting = [scene.wait() for _ in range(50)]
    await scene.looked()
    before = scene.looks
    await scene.looked()
    assert scene.looks <= before + 3, "one look for all"
    assert not any(each.done() for each in waiting)
    scene.runs(worker_slot.IN_FLIGHT, 0)
    await asyncio.gather(*waiting)


async def test_who_asks_for_streams_waits_for_them_too(scene):
    scene.runs(worker_slot.IN_FLIGHT, 1)
    scene.runs(worker_slot.EVENT_STREAMS, 1)
    requests, streams = scene.wait(), scene.wait(streams=True)
    scene.runs(worker_slot.IN_FLIGHT, 0)
    await requests
    await scene.looked()
    assert not streams.done()
    scene.runs(worker_slot.EVENT_STREAMS, 0)
    await streams


async def test_it_looks_no_longer_than_somebody_waits(scene):
    scene.runs(worker_slot.IN_FLIGHT, 1)
    waiting = scene.wait()
    await scene.looked()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    watching = scene.watch._task
    assert watching is not None
    await watching
    again = scene.wait()
    scene.runs(worker_slot.IN_FLIGHT, 0)
    await again


async def test_the_bound_of_the_wait_tells_what_remains(scene):
    scene.runs(worker_slot.IN_FLIGHT, 3)
    scene.runs(worker_slot.TUNNELS, 2)
    with pytest.raises(DrainTimedOut, match="3 requests and 2 streams still run on blue") as caught:
        await scene.watch.until_drained(0.02)
    assert caught.value.extra["remaining"] == {"requests": 3, "streams": 2}
    assert (caught.value.extra["live"], caught.value.extra["epoch"]) == ("green", 1)
    scene.watch = DrainWatch(scene.segment, lambda: False, timeout_s=0.0)
    with pytest.raises(DrainTimedOut):
        await scene.watch.until_drained()


async def test_a_rollback_is_told_and_never_called_a_drain(scene):
    """Who waits so that it may stop blue must not be told "done" when blue is live again."""
    scene.runs(worker_slot.IN_FLIGHT, 1)
    waiting = scene.wait()
    await scene.looked()
    scene.runs(worker_slot.IN_FLIGHT, 0)
    scene.switch(BLUE)
    with pytest.raises(StaleEpoch, match="the epoch is 2 now: blue is live, and green is idle") as caught:
        await waiting
    assert caught.value.extra == {"epoch": 2, "live": "blue"}


async def test_who_asks_for_the_drain_of_another_epoch_is_told_at_once(scene):
    await scene.watch.until_drained(if_epoch=1)
    for other in (0, 2):
        with pytest.raises(StaleEpoch, match="the epoch is 1 now"):
            await scene.watch.until_drained(if_epoch=other)


async def test_in_a_switch_its_end_is_waited_for_and_then_its_drain(scene):
    scene.unsettled = True
    waiting = scene.wait()
    await scene.looked()
    assert not waiting.done(), "nothing runs on blue yet, but who is idle is about to change"
    scene.runs(worker_slot.IN_FLIGHT, 1, GREEN)
    scene.switch(BLUE)
    scene.unsettled = False
    await scene.looked()
    assert not waiting.done()
    scene.runs(worker_slot.IN_FLIGHT, 0, GREEN)
    await waiting


async def test_without_the_word_of_every_worker_nothing_in_flight_says_nothing(scene):
    scene.segment.slots[0].cells[worker_slot.EPOCH_SEEN] = 0
    waiting = scene.wait()
    with pytest.raises(DrainTimedOut, match="not every worker has confirmed"):
        await scene.watch.until_drained(0.02)
    assert not waiting.done()
    scene.segment.slots[0].cells[worker_slot.EPOCH_SEEN] = 1
    await waiting


async def test_a_shutdown_keeps_nobody_waiting(scene):
    scene.runs(worker_slot.IN_FLIGHT, 1)
    waiting = scene.wait()
    await scene.looked()
    scene.watch.close()
    with pytest.raises(DrainTimedOut, match="shutting down"):
        await waiting
