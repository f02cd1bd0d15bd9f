"""Pauses and writes of a connection, against a transport that only notes them. The effect on real peers is shown by
test_downstream.py and test_upstream.py."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import uvloop

from bgproxy.dataplane.buffers import Buffers
from bgproxy.dataplane.flow import Connection, reset, unwritten
from bgproxy.dataplane.turn import Turn
from tests.support.plane import eventually
from tests.support.sockets import IDLE_SOCKET


class FakeTransport:
    """`calls` is what was asked of it; `unwritten` what the kernel has not taken."""

    def __init__(self) -> None:
        self.calls: list[object] = []
        self.unwritten = 0
        self.closing = False
        self.get_write_buffer_size = lambda: self.unwritten
        self.is_closing = lambda: self.closing
        self.write = self.calls.append
        self.pause_reading = lambda: self.calls.append("pause")
        self.resume_reading = lambda: self.calls.append("resume")
        self.get_extra_info = {"socket": IDLE_SOCKET}.get
        self.set_write_buffer_limits = lambda _: None


@pytest.fixture
def transport() -> FakeTransport:
    return FakeTransport()


@pytest.fixture
def connection(transport: FakeTransport) -> Connection:
    watched: list[object] = []
    plane = SimpleNamespace(
        turn=Turn(SimpleNamespace(call_soon=lambda run: None)),  # type: ignore[arg-type]
        deadlines=SimpleNamespace(watch=watched.append),
        buffers=Buffers(lambda callback: None),
    )
    made = Connection(plane)  # type: ignore[arg-type]
    made.connection_made(transport)  # type: ignore[arg-type]
    assert watched == [made]
    return made


def test_a_pause_is_asked_for_once_and_taken_back_once(connection: Connection, transport: FakeTransport) -> None:
    connection.resume_reading()
    assert transport.calls == [], "it was not paused"
    connection.pause_reading()
    connection.pause_reading()
    connection.resume_reading()
    connection.resume_reading()
    assert transport.calls == ["pause", "resume"]


def test_a_transport_that_closes_is_not_asked_to_pause_or_resume(
    connection: Connection, transport: FakeTransport
) -> None:
    transport.closing = True
    connection.pause_reading()
    assert transport.calls == []
    transport.closing = False
    connection.pause_reading()
    transport.closing = True
    connection.resume_reading()
    assert transport.calls == ["pause"]


def test_a_write_stays_behind_what_waits_to_be_written(connection: Connection, transport: FakeTransport) -> None:
    connection._turn.write(connection.send, b"first")
    connection.write(b"second")
    connection.write(b"third")
    assert transport.calls == [b"first", b"second", b"third"]


def test_a_slow_peer_is_known_by_whether_it_takes_anything(connection: Connection, transport: FakeTransport) -> None:
    transport.unwritten = 100
    connection.pause_writing()
    assert connection.is_slow
    assert not connection.takes_what_is_written()
    transport.unwritten = 99
    assert connection.takes_what_is_written()
    assert not connection.takes_what_is_written(), "since it was asked last"
    connection.resume_writing()
    assert not connection.is_slow


# --- real sockets -----------------------------------------------------------------------------------------------------


Pair = tuple[asyncio.Transport, socket.socket, asyncio.AbstractEventLoop]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A transport on a loop that the test runs, and who it talks to over TCP."""
    loop = uvloop.new_event_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    ours.setblocking(False)
    with theirs:
        theirs.settimeout(10)
        transport, _ = loop.run_until_complete(loop.create_connection(asyncio.Protocol, sock=ours))
        yield transport, theirs, loop
        transport.abort()
        loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()


def test_what_the_kernel_holds_is_unwritten_as_well(pair: Pair) -> None:
    transport, peer, _ = pair
    count = 8 << 20
    transport.write(bytes(count))
    waiting = unwritten(transport)
    assert transport.get_write_buffer_size() < waiting < count, "the peer's kernel has taken something"
    peer.recv(1 << 20, socket.MSG_WAITALL)
    eventually(lambda: unwritten(transport) < waiting, "a reader's progress, of which the transport knows nothing")
    assert transport.get_write_buffer_size() > 0


def test_a_reset_is_seen_as_one(pair: Pair) -> None:
    transport, peer, loop = pair
    reset(transport)
    loop.run_until_complete(asyncio.sleep(0))
    with pytest.raises(ConnectionResetError):
        peer.recv(1)


def test_a_transport_that_has_said_everything_and_closes_is_not_reset_any_more(transport: FakeTransport) -> None:
    transport.closing = True
    transport.abort = lambda: transport.calls.append("abort")  # type: ignore[attr-defined]
    transport.get_extra_info = lambda name: pytest.fail("its socket may be gone")  # type: ignore[assignment]
    reset(transport)  # type: ignore[arg-type]
    assert transport.calls == ["abort"]


def test_a_transport_whose_socket_is_gone_has_nothing_to_write_and_nothing_to_reset(transport: FakeTransport) -> None:
    """Over TLS uvloop tells us a turn later."""
    transport.unwritten = 5
    transport.get_extra_info = lambda name: None  # type: ignore[assignment,misc]
    transport.abort = lambda: transport.calls.append("abort")  # type: ignore[attr-defined]
    assert unwritten(transport) == 0  # type: ignore[arg-type]
    reset(transport)  # type: ignore[arg-type]
    assert transport.calls == ["abort"]
