"""Since when the oldest one runs that a switch has left behind."""

from __future__ import annotations

import time

from bgproxy.core.model import BLUE, GREEN
from bgproxy.shm import worker_slot as slot
from tests.support.plane import Plane, eventually
from tests.support.raw_http import request
from tests.support.raw_upstream import silent
from tests.support.streams import EVENTS, Puppet, next_tick
from tests.support.tunnels import switching, tunnelled


def oldest(plane: Plane) -> tuple[int, int]:
    """As the next tick writes it, in ns of this machine's clock."""
    next_tick(plane)
    next_tick(plane)  # this one began after we asked
    return plane.worker.cells[slot.OLDEST + BLUE], plane.worker.cells[slot.OLDEST + GREEN]


def test_it_is_the_oldest_of_requests_and_streams_of_the_colour_that_is_not_live(plane: Plane) -> None:
    gauges = [
        gauge + colour for gauge in (slot.IN_FLIGHT, slot.TUNNELS, slot.EVENT_STREAMS) for colour in (BLUE, GREEN)
    ]
    eventually(
        lambda: not any(plane.worker.cells[gauge] for gauge in gauges), "the end of what other tests left behind"
    )
    plane.blue.script = silent
    request_, events = plane.client(), plane.client()
    before = time.monotonic_ns()
    request_.send(request())
    eventually(lambda: plane.worker.cells[slot.IN_FLIGHT + BLUE] == 1)
    between = time.monotonic_ns()
    plane.blue.script = switching()
    tunnel = tunnelled(plane)
    later = time.monotonic_ns()
    plane.blue.script = Puppet(EVENTS)
    events.send(request())
    events.until(b"\r\n\r\n")
    assert oldest(plane) == (0, 0), "blue is live: nothing is left behind"
    plane.publish(GREEN)
    blue, green = oldest(plane)
    assert green == 0
    assert before <= blue <= between
    request_.reset()
    eventually(lambda: plane.worker.cells[slot.IN_FLIGHT + BLUE] == 0)
    assert between <= oldest(plane)[0] <= later, "the tunnel, once the request is over"
    tunnel.reset()
    eventually(lambda: plane.worker.cells[slot.TUNNELS + BLUE] == 0)
    assert later <= oldest(plane)[0] <= time.monotonic_ns(), "then the event stream"
    plane.publish(BLUE)
    assert oldest(plane) == (0, 0), "live again"
    plane.publish(GREEN)
    assert oldest(plane)[0] >= later
    events.reset()
    eventually(lambda: plane.worker.cells[slot.EVENT_STREAMS + BLUE] == 0)
    assert oldest(plane) == (0, 0)
