"""Connections to one upstream: made, parked, waited for, given up, and the upstream that is left out for a while."""

from __future__ import annotations

import signal
import socket
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from bgproxy.core.messages import Ejected, OutOfDescriptors
from bgproxy.core.model import BLUE
from bgproxy.shm import worker_slot as slot
from tests.support.plane import eventually, settings
from tests.support.raw_http import request, response
from tests.support.raw_upstream import HELLO, RawUpstream, answering, silent

if TYPE_CHECKING:
    import pathlib

    from tests.support.plane import Plane
    from tests.support.raw_upstream import Conversation


def gone(plane: Plane) -> RawUpstream:
    """An upstream whose port nobody listens on any more."""
    made = plane.upstream()
    made.close()
    return made


# --- where an upstream may be -----------------------------------------------------------------------------------------


def test_an_upstream_may_be_ipv4_ipv6_a_unix_socket_or_a_name(plane: Plane, tmp_path: pathlib.Path) -> None:
    ipv6 = plane.upstream(host="::1")
    on_socket = plane.upstream(path=str(tmp_path / "app.sock"))
    for where in (plane.blue, ipv6, on_socket, f"localhost:{plane.blue.port}"):
        plane.configure(blue=[where])
        assert plane.client().ask().body == b"hello"
    assert [len(each.requests) for each in (plane.blue, ipv6, on_socket)] == [2, 1, 1]


@pytest.mark.parametrize("address", [f"{'x' * 70}.invalid:80", "a..invalid:80", "unix:/nonexistent/app.sock"])
def test_an_upstream_that_cannot_be_found_is_an_error_that_names_no_address(plane: Plane, address: str) -> None:
    plane.configure(blue=[address])
    answer = plane.client().ask()
    assert (answer.status, answer.one("X-BG-Reason")) == (502, "connect_failed")
    assert address.partition(":")[0].encode() not in answer.raw
    assert b"nonexistent" not in answer.raw


# --- connects that fail -----------------------------------------------------------------------------------------------


@pytest.mark.says("A failed connect goes to another upstream")
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_refused_connect_goes_to_another_upstream_of_the_pool(plane: Plane, method: str) -> None:
    plane.configure(blue=[gone(plane), plane.blue])
    for _ in range(4):
        answer = plane.client().ask(method, body=b"x" if method == "POST" else b"")
        assert answer.body == b"hello"
    assert plane.counted(slot.RETRIES) == plane.failed("connect_refused") > 0
    assert len(plane.blue.requests) == 4


@pytest.mark.says("A failed connect goes to another upstream")
def test_retries_end_where_the_settings_say(plane: Plane) -> None:
    plane.configure(settings(upstream={"retries": 1}), blue=[gone(plane) for _ in range(3)])
    answer = plane.client().ask()
    assert (answer.status, answer.one("X-BG-Reason")) == (502, "connect_refused")
    assert plane.failed("connect_refused") == 2
    plane.configure(settings(upstream={"retries": 0}), blue=[gone(plane), gone(plane)])
    assert plane.client().ask().status == 502
    assert plane.failed("connect_refused") == 3


@pytest.mark.says("no connection within `connect_timeout`")
def test_a_connect_that_takes_too_long_is_given_up(plane: Plane) -> None:
    with socket.socket() as full, ExitStack() as waiting:
        full.bind(("127.0.0.1", 0))
        full.listen(0)  # a full queue drops every further SYN
        for _ in range(4):
            filler = waiting.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        address = f"127.0.0.1:{full.getsockname()[1]}"
        plane.configure(settings(upstream={"connect_timeout": 0.2}), blue=[address])
        answer = plane.client().ask("POST", body=b"x")
        assert (answer.status, answer.one("X-BG-Reason")) == (504, "connect_timeout")
        plane.configure(settings(upstream={"connect_timeout": 0.2}), blue=[address, plane.blue])
        for _ in range(2):
            assert plane.client().ask().body == b"hello"
    eventually(lambda: plane.cells[slot.UPSTREAM_CONNECTIONS] == 1, "the attempts to be forgotten")


# --- passive ejection -------------------------------------------------------------------------------------------------


def test_an_upstream_that_refuses_again_and_again_is_left_out_and_reported(plane: Plane) -> None:
    plane.configure(
        settings(upstream={"passive_failures": 2, "passive_eject": 0.5}), blue=[gone(plane), plane.blue, plane.blue]
    )
    client = plane.client()
    while plane.failed("connect_refused") < 2:
        assert client.ask().status == 200
    ejected = plane.worker.hear(Ejected)
    assert (ejected.colour, ejected.index, ejected.failures, ejected.for_s) == (BLUE, 0, 2, 0.5)
    assert "refused" in ejected.error.lower()
    for _ in range(6):
        assert client.ask().status == 200
    assert plane.failed("connect_refused") == 2, "nobody has tried it since"

    def is_tried_again() -> bool:
        assert client.ask().status == 200
        return plane.failed("connect_refused") == 3

    eventually(is_tried_again, "the end of the ejection")


