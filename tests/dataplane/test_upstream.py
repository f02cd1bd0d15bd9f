"""The upstream's side: where a response ends, what must not leak into the next one, truncation, time, backpressure."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from bgproxy.core import failure as failures
from bgproxy.core.model import Address
from bgproxy.dataplane.buffers import Buffers
from bgproxy.dataplane.stalled import Stalled
from bgproxy.dataplane.turn import Turn
from bgproxy.dataplane.upstream import UpstreamConnection
from bgproxy.shm import worker_slot as slot
from bgproxy.wire.framing import ChunkedDecoder
from bgproxy.wire.response import ResponseReader
from tests.support.plane import eventually, settings
from tests.support.raw_http import Ended, chunked, request, response
from tests.support.raw_upstream import answering, silent
from tests.support.sockets import IDLE_SOCKET

if TYPE_CHECKING:
    from tests.support.plane import Plane
    from tests.support.raw_upstream import Conversation, Script

CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
UNTIL_CLOSE_HEAD = b"HTTP/1.1 200 OK\r\n\r\n"
MIB = 1 << 20


def saying(*pieces: bytes, then: str = "rest") -> Script:
    """One request, these pieces, and then wait for the proxy (`rest`), `close` or `reset`."""

    def script(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(*pieces)
        getattr(conversation, then)()

    return script


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


# --- where a response ends --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 5, 17])
@pytest.mark.parametrize(
    "sent",
    [response(200, b"hello, world"), CHUNKED_HEAD + chunked(b"hello", b", ", b"world")],
    ids=["length", "chunked"],
)
def test_a_response_is_read_whatever_way_it_is_split(plane: Plane, sent: bytes, size: int) -> None:
    def script(conversation: Conversation) -> None:
        while True:
            conversation.request()
            conversation.send(*pieces(sent, size))

    plane.blue.script = script
    client = plane.client()
    for _ in range(2):
        answer = client.ask()
        assert (answer.status, answer.body) == (200, b"hello, world")
    assert len(plane.blue.conversations) == 1, "the connection was at a message boundary"


def test_many_small_chunks_leave_as_fewer(plane: Plane) -> None:
    plane.blue.script = answering(CHUNKED_HEAD + chunked(*[b"x"] * 40_000))
    answer = plane.client().ask()
    assert len(answer.body) == 40_000
    assert len(answer.chunks) < 4_000


@pytest.mark.parametrize(
    "sent",
    [
        b"hello\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 099 Low\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\na",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000,
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    ],
    ids=range(12),
)
def test_a_response_that_is_not_clear_http_is_not_relayed(plane: Plane, sent: bytes) -> None:
    plane.blue.script = saying(sent)
    client = plane.client()
    answer = client.ask()
    assert (answer.status, answer.one("X-BG-Reason")) == (502, "bad_response")
    assert plane.blue.address.encode() not in answer.raw
    assert plane.blue.conversations[0].ended.wait(10), "the connection is closed"
    assert plane.failed("bad_response") == 1
    plane.blue.script = answering(response(200, b"well"))
    assert client.ask().body == b"well", "the client's connection is unharmed"


# --- nothing leaks into a later request -------------------------------------------------------------------------------

POISON = response(200, b"poison")


@pytest.mark.parametrize(
    ("method", "clean"),
    [
        ("GET", response(200, b"clean")),
        ("GET", CHUNKED_HEAD + chunked(b"clean")),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
    ],
    ids=["length", "chunked", "204", "304", "head"],
)
@pytest.mark.parametrize("together", [True, False], ids=["in one segment", "afterwards"])
def test_surplus_bytes_never_reach_a_later_request(plane: Plane, method: str, clean: bytes, together: bool) -> None:
    answered = threading.Event()

    def script(conversation: Conversation) -> None:
        conversation.request()
        if conversation.number:
            conversation.send(response(200, b"second"))
        elif together:
            conversation.send(clean + POISON)
        else:
            conversation.send(clean)
            answered.wait(10)
            conversation.send(POISON)
        conversation.rest()

    plane.blue.script = script
    client = plane.client()
    assert client.ask(method).body == (b"" if b"clean" not in clean else b"clean")
    answered.set()
    assert plane.blue.conversations[0].ended.wait(10), "the connection is dropped"
    assert client.ask().body == b"second"


def test_a_connection_that_the_upstream_closes_is_not_used_again(plane: Plane) -> None:
    plane.blue.script = answering(response(200, b"ok", "Connection: close"))
    client = plane.client()
    for number in range(3):
        assert client.ask().body == b"ok"
        assert plane.blue.conversations[number].ended.wait(10)
    assert plane.summed(slot.REUSES) == 0


def test_a_parked_connection_is_closed_after_its_idle_timeout(plane: Plane) -> None:
    plane.configure(settings(upstream={"idle_timeout": 0.3}))
    assert plane.client().ask().status == 200
    assert plane.blue.conversations[0].ended.wait(10)
    eventually(lambda: plane.cells[slot.PARKED] == plane.cells[slot.UPSTREAM_CONNECTIONS] == 0, "no connection left")


# --- what is cut must look cut ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize(
    ("sent", "begin"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", b"half"),
        (CHUNKED_HEAD + b"4\r\nhalf\r\n", b"4\r\nhalf\r\n"),
    ],
    ids=["length", "chunked"],
)
def test_a_truncated_response_ends_short_of_its_framing(plane: Plane, sent: bytes, begin: bytes, end: str) -> None:
    relayed = threading.Event()

    def script(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(sent)
        relayed.wait(10)
        getattr(conversation, end)()

    plane.blue.script = script
    client = plane.client()
    client.send(request())
    client.until(b"\r\n\r\n")
    assert client.take(len(begin)) == begin
    relayed.set()
    assert client.rest() == b""
    assert plane.failed("response_truncated") == 1


def test_a_bad_chunk_ends_the_response_short_of_its_last_chunk(plane: Plane) -> None:
    plane.blue.script = saying(CHUNKED_HEAD + b"3\r\nabc\r\n", b"xyz\r\n0\r\n\r\n")
    client = plane.client()
    with pytest.raises(Ended) as ended:
        client.ask()
    assert ended.value.so_far.endswith(b"\r\n\r\n3\r\nabc\r\n")


def test_a_truncated_response_that_ends_with_its_connection_is_reset_for_a_1_0_client(plane: Plane) -> None:
    relayed = threading.Event()

    def script(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(CHUNKED_HEAD + b"4\r\nhalf\r\n")
        relayed.wait(10)

    plane.blue.script = script
    client = plane.client()
    client.send(request(version="1.0"))
    client.until(b"half")
    relayed.set()
    with pytest.raises(ConnectionResetError):
        client.rest()


def test_a_reset_in_place_of_the_end_is_a_truncation(plane: Plane) -> None:
    relayed = threading.Event()

    def script(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(UNTIL_CLOSE_HEAD + b"half")
        relayed.wait(10)
        conversation.reset()

    plane.blue.script = script
    client = plane.client()
    client.send(request())
    client.until(b"half\r\n")
    relayed.set()
    assert client.rest() == b"", "no last chunk"
    assert plane.failed("response_truncated") == 1


def test_an_upstream_that_closes_within_its_head_has_sent_a_bad_response(plane: Plane) -> None:
    plane.blue.script = saying(b"HTTP/1.1 200 OK\r\nX-", then="close")
    assert plane.client().ask().one("X-BG-Reason") == "bad_response"


# --- time -------------------------------------------------------------------------------------------------------------


def test_an_upstream_that_does_not_answer_in_time_is_given_up(plane: Plane) -> None:
    plane.configure(settings(upstream={"response_timeout": 0.3}))
    plane.blue.script = silent
    client, poster = plane.client(), plane.client()
    client.send(request())
    poster.send(request("POST", "/", body=b"x"))
    for waiting, method in ((client, "GET"), (poster, "POST")):
        answer = waiting.answer()
        assert (answer.status, answer.one("X-BG-Reason")) == (504, "response_timeout")
        assert plane.answered(method, 504) == 1
    eventually(lambda: all(one.ended.is_set() for one in plane.blue.conversations), "the upstream connections' end")


def test_a_body_that_stops_coming_is_cut(plane: Plane) -> None:
    plane.configure(settings(upstream={"body_idle": 0.3}))
    plane.blue.script = saying(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    with pytest.raises(Ended):
        plane.client().ask()
    assert plane.failed("response_idle") == 1


def test_an_event_stream_may_be_quiet_for_longer_than_another_body(plane: Plane) -> None:
    plane.configure(settings(upstream={"body_idle": 0.1}))
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

    def script(conversation: Conversation) -> None:
        asked = conversation.request()
        conversation.send(head if asked.target == "/events" else CHUNKED_HEAD)
        conversation.rest()

    plane.blue.script = script
    listening, downloading = plane.client(), plane.client()
    listening.send(request(target="/events"))
    listening.until(b"\r\n\r\n")
    with pytest.raises(Ended):
        downloading.ask()
    assert plane.cells[slot.EVENT_STREAMS] == 1


def test_an_upstream_that_does_not_take_the_upload_is_given_up(plane: Plane) -> None:
    def reads_nothing(conversation: Conversation) -> None:
        over.wait(10)

    over = threading.Event()
    plane.blue.script = reads_nothing
    plane.configure(settings(upstream={"response_timeout": 0.3}, timeouts={"body_idle": 60}))
    client = plane.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (256 * MIB))

    def upload() -> None:
        with contextlib.suppress(OSError):
            for _ in range(256):
                client.send(bytes(MIB))

    uploading = threading.Thread(target=upload)
    uploading.start()
    answer = client.answer("POST")
    over.set()
    client.sock.shutdown(socket.SHUT_RDWR)
    uploading.join()
    assert (answer.status, answer.one("X-BG-Reason"), answer.one("Connection")) == (504, "response_timeout", "close")


def test_an_upstream_that_is_held_back_is_not_late(connection: UpstreamConnection) -> None:
    connection.pause_reading()
    connection.on_deadline(5000)
    assert connection.deadline == 5000 + 300
    assert not connection.transport.is_closing()
    connection.resume_reading()
    connection.on_deadline(6000)
    assert connection.transport.is_closing()


def test_an_upstream_that_has_begun_to_answer_may_wait_for_the_rest_of_the_request(
    connection: UpstreamConnection,
) -> None:
    exchange = connection.exchange
    assert isinstance(exchange, FakeExchange)
    connection._decoder = ChunkedDecoder()
    connection.on_deadline(5000)
    assert (connection.deadline, connection.transport.is_closing()) == (5000 + 300, False)
    exchange.client.upload = None
    connection.on_deadline(6000)
    assert exchange.done == [failures.RESPONSE_IDLE]


def test_an_upstream_that_takes_the_upload_slowly_is_not_late(connection: UpstreamConnection) -> None:
    transport, exchange = connection.transport, connection.exchange
    assert isinstance(transport, FakeTransport)
    assert isinstance(exchange, FakeExchange)
    transport.unwritten = 100
    connection.pause_writing()
    assert (connection.deadline, exchange.done) == (1000 + 60, ["pause_upload"])
    transport.unwritten = 40
    connection.on_deadline(2000)
    assert connection.deadline == 2000 + 60
    connection.on_deadline(3000)
    assert transport.is_closing()
    assert exchange.done == ["pause_upload", failures.RESPONSE_TIMEOUT]


def test_the_time_for_the_response_runs_from_the_end_of_the_upload(connection: UpstreamConnection) -> None:
    exchange = connection.exchange
    assert isinstance(exchange, FakeExchange)
    connection.pause_writing()
    connection.resume_writing()
    assert (connection.deadline, exchange.done) == (0, ["pause_upload", "resume_upload"])
    exchange.client.upload = None
    exchange.patience_ns = 300
    connection.pause_writing()
    connection.resume_writing()
    assert connection.deadline == 1000 + 300


@pytest.mark.parametrize("keeps_open", [True, False])
def test_an_end_behind_a_101_that_waits_its_turn_is_the_end_of_the_tunnel(
    connection: UpstreamConnection, monkeypatch: pytest.MonkeyPatch, keeps_open: bool
) -> None:
    told: list[object] = []

    class Successor(asyncio.Protocol):
        def eof_received(self) -> bool:
            told.append("eof")
            return keeps_open

        def connection_lost(self, exc: Exception | None) -> None:
            told.append(exc)

    successor, lost = Successor(), ConnectionResetError()
    connection.waiting = b"101"
    monkeypatch.setattr(UpstreamConnection, "handle", lambda _, data: told.append(data))
    connection.transport.get_protocol = lambda: successor  # type: ignore[method-assign]
    assert connection.eof_received() is keeps_open
    connection.waiting = b"101"
    connection.connection_lost(lost)
    assert told == [b"101", "eof", b"101", lost]


def test_a_deadline_does_not_overtake_a_response_that_has_come(connection: UpstreamConnection) -> None:
    connection.waiting = response(200)
    connection.on_deadline(5000)
    assert (connection.deadline, connection.transport.is_closing()) == (5000, False)


@pytest.mark.parametrize("sent", [response(200, b"hello", reason="OK"), CHUNKED_HEAD + chunked(b"hello")])
def test_a_connection_that_the_last_write_to_the_client_held_back_is_read_again_before_it_is_parked(
    connection: UpstreamConnection, sent: bytes
) -> None:
    paused_at_release: list[bool] = []

    def hold_back(*_: object) -> None:
        connection.pause_reading()

    exchange = SimpleNamespace(
        body_idle_ns=300,
        request=SimpleNamespace(method=b"GET"),
        client=SimpleNamespace(upload=None, is_slow=False, transport=FakeTransport()),
        respond=lambda *_: None,
        relay=lambda _: None,
        answer_with=hold_back,
        response_complete=hold_back,
    )
    connection.exchange = exchange  # type: ignore[assignment]
    connection.server.release = lambda c: paused_at_release.append(c._reading_paused)  # type: ignore[method-assign]
    connection._plane.responses = ResponseReader()
    connection.handle(sent)
    assert (paused_at_release, connection._reading_paused) == ([False], False)


def test_the_body_for_a_client_that_has_not_taken_an_earlier_answer_is_held_back(
    connection: UpstreamConnection,
) -> None:
    exchange = SimpleNamespace(
        body_idle_ns=300,
        request=SimpleNamespace(method=b"GET"),
        client=SimpleNamespace(upload=None, is_slow=True, transport=FakeTransport()),
        respond=lambda *_: None,
    )
    connection.exchange = exchange  # type: ignore[assignment]
    connection._plane.responses = ResponseReader()
    connection.handle(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    assert connection._reading_paused


def test_a_parked_connection_that_takes_the_rest_of_an_upload_keeps_its_end_of_parking(
    connection: UpstreamConnection,
) -> None:
    connection.exchange = None
    connection.deadline = 4000
    connection.resume_writing()
    assert connection.deadline == 4000


class FakeTransport:
    """Notes whether it was aborted; `unwritten` is what the kernel has not taken yet."""

    def __init__(self) -> None:
        self.unwritten = 0
        self.aborted = False
        self.get_write_buffer_size = lambda: self.unwritten
        self.is_closing = lambda: self.aborted
        self.pause_reading = self.resume_reading = lambda: None
        self.get_extra_info = {"socket": IDLE_SOCKET}.get
        self.set_write_buffer_limits = lambda _: None

    def write(self, data: bytes) -> None:
        raise AssertionError("nothing is written here")

    def abort(self) -> None:
        self.aborted = True


class FakeExchange:
    """Notes what it is told, in the place of a request that is being uploaded."""

    def __init__(self) -> None:
        self.done: list[object] = []
        self.body_idle_ns = 300
        self.patience_ns = 60
        self.failed = self.done.append
        self.client = SimpleNamespace(
            transport=FakeTransport(),
            upload=object(),
            pause_upload=lambda: self.done.append("pause_upload"),
            resume_upload=lambda: self.done.append("resume_upload"),
        )


@pytest.fixture
def connection() -> UpstreamConnection:
    plane = SimpleNamespace(
        deadlines=SimpleNamespace(now=1000, watch=lambda timed: None),
        response_ns=60,
        body_idle_ns=300,
        turn=Turn(SimpleNamespace()),  # type: ignore[arg-type]
        buffers=Buffers(lambda callback: None),
    )
    server = SimpleNamespace(address=Address("h", 1), stalled=Stalled())
    made = UpstreamConnection(plane, server)  # type: ignore[arg-type]
    made.connection_made(FakeTransport())  # type: ignore[arg-type]
    made.exchange = FakeExchange()  # type: ignore[assignment]
    return made


# --- a slow reader bounds memory --------------------------------------------------------------------------------------


@pytest.mark.says("Backpressure both ways")
def test_a_slow_client_holds_the_upstream_back(plane: Plane) -> None:
    size, sent = 64 * MIB, []

    def script(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(64):
            conversation.send(bytes(MIB))
            sent.append(MIB)
        conversation.rest()

    plane.blue.script = script
    before = plane.worker.resident_bytes()
    client = plane.client(receive_buffer=64 * 1024)
    client.send(request())
    client.until(b"\r\n\r\n")
    eventually(lambda: stands_still(sent), "the upstream to be held back")
    assert sum(sent) < size
    largest = plane.worker.resident_bytes()
    for _ in range(64):
        client.take(MIB)
        largest = max(largest, plane.worker.resident_bytes())
    assert largest - before < 32 * MIB
    assert len(sent) == 64


@pytest.mark.says("Backpressure both ways")
def test_a_slow_upstream_holds_the_client_back(plane: Plane) -> None:
    size, go = 64 * MIB, threading.Event()

    def script(conversation: Conversation) -> None:
        conversation.until(b"\r\n\r\n")
        go.wait(10)
        for _ in range(64):
            conversation.take(MIB)
        conversation.send(response(200, b"thanks"))
        conversation.rest()

    slow = plane.upstream(script, receive_buffer=64 * 1024)
    plane.configure(blue=[slow])
    before, sent = plane.worker.resident_bytes(), []
    client = plane.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)

    def upload() -> None:
        for _ in range(64):
            client.send(bytes(MIB))
            sent.append(MIB)

    uploading = threading.Thread(target=upload)
    uploading.start()
    eventually(lambda: stands_still(sent), "the client to be held back")
    assert sum(sent) < size
    largest = plane.worker.resident_bytes()
    go.set()
    while uploading.is_alive():
        uploading.join(0.005)
        largest = max(largest, plane.worker.resident_bytes())
    assert client.answer("POST").body == b"thanks"
    assert largest - before < 32 * MIB


def stands_still(sent: list[int]) -> bool:
    """Has nothing been sent for as long as a piece takes many times over?"""
    count = len(sent)
    return count > 0 and not threading.Event().wait(0.2) and len(sent) == count
