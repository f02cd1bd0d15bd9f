"""Closing on a client that is still sending: it gets its answer, and does not stay for ever."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from bgproxy.dataplane.buffers import Buffers
from bgproxy.dataplane.linger import LINGER_NS, Lingering, linger
from bgproxy.dataplane.turn import Turn
from bgproxy.shm import worker_slot as slot
from tests.support.plane import eventually, settings
from tests.support.sockets import IDLE_SOCKET

if TYPE_CHECKING:
    from tests.support.plane import Plane
    from tests.support.raw_client import RawClient


def test_an_answer_reaches_a_client_that_goes_on_sending(plane: Plane) -> None:
    plane.configure(settings(limits={"body_bytes": 1000}))
    client = plane.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8000000\r\n\r\n", bytes(8_000_000))
    assert client.answer("POST").status == 413
    assert client.is_ended()


def test_a_client_that_never_leaves_is_left(plane: Plane) -> None:
    client = plane.client()
    client.send(b"nonsense\r\n\r\n")
    assert client.answer().status == 400
    assert client.rest() == b"", "our side is closed at once"
    eventually(lambda: cannot_be_sent_to(client), "the reset")
    eventually(lambda: plane.cells[slot.CLIENT_CONNECTIONS] == 0, "no connection")


def cannot_be_sent_to(client: RawClient) -> bool:
    try:
        client.send(b"still here")
    except (ConnectionResetError, BrokenPipeError):
        return True
    return False


class FakeClient:
    """A Downstream that has said its last word, with a transport that only notes what is done to it."""

    def __init__(self, *, already_closing: bool = False, unwritten: int = 0) -> None:
        self.exchange: object = None
        self.closing = False
        self.is_slow = False
        self.unwritten = unwritten
        self.done: list[str] = []
        self.protocol: Any = None
        self.transport = SimpleNamespace(
            is_closing=lambda: already_closing,
            get_write_buffer_size=lambda: self.unwritten,
            get_extra_info={"socket": IDLE_SOCKET}.get,
            set_protocol=lambda protocol: setattr(self, "protocol", protocol),
            resume_reading=lambda: self.done.append("resume_reading"),
            write_eof=lambda: self.done.append("write_eof"),
            abort=lambda: self.done.append("abort"),
        )


class FakePlane:
    def __init__(self) -> None:
        self.watched: list[object] = []
        self.lost: list[object] = []
        self.clock = lambda: 5
        self.turn = Turn(SimpleNamespace())  # type: ignore[arg-type]
        self.write_idle_ns = 30_000_000_000
        self.deadlines = SimpleNamespace(watch=self.watched.append, forget=self._forget)
        self.client_lost = self.lost.append
        self.room = SimpleNamespace(lingering={})
        self.buffers = Buffers(lambda callback: None)
        self.cells = [0] * slot.SLOT_CELLS

    def _forget(self, timed: object) -> None:
        if timed in self.watched:
            self.watched.remove(timed)


def lingering(client: FakeClient, plane: FakePlane) -> Lingering:
    linger(plane, client)  # type: ignore[arg-type]
    protocol = client.protocol
    assert isinstance(protocol, Lingering)
    return protocol


def test_the_writing_side_is_closed_first_and_the_rest_is_thrown_away() -> None:
    client, plane = FakeClient(), FakePlane()
    protocol = lingering(client, plane)
    assert client.closing
    assert client.done == ["resume_reading", "write_eof"]
    assert (plane.watched, protocol.deadline) == ([protocol], 5 + LINGER_NS)
    protocol.data_received(b"GET / HTTP/1.1\r\n\r\n")
    assert client.done == ["resume_reading", "write_eof"]


def test_an_answer_that_is_still_being_written_gets_the_time_of_any_answer() -> None:
    assert lingering(FakeClient(unwritten=1), FakePlane()).deadline == 5 + 30_000_000_000


def test_the_client_s_end_is_the_end() -> None:
    client, plane = FakeClient(), FakePlane()
    protocol = lingering(client, plane)
    assert not protocol.eof_received(), "close, do not stay half open"
    protocol.connection_lost(None)
    assert (plane.watched, plane.lost) == ([], [client])


def test_patience_ends_at_the_deadline() -> None:
    client, plane = FakeClient(), FakePlane()
    lingering(client, plane).on_deadline(7)
    assert client.done[-1] == "abort"


def test_a_slow_reader_of_its_last_answer_is_left_once_it_takes_nothing_any_more() -> None:
    client, plane = FakeClient(unwritten=100), FakePlane()
    protocol = lingering(client, plane)
    client.unwritten = 60
    protocol.on_deadline(1000)
    assert (protocol.deadline, "abort" in client.done) == (1000 + plane.write_idle_ns, False)
    protocol.on_deadline(2000)
    assert "abort" in client.done
    assert plane.cells[slot.rejected_cell("write_timeout")] == 1


def test_whoever_has_taken_its_answer_late_still_gets_time_to_leave() -> None:
    client, plane = FakeClient(unwritten=100), FakePlane()
    protocol = lingering(client, plane)
    client.unwritten = 0
    protocol.on_deadline(1000)
    assert (protocol.deadline, "abort" in client.done) == (1000 + LINGER_NS, False)
    protocol.on_deadline(2000)
    assert "abort" in client.done
    assert plane.cells[slot.rejected_cell("write_timeout")] == 0


def test_what_is_held_for_it_can_be_shed() -> None:
    client, plane = FakeClient(unwritten=100), FakePlane()
    protocol = lingering(client, plane)
    assert (plane.buffers.size, protocol.held()) == (100, 100)
    protocol.shed()
    assert "abort" in client.done
    assert plane.cells[slot.rejected_cell("buffered_bytes")] == 1


def test_a_connection_that_is_closing_anyway_is_only_forgotten() -> None:
    client, plane = FakeClient(already_closing=True), FakePlane()
    linger(plane, client)  # type: ignore[arg-type]
    assert (client.done, plane.watched, plane.lost) == ([], [], [client])


def test_nobody_lingers_in_the_middle_of_an_exchange() -> None:
    client = FakeClient()
    client.exchange = object()
    with pytest.raises(AssertionError, match="still running"):
        linger(FakePlane(), client)  # type: ignore[arg-type]
