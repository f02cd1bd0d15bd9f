"""Tunnels with a slow side: nothing is lost, little is held, and only who takes nothing is given up."""

from __future__ import annotations

import contextlib
import hashlib
import random
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from bgproxy.dataplane.buffers import Buffers
from bgproxy.dataplane.tunnel import QUIET_NS, Tunnel
from bgproxy.dataplane.turn import Turn
from bgproxy.shm import worker_slot as slot
from tests.support.plane import settings
from tests.support.raw_http import request, response
from tests.support.sockets import IDLE_SOCKET
from tests.support.tunnels import SWITCHING, UPGRADE, switching, tunnelled

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.plane import Plane
    from tests.support.raw_http import Wire
    from tests.support.raw_upstream import Conversation

MIB = 1 << 20
S = 1_000_000_000


def pour(wire: Wire, mib: int) -> str:
    """So many MiB, no two alike, and a FIN; returns their hash."""
    noise, said = random.Random(mib).randbytes(MIB), hashlib.sha256()
    for number in range(mib):
        piece = number.to_bytes(8, "big") + noise[8:]
        said.update(piece)
        wire.send(piece)
    wire.finish_sending()
    return said.hexdigest()


def drink(wire: Wire, mib: int, after_each: Callable[[], None]) -> str:
    """So many MiB, one at a time, up to the FIN; returns their hash."""
    heard = hashlib.sha256()
    for _ in range(mib):
        heard.update(wire.take(MIB))
        wire.forget()
        after_each()
    assert wire.rest() == b""
    return heard.hexdigest()


# --- what is held, what is lost ---------------------------------------------------------------------------------------


