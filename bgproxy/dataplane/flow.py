"""What a client's and an upstream's connection have in common: reading can be held back, writing waits its turn.

Backpressure is two pauses: a side that cannot be written to makes the other side stop reading. Nothing in between
buffers without bound.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from bgproxy.dataplane.plane import DataPlane

_RST_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # struct linger: on, and not for a second
_COUNT: Final = struct.Struct("i")


def unwritten(transport: asyncio.Transport) -> int:
    """Bytes that were written and that the peer's kernel has not acknowledged.

    The kernel has room for megabytes and says so only when a third of it is free. To a slow reader that may be minutes
    in which what waits in the transport does not change.
    """
    sock = transport.get_extra_info("socket")
    if sock is None:  # gone: over TLS we are told a turn later than it happens
        return 0
    try:
        (in_kernel,) = _COUNT.unpack(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, _COUNT.pack(0)))
    except (OSError, ValueError):  # closed since
        in_kernel = 0
    count: int = transport.get_write_buffer_size() + in_kernel
    return count


def reset(transport: asyncio.Transport) -> None:
    """Close by RST: nobody can take this for the end of anything."""
    if not transport.is_closing() or transport.get_write_buffer_size():
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
    transport.abort()


class Connection(asyncio.Protocol):
    """`deadline` as in deadlines.py, `waiting` as in turn.py, `send` is the transport's write without its turn."""

    __slots__ = (
        "_plane",
        "_reading_paused",
        "_turn",
        "_unwritten",
        "deadline",
        "is_slow",
        "send",
        "transport",
        "waiting",
    )

    transport: asyncio.Transport

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._turn = plane.turn
        self.deadline = 0
        self.waiting: bytes | None = None
        self.is_slow = False  # it has not taken what was written; resume_writing says when it has
        self._reading_paused = False
        self._unwritten = 0  # bytes, when last looked at

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.send = self.transport.write  # bound once: one attribute less per request
        self._plane.deadlines.watch(self)
        self._limit_buffers()

    def _limit_buffers(self) -> None:
        """pause_writing as soon as the kernel does not take everything: who holds bytes here is known (buffers.py)."""
        self.transport.set_write_buffer_limits(0)

    def fileno(self) -> int:
        """-1 where the socket is gone: over TLS we are told a turn later than it happens."""
        sock = self.transport.get_extra_info("socket")
        return -1 if sock is None else sock.fileno()

    def on_deadline(self, now: int) -> None:
        raise NotImplementedError

    def handle(self, data: bytes) -> None:
        raise NotImplementedError

    def held(self) -> int:
        raise NotImplementedError

    def shed(self) -> None:
        raise NotImplementedError

    # --- writing -----------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """At once, but behind what waits to be written."""
        if self._turn.outbox:
            self._turn.flush()
        self.send(data)

    def takes_what_is_written(self) -> bool:
        """Less is unwritten than when this was asked last: slow, perhaps, but reading."""
        before, self._unwritten = self._unwritten, unwritten(self.transport)
        return self._unwritten < before

    def pause_writing(self) -> None:
        self.is_slow = True
        self._unwritten = unwritten(self.transport)
        self._plane.buffers.holds(self, self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        self.is_slow = False

    # --- reading -----------------------------------------------------------------------------------------------------

    def pause_reading(self) -> None:
        """Leave what comes in the kernel, whose window closes: so the peer learns of it."""
        if not self._reading_paused and not self.transport.is_closing():
            self._reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()
