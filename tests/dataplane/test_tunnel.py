"""Upgraded connections: what makes one, what goes through it, and how it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest
from websockets.sync.client import connect
from websockets.sync.server import serve

from bgproxy.shm import worker_slot as slot
from tests.support.house import stop
from tests.support.plane import eventually, settings
from tests.support.raw_http import chunked, request, response
from tests.support.raw_upstream import answering
from tests.support.tunnels import SWITCHING, UPGRADE, switching, tunnelled

if TYPE_CHECKING:
    from websockets.sync.server import ServerConnection

    from tests.support.plane import Plane
    from tests.support.raw_http import Wire
    from tests.support.raw_upstream import Conversation

# --- what makes a tunnel ----------------------------------------------------------------------------------------------


@pytest.mark.says("**Tunnels.** Upgrades: GET")
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


@pytest.mark.says("A tunnel begins with the 101")
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


@pytest.mark.says("**Tunnels.** Upgrades: GET")
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


@pytest.mark.says("one side sends FIN")
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


@pytest.mark.says("nothing comes from either side")
@pytest.mark.says("**How long they may be silent.**")
def test_a_quiet_tunnel_is_closed_after_the_stream_timeout(plane: Plane) -> None:
    plane.configure(settings(upstream={"stream_idle": 0.2}))
    plane.blue.script = switching()
    assert tunnelled(plane).is_ended()
    assert plane.blue.conversations[0].ended.wait(10)


@pytest.mark.says("A tunnel begins with the 101")
def test_a_client_that_finished_before_the_upgrade_is_announced_as_finished(plane: Plane) -> None:
    agree = threading.Event()

    def script(conversation: Conversation) -> None:
        conversation.request()
        agree.wait(10)
        conversation.send(SWITCHING)
        conversation.send(b"<" + conversation.rest() + b">")

    plane.blue.script = script
    client = plane.client()
    client.send(request("GET", "/ws", *UPGRADE) + b"all")
    client.finish_sending()
    eventually(lambda: plane.blue.requests, "the upgrade's way to the upstream")
    agree.set()
    assert client.answer().status == 101
    assert client.rest() == b"<all>"


@pytest.mark.parametrize("where", ["in the packet of the 101", "later"])
def test_an_upstream_that_has_finished_is_still_told_the_rest(plane: Plane, where: str) -> None:
    heard: list[bytes] = []

    def script(conversation: Conversation) -> None:
        conversation.request()
        if where == "later":
            conversation.send(SWITCHING + b"the end")
            assert conversation.take(1) == b"."
        else:
            stop(plane.worker.process.pid)  # so that it finds all of this at once
            conversation.send(SWITCHING + b"the end")
        conversation.finish_sending()
        os.kill(plane.worker.process.pid, signal.SIGCONT)
        heard.append(conversation.rest())

    plane.blue.script = script
    client = tunnelled(plane)
    if where == "later":
        client.send(b".")
    assert client.rest() == b"the end"
    client.send(b"one ", b"and another")
    client.finish_sending()
    assert plane.blue.conversations[0].ended.wait(10)
    assert heard == [b"one and another"]


def test_an_upstream_that_is_reset_in_the_packet_of_its_101_leaves_nothing_behind(plane: Plane) -> None:
    def script(conversation: Conversation) -> None:
        conversation.request()
        stop(plane.worker.process.pid)
        conversation.send(SWITCHING)
        conversation.reset()
        os.kill(plane.worker.process.pid, signal.SIGCONT)

    plane.blue.script = script
    client = plane.client()
    client.send(request("GET", "/ws", *UPGRADE))
    with contextlib.suppress(ConnectionResetError):
        client.rest()
    eventually(plane.is_idle, "the end of the tunnel")
    eventually(lambda: plane.cells[slot.UPSTREAM_CONNECTIONS] == 0, "no upstream connection")


@pytest.mark.says("one side is reset")
def test_a_reset_upstream_is_a_reset_for_the_client(plane: Plane) -> None:
    leave = threading.Event()

    def script(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(SWITCHING + b"half a mess")
        leave.wait(10)
        conversation.reset()

    plane.blue.script = script
    client = tunnelled(plane)
    assert client.take(11) == b"half a mess"
    leave.set()
    with pytest.raises(ConnectionResetError):
        client.rest()


@pytest.mark.says("one side is reset")
def test_a_reset_client_is_a_reset_for_the_upstream(plane: Plane) -> None:
    ends: list[str] = []

    def script(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(SWITCHING)
        assert conversation.take(11) == b"half a mess"
        conversation.send(b".")
        try:
            ends.append(f"FIN behind {conversation.rest()!r}")
        except ConnectionResetError:
            ends.append("RST")

    plane.blue.script = script
    client = tunnelled(plane)
    client.send(b"half a mess")
    assert client.take(1) == b"."
    client.reset()
    assert plane.blue.conversations[0].ended.wait(10)
    assert ends == ["RST"]


@pytest.mark.says("one side sends FIN")
def test_a_silent_side_is_let_go_after_the_other_has_finished(plane: Plane) -> None:
    over = threading.Event()

    def script(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(SWITCHING)
        assert conversation.rest() == b""
        over.wait(60)

    plane.blue.script = script
    client = tunnelled(plane)
    client.finish_sending()
    try:
        assert client.rest() == b""
        eventually(plane.is_idle, "the end of the tunnel")
    finally:
        over.set()


@pytest.mark.soak
@pytest.mark.parametrize("talker", ["client", "upstream"])
def test_one_side_may_talk_for_long_after_the_other_has_finished(plane: Plane, talker: str) -> None:
    """With pauses that are shorter than the two seconds of quiet, for longer than those."""
    said, heard = [b"%d" % number for number in range(10)], []

    def talk(wire: Wire) -> None:
        for word in said:
            time.sleep(0.5)
            wire.send(word)
        wire.finish_sending()

    def script(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(SWITCHING)
        if talker == "upstream":
            assert conversation.rest() == b""
            talk(conversation)
        else:
            conversation.finish_sending()
            heard.append(conversation.rest())

    plane.blue.script = script
    client = tunnelled(plane)
    if talker == "upstream":
        client.finish_sending()
        heard.append(client.rest())
    else:
        assert client.rest() == b""
        talk(client)
        assert plane.blue.conversations[0].ended.wait(10)
    assert heard == [b"".join(said)]
