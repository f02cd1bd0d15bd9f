"""Closing on a client that may still be sending, without losing the answer.

Closing a socket with unread bytes in it makes the kernel send a RST, which destroys the answer on its way to the
client. So the writing side is closed first, and what still arrives is thrown away for a while (RFC 9112 section 9.6).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from bgproxy.dataplane.flow import unwritten
from bgproxy.shm import worker_slot as slot

if TYPE_CHECKING:
    from bgproxy.dataplane.downstream import Downstream
    from bgproxy.dataplane.plane import DataPlane

LINGER_NS: Final = 2_000_000_000


def linger(plane: DataPlane, client: Downstream) -> None:
    """Send what is written, then FIN; leave when the client does, or after a while."""
    client.closing = True
    client.is_slow = False  # what is unwritten is Lingering's from here on
    plane.turn.flush()
    plane.deadlines.forget(client)
    transport = client.transport
    if transport.is_closing():
        plane.client_lost(client)
        return
    if client.exchange is not None:
        raise AssertionError("an exchange is still running")
    lingering = Lingering(plane, client)
    transport.set_protocol(lingering)
    transport.resume_reading()
    transport.write_eof()
    plane.deadlines.watch(lingering)
    plane.room.lingering[client] = lingering
    if held := lingering.held():
        plane.buffers.holds(lingering, held)


class Lingering(asyncio.Protocol):
    """Takes the connection over from a Downstream that has said its last word."""

    __slots__ = ("_client", "_plane", "_unwritten", "deadline", "since")

    def __init__(self, plane: DataPlane, client: Downstream) -> None:
        self._plane = plane
        self._client = client
        # What is still to be written gets the time that any answer gets.
        self.since = plane.clock()
        self._unwritten = unwritten(client.transport) if self.held() else 0
        self.deadline = self.since + (plane.write_idle_ns if self._unwritten else LINGER_NS)

    def data_received(self, data: bytes) -> None:
        pass

    def eof_received(self) -> bool:
        return False

    def on_deadline(self, now: int) -> None:
        before, self._unwritten = self._unwritten, unwritten(self._client.transport) if self.held() else 0
        if 0 < self._unwritten < before:
            self.deadline = now + self._plane.write_idle_ns
        elif before and not self._unwritten:
            self.deadline = now + LINGER_NS
        else:
            if self._unwritten:
                self._plane.cells[slot.rejected_cell("write_timeout")] += 1
            self.end()

    def held(self) -> int:
        return self._client.transport.get_write_buffer_size()

    def shed(self) -> None:
        self._plane.cells[slot.rejected_cell("buffered_bytes")] += 1
        self.end()

    def end(self) -> None:
        self._client.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._plane.deadlines.forget(self)
        self._plane.buffers.forget(self)
        self._plane.client_lost(self._client)
