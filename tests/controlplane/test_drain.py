from __future__ import annotations

import asyncio
import itertools

import pytest

from bgproxy.controlplane.drain import Outcome, Remaining, held, remaining, until_empty
from bgproxy.core.model import BLUE, GREEN
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
