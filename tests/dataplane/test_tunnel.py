"""Upgraded connections: what makes one, what goes through it, and how it ends."""

from __future__ import annotations

import contextlib
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from websockets.sync.client import connect
from websockets.sync.server import serve

from bgproxy.dataplane.buffers import Buffers
from bgproxy.dataplane.tunnel import Tunnel
from bgproxy.shm import worker_slot as slot
from tests.support.plane import eventually, settings
from tests.support.raw_http import chunked, request, response
from tests.support.raw_upstream import answering

if TYPE_CHECKING:
    from websockets.sync.server import ServerConnection

    from tests.support.plane import Plane
    from tests.support.raw_client import RawClient
    from tests.support.raw_upstream import Conversation, Script

UPGRADE = ("Connection: keep-alive, Upgrade", "Upgrade: websocket")
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Key: k\r\n\r\n"


def switching(*early: bytes) -> Script:
    """Agrees to the upgrade, says `early`, and from then on echoes."""

    def script(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(SWITCHING + b"".join(early))
        while True:
            conversation.send(b"<" + conversation.take(1) + b">")

    return script


def tunnelled(plane: Plane) -> RawClient:
    client = plane.client()
    client.send(request("GET", "/ws", *UPGRADE))
    assert client.answer().status == 101
    return client


# --- what makes a tunnel ----------------------------------------------------------------------------------------------


def test_a_websocket_conversation_goes_through(plane: Plane) -> None:
    def echo(websocket: ServerConnection) -> None:
        for message in websocket:
            websocket.send(message)

    with serve(echo, "127.0.0.1", 0) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            plane.configure(blue=[f"127.0.0.1:{server.socket.getsockname()[1]}"])
            address = plane.worker.address
            with connect(f"ws://{address}/chat", proxy=None, compression=None) as websocket:
                for message in ("short", "x" * 300_000, b"\x00\xff"):
                    websocket.send(message)
                    assert websocket.recv(timeout=10) == message
                assert plane.cells[slot.TUNNELS] == 1
                assert plane.cells[slot.IN_FLIGHT] == 0
        finally:
            server.shutdown()
            serving.join()
    eventually(plane.is_idle, "the end of the tunnel")
    assert plane.counted(slot.TUNNELS_TOTAL) == plane.answered("GET", 101) == 1


def test_the_upstream_is_offered_the_upgrade_and_its_answer_is_passed_on(plane: Plane) -> None:
    plane.blue.script = switching()
    client = plane.client()
    client.send(request("GET", "/ws", *UPGRADE, "Sec-WebSocket-Key: abc"))
    answer = client.answer()
    assert (answer.one("Upgrade"), answer.one("Connection"), answer.one("X-Key")) == ("websocket", "Upgrade", "k")
    (asked,) = plane.blue.requests
    assert (asked.one("Upgrade"), asked.one("Connection")) == ("websocket", "Upgrade")
    assert asked.one("Sec-WebSocket-Key") == "abc"
    assert asked.one("X-Forwarded-For") == "127.0.0.1"


def test_what_either_side_says_early_is_not_lost(plane: Plane) -> None:
    plane.blue.script = switching(b"welcome")
    client = plane.client()
    client.send(request("GET", "/ws", *UPGRADE) + b"ab")
    assert client.answer().status == 101
    assert client.take(7 + 6) == b"welcome<a><b>"
    client.send(b"c")
    assert client.take(3) == b"<c>"


def test_bytes_behind_a_declined_upgrade_are_the_next_request(plane: Plane) -> None:
    plane.blue.script = answering(lambda asked: response(200, asked.target.encode()))
    client = plane.client()
    client.send(request("GET", "/ws", *UPGRADE) + request(target="/next"))
    assert [client.answer().body, client.answer().body] == [b"/ws", b"/next"]
    assert [asked.target for asked in plane.blue.requests] == ["/ws", "/next"]
    assert plane.blue.requests[1].one("Via"), "it went through the proxy as a request, not raw"


@pytest.mark.parametrize(
    ("fields", "offered"),
    [
        (("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"), ""),
        (("Connection: Upgrade", "Upgrade: HTTP/2.0"), ""),
        (("Upgrade: websocket",), ""),
        (("Connection: Upgrade", "Upgrade: custom/1"), "custom/1"),
    ],
)
def test_only_an_upgrade_that_can_be_tunnelled_is_offered(plane: Plane, fields: tuple[str, ...], offered: str) -> None:
    assert plane.client().ask("GET", "/", *fields).body == b"hello"
    (asked,) = plane.blue.requests
    assert asked.one("Upgrade") == offered
    assert asked.all("HTTP2-Settings") == []


@pytest.mark.parametrize("coding", ["length", "chunked"])
def test_a_request_with_a_body_is_never_a_tunnel(plane: Plane, coding: str) -> None:
    plane.blue.script = answering(lambda asked: response(200, asked.body))
    body = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
    framing = (b"Content-Length: %d" % len(body)) if coding == "length" else b"Transfer-Encoding: chunked"
    head = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + framing + b"\r\n\r\n"
    client = plane.client()
    client.send(head + (body if coding == "length" else chunked(body)))
    assert client.answer().body == body
    assert client.ask().status == 200
    assert [asked.target for asked in plane.blue.requests] == ["/", "/"]


@pytest.mark.parametrize("agreed", [b"h2c", b"websocket, other", b""])
def test_another_protocol_than_the_offered_one_is_a_bad_response(plane: Plane, agreed: bytes) -> None:
    plane.blue.script = answering(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + agreed + b"\r\n\r\n"
    )
    assert plane.client().ask("GET", "/", *UPGRADE).one("X-BG-Reason") == "bad_response"


# --- how it ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_client_that_leaves_takes_the_upstream_with_it(plane: Plane, end: str) -> None:
    plane.blue.script = switching()
    client = tunnelled(plane)
    getattr(client, end)()
    assert plane.blue.conversations[0].ended.wait(10)
    eventually(plane.is_idle, "the end of the tunnel")
    assert plane.answered("GET", 101) == 1


@pytest.mark.parametrize("end", ["close", "reset"])
def test_an_upstream_that_leaves_takes_the_client_with_it(plane: Plane, end: str) -> None:
    leave = threading.Event()

    def script(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(SWITCHING + b"bye")
        leave.wait(10)
        getattr(conversation, end)()

    plane.blue.script = script
    client = tunnelled(plane)
    assert client.take(3) == b"bye"
    leave.set()
    assert client.is_ended()
    eventually(plane.is_idle, "the end of the tunnel")
    eventually(lambda: plane.cells[slot.UPSTREAM_CONNECTIONS] == 0, "no upstream connection")


def test_a_side_that_has_finished_may_still_be_told_the_rest(plane: Plane) -> None:
    def script(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(SWITCHING)
        assert conversation.rest() == b"all"
        conversation.send(b"the rest")

    plane.blue.script = script
    client = tunnelled(plane)
    client.send(b"all")
    client.finish_sending()
    assert client.rest() == b"the rest"


def test_a_quiet_tunnel_is_closed_after_the_stream_timeout(plane: Plane) -> None:
    plane.configure(settings(upstream={"stream_idle": 0.2}))
    plane.blue.script = switching()
    assert tunnelled(plane).is_ended()
    assert plane.blue.conversations[0].ended.wait(10)


# --- flow -------------------------------------------------------------------------------------------------------------


def test_a_slow_reader_bounds_what_a_tunnel_holds(plane: Plane) -> None:
    mib, sent = 1 << 20, []

    def script(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(SWITCHING)
        for _ in range(64):
            conversation.send(bytes(mib))
            sent.append(mib)

    plane.blue.script = script
    before = plane.worker.resident_bytes()
    client = plane.client(receive_buffer=64 * 1024)
    client.send(request("GET", "/ws", *UPGRADE))
    client.until(b"\r\n\r\n")
    largest = 0
    for _ in range(64):
        client.take(mib)
        largest = max(largest, plane.worker.resident_bytes())
    assert client.is_ended()
    assert largest - before < 32 * mib
    assert len(sent) == 64


def pouring(conversation: Conversation) -> None:
    conversation.request()
    conversation.send(SWITCHING)
    while True:
        conversation.send(bytes(1 << 20))


def test_a_client_that_takes_nothing_of_a_tunnel_is_cut(plane: Plane) -> None:
    plane.configure(settings(timeouts={"write_idle": 0.3}))
    plane.blue.script = pouring
    client = plane.client(receive_buffer=4096)
    client.send(request("GET", "/ws", *UPGRADE))
    eventually(lambda: plane.rejected("write_timeout") == 1, "the write timeout")
    eventually(plane.is_idle, "the end of the tunnel")


def test_an_upstream_that_takes_nothing_of_a_tunnel_is_cut(plane: Plane) -> None:
    def deaf(conversation: Conversation) -> None:
        conversation.until(b"\r\n\r\n")
        conversation.send(SWITCHING)
        ended.wait(10)

    ended = threading.Event()
    plane.configure(settings(timeouts={"write_idle": 0.3}), blue=[plane.upstream(deaf, receive_buffer=4096)])
    client = tunnelled(plane)
    with contextlib.suppress(ConnectionError):
        client.send(bytes(32 << 20))
    eventually(lambda: plane.rejected("write_timeout") == 1, "the write timeout")
    ended.set()


# --- by itself --------------------------------------------------------------------------------------------------------


class FakeTransport:
    """`unwritten` is what the peer has not taken."""

    def __init__(self) -> None:
        self.unwritten = 0
        self.aborted = False
        self.get_write_buffer_size = lambda: self.unwritten
        self.is_closing = lambda: self.aborted
        self.get_extra_info = lambda _: None
        self.pause_reading = self.resume_reading = lambda: None
        self.set_protocol = lambda protocol: setattr(self, "protocol", protocol)

    def abort(self) -> None:
        self.aborted = True


def opened(*, client_is_slow: bool = False) -> tuple[Tunnel, FakeTransport, FakeTransport]:
    plane = SimpleNamespace(
        deadlines=SimpleNamespace(now=1000, watch=lambda _: None, forget=lambda _: None),
        stream_idle_ns=3600,
        write_idle_ns=30,
        cells=[0] * slot.SLOT_CELLS,
        buffers=Buffers(lambda callback: None),
        tunnels=set(),
    )
    client, upstream = FakeTransport(), FakeTransport()
    client.unwritten = 100 if client_is_slow else 0
    tunnel = Tunnel(
        plane,  # type: ignore[arg-type]
        SimpleNamespace(),  # type: ignore[arg-type]
        SimpleNamespace(transport=client, is_slow=client_is_slow, take_over=lambda: b""),  # type: ignore[arg-type]
        SimpleNamespace(transport=upstream, is_slow=False),  # type: ignore[arg-type]
    )
    tunnel.open(b"")
    return tunnel, client, upstream


def test_a_slow_side_is_cut_only_once_it_takes_nothing_any_more() -> None:
    tunnel, client, upstream = opened()
    client.unwritten = 100
    client.protocol.pause_writing()
    assert tunnel.deadline == 1030
    upstream.protocol.received = 0
    tunnel.touched()
    assert tunnel.deadline == 1030, "what the other side says is no sign of life of this one"
    client.unwritten = 60
    tunnel.on_deadline(2000)
    assert (tunnel.deadline, client.aborted) == (2030, False)
    tunnel.on_deadline(2030)
    assert (client.aborted, upstream.aborted, tunnel.termination) == (True, True, "timeout")


def test_a_side_that_keeps_up_again_has_the_time_of_any_tunnel() -> None:
    tunnel, client, _ = opened()
    client.unwritten = 100
    client.protocol.pause_writing()
    client.unwritten = 0
    client.protocol.resume_writing()
    assert (tunnel.deadline, tunnel.slow_ends) == (4600, [])
    assert client.protocol.held() == 0


def test_a_side_that_was_slow_when_the_tunnel_began_still_is() -> None:
    tunnel, client, _ = opened(client_is_slow=True)
    assert (tunnel.slow_ends, tunnel.deadline) == ([client.protocol], 1030)


def test_a_tunnel_that_holds_too_much_is_shed_as_a_whole() -> None:
    tunnel, client, upstream = opened()
    client.protocol.shed()
    assert (client.aborted, upstream.aborted, tunnel.termination) == (True, True, "limit")
    assert tunnel.plane.cells[slot.rejected_cell("buffered_bytes")] == 1
