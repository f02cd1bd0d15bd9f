"""What is held for slow peers is bounded, and who holds most gives way first."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from bgproxy.core.model import BLUE
from bgproxy.dataplane.buffers import Buffers
from bgproxy.shm import worker_slot as slot
from tests.dataplane.test_tunnel import SWITCHING, UPGRADE
from tests.support.plane import eventually, settings
from tests.support.raw_http import request, response
from tests.support.raw_upstream import answering, silent

if TYPE_CHECKING:
    from tests.support.plane import Plane
    from tests.support.raw_upstream import Conversation

MIB = 1 << 20
LIMIT = 4 * MIB
HALF = b"GET / HTTP/1.1\r\nX-A: "


# --- through a worker -------------------------------------------------------------------------------------------------


@pytest.fixture
def limited(plane: Plane) -> Plane:
    plane.configure(settings(limits={"buffered_bytes": LIMIT, "head_bytes": MIB, "target_bytes": 512}))
    return plane


@pytest.mark.says("what is held for slow peers")
def test_half_heads_are_refused_when_they_are_too_much_together(limited: Plane) -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\nX-Fill: " + b"x" * 700_000
    before = limited.worker.resident_bytes()
    clients = [limited.client() for _ in range(40)]  # 28 MB: the limit seven times over
    largest = 0
    for client in clients:
        client.send(head)
        largest = max(largest, limited.worker.resident_bytes())
    eventually(lambda: limited.rejected("buffered_bytes") >= 34, "so many to be refused that the rest fits")
    eventually(lambda: 0 < limited.cells[slot.BUFFERED_BYTES] <= LIMIT, "the gauge")
    assert largest - before < 2 * LIMIT + 8 * MIB, "the allocator keeps some of what was freed"
    assert limited.client().ask().body == b"hello", "who holds nothing is served"
    answers = []
    for client in clients:
        client.finish_sending()  # who was not refused has no whole request, and gets no answer
        answers.append(client.rest())
    refused = [answer for answer in answers if answer]
    assert len(refused) == limited.rejected("buffered_bytes") < len(clients), "some fitted in"
    assert all(answer.startswith(b"HTTP/1.1 503 ") and b"X-BG-Reason: buffered_bytes" in answer for answer in refused)


def test_clients_that_do_not_take_their_answers_are_cut(limited: Plane) -> None:
    # How much waits for each of them is for the kernel to say as well: a quarter of the limit is too little in any case
    limited.configure(settings(limits={"buffered_bytes": LIMIT // 4}))
    body = bytes(8 * MIB)
    limited.blue.script = answering(lambda asked: response(200, b"hello" if asked.target == "/" else body))
    before = limited.worker.resident_bytes()
    clients = [limited.client(receive_buffer=4096) for _ in range(60)]
    largest = 0
    for client in clients:
        client.send(request(target="/large"))
        largest = max(largest, limited.worker.resident_bytes())
    eventually(lambda: limited.rejected("buffered_bytes") > 0, "somebody to be cut")
    eventually(lambda: limited.cells[slot.BUFFERED_BYTES] <= LIMIT // 4, "the rest to fit")
    assert largest - before < 2 * LIMIT + 8 * MIB
    assert limited.client().ask().body == b"hello"


def test_a_pipelining_client_that_holds_too_much_is_cut(limited: Plane) -> None:
    limited.blue.script = silent
    limited.configure(settings(limits={"buffered_bytes": 2000}))
    client = limited.client()
    client.send(request())
    eventually(lambda: limited.cells[slot.IN_FLIGHT] == 1, "the first request")
    client.send(request(target="/" + "x" * 1000) * 3)
    eventually(lambda: limited.rejected("buffered_bytes") >= 1, "the cut")
    eventually(lambda: limited.answered("GET", 499) == 1, "the request to be over")


def test_a_body_that_waits_for_a_connection_is_refused(plane: Plane) -> None:
    plane.blue.script = silent
    plane.configure(settings(limits={"buffered_bytes": 50_000}, upstream={"max_connections": 1}))
    busy = plane.client()
    busy.send(request())
    eventually(lambda: plane.blue.conversations, "the connection to be in use")
    client = plane.client()
    client.send(request("POST", "/", body=bytes(60_000)))
    answer = client.answer("POST")
    assert (answer.status, answer.one("X-BG-Reason")) == (503, "buffered_bytes")


def test_an_upload_that_its_upstream_does_not_take_is_refused(limited: Plane) -> None:
    def deaf(conversation: Conversation) -> None:
        conversation.until(b"\r\n\r\n")
        limited_end.wait(10)

    limited_end = threading.Event()
    slow = limited.upstream(deaf, receive_buffer=4096)
    limited.configure(settings(limits={"buffered_bytes": 10_000}), blue=[slow])
    client = limited.client()
    client.sock.settimeout(0.2)
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (64 * MIB))
    with contextlib.suppress(OSError):
        client.send(bytes(64 * MIB))
    eventually(lambda: limited.rejected("buffered_bytes") >= 1, "the refusal")
    limited_end.set()
    assert limited.answered("POST", 503) == 1


def test_nothing_is_held_for_those_who_have_left(plane: Plane) -> None:
    plane.blue.script = silent
    half, pipelining = plane.client(), plane.client()
    half.send(HALF)
    pipelining.send(request() + request())
    eventually(lambda: plane.cells[slot.BUFFERED_BYTES] == len(HALF) + len(request()), "both to be held")
    half.close()
    pipelining.reset()
    eventually(lambda: plane.cells[slot.BUFFERED_BYTES] == 0, "nothing to be held")


def test_a_tunnel_that_is_not_read_is_cut(plane: Plane) -> None:
    def pouring(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(SWITCHING)
        while True:
            conversation.send(bytes(MIB))

    plane.blue.script = pouring
    plane.configure(settings(limits={"buffered_bytes": 10_000}))
    client = plane.client(receive_buffer=4096)
    client.send(request("GET", "/ws", *UPGRADE))
    eventually(lambda: plane.rejected("buffered_bytes") >= 1, "the cut")
    eventually(lambda: plane.cells[slot.TUNNELS + BLUE] == 0, "the end of the tunnel")


# --- by itself --------------------------------------------------------------------------------------------------------


class FakeHolder:
    def __init__(self, size: int) -> None:
        self.size = size
        self.was_shed = False

    def held(self) -> int:
        return self.size

    def shed(self) -> None:
        self.was_shed = True
        self.size = 0


@pytest.fixture
def later() -> list[Callable[[], None]]:
    return []


@pytest.fixture
def buffers(later: list[Callable[[], None]]) -> Buffers:
    made = Buffers(later.append)
    made.configure(1600)
    return made


def holding(buffers: Buffers, *sizes: int) -> list[FakeHolder]:
    holders = [FakeHolder(size) for size in sizes]
    for holder in holders:
        buffers.holds(holder, holder.size)
    return holders


def test_who_holds_most_goes_first_and_no_more_than_are_too_much(buffers: Buffers) -> None:
    small, large, medium = holding(buffers, 500, 700, 600)
    buffers.count()
    assert [each.was_shed for each in (small, large, medium)] == [False, True, False]
    assert buffers.size == 1100


def test_it_is_counted_anew_once_it_may_be_too_much_and_once_only(
    buffers: Buffers, later: list[Callable[[], None]]
) -> None:
    holding(buffers, 1600)
    assert later == []
    (one, two) = holding(buffers, 1, 1)
    assert later == [buffers.count]
    later.pop()()
    assert not one.was_shed
    assert not two.was_shed
    assert buffers.size == 2


def test_after_a_count_it_may_grow_by_a_sixteenth_before_the_next(
    buffers: Buffers, later: list[Callable[[], None]]
) -> None:
    (holder,) = holding(buffers, 1600)
    buffers.count()
    assert (holder.was_shed, buffers.size) == (False, 1600)
    holding(buffers, 100)
    assert later == []
    holding(buffers, 1)
    assert later == [buffers.count]


def test_what_is_given_back_is_found_by_the_next_count(buffers: Buffers) -> None:
    one, two = holding(buffers, 1000, 500)
    one.size = 0
    buffers.count()
    assert buffers.size == 500
    one.size = 1600  # forgotten: it would have to say so
    buffers.count()
    assert (buffers.size, two.was_shed) == (500, False)


def test_who_is_forgotten_holds_nothing(buffers: Buffers) -> None:
    one, _ = holding(buffers, 1000, 500)
    buffers.forget(one)
    buffers.forget(one)
    buffers.count()
    assert buffers.size == 500


def test_without_a_limit_nobody_is_shed(later: list[Callable[[], None]]) -> None:
    buffers = Buffers(later.append)
    (holder,) = holding(buffers, 1 << 50)
    buffers.count()
    assert (buffers.size, holder.was_shed, later) == (1 << 50, False, [])
