"""Connections that begin with a PROXY header: accepted here, because it comes before everything else, TLS included.

The header is taken from the socket to its last byte and no further. Only then does the connection get a transport, so
that neither TLS nor HTTP ever learns that there was one.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Final, TypeAlias

from bgproxy.dataplane.downstream import FIRST_REQUEST_NS
from bgproxy.dataplane.room import is_out_of_descriptors
from bgproxy.shm import worker_slot as slot
from bgproxy.wire import proxy_protocol
from bgproxy.wire.forwarded import address_of
from bgproxy.wire.proxy_protocol import BadIntroduction, Introduction

if TYPE_CHECKING:
    from collections.abc import Callable

    from bgproxy.dataplane.downstream import Downstream
    from bgproxy.dataplane.plane import DataPlane
    from bgproxy.dataplane.tls import TlsTransport

Accepted: TypeAlias = "Callable[[Introduction], Downstream | TlsTransport]"

ACCEPTS_AT_ONCE: Final = 64  # then the connections that are there already have their turn
# No descriptor is left, or no memory: the listener stays readable, and asking it at once again would only spin.
RETRY_S: Final = 0.1


class Acceptor:
    """In place of an asyncio server for one listening socket. `accepted` makes what goes on with a connection."""

    def __init__(self, plane: DataPlane, listener: socket.socket, accepted: Accepted) -> None:
        self._plane = plane
        self._listener = listener
        self._accepted = accepted
        self._retry: asyncio.TimerHandle | None = None
        listener.setblocking(False)
        self._listen()

    def _listen(self) -> None:
        self._retry = None
        self._plane.loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                sock, name = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                if is_out_of_descriptors(error):
                    self._plane.room.out_of_descriptors()
                self._plane.loop.remove_reader(self._listener)
                self._retry = self._plane.loop.call_later(RETRY_S, self._listen)
                return
            self._meet(sock, name)

    def _meet(self, sock: socket.socket, name: object) -> None:
        """Nobody else than a trusted proxy may say whose connection this is, and nothing else is expected here."""
        plane = self._plane
        if not plane.is_trusted(address_of(name)):
            plane.cells[slot.rejected_cell("proxy_protocol")] += 1
            sock.close()
        elif len(plane.clients) >= plane.room.limit and not plane.room.make():
            plane.cells[slot.rejected_cell("connections")] += 1
            sock.close()  # without an answer: who knows whether it speaks TLS
        else:
            sock.setblocking(False)
            Arrival(plane, sock, self._accepted)

    def close(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
        else:
            self._plane.loop.remove_reader(self._listener)
        self._listener.close()


class Arrival:
    """A connection until it has been introduced. `deadline`: for all of the header."""

    __slots__ = ("_accepted", "_handover", "_plane", "_sock", "_taken", "deadline")

    def __init__(self, plane: DataPlane, sock: socket.socket, accepted: Accepted) -> None:
        self._plane = plane
        self._sock = sock
        self._accepted = accepted
        self._taken = b""
        self._handover: asyncio.Task[None] | None = None
        self.deadline = plane.clock() + plane.header_ns
        plane.clients.add(self)
        plane.deadlines.watch(self)
        plane.loop.add_reader(sock, self._readable)

    def _readable(self) -> None:
        try:
            ahead = self._sock.recv(proxy_protocol.LONGEST - len(self._taken), socket.MSG_PEEK)
            read = proxy_protocol.read(self._taken + ahead)
            if not ahead or isinstance(read, BadIntroduction):
                # Not counted where it never said a word: that is how load balancers ask whether anybody is there.
                self._refuse(is_counted=bool(ahead or self._taken))
                return
            # Taken at once even where it is but a part: what stays in the socket would keep it readable.
            self._taken += self._sock.recv(len(ahead) if read is None else read.length - len(self._taken))
        except BlockingIOError:
            return
        except OSError:  # reset
            self._refuse(is_counted=False)
            return
        if read is not None and len(self._taken) == read.length:
            self._plane.loop.remove_reader(self._sock)
            self._handover = self._plane.spawn(self._hand_over(read))

    async def _hand_over(self, introduction: Introduction) -> None:
        plane = self._plane
        plane.clients.discard(self)  # the same connection: not counted twice
        client = self._accepted(introduction)
        try:
            await plane.loop.connect_accepted_socket(lambda: client, self._sock)
            if plane.draining:
                client.drain()
        except OSError:  # it has left
            self._sock.close()
        finally:
            self._end()

    # --- the other ends ----------------------------------------------------------------------------------------------

    def on_deadline(self, now: int) -> None:
        if self._handover is None:
            self._refuse(is_counted=True)
        else:
            self._handover.cancel()

    def idle_since(self) -> int:
        return max(1, self.deadline - self._plane.header_ns) if self._handover is None else 0

    def make_room(self) -> None:
        self.abandon()

    def drain(self) -> None:
        """Just accepted: its first request is on its way behind the header, and is still answered."""
        self.deadline = min(self.deadline, self._plane.clock() + FIRST_REQUEST_NS)

    def abandon(self) -> None:
        if self._handover is None:
            self._refuse(is_counted=False)
        else:
            self._handover.cancel()

    def _refuse(self, *, is_counted: bool) -> None:
        """Close without an answer: nobody is known to be there who speaks HTTP."""
        self._plane.loop.remove_reader(self._sock)
        if is_counted:
            self._plane.cells[slot.rejected_cell("proxy_protocol")] += 1
        self._sock.close()
        self._end()

    def _end(self) -> None:
        self._plane.deadlines.forget(self)
        self._plane.client_lost(self)
