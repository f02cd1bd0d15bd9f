"""Pauses and writes of a connection, against a transport that only notes them. The effect on real peers is shown by
test_downstream.py and test_upstream.py."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from bgproxy.dataplane.buffers import Buffers
from bgproxy.dataplane.flow import Connection
from bgproxy.dataplane.turn import Turn


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
        self.set_write_buffer_limits = self.get_extra_info = lambda _: None


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