@pytest.mark.says("Of each direction the proxy holds")
@pytest.mark.parametrize("reader", ["client", "upstream"])
@pytest.mark.parametrize("mib", [16, pytest.param(256, marks=pytest.mark.soak)])
def test_a_slow_reader_bounds_what_a_tunnel_holds_and_loses_nothing(plane: Plane, reader: str, mib: int) -> None:
    hashes: list[str] = []
    held = [plane.worker.resident_bytes()]

    def look() -> None:
        held.append(plane.worker.resident_bytes())
        time.sleep(0.002)  # slower than the sender, who has been waiting

    def script(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(SWITCHING)
        hashes.append(pour(conversation, mib) if reader == "client" else drink(conversation, mib, look))

    plane.blue.script = script
    client = tunnelled(plane, receive_buffer=64 * 1024)
    hashes.append(drink(client, mib, look) if reader == "client" else pour(client, mib))
    assert plane.blue.conversations[0].ended.wait(30)
    assert hashes[0] == hashes[1]
    assert max(held) - held[0] < 8 * MIB


@pytest.mark.says("a side takes nothing of what waits")
def test_a_client_that_reads_nothing_is_given_up_and_sees_that_it_was_not_all(plane: Plane) -> None:
    """The tunnel holds next to nothing meanwhile, and the other side is reset as well."""
    plane.configure(settings(timeouts={"write_idle": 0.3}))
    before = plane.worker.resident_bytes()

    def script(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(SWITCHING)
        fill(conversation)

    plane.blue.script = script
    client = tunnelled(plane, receive_buffer=64 * 1024)
    assert plane.blue.conversations[0].ended.wait(10)
    assert plane.worker.resident_bytes() - before < 8 * MIB
    with pytest.raises(ConnectionResetError):
        client.rest()
    assert plane.rejected("write_timeout") == 1


@pytest.mark.says("a side takes nothing of what waits")
def test_an_upstream_that_reads_nothing_is_given_up_although_it_talks(plane: Plane) -> None:
    plane.configure(settings(upstream={"response_timeout": 0.3}))
    over = threading.Event()

    def script(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(SWITCHING)
        while not over.wait(0.01):
            conversation.send(b".")

    plane.blue.script = script
    client = tunnelled(plane)
    fill(client)
    with contextlib.suppress(ConnectionResetError):  # said only once: perhaps to `fill`
        assert set(client.rest()) == {ord(".")}
    over.set()


def fill(wire: Wire) -> None:
    """Send until the connection is reset."""
    with pytest.raises((ConnectionResetError, BrokenPipeError)):  # noqa: PT012
        while True:
            wire.send(bytes(MIB))


@pytest.mark.says("a side takes nothing of what waits")
@pytest.mark.soak
def test_a_slow_reader_that_reads_on_is_never_given_up(plane: Plane) -> None:
    """Far slower than the kernel's buffers say anything of it, and than both timeouts."""
    plane.configure(settings(timeouts={"write_idle": 1.5}, upstream={"stream_idle": 0.3}))

    def script(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(SWITCHING)
        pour(conversation, 6)

    plane.blue.script = script
    client = tunnelled(plane, receive_buffer=64 * 1024)
    for _ in range(6 * 16):
        client.take(MIB // 16)
        time.sleep(0.08)
    assert client.rest() == b""


# --- what comes early -------------------------------------------------------------------------------------------------


def test_much_that_comes_early_from_both_sides_is_not_lost(plane: Plane) -> None:
    early, hashes = 3, []

    def script(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(SWITCHING + bytes(200_000))
        hashes.append(drink(conversation, early, lambda: None))

    plane.blue.script = script
    client = plane.client(receive_buffer=64 * 1024)
    client.send(request("GET", "/ws", *UPGRADE) + bytes(100_000))
    filling = threading.Thread(target=lambda: client.send(bytes(early * MIB - 100_000)))
    filling.start()
    assert client.answer().status == 101
    assert client.take(200_000) == bytes(200_000)
    filling.join()
    client.finish_sending()
    assert plane.blue.conversations[0].ended.wait(10)
    assert hashes == [hashlib.sha256(bytes(early * MIB)).hexdigest()]


def test_a_connection_that_was_used_before_becomes_a_tunnel(plane: Plane) -> None:
    def script(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(response(200, b"first"))
        switching()(conversation)

    plane.blue.script = script
    assert plane.client().ask().body == b"first"
    client = tunnelled(plane)
    client.send(b"ab")
    assert client.take(6) == b"<a><b>"
    assert len(plane.blue.conversations) == 1


def test_another_protocol_than_websocket_goes_through(plane: Plane) -> None:
    plane.blue.script = switching(protocol="custom/1")
    client = tunnelled(plane, protocol="custom/1")
    client.send(b"a")
    assert client.take(3) == b"<a>"


# --- what no real socket shows reliably -------------------------------------------------------------------------------


class FakeTransport:
    """Notes what is asked of it; `unwritten` is what it could not write."""

    def __init__(self) -> None:
        self.calls: list[object] = []
        self.unwritten = 0
        self.halves = True
        self.get_write_buffer_size = lambda: self.unwritten
        self.can_write_eof = lambda: self.halves
        self.is_closing = lambda: "close" in self.calls or "abort" in self.calls
        self.set_protocol = lambda protocol: None
        self.get_extra_info = {"socket": _socket(self.calls)}.get
        self.write = self.calls.append
        for call in ("pause_reading", "resume_reading", "write_eof", "close", "abort"):
            setattr(self, call, lambda call=call: self.calls.append(call))


def _socket(calls: list[object]) -> Any:
    return SimpleNamespace(fileno=IDLE_SOCKET.fileno, setsockopt=lambda *_: calls.append("reset"))


class House:
    """A tunnel between two such transports, at 1000 s; idle after 100 s, patient for 30 s, and for 60 s upstream."""

    def __init__(self, *, client_is_slow: bool = False, client_finished: bool = False, early: bytes = b"") -> None:
        self.clock_ns = 1000 * S
        self.ended: list[dict[str, object]] = []
        self.cells = [0] * slot.SLOT_CELLS
        plane: Any = SimpleNamespace(
            stream_idle_ns=100 * S,
            write_idle_ns=30 * S,
            response_ns=60 * S,
            deadlines=SimpleNamespace(now=self.clock_ns, watch=lambda timed: None, forget=lambda timed: None),
            clock=lambda: self.clock_ns,
            tunnels=set(),
            buffers=Buffers(lambda count: None),
            turn=Turn(SimpleNamespace()),  # type: ignore[arg-type]
            cells=self.cells,
            client_lost=lambda client: None,
        )
        exchange: Any = SimpleNamespace(tunnel_closed=lambda **how: self.ended.append(how))
        self.client, self.upstream = FakeTransport(), FakeTransport()
        client: Any = SimpleNamespace(
            transport=self.client,
            is_slow=client_is_slow,
            _reading_paused=False,
            take_over=lambda: (early, client_finished),
        )
        upstream: Any = SimpleNamespace(
            transport=self.upstream,
            is_slow=False,
            _reading_paused=False,
            exchange=exchange,
            server=SimpleNamespace(lost=lambda connection: None),
        )
        self.tunnel = Tunnel(plane, exchange, client, upstream)
        self.tunnel.open(b"")
        self.client_end, self.upstream_end = self.tunnel._client_end, self.tunnel._upstream_end


def test_an_upstream_is_not_read_before_a_client_that_is_slow_already_has_taken_something() -> None:
    house = House(client_is_slow=True)
    assert house.upstream.calls == ["pause_reading"]
    assert house.client_end.deadline == 1030 * S, "and it gets no longer than any other that takes nothing"
    house.client_end.resume_writing()
    assert house.upstream.calls == ["pause_reading", "resume_reading"]
    assert house.client_end.deadline == 0


def test_what_a_finished_client_said_early_goes_before_its_end() -> None:
    house = House(client_finished=True, early=b"early")
    assert house.upstream.calls == [b"early", "write_eof"]


def test_a_side_that_has_finished_is_not_read_again() -> None:
    """uvloop would find the same FIN once more."""
    house = House()
    assert house.client_end.eof_received()
    house.upstream_end.pause_writing()
    house.upstream_end.resume_writing()
    assert "resume_reading" not in house.client.calls
    assert house.upstream.calls == ["write_eof"]


def test_the_quiet_after_one_end_begins_anew_with_whatever_comes() -> None:
    house = House()
    assert house.client_end.eof_received()
    assert house.tunnel.deadline == 1000 * S + QUIET_NS
    house.tunnel.plane.deadlines.now = 1005 * S
    house.upstream_end.data_received(b"more")
    assert house.tunnel.deadline == 1005 * S + QUIET_NS
    house.tunnel.on_deadline(1007 * S)
    assert house.client.calls == [b"more", "abort"]
    assert house.upstream.calls == ["write_eof", "abort"]
    assert house.tunnel.termination == "ok"


def test_a_tunnel_is_not_idle_while_a_slow_side_takes_what_waits_for_it() -> None:
    house = House()
    house.upstream_end.data_received(bytes(1000))
    for second, house.client.unwritten in ((1100, 900), (1101, 800), (1120, 800), (1125, 700), (1154, 700)):
        house.tunnel.on_deadline(second * S)
        assert house.tunnel.deadline == second * S + QUIET_NS, second
    house.tunnel.on_deadline(1155 * S)
    assert house.client.calls[1:] == ["reset", "abort"], "30 s in which it took nothing; and it was not all"
    assert house.tunnel.termination == "timeout"


def test_idleness_is_reckoned_from_when_the_last_of_it_was_taken() -> None:
    house = House()
    house.upstream_end.data_received(bytes(1000))
    house.client.unwritten = 900
    house.tunnel.on_deadline(1100 * S)
    house.client.unwritten = 0
    house.tunnel.on_deadline(1101 * S)
    assert house.tunnel.deadline == 1200 * S
    house.tunnel.on_deadline(1200 * S)
    assert house.client.calls[1:] == ["abort"]


def test_a_side_that_takes_something_is_not_stalled() -> None:
    house = House()
    house.upstream.unwritten = 1000
    house.upstream_end.pause_writing()
    assert (house.upstream_end.deadline, house.client.calls) == (1060 * S, ["pause_reading"])
    house.upstream.unwritten = 999
    house.upstream_end.on_deadline(1060 * S)
    assert house.upstream_end.deadline == 1120 * S
    house.upstream_end.on_deadline(1120 * S)
    assert (house.client.calls[1:], house.upstream.calls) == (["reset", "abort"], ["reset", "abort"])
    assert house.tunnel.termination == "timeout"


@pytest.mark.says("one side is reset")
def test_what_came_before_a_reset_is_delivered_before_the_reset() -> None:
    house = House()
    house.upstream_end.data_received(b"last words")
    house.client.unwritten = 10
    house.upstream_end.connection_lost(ConnectionResetError())
    assert house.client.calls == [b"last words", "pause_reading"]
    house.tunnel.on_deadline(1001 * S)
    assert house.client.calls == [b"last words", "pause_reading"]
    house.client.unwritten = 0
    house.tunnel.on_deadline(1002 * S)
    house.tunnel.on_deadline(1003 * S)
    assert house.client.calls[2:] == ["reset", "abort"]
    house.client_end.connection_lost(None)
    assert house.ended == [{"client_bytes": 0, "upstream_bytes": 10, "termination": "upstream_reset"}]


def test_a_transport_that_cannot_half_close_is_closed_behind_what_waits() -> None:
    house = House()
    house.client.halves = False
    assert house.upstream_end.eof_received() is False
    assert house.client.calls == ["close"]
    other = House()
    other.client.halves = False
    assert other.client_end.eof_received() is False, "it has no half to keep open either"
    assert other.upstream.calls == ["write_eof"]


@pytest.mark.says("TLS cannot be half-closed here")
def test_an_upstream_that_cannot_be_half_closed_may_still_answer_a_client_that_has_finished() -> None:
    house = House()
    house.upstream.halves = False
    assert house.client_end.eof_received() is True
    assert house.upstream.calls == [], "a close would lose what it says"
    house.upstream_end.data_received(b"the rest")
    assert house.client.calls == [b"the rest"]
    assert house.upstream_end.eof_received() is False
    assert (house.client.calls, house.upstream.calls) == ([b"the rest", "close"], [])
    house = House()
    house.upstream.halves = False
    house.client_end.eof_received()
    assert house.tunnel.deadline == 1001 * S
    house.tunnel.on_deadline(1001 * S)
    assert (house.client.calls, house.upstream.calls, house.tunnel.termination) == (["abort"], ["abort"], "ok")


@pytest.mark.says("both have sent FIN")
def test_both_ends_finished_are_closed_behind_what_waits() -> None:
    house = House()
    assert house.client_end.eof_received() is True
    assert house.upstream_end.eof_received() is False, "so that it is closed as well"
    assert (house.client.calls, house.upstream.calls) == (["close"], ["write_eof"])
    house.upstream_end.connection_lost(None)
    house.client_end.connection_lost(None)
    assert house.ended == [{"client_bytes": 0, "upstream_bytes": 0, "termination": "ok"}]


@pytest.mark.says("the worker leaves")
def test_a_cut_for_the_drain_is_a_reset_only_where_something_is_lost() -> None:
    house = House()
    house.client.unwritten = 1
    house.tunnel.cut()
    assert (house.client.calls, house.upstream.calls) == (["reset", "abort"], ["abort"])
    assert house.tunnel.termination == "drained"
