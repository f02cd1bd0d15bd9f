"""What a worker keeps, finishes and gives away where one pool table follows another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from bgproxy.core.model import BLUE, Pool
from bgproxy.shm import worker_slot as slot
from tests.support.plane import eventually, pool, settings
from tests.support.raw_http import request, response
from tests.support.raw_upstream import answering, silent

if TYPE_CHECKING:
    from tests.support.plane import Plane
    from tests.support.raw_upstream import RawUpstream

LONG_PARKING = settings(upstream={"idle_timeout": 60.0})
ONE_CONNECTION = settings(upstream={"max_connections": 1, "connect_timeout": 5.0})


def drained(of: Pool, *numbers: int) -> Pool:
    upstreams = tuple(
        msgspec.structs.replace(each, drained=number in numbers) for number, each in enumerate(of.upstreams)
    )
    return msgspec.structs.replace(of, upstreams=upstreams)


def two(plane: Plane) -> tuple[RawUpstream, RawUpstream]:
    return plane.upstream(answering(response(200, b"one"))), plane.upstream(answering(response(200, b"two")))


def test_an_upstream_that_stays_keeps_its_parked_connections(plane: Plane) -> None:
    client = plane.client()
    assert client.ask().body == b"hello"
    for release in ("1", "2", "3"):
        plane.configure(blue=pool([plane.blue], release=release))
        assert client.ask().body == b"hello"
    assert len(plane.blue.conversations) == 1
    assert plane.summed(slot.REUSES + BLUE) == 3


def test_the_parked_connections_of_an_upstream_that_goes_are_closed(plane: Plane) -> None:
    one, other = two(plane)
    plane.configure(blue=[one])
    client = plane.client()
    assert client.ask().body == b"one"
    plane.configure(blue=[other])
    eventually(lambda: plane.cells[slot.UPSTREAM_CONNECTIONS + BLUE] == 0, "the end of the parked connection")
    assert client.ask().body == b"two"
    assert plane.row(0, slot.ROW_IN_FLIGHT) == 0


def test_a_drained_upstream_gets_no_request_and_its_parked_connections_are_closed(plane: Plane) -> None:
    one, other = two(plane)
    both = pool([one, other], balance="round-robin")
    plane.configure(blue=both)
    client = plane.client()
    assert {client.ask().body for _ in range(4)} == {b"one", b"two"}
    plane.configure(blue=drained(both, 0))
    eventually(lambda: plane.cells[slot.UPSTREAM_CONNECTIONS + BLUE] == 1, "the end of the parked connection")
    assert {client.ask().body for _ in range(4)} == {b"two"}
    plane.configure(blue=drained(both, 0, 1))
    assert client.ask().status == 503
    plane.configure(blue=both)
    assert {client.ask().body for _ in range(4)} == {b"one", b"two"}


@pytest.mark.parametrize("goes", [False, True], ids=["drained", "gone"])
def test_what_runs_there_is_finished_and_its_connection_not_kept(plane: Plane, goes: bool) -> None:
    busy, other = plane.upstream(silent), plane.upstream(answering(response(200, b"two")))
    plane.configure(LONG_PARKING, blue=[busy])
    client = plane.client()
    client.send(request())
    eventually(lambda: busy.conversations, "the request")
    plane.configure(LONG_PARKING, blue=[other] if goes else drained(pool([busy, other]), 0))
    assert plane.row(0, slot.ROW_IN_FLIGHT) == (0 if goes else 1), "a row of the table counts what the table means"
    assert plane.worker.cells[slot.UPSTREAM_CONNECTIONS + BLUE] == 1
    busy.conversations[0].send(response(200, b"in the end"))
    assert client.answer().body == b"in the end"
    eventually(lambda: plane.cells[slot.UPSTREAM_CONNECTIONS + BLUE] == 0, "the end of its connection")
    assert client.ask().body == b"two"
    eventually(lambda: plane.cells[slot.UPSTREAM_CONNECTIONS + BLUE] == 1, "one connection")


@pytest.mark.parametrize("goes", [False, True], ids=["drained", "gone"])
def test_who_waits_for_a_connection_there_goes_to_another_upstream(plane: Plane, goes: bool) -> None:
    busy, other = plane.upstream(silent), plane.upstream(answering(response(200, b"two")))
    plane.configure(ONE_CONNECTION, blue=[busy])
    first, waiting = plane.client(), plane.client()
    first.send(request())
    eventually(lambda: busy.conversations, "the request")
    waiting.send(request())
    eventually(lambda: plane.cells[slot.WAITING + BLUE] == 1, "the one that waits")
    plane.configure(ONE_CONNECTION, blue=[other] if goes else drained(pool([busy, other]), 0))
    assert waiting.answer().body == b"two"
    busy.conversations[0].send(response(200, b"one"))
    assert first.answer().body == b"one"


def test_who_waits_and_has_nowhere_else_to_go_is_told(plane: Plane) -> None:
    busy = plane.upstream(silent)
    plane.configure(ONE_CONNECTION, blue=[busy])
    first, waiting = plane.client(), plane.client()
    first.send(request())
    eventually(lambda: busy.conversations, "the request")
    waiting.send(request())
    eventually(lambda: plane.cells[slot.WAITING + BLUE] == 1, "the one that waits")
    plane.configure(ONE_CONNECTION, blue=drained(pool([busy]), 0))
    assert plane.cells[slot.WAITING + BLUE] == 1, "drained: it was here before, and may wait on"
    plane.configure(ONE_CONNECTION, blue=Pool(()))
    answer = waiting.answer()
    assert (answer.status, answer.one("X-BG-Reason")) == (503, "no_healthy_upstream")
    busy.conversations[0].send(response(200, b"one"))
    assert first.answer().body == b"one"
    eventually(lambda: plane.cells[slot.UPSTREAM_CONNECTIONS + BLUE] == 0, "no connection")


def test_a_request_is_not_sent_again_to_an_upstream_that_is_gone(plane: Plane) -> None:
    one, other = plane.upstream(silent), plane.upstream(answering(response(200, b"two")))
    one.script = lambda conversation: (
        conversation.request(),
        conversation.send(response(200, b"one")),
        conversation.request(),
        conversation.rest(),
    )
    plane.configure(blue=[one])
    client = plane.client()
    assert client.ask().body == b"one"
    client.send(request())
    eventually(lambda: len(one.requests) == 2, "the second request, on the same connection")
    plane.configure(blue=[other])
    one.conversations[0].finish_sending()
    assert client.answer().body == b"two"
    assert len(one.conversations) == 1


def test_a_row_that_comes_to_mean_another_upstream_counts_anew(plane: Plane) -> None:
    one, other = two(plane)
    plane.configure(blue=[one])
    client = plane.client()
    for _ in range(3):
        assert client.ask().body == b"one"
    eventually(lambda: plane.row(0, slot.ROW_REQUESTS) == 3, "three requests")
    plane.configure(blue=[other])
    assert client.ask().body == b"two"
    eventually(lambda: plane.row(0, slot.ROW_REQUESTS) == 1, "one request")


def test_the_weight_of_an_upstream_that_stays_may_change(plane: Plane) -> None:
    one, other = two(plane)
    both = pool([one, other], balance="round-robin")
    plane.configure(blue=both)
    client = plane.client()
    client.ask()
    heavy = msgspec.structs.replace(both.upstreams[0], weight=3)
    plane.configure(blue=msgspec.structs.replace(both, upstreams=(heavy, both.upstreams[1])))
    answers = [client.ask().body for _ in range(8)]
    assert (answers.count(b"one"), answers.count(b"two")) == (6, 2)
    assert len(one.conversations) == 1
