"""After a 101: bytes both ways, nothing looked at.

Each direction waits for the other side to take what it was given, and each ends by itself: a FIN is passed on behind
the bytes before it, and the other direction goes on for as long as bytes move there. An end that could be taken for a
whole one, and is none, is a RST.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

from bgproxy.dataplane.flow import Connection, reset, unwritten
from bgproxy.shm import worker_slot as slot

if TYPE_CHECKING:
    import asyncio

    from bgproxy.dataplane.downstream import Downstream
    from bgproxy.dataplane.exchange import Exchange
    from bgproxy.dataplane.plane import DataPlane
    from bgproxy.dataplane.upstream import UpstreamConnection

E = TypeVar("E", bound="TunnelEnd")

# How long nothing may move where one side has ended; with a coarse timer of a second, over within two.
QUIET_NS: Final = 1_000_000_000


class Tunnel:
    """Owns both connections until both are closed. `deadline` as in deadlines.py: nothing came for too long."""

    _upstream_end: TunnelEnd
    _ends: tuple[TunnelEnd, TunnelEnd]

    def __init__(self, plane: DataPlane, exchange: Exchange, client: Downstream, upstream: UpstreamConnection) -> None:
        self.plane = plane
        self.exchange = exchange
        self._client = client
        self._upstream = upstream
        # A side that takes nothing gets the time that it gets for an answer, or for the body of a request.
        self._client_end = TunnelEnd(self, client.transport, plane.write_idle_ns)
        self.replace_upstream_end(TunnelEnd)
        self.termination = "ok"
        self._silence_ns = plane.stream_idle_ns
        self.deadline = plane.deadlines.now + self._silence_ns
        self._is_broken = False  # one side was reset, or what it said was lost: so will be the other
        self._taken = 0  # bytes, when last looked at
        self._taken_at = 0
        self._waited_at = 0  # when last something waited to be taken; 0 where nothing did

    def replace_upstream_end(self, make: Callable[[Tunnel, asyncio.Transport, int], E]) -> E:
        """Read from the upstream with this; only before `open`."""
        self._upstream_end = end = make(self, self._upstream.transport, self.plane.response_ns)
        self._ends = (self._client_end, end)
        self._client_end.other, end.other = end, self._client_end
        return end

    def open(self, early_from_upstream: bytes) -> None:
        """Take both transports over, and pass on what either side sent before."""
        client, upstream, plane = self._client, self._upstream, self.plane
        early_from_client, has_finished = client.take_over()
        upstream.exchange = None
        plane.deadlines.forget(client)
        plane.deadlines.forget(upstream)
        plane.deadlines.watch(self)
        plane.tunnels.add(self)
        self._client_end.take_over(client)
        self._upstream_end.take_over(upstream)
        for end, connection in zip(self._ends, (client, upstream), strict=True):
            if connection.is_slow:
                end.pause_writing()
        if early_from_upstream:
            self._upstream_end.data_received(early_from_upstream)
        if early_from_client:
            self._client_end.data_received(early_from_client)
        if has_finished and not self._client_end.eof_received():
            client.transport.close()
        for end in self._ends:
            end.read_on()

    # --- while it lasts ----------------------------------------------------------------------------------------------

    def touched(self) -> None:
        self.deadline = self.plane.deadlines.now + self._silence_ns

    def on_deadline(self, now: int) -> None:
        """Nothing came for too long. But while a slow side takes what came before, it is not silent."""
        waiting = sum(end.unwritten() for end in self._ends)
        taken = sum(end.received for end in self._ends) - waiting
        if taken != self._taken or not self._waited_at:
            self._taken, self._taken_at = taken, now
        if waiting and now - self._taken_at < self.plane.write_idle_ns:
            self._waited_at = now
            self.deadline = now + QUIET_NS
        elif self._waited_at and not waiting:  # the last of it was taken since: silent from then on
            self.deadline = max(self._waited_at + self._silence_ns, now)
            self._waited_at = 0
        else:
            if waiting or not any(end.has_finished or end.is_lost for end in self._ends):
                self._time_out()
            self.close()

    def stalled(self, end: TunnelEnd) -> None:
        """It takes nothing of what waits for it, whatever comes from it. What the other side has said is lost."""
        if end is self._client_end:
            self.plane.cells[slot.rejected_cell("write_timeout")] += 1
        self._is_broken = True
        self._time_out()
        self.close()

    def shed(self) -> None:
        """This worker holds too much for those who do not read."""
        self.plane.cells[slot.rejected_cell("buffered_bytes")] += 1
        self._is_broken = True
        self.termination = "limit"
        self.close()

    def _time_out(self) -> None:
        if self.termination == "ok":
            self.termination = "timeout"

    # --- the end -----------------------------------------------------------------------------------------------------

    def one_side_ended(self) -> None:
        """From now on the rest: as long as it flows."""
        self._silence_ns = QUIET_NS
        self.deadline = self.plane.clock() + QUIET_NS

    def may_be_answered(self, end: TunnelEnd) -> bool:
        """Has who finished something to wait for, though the other side can't be told by half a close? The rest of an
        answer is worth a client's wait; a client is told at once that its upstream has no more to say."""
        return end is self._client_end

    def cut(self) -> None:
        self.termination = "drained"
        self.close()

    def close(self) -> None:
        """At once. A side for which something waits is reset: a FIN would tell it that this was all."""
        for end in self._ends:
            if self._is_broken or end.transport.get_write_buffer_size():
                reset(end.transport)
            else:
                end.transport.abort()

    def end_lost(self, end: TunnelEnd, exc: Exception | None) -> None:
        other = end.other
        if other.is_lost:
            self._over()
            return
        if exc is not None and self.termination == "ok":
            self.termination = "client_abort" if end is self._client_end else "upstream_reset"
        self._is_broken = exc is not None and not end.has_finished
        self.one_side_ended()
        if not self._is_broken:
            other.transport.close()
        elif other.unwritten():  # this came before the reset: it is still delivered, and looked at again in a round
            other.pause_reading()
        else:
            reset(other.transport)

    def _over(self) -> None:
        self.plane.deadlines.forget(self)
        self.plane.tunnels.discard(self)
        self._upstream.server.lost(self._upstream)
        self.exchange.tunnel_closed(
            client_bytes=self._client_end.received,
            upstream_bytes=self._upstream_end.received,
            termination=self.termination,
        )
        self.plane.client_lost(self._client)


