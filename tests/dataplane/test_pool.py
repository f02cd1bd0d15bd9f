"""Who of a pool takes the next request: eligible ones only, spread as configured."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING

from bgproxy.core.model import BLUE
from bgproxy.shm import worker_slot as slot
from tests.support.plane import eventually, pool
from tests.support.raw_http import request, response
from tests.support.raw_upstream import answering

if TYPE_CHECKING:
    from tests.support.plane import Plane
    from tests.support.raw_upstream import Conversation, RawUpstream


def named(plane: Plane, count: int) -> list[RawUpstream]:
    return [plane.upstream(answering(response(200, b"%d" % number))) for number in range(count)]


def test_round_robin_takes_every_upstream_in_turn(plane: Plane) -> None:
    plane.configure(blue=pool(named(plane, 3), balance="round-robin"))
    client = plane.client()
    answers = [client.ask().body for _ in range(9)]
    assert answers == answers[:3] * 3
    assert set(answers) == {b"0", b"1", b"2"}


def test_least_requests_spreads_a_trickle_evenly(plane: Plane) -> None:
    plane.configure(blue=pool(named(plane, 3)))
    client = plane.client()
    assert Counter(client.ask().body for _ in range(30)) == {b"0": 10, b"1": 10, b"2": 10}


def test_least_requests_avoids_the_upstream_that_is_busy(plane: Plane) -> None:
    release = threading.Event()

    def slow(conversation: Conversation) -> None:
        conversation.request()
        release.wait(10)
        conversation.send(response(200, b"slow"))

    busy, quick = plane.upstream(slow), plane.upstream(answering(response(200, b"quick")))
    plane.configure(blue=pool([busy, quick]))
    hanging = [plane.client(), plane.client()]
    for client in hanging:
        client.send(request())
    eventually(lambda: busy.requests and quick.requests, "a request on each")
    client = plane.client()
    assert [client.ask().body for _ in range(10)] == [b"quick"] * 10
    release.set()
    assert sorted(client.answer().body for client in hanging) == [b"quick", b"slow"]


def test_the_health_board_decides_from_one_request_to_the_next(plane: Plane) -> None:
    plane.configure(blue=pool(named(plane, 3)))
    board = plane.worker.segment.health
    client = plane.client()
    board.publish(BLUE, [False, True, False])
    assert {client.ask().body for _ in range(4)} == {b"1"}
    board.publish(BLUE, [True, False, True])
    assert {client.ask().body for _ in range(4)} == {b"0", b"2"}
    board.publish(BLUE, [False, False, False])
    answer = client.ask()
    assert (answer.status, answer.one("X-BG-Reason")) == (503, "no_healthy_upstream")
    board.publish(BLUE, [False, False, True])
    assert client.ask().body == b"2"


def test_an_unhealthy_upstream_is_no_second_choice_either(plane: Plane) -> None:
    refusing, unhealthy = plane.upstream(), plane.upstream()
    refusing.close()
    plane.configure(blue=pool([refusing, unhealthy]))
    plane.worker.segment.health.publish(BLUE, [True, False])
    assert plane.client().ask().status == 502
    assert unhealthy.conversations == []
    assert plane.counted(slot.RETRIES) == 0
