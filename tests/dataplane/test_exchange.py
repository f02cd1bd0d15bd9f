"""One request and its response: colours, bodies, interim responses, retries, and how each end is counted."""

from __future__ import annotations

import contextlib
import random
import select
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from bgproxy.core.model import BLUE, COLOURS, GREEN
from bgproxy.core.settings import HeaderSettings
from bgproxy.dataplane.exchange import Exchange
from bgproxy.shm import worker_slot as slot
from tests.support.plane import eventually, pool, settings
from tests.support.raw_http import Ended, chunked, request, response
from tests.support.raw_upstream import HELLO, answering, silent

if TYPE_CHECKING:
    from tests.support.plane import Plane
    from tests.support.raw_http import Message
    from tests.support.raw_upstream import Conversation, Script

CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
EXPECTING = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"


def labelled(label: bytes) -> Script:
    return answering(response(200, label))


# --- colours ----------------------------------------------------------------------------------------------------------


def test_requests_after_the_cutover_go_to_the_new_colour_while_an_old_one_ends_on_the_old(plane: Plane) -> None:
    release = threading.Event()

    def slow_blue(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbl")
        release.wait(10)
        conversation.send(b"ue")

    plane.blue.script, plane.green.script = slow_blue, labelled(b"green")
    plane.configure(settings(headers=HeaderSettings(expose=True)), green=pool([plane.green], release="v2"))
    before = plane.worker.segment.live.load().epoch
    old = plane.client()
    old.send(request())
    old.until(b"\r\n\r\n")
    epoch = plane.publish(GREEN)
    assert plane.cells[slot.EPOCH_SEEN] == epoch
    answer = plane.client().ask()
    assert (answer.body, answer.one("X-BG-Colour"), answer.one("X-BG-Epoch")) == (b"green", "green", str(epoch))
    assert answer.one("X-BG-Release") == "v2"
    assert plane.cells[slot.IN_FLIGHT + BLUE] == 1, "the old request is still counted under its own colour"
    release.set()
    assert old.take(4) == b"blue"
    assert plane.client().ask().one("X-BG-Epoch") == str(epoch) != str(before)


def test_a_kept_alive_client_follows_every_cutover_and_its_stamps_agree(plane: Plane) -> None:
    plane.blue.script, plane.green.script = labelled(b"blue"), labelled(b"green")
    plane.configure(settings(headers=HeaderSettings(expose=True)))
    client = plane.client()
    for colour in (GREEN, BLUE, GREEN, BLUE):
        epoch = plane.publish(colour)
        answer = client.ask()
        assert answer.body.decode() == answer.one("X-BG-Colour") == colour.label
        assert answer.one("X-BG-Epoch") == str(epoch)
        assert answer.all("X-BG-Release") == []


def test_what_an_upstream_says_about_colours_is_not_believed(plane: Plane) -> None:
    plane.blue.script = answering(response(200, b"", "X-BG-Colour: green", "X-BG-Epoch: 99"))
    answer = plane.client().ask()
    assert answer.all("X-BG-Colour") == answer.all("X-BG-Epoch") == []


@pytest.mark.says("Never across colours")
def test_a_failing_colour_is_never_helped_out_by_the_other(plane: Plane) -> None:
    refused = plane.upstream()
    refused.close()

    def hangs_up(conversation: Conversation) -> None:
        conversation.request()

    plane.configure(settings(upstream={"retries": 5}), blue=[refused])
    assert plane.client().ask().status == 502
    plane.configure(blue=[])
    assert plane.client().ask().one("X-BG-Reason") == "no_healthy_upstream"
    plane.blue.script = hangs_up
    plane.configure()
    assert plane.client().ask().status == 502
    assert plane.green.conversations == []
    assert plane.failed("connect_refused") == plane.failed("no_healthy_upstream") == 1


# --- what the upstream is sent ----------------------------------------------------------------------------------------


def test_end_to_end_fields_pass_untouched_and_hop_by_hop_fields_do_not(plane: Plane) -> None:
    fields = (
        "X-One: 1",
        "Cookie: a=b",
        "x-one: 2",
        "X-Gone: 1",
        "Connection: x-gone, transfer-encoding",
        "Keep-Alive: 5",
        "TE: gzip",
    )
    plane.client().ask("GET", "/a//b;c?d=%2F&e", *fields, "Accept:\tx/y")
    (asked,) = plane.blue.requests
    assert asked.first == "GET /a//b;c?d=%2F&e HTTP/1.1"
    assert asked.all("X-One") == ["1", "2"]
    assert (asked.one("Cookie"), asked.one("Accept"), asked.one("Host")) == ("a=b", "x/y", "app.example")
    for name in ("X-Gone", "Connection", "Keep-Alive", "TE", "User-Agent", "Accept-Encoding"):
        assert asked.all(name) == []


def test_a_content_length_is_sent_once_with_exactly_that_body(plane: Plane) -> None:
    plane.client().ask("PUT", "/", body=b"seven..")
    (asked,) = plane.blue.requests
    assert (asked.all("Content-Length"), asked.body) == (["7"], b"seven..")


def test_an_absolute_target_becomes_a_path_and_its_authority_the_host(plane: Plane) -> None:
    client = plane.client()
    for host in (b"right.example:80", b"wrong.example"):
        client.send(b"GET http://right.example/x HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
        assert client.answer().status == 200
    assert [(asked.target, asked.all("Host")) for asked in plane.blue.requests] == [("/x", ["right.example"])] * 2


# --- what the client is sent ------------------------------------------------------------------------------------------


def test_hop_by_hop_fields_of_a_response_end_here(plane: Plane) -> None:
    gone = (
        "Connection: close, X-Gone",
        "X-Gone: 1",
        "Keep-Alive: timeout=5",
        "Upgrade: h2c",
        "Proxy-Connection: close",
    )
    plane.blue.script = answering(response(200, b"ok", *gone, "Set-Cookie: a=1", "Set-Cookie: b=2"))
    client = plane.client()
    for _ in range(2):
        answer = client.ask()
        assert answer.all("Set-Cookie") == ["a=1", "b=2"]
        assert [name for name, _ in answer.fields if name != "set-cookie"] == ["content-length"]


@pytest.mark.parametrize(
    ("method", "sent", "status", "length"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", 200, "1000"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, ""),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", 204, ""),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nETag: x\r\nContent-Length: 1000\r\n\r\n", 304, "1000"),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, "0"),
    ],
)
def test_a_response_without_a_body_leaves_both_connections_in_use(
    plane: Plane, method: str, sent: bytes, status: int, length: str
) -> None:
    plane.blue.script = answering(sent)
    client = plane.client()
    for _ in range(2):
        answer = client.ask(method)
        assert (answer.status, answer.one("Content-Length"), answer.body) == (status, length, b"")
    assert len(plane.blue.conversations) == 1


def test_a_chunked_response_keeps_its_trailers_and_drops_those_that_may_not_pass(plane: Plane) -> None:
    trailers = b"X-Sum: 42\r\nContent-Type: text/html\r\nX-BG-Epoch: 7\r\n"
    plane.blue.script = answering(CHUNKED_HEAD + chunked(b"ab", b"cde", trailers=trailers))
    client = plane.client()
    for _ in range(2):
        answer = client.ask()
        assert (answer.body, answer.trailers) == (b"abcde", [("x-sum", "42")])
    assert len(plane.blue.conversations) == 1


def test_a_response_that_ends_with_its_connection_becomes_chunked(plane: Plane) -> None:
    def script(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(b"HTTP/1.0 200 OK\r\nX-A: b\r\n\r\nfirst ")
        conversation.send(b"second")

    plane.blue.script = script
    client = plane.client()
    for _ in range(2):
        answer = client.ask()
        assert (answer.body, answer.one("Transfer-Encoding")) == (b"first second", "chunked")
    assert len(plane.blue.conversations) == 2


@pytest.mark.says("Event streams and tunnels are counted")
@pytest.mark.says("**Token by token.** A piece")
def test_server_sent_events_arrive_one_by_one_and_count_as_a_stream(plane: Plane) -> None:
    heard = threading.Semaphore(0)

    def script(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(3):
            conversation.send(b"9\r\ndata: %d\n\n\r\n" % number)
            heard.acquire(timeout=10)
        conversation.send(b"0\r\n\r\n")
        conversation.rest()

    plane.blue.script = script
    client = plane.client()
    client.send(request())
    client.until(b"\r\n\r\n")
    for number in range(3):
        assert client.until(b"\n\n\r\n") == b"9\r\ndata: %d\n\n\r\n" % number
        assert plane.cells[slot.EVENT_STREAMS] == 1
        assert plane.cells[slot.IN_FLIGHT] == 0
        heard.release()
    assert client.take(5) == b"0\r\n\r\n"


# --- 1xx --------------------------------------------------------------------------------------------------------------


def test_the_upstream_decides_about_an_expected_continue(plane: Plane) -> None:
    def script(conversation: Conversation) -> None:
        assert b"Expect: 100-continue" in conversation.until(b"\r\n\r\n")
        conversation.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        conversation.send(response(200, conversation.take(4)))
        conversation.rest()

    plane.blue.script = script
    client = plane.client()
    client.send(EXPECTING)
    assert client.answer().status == 100
    client.send(b"body")
    assert client.answer().body == b"body"


def test_a_final_answer_in_place_of_the_continue_ends_the_connection(plane: Plane) -> None:
    def script(conversation: Conversation) -> None:
        conversation.until(b"\r\n\r\n")
        conversation.send(response(417, b"no"))
        conversation.rest()

    plane.blue.script = script
    client = plane.client()
    client.send(EXPECTING)
    answer = client.answer()
    assert (answer.status, answer.one("Connection")) == (417, "close")
    client.send(b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
    assert client.is_ended()
    assert plane.blue.conversations[0].ended.wait(10), "the upstream connection is not used again"


def test_another_expectation_is_refused(plane: Plane) -> None:
    assert plane.client().ask("POST", "/", "Expect: 200-ok", body=b"x").status == 417
    assert plane.rejected("unsupported") == 1


def test_early_hints_are_relayed_and_an_unasked_continue_is_not(plane: Plane) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"
    plane.blue.script = answering(b"HTTP/1.1 100 Continue\r\n\r\n" + hints + response(200, b"done"))
    client = plane.client()
    first = client.ask()
    assert (first.status, first.one("Link")) == (103, "</a.css>")
    assert client.answer().body == b"done"
    old = plane.client()
    old.send(request(version="1.0"))
    assert old.answer().body == b"done"


def test_a_flood_of_interim_responses_is_an_error_of_the_upstream(plane: Plane) -> None:
    def script(conversation: Conversation) -> None:
        conversation.request()
        while True:
            conversation.send(b"HTTP/1.1 102 Processing\r\n\r\n")

    plane.blue.script = script
    client = plane.client()
    client.send(request())
    statuses = []
    while not statuses or statuses[-1] == 102:
        statuses.append(client.answer().status)
    assert statuses == [102] * 16 + [502]


# --- early answers ----------------------------------------------------------------------------------------------------


def test_an_answer_during_the_upload_is_passed_on_and_the_connections_end(plane: Plane) -> None:
    def script(conversation: Conversation) -> None:
        conversation.until(b"\r\n\r\n")
        conversation.send(response(413, b"too much"))
        conversation.rest()

    plane.blue.script = script
    client = plane.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n", b"x" * 1000)
    answer = client.answer()
    assert (answer.status, answer.body, answer.one("Connection")) == (413, b"too much", "close")
    client.send(b"x" * 1000)
    assert client.is_ended()
    assert plane.blue.conversations[0].ended.wait(10)


def test_an_answer_that_ends_with_the_upstream_connection_is_whole_during_an_upload(plane: Plane) -> None:
    def script(conversation: Conversation) -> None:
        conversation.until(b"\r\n\r\n")
        conversation.send(b"HTTP/1.1 200 OK\r\n\r\nall of it")
        conversation.finish_sending()
        conversation.rest()

    plane.blue.script = script
    client = plane.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n", b"x" * 1000)
    assert client.answer().body == b"all of it"
    assert client.is_ended()


@pytest.mark.says("While the request is still being sent")
def test_the_patience_with_an_answer_that_began_before_the_upload_ended_is_that_of_its_body() -> None:
    plane: Any = SimpleNamespace(
        turn=SimpleNamespace(now=0), clock=lambda: 1000, response_ns=60, body_idle_ns=300, stream_idle_ns=3600
    )
    exchange = Exchange(plane, SimpleNamespace(), SimpleNamespace(method=b"POST"))  # type: ignore[arg-type]
    exchange.upstream = upstream = SimpleNamespace(deadline=0)  # type: ignore[assignment]
    for exchange.status, exchange._gauge, patience in (
        (0, slot.IN_FLIGHT, 60),
        (200, slot.IN_FLIGHT, 300),
        (200, slot.EVENT_STREAMS, 3600),
    ):
        exchange.end_body()
        assert upstream.deadline == 1000 + patience


@pytest.mark.says("Until then both flow")
@pytest.mark.says("While the request is still being sent")
def test_an_answer_may_begin_before_the_upload_ends(plane: Plane) -> None:
    def script(conversation: Conversation) -> None:
        conversation.until(b"\r\n\r\n")
        conversation.send(CHUNKED_HEAD)
        for _ in range(3):
            conversation.send(chunked(conversation.take(3))[:-5])
        conversation.send(b"0\r\n\r\n")
        conversation.rest()

    plane.blue.script = script
    client = plane.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n")
    client.until(b"\r\n\r\n")
    for part in (b"one", b"two", b"six"):
        client.send(part)
        assert client.until(part + b"\r\n") == b"3\r\n" + part + b"\r\n"
    assert client.take(5) == b"0\r\n\r\n"


def test_an_upload_that_fails_after_the_answer_has_begun_cuts_the_answer(plane: Plane) -> None:
    def script(conversation: Conversation) -> None:
        conversation.until(b"\r\n\r\n")
        conversation.send(CHUNKED_HEAD + b"4\r\nhalf\r\n")
        conversation.rest()

    plane.blue.script = script
    client = plane.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    client.until(b"half\r\n")
    client.send(b"not a chunk\r\n")
    assert client.is_ended(), "without a last chunk, and without a second answer"
    assert plane.blue.conversations[0].ended.wait(10)
    assert plane.rejected("bad_request") == plane.answered("POST", 200) == 1


# --- again? -----------------------------------------------------------------------------------------------------------


def closes_on_second_request(conversation: Conversation) -> None:
    """A connection that is closed at the moment in which it is used again; a fresh one works."""
    conversation.request()
    conversation.send(response(200, b"first"))
    if conversation.number == 0:
        conversation.request()
        return
    conversation.rest()


def test_an_idempotent_request_is_sent_once_more_when_a_reused_connection_breaks(plane: Plane) -> None:
    plane.blue.script = closes_on_second_request
    client = plane.client()
    assert [client.ask().body, client.ask().body] == [b"first", b"first"]
    assert len(plane.blue.requests) == 3
    assert plane.counted(slot.RETRIES) == plane.summed(slot.REUSES) == 1
    assert plane.failed("closed_before_response") == 1
    assert plane.answered("GET", 200) == 2


@pytest.mark.parametrize(("method", "body"), [("POST", b""), ("POST", b"x"), ("PUT", b"x"), ("PATCH", b"")])
def test_a_request_that_is_not_safe_to_repeat_is_never_sent_twice(plane: Plane, method: str, body: bytes) -> None:
    plane.blue.script = closes_on_second_request
    client = plane.client()
    client.ask()
    answer = client.ask(method, body=body)
    assert (answer.status, answer.one("X-BG-Reason")) == (502, "closed_before_response")
    assert [asked.method for asked in plane.blue.requests] == ["GET", method]
    assert plane.counted(slot.RETRIES) == 0


def test_a_fresh_connection_that_breaks_is_no_reason_to_send_again(plane: Plane) -> None:
    def hangs_up(conversation: Conversation) -> None:
        conversation.request()

    plane.blue.script = hangs_up
    answer = plane.client().ask()
    assert (answer.status, answer.one("X-BG-Reason")) == (502, "closed_before_response")
    assert len(plane.blue.requests) == 1


def test_a_request_is_sent_again_once_and_not_twice(plane: Plane) -> None:
    def breaks_from_the_second_request_on(conversation: Conversation) -> None:
        conversation.request()
        if len(plane.blue.requests) == 1:
            conversation.send(response(200, b"first"))
            conversation.request()

    plane.blue.script = breaks_from_the_second_request_on
    client = plane.client()
    assert client.ask().status == 200
    assert client.ask().status == 502
    assert len(plane.blue.requests) == 3


# --- counting ---------------------------------------------------------------------------------------------------------


def test_every_exchange_is_counted_by_colour_method_and_code(plane: Plane) -> None:
    def by_target(asked: Message) -> bytes:
        return response(int(asked.target[1:]), b"12345")

    plane.blue.script = plane.green.script = answering(by_target)
    client = plane.client()
    for method, code in (("GET", 200), ("GET", 200), ("DELETE", 404), ("PROPFIND", 503)):
        client.ask(method, f"/{code}")
    client.ask("POST", "/201", body=b"1234")
    plane.publish(GREEN)
    client.ask("GET", "/200")
    assert (plane.answered("GET", 200), plane.answered("DELETE", 404), plane.answered("OTHER", 503)) == (2, 1, 1)
    assert (plane.answered("POST", 201), plane.answered("GET", 200, GREEN)) == (1, 1)
    assert (plane.summed(slot.REQUEST_BYTES), plane.summed(slot.REQUEST_BYTES + GREEN)) == (4, 0)
    assert plane.summed(slot.RESPONSE_BYTES) == 5 * len(b"HTTP/1.1 200 Fine\r\nContent-Length: 5\r\n\r\n12345")
    counts, total_ns = plane.worker.segment.slots[0].histogram(GREEN, 2)
    assert sum(counts) >= 1
    assert total_ns > 0


def test_a_response_that_was_cut_is_counted_under_the_status_that_was_sent(plane: Plane) -> None:
    def script(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")

    plane.blue.script = script
    with pytest.raises(Ended):
        plane.client().ask()
    assert plane.answered("GET", 200) == 1
    assert plane.failed("response_truncated") == 1


def test_a_request_is_in_flight_until_its_answer_is_written(plane: Plane) -> None:
    plane.blue.script = silent
    clients = [plane.client() for _ in range(3)]
    for client in clients:
        client.send(request())
    eventually(lambda: plane.cells[slot.IN_FLIGHT] == 3, "three in flight")
    for client in clients:
        client.reset()
    eventually(lambda: plane.cells[slot.IN_FLIGHT] == 0, "none in flight")
    assert plane.answered("GET", 499) == 3
    plane.blue.script = HELLO
    assert plane.client().ask().status == 200
    assert plane.cells[slot.IN_FLIGHT] == 0


def test_whatever_clients_and_upstreams_do_nothing_is_left_behind(plane: Plane) -> None:
    chance = random.Random(7)
    ends = ("close", "reset", "rest")
    sent = (
        response(200, b"x" * 200_000),
        CHUNKED_HEAD + chunked(*[b"y" * 5000] * 40),
        b"HTTP/1.1 200 OK\r\n\r\n" + b"z" * 100_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" + response(404, b"no"),
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello",
        b"nonsense\r\n\r\n",
    )
    asked = (
        request() * 3,
        request("POST", "/", body=b"b" * 100_000),
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(*[b"c" * 3000] * 30),
        request("GET", "/", "Connection: Upgrade", "Upgrade: websocket") + b"early",
        request(version="1.0"),
        EXPECTING,
    )

    def script(conversation: Conversation) -> None:
        for _ in range(3):
            conversation.until(b"\r\n\r\n")
            answer = chance.choice(sent)
            conversation.send(answer[: chance.choice((len(answer), chance.randrange(len(answer))))])
        getattr(conversation, chance.choice(ends))()

    plane.blue.script = plane.green.script = script
    plane.configure(settings(upstream={"max_connections": 8, "max_waiting": 8}))
    for turn in range(150):
        client = plane.client()
        what = chance.choice(asked)
        client.send(what[: chance.choice((len(what), chance.randrange(len(what))))])
        if chance.random() < 0.3:
            with contextlib.suppress(ConnectionError):
                if select.select([client.sock], [], [], 0.01)[0]:
                    client.sock.recv(chance.randrange(1, 5000))
        if chance.random() < 0.8:
            getattr(client, chance.choice(("close", "reset")))()
        if turn % 10 == 0:
            plane.publish(GREEN if turn % 20 else BLUE)
    plane.close_surroundings()
    eventually(plane.is_idle, "an idle worker")
    eventually(lambda: plane.cells[slot.CLIENT_CONNECTIONS] == 0, "no client")
    gauges = [gauge + colour for gauge in (slot.UPSTREAM_CONNECTIONS, slot.PARKED, slot.WAITING) for colour in COLOURS]
    eventually(lambda: not any(plane.cells[gauge] for gauge in gauges), "no upstream connection")
    assert not any(plane.row(0, slot.ROW_IN_FLIGHT, colour) for colour in COLOURS)
