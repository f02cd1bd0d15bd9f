"""Who keeps an upstream's connections busy by doing nothing makes way for those who would have to wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from bgproxy.dataplane.stalled import STALLED_NS, Stalled
from bgproxy.shm import worker_slot as slot
from tests.support.plane import eventually, settings
from tests.support.raw_http import Ended, request, response
from tests.support.raw_upstream import silent

if TYPE_CHECKING:
    from tests.support.plane import Plane
    from tests.support.raw_upstream import Conversation

ONE_CONNECTION: dict[str, Any] = {"upstream": {"max_connections": 1, "connect_timeout": 10.0}}
LARGE = 64 << 20


def large_or_not(conversation: Conversation) -> None:
    while True:
        asked = conversation.request()
        conversation.send(response(200, bytes(LARGE) if asked.target == "/large" else b"hello"))


# --- through a worker -------------------------------------------------------------------------------------------------


@pytest.mark.says("a body that comes so slowly")
def test_a_body_that_drips_makes_way(plane: Plane) -> None:
    plane.configure(settings(**ONE_CONNECTION))
    dripping = plane.client()
    dripping.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nx")
    eventually(lambda: plane.blue.conversations, "the upload")
    assert plane.client().ask().body == b"hello"
    answer = dripping.answer("POST")
    assert (answer.status, answer.one("X-BG-Reason"), answer.one("Connection")) == (408, "stalled", "close")
    assert plane.rejected("stalled") == 1
    assert [asked.method for asked in plane.blue.requests] == ["GET"], "the upload was never completed"


@pytest.mark.says("Slow peers, in tunnels too")
def test_a_client_that_does_not_take_its_answer_makes_way(plane: Plane) -> None:
    plane.blue.script = large_or_not
    plane.configure(settings(**ONE_CONNECTION))
    slow = plane.client(receive_buffer=4096)
    slow.send(request(target="/large"))
    assert slow.take(12) == b"HTTP/1.1 200"
    assert plane.client().ask().body == b"hello"
    assert plane.rejected("stalled") == 1
    try:
        while slow.take(1 << 16):
            pass
    except (Ended, ConnectionResetError):
        pass


def test_an_upstream_that_is_slow_itself_is_no_reason_to_cut_its_client(plane: Plane) -> None:
    plane.blue.script = silent
    plane.configure(settings(upstream={"max_connections": 1, "connect_timeout": 0.6}))
    waiting = plane.client()
    waiting.send(request("POST", "/", body=b"whole"))
    eventually(lambda: plane.blue.conversations, "the request")
    assert plane.client().ask().status == 503
    assert plane.rejected("stalled") == 0


def test_where_nobody_more_may_wait_nobody_is_given_a_quarter_of_a_second(plane: Plane) -> None:
    plane.configure(settings(upstream={"max_connections": 2, "max_waiting": 0}))
    dripping = [plane.client(), plane.client()]
    for client in dripping:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nx")
        eventually(lambda: plane.cells[slot.IN_FLIGHT] == 1 + dripping.index(client), "the upload")  # noqa: B023
    eventually(lambda: len(plane.blue.conversations) == 2, "both uploads")
    assert plane.client().ask().body == b"hello"
    assert dripping[0].answer("POST").one("X-BG-Reason") == "stalled"
    assert plane.rejected("stalled") == 1


EXPECTING = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n"


def test_a_client_that_waits_for_a_100_is_not_the_one_who_does_nothing(plane: Plane) -> None:
    def script(conversation: Conversation) -> None:
        conversation.until(b"\r\n\r\n")
        conversation.rest()

    plane.blue.script = script
    plane.configure(settings(upstream={"max_connections": 1, "connect_timeout": 0.6}))
    waiting = plane.client()
    waiting.send(EXPECTING)
    eventually(lambda: plane.blue.conversations, "the request")
    assert plane.client().ask().status == 503
    assert plane.rejected("stalled") == 0


def test_a_client_that_got_its_100_and_sends_nothing_is(plane: Plane) -> None:
    def script(conversation: Conversation) -> None:
        if b"Expect" in conversation.until(b"\r\n\r\n"):
            conversation.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            conversation.rest()
        else:
            conversation.send(response(200, b"hello"))

    plane.blue.script = script
    plane.configure(settings(**ONE_CONNECTION))
    idle = plane.client()
    idle.send(EXPECTING)
    assert idle.until(b"\r\n\r\n").startswith(b"HTTP/1.1 100")
    assert plane.client().ask().body == b"hello"
    assert plane.rejected("stalled") == 1


# --- by itself --------------------------------------------------------------------------------------------------------


def test_the_longest_goes_first_and_nobody_before_a_quarter_of_a_second() -> None:
    stalled = Stalled()
    first, second = object(), object()
    stalled.begin(first, 1000)  # type: ignore[arg-type]
    stalled.begin(second, 2000)  # type: ignore[arg-type]
    assert stalled.take_longest(1000 + STALLED_NS - 1, STALLED_NS) is None
    assert stalled.take_longest(1000 + STALLED_NS, STALLED_NS) is first
    assert stalled.take_longest(1000 + STALLED_NS, STALLED_NS) is None
    assert stalled.take_longest(2000 + STALLED_NS, STALLED_NS) is second
    assert stalled.take_longest(10**18, STALLED_NS) is None


def test_patience_may_be_none() -> None:
    stalled = Stalled()
    only = object()
    stalled.begin(only, 1000)  # type: ignore[arg-type]
    assert stalled.take_longest(1000, 0) is only


def test_whoever_sends_or_takes_something_waits_anew() -> None:
    stalled = Stalled()
    sending, reading, done = object(), object(), object()
    left = [100]
    stalled.begin(sending, 1000)  # type: ignore[arg-type]
    stalled.begin(reading, 1000, lambda: left[0])  # type: ignore[arg-type]
    stalled.begin(done, 1000)  # type: ignore[arg-type]
    stalled.end(done)  # type: ignore[arg-type]
    stalled.begin(sending, 1000 + STALLED_NS)  # type: ignore[arg-type]
    left[0] = 99
    assert stalled.take_longest(1000 + STALLED_NS, STALLED_NS) is None
    assert stalled.take_longest(1000 + 2 * STALLED_NS, STALLED_NS) is sending
    assert stalled.take_longest(1000 + 2 * STALLED_NS, STALLED_NS) is reading
