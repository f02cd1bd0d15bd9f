"""Streaming, turn by turn: what is read leaves before the loop looks for more, and long before it may sleep.

The real protocols on a real loop that the test turns by hand. Between two turns nothing can be written, so whatever
arrives then was written in the turns before.
"""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
from typing import TYPE_CHECKING

import pytest
import uvloop

from bgproxy.core.model import BLUE, Pool, PoolTable
from bgproxy.core.settings import WorkerSettings
from bgproxy.dataplane.downstream import Downstream
from bgproxy.dataplane.listener import Listener
from bgproxy.dataplane.plane import DataPlane
from bgproxy.dataplane.upstream import UpstreamConnection
from bgproxy.shm.segment import Segment
from tests.support.plane import pool
from tests.support.raw_http import PATIENCE_S, Wire, request, response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TOKENS = (b"Once", b" upon", b" a", b" time")


class Workshop:
    """A data plane in the loop of the test, with one upstream; all sockets are the test's own."""

    def __init__(self, stack: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loop = uvloop.new_event_loop()
        stack.callback(self.loop.close)
        segment = Segment.create(1)
        stack.callback(segment.close)
        self._stack = stack
        self._reads: Counter[type] = Counter()  # by kind of connection
        self._listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        upstream = f"127.0.0.1:{self._listener.getsockname()[1]}"
        segment.health.publish(BLUE, [True])
        segment.live.store(1, BLUE)
        self.plane = DataPlane(self.loop, segment, 0, lambda message: None)
        self.plane.configure(WorkerSettings(), PoolTable(1, pool([upstream]), Pool(())))
        for protocol in (Downstream, UpstreamConnection):
            self._note_reads(protocol, monkeypatch)
        self._front = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener = Listener(self.plane)
        self.loop.run_until_complete(listener.open([self._front.fileno()]))
        self._front.detach()  # the listener's by now

        def end() -> None:
            listener.close()
            for client in self.plane.clients:
                client.transport.abort()
            for _ in range(4):
                self.turn()

        stack.callback(end)
        self._address = self._front_address(listener)

    def _front_address(self, listener: Listener) -> tuple[str, int]:
        (server,) = listener._servers
        address: tuple[str, int] = server.sockets[0].getsockname()
        return address

    def _note_reads(
        self, protocol: type[Downstream] | type[UpstreamConnection], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data_received = protocol.data_received

        def noting(connection: Downstream | UpstreamConnection, data: bytes) -> None:
            self._reads[protocol] += 1
            data_received(connection, data)  # type: ignore[arg-type]

        monkeypatch.setattr(protocol, "data_received", noting)

    def client(self) -> Wire:
        return Wire(self._stack.enter_context(socket.create_connection(self._address)))

    def turn(self) -> None:
        """What is due, one look at all sockets without waiting, and what comes of that."""
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def until_read(self, protocol: type) -> None:
        """Turn until such a connection is read, and not once more."""
        deadline = self.loop.time() + PATIENCE_S
        before = self._reads[protocol]
        while self._reads[protocol] == before:
            assert self.loop.time() < deadline, "nothing was read"
            self.turn()

    def at_the_next_look(self, look: Callable[[], None]) -> None:
        """One turn; `look` is called when it looks at the sockets, after all that was due before."""
        looks = []

        def look_once() -> None:
            self.loop.remove_reader(ours)
            looks.append(look())

        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.send(b".")
            self.loop.add_reader(ours, look_once)
            self.turn()
        assert looks, "it did not look, or not find"

    def asked(self, head: bytes) -> tuple[Wire, Wire]:
        """(client, upstream) with this request read by the upstream."""
        client = self.client()
        client.send(head)
        self._listener.settimeout(0)
        deadline = self.loop.time() + PATIENCE_S
        while True:
            self.turn()
            with contextlib.suppress(BlockingIOError):
                upstream = Wire(self._stack.enter_context(self._listener.accept()[0]))
                break
            assert self.loop.time() < deadline, "no connection to the upstream"
        self.until_sent_on(upstream)
        upstream.until(b"\r\n\r\n")
        return client, upstream

    def until_sent_on(self, wire: Wire) -> None:
        wire.sock.settimeout(0)
        deadline = self.loop.time() + PATIENCE_S
        while True:
            self.turn()
            with contextlib.suppress(BlockingIOError):
                assert wire.sock.recv(1, socket.MSG_PEEK)
                break
            assert self.loop.time() < deadline, "nothing was sent on"
        wire.sock.settimeout(PATIENCE_S)


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Workshop]:
    with contextlib.ExitStack() as stack:
        yield Workshop(stack, monkeypatch)


def chunk(token: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(token), token)


def plain(token: bytes) -> bytes:
    return token


LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(b"".join(TOKENS))
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\n"
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

# (version of the client, head of the response, framing of a token by the upstream, and for the client)
WAYS = {
    "length": ("1.1", LENGTH, plain, plain),
    "chunked": ("1.1", CHUNKED, chunk, chunk),
    "until the close": ("1.1", UNTIL_CLOSE, plain, chunk),
    "chunked for HTTP/1.0": ("1.0", CHUNKED, chunk, plain),
    "until the close for HTTP/1.0": ("1.0", UNTIL_CLOSE, plain, plain),
    "length for HTTP/1.0": ("1.0", LENGTH, plain, plain),
}


@pytest.mark.says("**Token by token.** A piece")
@pytest.mark.says("That holds for every framing")
@pytest.mark.parametrize("way", WAYS)
def test_a_token_leaves_in_the_turn_in_which_it_was_read(shop: Workshop, way: str) -> None:
    version, head, framed, expected = WAYS[way]
    client, upstream = shop.asked(request(version=version))
    upstream.send(head)
    shop.until_read(UpstreamConnection)
    shop.turn()
    client.until(b"\r\n\r\n")
    for token in TOKENS:
        upstream.send(framed(token))
        shop.until_read(UpstreamConnection)
        assert client.take(len(expected(token))) == expected(token)


@pytest.mark.says("**Token by token.** A piece")
@pytest.mark.says("That holds for every framing")
@pytest.mark.parametrize("way", WAYS)
def test_a_head_leaves_before_the_loop_looks_for_more(shop: Workshop, way: str) -> None:
    """Heads wait for the other heads of their turn, and for nothing else: the first token may be far away."""
    version, head, _, _ = WAYS[way]
    client, upstream = shop.asked(request(version=version))
    upstream.send(head)
    shop.until_read(UpstreamConnection)
    shop.at_the_next_look(lambda: client.until(b"\r\n\r\n"))


@pytest.mark.parametrize("way", WAYS)
def test_a_head_and_a_token_that_came_by_then_leave_together(shop: Workshop, way: str) -> None:
    version, head, framed, expected = WAYS[way]
    client, upstream = shop.asked(request(version=version))
    upstream.send(head + framed(TOKENS[0]))
    shop.until_read(UpstreamConnection)

    def look() -> None:
        client.until(b"\r\n\r\n")
        assert client.take(len(expected(TOKENS[0]))) == expected(TOKENS[0])

    shop.at_the_next_look(look)


def test_a_token_behind_a_head_that_was_not_handled_yet_waits_for_nothing_else(shop: Workshop) -> None:
    client, upstream = shop.asked(request())
    upstream.send(CHUNKED)
    shop.until_read(UpstreamConnection)
    upstream.send(chunk(TOKENS[0]))
    shop.until_read(UpstreamConnection)  # in the turn that begins with the head
    client.until(b"\r\n\r\n")
    assert client.take(len(chunk(TOKENS[0]))) == chunk(TOKENS[0])


def test_events_comments_and_heartbeats_leave_as_they_come(shop: Workshop) -> None:
    client, upstream = shop.asked(request())
    upstream.send(EVENTS)
    shop.until_read(UpstreamConnection)
    shop.turn()
    client.until(b"\r\n\r\n")
    for piece in (b": hello\n\n", b"data: 1\n", b"\n", b":\n\n", b"id: 7\ndata: 2\n\n"):
        upstream.send(chunk(piece))
        shop.until_read(UpstreamConnection)
        assert client.take(len(chunk(piece))) == chunk(piece)


def test_half_a_chunk_is_not_waited_for(shop: Workshop) -> None:
    client, upstream = shop.asked(request())
    upstream.send(CHUNKED)
    shop.until_read(UpstreamConnection)
    shop.turn()
    client.until(b"\r\n\r\n")
    upstream.send(b"a\r\n01234")
    shop.until_read(UpstreamConnection)
    assert client.take(10) == b"5\r\n01234\r\n"


def test_an_interim_response_leaves_before_the_loop_looks_for_more(shop: Workshop) -> None:
    client, upstream = shop.asked(request())
    upstream.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
    shop.until_read(UpstreamConnection)
    shop.at_the_next_look(lambda: client.until(b"Link: </a>\r\n\r\n"))


# --- upwards ----------------------------------------------------------------------------------------------------------


@pytest.mark.says("**Token by token.** A piece")
@pytest.mark.parametrize("coding", ["chunked", "length"])
def test_a_token_of_a_request_leaves_in_the_turn_in_which_it_was_read(shop: Workshop, coding: str) -> None:
    framed = chunk if coding == "chunked" else plain
    field = "Transfer-Encoding: chunked" if coding == "chunked" else "Content-Length: 100"
    client, upstream = shop.asked(request("POST", "/", field))
    for token in TOKENS:
        client.send(framed(token))
        shop.until_read(Downstream)
        assert upstream.take(len(framed(token))) == framed(token)


def test_both_ways_at_once_token_by_token(shop: Workshop) -> None:
    client, upstream = shop.asked(request("POST", "/", "Transfer-Encoding: chunked"))
    upstream.send(CHUNKED)
    shop.until_read(UpstreamConnection)
    shop.turn()
    client.until(b"\r\n\r\n")
    for token in TOKENS:
        client.send(chunk(token))
        shop.until_read(Downstream)
        upstream.send(upstream.take(len(chunk(token))))
        shop.until_read(UpstreamConnection)
        assert client.take(len(chunk(token))) == chunk(token)
    client.send(b"0\r\n\r\n")
    shop.until_read(Downstream)
    upstream.send(upstream.take(5))
    shop.until_read(UpstreamConnection)
    assert client.take(5) == b"0\r\n\r\n"


def test_a_request_on_a_parked_connection_leaves_before_the_loop_looks_for_more(shop: Workshop) -> None:
    client, upstream = shop.asked(request())
    upstream.send(response(200, b"first"))
    shop.until_read(UpstreamConnection)
    shop.turn()
    assert client.message(is_response=True).body == b"first"
    client.send(request(target="/second"))
    shop.until_read(Downstream)
    shop.at_the_next_look(lambda: upstream.until(b"\r\n\r\n"))


# --- the sockets ------------------------------------------------------------------------------------------------------


@pytest.mark.says("Nothing is collected")
def test_no_side_waits_for_a_full_segment(shop: Workshop) -> None:
    """Nagle's algorithm would hold a token back until the last one is acknowledged."""
    shop.asked(request())
    (client,) = shop.plane.clients
    assert client.exchange is not None
    assert client.exchange.upstream is not None
    for transport in (client.transport, client.exchange.upstream.transport):
        sock = transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
