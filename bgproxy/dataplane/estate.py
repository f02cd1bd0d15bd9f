"""What a worker keeps for a supervisor that is not born yet: the listening sockets of all workers.

As long as there is a supervisor, nobody is answered here. Without one, whoever connects to the socket in the state
directory gets a copy of every listening socket, so that its workers read the very queues that these read. Until then
each worker accepts for all: one that dies now is not replaced, and nobody is to wait in a queue that is not read.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING

from bgproxy.shm import bequest
from bgproxy.shm.bequest import Bequest

if TYPE_CHECKING:
    import asyncio

    from bgproxy.dataplane.listener import Listener

_UCRED = struct.Struct("3i")  # pid, uid, gid
SEND_BOUND_S = 1.0  # an heir that does not read must not keep requests waiting for longer


class Estate:
    """`kept` are the sockets of all slots, `own` those of them that the worker accepts from anyway; `fd` is the
    listening socket that heirs connect to."""

    def __init__(self, loop: asyncio.AbstractEventLoop, kept: Bequest, own: set[int], fd: int) -> None:
        self._loop, self._kept, self._own = loop, kept, own
        self._door = socket.socket(fileno=fd)
        self._door.setblocking(False)

    async def serve_for_all(self, listener: Listener) -> None:
        if self._door.fileno() < 0:
            return
        self._loop.add_reader(self._door, self._hand_over)
        for each in self._kept.heirlooms:
            await listener.open((os.dup(fd) for fd in each.fds if fd not in self._own), tls=each.role == "tls")

    def close(self) -> None:
        """Give up what is not the listener's."""
        if self._door.fileno() < 0:
            return
        self._loop.remove_reader(self._door)
        self._door.close()
        for fd in set(self._kept.fds) - self._own:
            os.close(fd)
        self._kept = Bequest()

    def _hand_over(self) -> None:
        try:
            heir, _ = self._door.accept()
        except OSError:  # another worker was faster, or no descriptor is left: then the heir asks again
            return
        with heir:
            heir.settimeout(SEND_BOUND_S)
            try:
                credentials = heir.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
                if _UCRED.unpack(credentials)[1] in (os.geteuid(), 0):
                    bequest.send(heir, self._kept)
            except OSError:
                pass  # it has left, or does not read
