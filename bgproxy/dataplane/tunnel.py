"""After a 101: bytes both ways, nothing looked at.

Each direction waits for the other side to take what it was given. When one side ends, the other is told, and has
LAST_WORDS_NS to say the rest.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from bgproxy.dataplane.downstream import Downstream
    from bgproxy.dataplane.exchange import Exchange
    from bgproxy.dataplane.plane import DataPlane
    from bgproxy.dataplane.upstream import UpstreamConnection

LAST_WORDS_NS: Final = 1_000_000_000  # with a coarse timer of a second: over within two


class Tunnel:
    """Owns both connections until both are closed. `deadline` as in deadlines.py: idle, or the last words."""

    def __init__(self, plane: DataPlane, exchange: Exchange, client: Downstream, upstream: UpstreamConnection) -> None:
        self.plane = plane
        self._exchange = exchange
        self._client = client
        self._upstream = upstream
        self._client_end = TunnelEnd(self, client.transport, upstream.transport)
        self._upstream_end = TunnelEnd(self, upstream.transport, client.transport)
        self._open_ends = 2
        self.is_ending = False
        self.termination = "ok"
        self.deadline = plane.deadlines.now + plane.stream_idle_ns

    def open(self, early_from_upstream: bytes) -> None:
        """Take both transports over, and pass on what either side sent before."""
        client, upstream, plane = self._client, self._upstream, self.plane
        early_from_client = client.take_over()
        plane.deadlines.forget(client)
        plane.deadlines.forget(upstream)
        upstream.exchange = None
        client.transport.set_protocol(self._client_end)
        upstream.transport.set_protocol(self._upstream_end)
        plane.deadlines.watch(self)
        plane.tunnels.add(self)
        if early_from_upstream:
            self._upstream_end.data_received(early_from_upstream)
        if early_from_client:
            self._client_end.data_received(early_from_client)
        client.transport.resume_reading()
        upstream.transport.resume_reading()

    def touched(self) -> None:
        if not self.is_ending:
            self.deadline = self.plane.deadlines.now + self.plane.stream_idle_ns

    def one_side_ended(self) -> None:
        self.is_ending = True
        self.deadline = self.plane.clock() + LAST_WORDS_NS

    def on_deadline(self, now: int) -> None:
        if not self.is_ending:
            self.termination = "timeout"
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

    __slots__ = ("_other", "_own", "_tunnel", "received")

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
        if not self._other.is_closing() and self._other.can_write_eof():
            self._other.write_eof()
        # The other side may still have something to say. TLS cannot be half-closed: uvloop ends both directions.
        return self._own.can_write_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._other.is_closing():
            if exc is None:
                self._other.close()
            else:
                self._other.abort()
        self._tunnel.end_lost()

    def pause_writing(self) -> None:
        if not self._other.is_closing():
            self._other.pause_reading()

    def resume_writing(self) -> None:
        if not self._other.is_closing():
            self._other.resume_reading()