def test_a_success_in_between_starts_the_count_again(plane: Plane, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "app.sock"
    plane.configure(settings(upstream={"passive_failures": 2, "idle_timeout": 60}), blue=[f"unix:{path}", plane.blue])
    client = plane.client()

    def fails_once_more() -> None:
        before = plane.failed("connect_failed")
        while plane.failed("connect_failed") == before:
            client.ask()

    fails_once_more()
    back = plane.upstream(answering(response(200, b"back", "Connection: close")), path=str(path))
    while client.ask().body != b"back":
        pass
    path.unlink()
    fails_once_more()
    plane.upstream(answering(response(200, b"back", "Connection: close")), path=str(path))
    while client.ask().body != b"back":
        pass
    assert len(back.requests) == 1


def test_the_last_upstream_is_never_left_out(plane: Plane) -> None:
    plane.configure(settings(upstream={"passive_failures": 1, "passive_eject": 60.0}), blue=[gone(plane)])
    for count in range(1, 4):
        assert plane.client().ask().one("X-BG-Reason") == "connect_refused"
        assert plane.failed("connect_refused") == count
    plane.configure(settings(upstream={"passive_failures": 1, "passive_eject": 60.0}), blue=[gone(plane), gone(plane)])
    for _ in range(3):
        assert plane.client().ask().one("X-BG-Reason") == "connect_refused"
    plane.worker.hear(Ejected)
    assert plane.failed("no_healthy_upstream") == 0


# --- parked connections -----------------------------------------------------------------------------------------------


def test_an_upstream_is_not_left_out_because_this_worker_has_no_descriptors(plane: Plane) -> None:
    def script(conversation: Conversation) -> None:
        conversation.request()
        release.wait(10)
        conversation.send(response(200, b"hello", "Connection: close"))

    release = threading.Event()
    plane.blue.script = script
    plane.configure(settings(upstream={"passive_failures": 1, "retries": 0}), blue=[plane.blue, plane.upstream(script)])
    client = plane.client()
    client.send(request() + request())
    eventually(lambda: plane.cells[slot.IN_FLIGHT] == 1, "the first request")
    with plane.worker.descriptors(3):
        release.set()
        assert client.answer().status == 200
        answer = client.answer()
        assert (answer.status, answer.one("X-BG-Reason")) == (502, "connect_failed")
    assert client.ask().status == 200
    assert plane.worker.hear(OutOfDescriptors).limit == 3
    assert not [said for said in plane.worker._unheard if isinstance(said, Ejected)]


def test_connections_are_parked_and_used_again(plane: Plane) -> None:
    for _ in range(3):
        assert plane.client().ask().status == 200
    assert len(plane.blue.conversations) == plane.counted(slot.CONNECTS) == 1
    assert plane.summed(slot.REUSES) == 2
    eventually(lambda: plane.cells[slot.PARKED] == 1, "one parked connection")
    assert plane.cells[slot.UPSTREAM_CONNECTIONS] == 1


@pytest.mark.says("For all other requests a parked connection is first looked at")
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "POST"])
@pytest.mark.parametrize("body", [b"", b"x"], ids=["without body", "with body"])
@pytest.mark.parametrize("first", ["request", "close"])
def test_a_parked_connection_that_the_upstream_has_closed_harms_no_request(
    plane: Plane, method: str, body: bytes, first: str
) -> None:
    """The worker sleeps while both happen, and finds the request and the FIN at once, in either order."""
    leave = threading.Event()

    def script(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(response(200, b"ok"))
        if conversation.number:
            conversation.rest()
        leave.wait(10)

    plane.blue.script = script
    client = plane.client()
    assert client.ask().body == b"ok"
    asked = [lambda: client.send(request(method, body=body)), lambda: close(plane.blue, leave)]
    plane.worker.process.send_signal(signal.SIGSTOP)
    eventually(lambda: state_of(plane.worker.process.pid) == "T", "the worker to sleep")
    for happens in asked if first == "request" else reversed(asked):
        happens()
    plane.worker.process.send_signal(signal.SIGCONT)
    assert client.answer(method).status == 200
    assert [asked.method for asked in plane.blue.requests] == ["GET", method]


def state_of(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0]


def close(upstream: RawUpstream, leave: threading.Event) -> None:
    leave.set()
    assert upstream.conversations[0].ended.wait(10)


# --- waiting for a connection -----------------------------------------------------------------------------------------


def test_requests_over_the_connection_limit_wait_for_their_turn(plane: Plane) -> None:
    release = threading.Event()

    def script(conversation: Conversation) -> None:
        while True:
            asked = conversation.request()
            release.wait(10)
            conversation.send(response(200, asked.target.encode()))

    plane.blue.script = script
    plane.configure(settings(upstream={"max_connections": 1}))
    clients = [plane.client() for _ in range(4)]
    for number, client in enumerate(clients):
        client.send(request(target=f"/{number}"))
        eventually(lambda seen=number + 1: plane.cells[slot.IN_FLIGHT] == seen, "the request")
    eventually(lambda: plane.cells[slot.WAITING] == 3, "three waiting")
    release.set()
    assert [client.answer().body for client in clients] == [b"/0", b"/1", b"/2", b"/3"]
    assert len(plane.blue.conversations) == 1


def test_a_waiting_request_gets_a_new_connection_when_the_old_one_breaks(plane: Plane) -> None:
    release = threading.Event()

    def script(conversation: Conversation) -> None:
        conversation.request()
        release.wait(10)
        conversation.send(response(200, b"last", "Connection: close"))

    plane.blue.script = script
    plane.configure(settings(upstream={"max_connections": 1}))
    clients = [plane.client() for _ in range(2)]
    for client in clients:
        client.send(request())
    eventually(lambda: plane.cells[slot.WAITING] == 1, "one waiting")
    release.set()
    assert [client.answer().body for client in clients] == [b"last", b"last"]
    assert len(plane.blue.conversations) == 2


@pytest.mark.says("all connections busy and `max_waiting` waiting")
def test_the_queue_is_bounded_in_length_and_in_time(plane: Plane) -> None:
    plane.blue.script = silent
    plane.configure(settings(upstream={"max_connections": 1, "max_waiting": 1, "connect_timeout": 0.3}))
    first, second, third = (plane.client() for _ in range(3))
    first.send(request())
    eventually(lambda: plane.blue.conversations, "the first on its connection")
    second.send(request())
    eventually(lambda: plane.cells[slot.WAITING] == 1, "the second waiting")
    full = third.ask()
    assert (full.status, full.one("X-BG-Reason"), full.one("Retry-After")) == (503, "queue_full", "1")
    late = second.answer()
    assert (late.status, late.one("X-BG-Reason")) == (503, "queue_timeout")
    assert (plane.failed("queue_full"), plane.failed("queue_timeout")) == (1, 1)


def test_a_client_that_leaves_the_queue_is_not_served(plane: Plane) -> None:
    release = threading.Event()

    def script(conversation: Conversation) -> None:
        while True:
            conversation.request()
            release.wait(10)
            conversation.send(response(200, b"ok"))

    plane.blue.script = script
    plane.configure(settings(upstream={"max_connections": 1}))
    first, leaver = plane.client(), plane.client()
    first.send(request(target="/first"))
    eventually(lambda: plane.blue.requests, "the first on its connection")
    leaver.send(request(target="/leaver"))
    eventually(lambda: plane.cells[slot.WAITING] == 1, "the second waiting")
    leaver.reset()
    eventually(lambda: plane.cells[slot.WAITING] == 0, "the queue to be empty")
    release.set()
    assert first.answer().status == 200
    assert first.ask(target="/again").status == 200
    assert [asked.target for asked in plane.blue.requests] == ["/first", "/again"]


def test_a_connection_that_is_made_for_nobody_is_kept_for_the_next(plane: Plane) -> None:
    plane.blue.script = HELLO
    client = plane.client()
    client.send(request())
    client.reset()
    eventually(plane.is_idle, "the end of the request")
    assert plane.client().ask().body == b"hello"


# --- rows of the slot -------------------------------------------------------------------------------------------------


def test_each_upstream_has_a_row_that_tells_its_load(plane: Plane) -> None:
    release = threading.Event()

    def script(conversation: Conversation) -> None:
        while True:
            conversation.request()
            release.wait(10)
            conversation.send(response(200, b"ok"))

    plane.blue.script = script
    plane.configure(blue=[plane.blue])
    client = plane.client()
    client.send(request())
    eventually(lambda: plane.row(0, slot.ROW_IN_FLIGHT) == plane.row(0, slot.ROW_REQUESTS) == 1, "the load")
    release.set()
    assert client.answer().status == 200
    eventually(lambda: (plane.row(0, slot.ROW_IN_FLIGHT), plane.row(0, slot.ROW_PARKED)) == (0, 1), "the connection")
    plane.configure(blue=[gone(plane)])
    assert client.ask().status == 502
    eventually(lambda: plane.row(0, slot.ROW_CONNECT_FAILURES) == 1, "the failed connect")
