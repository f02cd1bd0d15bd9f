"""Upgraded connections to an upstream over TLS, which cannot be half-closed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from websockets.sync.client import connect
from websockets.sync.server import serve

from bgproxy.core.settings import UpstreamTls
from bgproxy.shm import worker_slot as slot
from tests.support.plane import eventually, settings
from tests.support.raw_http import request
from tests.support.upstream_certificates import ca_pem, server_context

if TYPE_CHECKING:
    from websockets.sync.server import ServerConnection

    from tests.support.plane import Plane
    from tests.support.raw_client import RawClient
    from tests.support.raw_upstream import Conversation, RawUpstream, Script

UPGRADE = ("Connection: Upgrade", "Upgrade: websocket")
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


def over_tls(plane: Plane, script: Script) -> RawUpstream:
    upstream = plane.upstream(script, tls=server_context())
    plane.configure(settings(upstream_tls=UpstreamTls(ca=ca_pem())), blue=[upstream])
    return upstream


def tunnelled(plane: Plane) -> RawClient:
    client = plane.client()
    client.send(request("GET", "/ws", *UPGRADE))
    assert client.answer().status == 101
    return client


def test_a_websocket_conversation_goes_through(plane: Plane) -> None:
    def echo(websocket: ServerConnection) -> None:
        for message in websocket:
            websocket.send(message)

    with serve(echo, "127.0.0.1", 0, ssl=server_context()) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            address = f"https://127.0.0.1:{server.socket.getsockname()[1]}"
            plane.configure(settings(upstream_tls=UpstreamTls(ca=ca_pem())), blue=[address])
            with connect(f"ws://{plane.worker.address}/chat", proxy=None, compression=None) as websocket:
                for message in ("short", "x" * 900_000, b"\x00\xff"):
                    websocket.send(message)
                    assert websocket.recv(timeout=10) == message
        finally:
            server.shutdown()
            serving.join()
    eventually(plane.is_idle, "the end of the tunnel")
    assert plane.counted(slot.TUNNELS_TOTAL) == 1


def test_what_either_side_says_early_is_not_lost(plane: Plane) -> None:
    def script(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(SWITCHING + b"welcome")
        while True:
            conversation.send(b"<" + conversation.take(1) + b">")

    over_tls(plane, script)
    client = plane.client()
    client.send(request("GET", "/ws", *UPGRADE) + b"ab")
    assert client.answer().status == 101
    assert client.take(7 + 6) == b"welcome<a><b>"


@pytest.mark.parametrize("how", ["close", "reset", "finish_sending"])
def test_a_client_that_leaves_takes_the_upstream_with_it(plane: Plane, how: str) -> None:
    def script(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(SWITCHING)
        conversation.rest()

    upstream = over_tls(plane, script)
    getattr(tunnelled(plane), how)()
    assert upstream.conversations[0].ended.wait(10)
    eventually(plane.is_idle, "the end of the tunnel")


@pytest.mark.says("TLS cannot be half-closed here")
@pytest.mark.parametrize("how", ["goodbye", "FIN alone", "reset"])
def test_an_upstream_that_leaves_takes_the_client_with_it(plane: Plane, how: str) -> None:
    def script(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(SWITCHING)
        conversation.take(2)
        if how == "goodbye":
            conversation.send(b"last words")
            conversation.say_goodbye()
        elif how == "reset":
            conversation.reset()

    over_tls(plane, script)
    client = tunnelled(plane)
    client.send(b"go")
    if how == "goodbye":
        assert client.rest() == b"last words"
    else:
        assert client.is_ended()
    eventually(plane.is_idle, "the end of the tunnel")
    eventually(lambda: plane.cells[slot.UPSTREAM_CONNECTIONS] == 0, "no connection")


@pytest.mark.says("TLS cannot be half-closed here")
def test_a_client_that_has_finished_is_still_told_the_rest(plane: Plane) -> None:
    """The upstream cannot be told by half a close, but it may be in the middle of a sentence."""
    finished = threading.Event()

    def script(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(SWITCHING)
        assert finished.wait(10)
        conversation.send(b"the rest")
        conversation.say_goodbye()

    over_tls(plane, script)
    client = tunnelled(plane)
    client.finish_sending()
    finished.set()
    assert client.rest() == b"the rest"