class TunnelEnd(Connection):
    """The protocol of one side: whatever comes is written to the `other`.

    `deadline`: it takes nothing of what waits for it. `has_finished` with its FIN, `is_lost` with its connection.
    """

    __slots__ = ("_patience_ns", "_tunnel", "has_finished", "is_lost", "other", "received")

    other: TunnelEnd

    def __init__(self, tunnel: Tunnel, transport: asyncio.Transport, patience_ns: int) -> None:
        super().__init__(tunnel.plane)
        self.transport = transport
        self._tunnel = tunnel
        self._patience_ns = patience_ns
        self.received = 0
        self.has_finished = False
        self.is_lost = False

    def take_over(self, connection: Connection) -> None:
        """Go on where the connection was."""
        self.connection_made(connection.transport)
        self._reading_paused = connection._reading_paused
        self.transport.set_protocol(self)

    def _limit_buffers(self) -> None:
        """They are limited already, and over TLS uvloop takes it for news."""

    def read_on(self) -> None:
        if not self.has_finished and not self.other.is_slow:  # behind a FIN uvloop would find the FIN once more
            self.resume_reading()

    def unwritten(self) -> int:
        return 0 if self.is_lost else unwritten(self.transport)

    # --- what comes --------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        self._tunnel.touched()
        transport = self.other.transport
        if not transport.is_closing():
            transport.write(data)

    def eof_received(self) -> bool:
        """FIN: passed on behind what came before it. True where this side may still be told something."""
        self.has_finished = True
        self._tunnel.one_side_ended()
        other = self.other.transport
        if other.is_closing():
            return False
        if other.can_write_eof() and not self.other.has_finished:
            other.write_eof()
        elif self.other.has_finished or not self._tunnel.may_be_answered(self):
            other.close()
            return False
        return self.transport.can_write_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._plane.deadlines.forget(self)
        self._plane.buffers.forget(self)
        self._tunnel.end_lost(self, exc)

    # --- time and flow -----------------------------------------------------------------------------------------------

    def on_deadline(self, now: int) -> None:
        if self.takes_what_is_written():
            self.deadline = now + self._patience_ns
        else:
            self._tunnel.stalled(self)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.deadline = self._plane.deadlines.now + self._patience_ns
        self.other.pause_reading()

    def held(self) -> int:
        return 0 if self.is_lost else self.transport.get_write_buffer_size()

    def shed(self) -> None:
        self._tunnel.shed()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.deadline = 0
        self._tunnel.touched()
        self.other.read_on()
