"""After a 101: bytes both ways, nothing looked at.

Each direction waits for the other side to take what it was given. When one side ends, the other is told, and has
LAST_WORDS_NS to say the rest.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from bgproxy.dataplane.flow import untaken
from bgproxy.shm import worker_slot as slot

if TYPE_CHECKING:
    from bgproxy.dataplane.downstream import Downstream
    from bgproxy.dataplane.exchange import Exchange
    from bgproxy.dataplane.plane import DataPlane
    from bgproxy.dataplane.upstream import UpstreamConnection

LAST_WORDS_NS: Final = 1_000_000_000  # with a coarse timer of a second: over within two


class Tunnel:
    """Owns both connections until both are closed. `deadline` as in deadlines.py: idle, a side that takes nothing, or
    the last words."""

    def __init__(self, plane: DataPlane, exchange: Exchange, client: Downstream, upstream: UpstreamConnection) -> None:
        self.plane = plane
        self._exchange = exchange
        self._client = client
        self._upstream = upstream
        self._client_end = TunnelEnd(self, client.transport, upstream.transport)
        self._upstream_end = TunnelEnd(self, upstream.transport, client.transport)
        self._open_ends = 2
        self.slow_ends: list[TunnelEnd] = []
        self.is_ending = False
        self.termination = "ok"
        self.deadline = plane.deadlines.now + plane.stream_idle_ns

    def open(self, early_from_upstream: bytes) -> None:
        """Take both transports over, and pass on what either side sent before."""
        client, upstream, plane = self._client, self._upstream, self.plane
        slow = [end for end, was in ((self._client_end, client), (self._upstream_end, upstream)) if was.is_slow]
        early_from_client = client.take_over()
        plane.deadlines.forget(client)
        plane.deadlines.forget(upstream)
        upstream.exchange = None
        client.transport.set_protocol(self._client_end)
        upstream.transport.set_protocol(self._upstream_end)
        plane.deadlines.watch(self)
        plane.tunnels.add(self)
        client.transport.resume_reading()
        upstream.transport.resume_reading()
        for end in slow:  # it is not said again
            end.pause_writing()
        if early_from_upstream:
            self._upstream_end.data_received(early_from_upstream)
        if early_from_client:
            self._client_end.data_received(early_from_client)

    def touched(self) -> None:
        if not self.is_ending and not self.slow_ends:
            self.deadline = self.plane.deadlines.now + self.plane.stream_idle_ns

    def is_slow(self, end: TunnelEnd) -> None:
        """It does not take what is written: as with any answer, it gets the write timeout to take some of it."""
        self.slow_ends.append(end)
        if not self.is_ending:
            self.deadline = self.plane.deadlines.now + self.plane.write_idle_ns

    def keeps_up(self, end: TunnelEnd) -> None:
        if end in self.slow_ends:
            self.slow_ends.remove(end)
        self.touched()

    def one_side_ended(self) -> None:
        self.is_ending = True
        self.deadline = self.plane.clock() + LAST_WORDS_NS

    def on_deadline(self, now: int) -> None:
        if not self.is_ending:
            taking = [end.takes_what_is_written() for end in self.slow_ends]
            if taking and all(taking):
                self.deadline = now + self.plane.write_idle_ns
                return
            if self.slow_ends:
                self.plane.cells[slot.rejected_cell("write_timeout")] += 1
            self.termination = "timeout"
        self.close()

    def shed(self) -> None:
        self.plane.cells[slot.rejected_cell("buffered_bytes")] += 1
        self.termination = "limit"
        self.close()

    def cut(self) -> None:
        self.termination = "drained"
        self.close()

    def close(self) -> None:
        self._client.transport.abort()
        self._upstream.transport.abort()

    def end_lost(self) -> None:
        self._open_ends -= 1
        if self._open_ends:
            self.one_side_ended()
            return
        self.plane.deadlines.forget(self)
        self.plane.tunnels.discard(self)
        self._upstream.server.lost(self._upstream)
        self._exchange.tunnel_closed(
            client_bytes=self._client_end.received,
            upstream_bytes=self._upstream_end.received,
            termination=self.termination,
        )
        self.plane.client_lost(self._client)


class TunnelEnd(asyncio.Protocol):
    """The protocol of one side: whatever comes is written to the other."""

    __slots__ = ("_other", "_own", "_tunnel", "_untaken", "received")

    def __init__(self, tunnel: Tunnel, own: asyncio.Transport, other: asyncio.Transport) -> None:
        self._tunnel = tunnel
        self._own = own
        self._other = other
        self.received = 0

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        self._tunnel.touched()
        if not self._other.is_closing():
            self._other.write(data)

    def eof_received(self) -> bool:
        if self._tunnel.is_ending:  # the other side has finished as well: nobody has anything more to say
            self._other.close()
            return False
        self._tunnel.one_side_ended()
        if not self._other.is_closing():
            self._other.write_eof()
        return True  # the other side may still have something to say

    def connection_lost(self, exc: Exception | None) -> None:
        self._tunnel.plane.buffers.forget(self)
        if not self._other.is_closing():
            if exc is None:
                self._other.close()
            else:
                self._other.abort()
        self._tunnel.end_lost()

    def pause_writing(self) -> None:
        self._untaken = untaken(self._own)
        self._tunnel.is_slow(self)
        self._tunnel.plane.buffers.holds(self, self.held())
        if not self._other.is_closing():
            self._other.pause_reading()

    def takes_what_is_written(self) -> bool:
        before, self._untaken = self._untaken, untaken(self._own)
        return self._untaken < before

    def held(self) -> int:
        return self._own.get_write_buffer_size()

    def shed(self) -> None:
        self._tunnel.shed()

    def resume_writing(self) -> None:
        self._tunnel.keeps_up(self)
        if not self._other.is_closing():
            self._other.resume_reading()
