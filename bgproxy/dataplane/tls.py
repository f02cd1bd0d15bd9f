"""TLS between a client's socket and its Downstream: a protocol to the transport below, a transport to what is above.

Not uvloop's own TLS: that has no half-close, tells the event loop's exception handler about every broken handshake, and
gives no sight of a connection before its handshake is over. Here such a connection is counted and bounded like any
other client, and whoever speaks plain HTTP is told so.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any, Final, cast

from bgproxy.dataplane.downstream import FIRST_REQUEST_NS, Downstream
from bgproxy.shm import worker_slot as slot
from bgproxy.wire.request import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bgproxy.dataplane.plane import DataPlane
    from bgproxy.wire.proxy_protocol import Introduction

_HANDSHAKE_RECORD: Final = 0x16
# The most that a record holds, and what goes through OpenSSL's memory at a time: that never shrinks, and each
# connection has two of it. Given whole reads, a connection that has moved one large body costs 0.9 MiB for ever.
_RECORD: Final = 16 * 1024


class TlsTransport(asyncio.Transport, asyncio.Protocol):
    """One of the plane's clients until the handshake is over; from then on its Downstream is.

    `deadline` as in deadlines.py, for the handshake as a whole.
    """

    __slots__ = (
        "_certificate",
        "_closing",
        "_finished",
        "_heard_eof",
        "_incoming",
        "_introduction",
        "_object",
        "_outgoing",
        "_plane",
        "_protocol",
        "_raw",
        "deadline",
    )

    _raw: asyncio.Transport
    _object: ssl.SSLObject

    def __init__(self, plane: DataPlane, introduction: Introduction | None = None) -> None:
        super().__init__()
        self._plane = plane
        self._introduction = introduction
        self._protocol: asyncio.Protocol | None = None  # None during the handshake, and when all is over
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._finished = False  # nothing more will be written
        self._closing = False
        self._heard_eof = False
        self.deadline = 0

    # --- the handshake -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = cast("asyncio.Transport", transport)
        plane = self._plane
        if len(plane.clients) >= plane.room.limit and not plane.room.make():
            self._fail("connections")  # a handshake costs more than many requests: none for a connection too many
            return
        plane.clients.add(self)
        self.deadline = plane.clock() + plane.header_ns
        plane.deadlines.watch(self)
        if plane.draining:
            self.drain()

    def _begin_handshake(self, data: bytes) -> None:
        if data[0] != _HANDSHAKE_RECORD:
            self._answer_without_tls(data)
            return
        certificates = self._plane.certificates
        if certificates is None:  # this worker could not load them, and has said so
            self._fail("tls_handshake")
            return
        self._object = certificates.for_hello(data).wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._shake_hands(data)

    def _shake_hands(self, data: bytes) -> None:
        self._incoming.write(data)
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            self._send_out()
        except ssl.SSLError:
            self._send_out()  # the alert that says why
            self._fail("tls_handshake")
        else:
            self._send_out()
            self._become_client()

    def _become_client(self) -> None:
        plane = self._plane
        try:
            self._certificate = self._object.getpeercert()
        except ValueError:  # signed by the right authority, and yet unreadable
            self._fail("tls_handshake")
            return
        plane.cells[slot.TLS_HANDSHAKES + bool(self._object.session_reused)] += 1
        plane.deadlines.forget(self)
        plane.clients.discard(self)
        self._protocol = client = Downstream(plane, self._introduction)
        client.connection_made(self)
        if plane.draining:
            client.drain()
        if self._incoming.pending or self._object.pending():
            self._read_plaintext(_RECORD)

    def _answer_without_tls(self, data: bytes) -> None:
        """Somebody who typed http:// reads why it does not work; a stranger's protocol gets no answer."""
        plane = self._plane
        if not data[:1].isalpha():
            self._fail("tls_handshake")
            return
        plane.deadlines.forget(self)
        plane.clients.discard(self)
        client = Downstream(plane, self._introduction)
        self._raw.set_protocol(client)
        client.connection_made(self._raw)
        client.refuse(Refusal(400, "plain_on_tls", "plain HTTP on a port that speaks TLS; use https://"))

    def _fail(self, reason: str) -> None:
        self._plane.cells[slot.rejected_cell(reason)] += 1
        self._closing = True
        self._raw.close()

    def on_deadline(self, now: int) -> None:
        if not self._closing:
            self._plane.cells[slot.rejected_cell("tls_timeout")] += 1
        self.abandon()

    def idle_since(self) -> int:
        """A handshake that does not end is no better than a request that does not come."""
        return 0 if self._closing else max(1, self.deadline - self._plane.header_ns)

    def make_room(self) -> None:
        self.abandon()

    def drain(self) -> None:
        """The worker leaves: who is just shaking hands may still ask once."""
        self.deadline = min(self.deadline, self._plane.clock() + FIRST_REQUEST_NS)

    def abandon(self) -> None:
        self._closing = True
        self._raw.abort()

    # --- what comes --------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        protocol = self._protocol
        if protocol is not None:
            size = len(data)
            if size <= _RECORD:
                self._incoming.write(data)
                self._read_plaintext(size)
            else:
                self._read_plaintext(_RECORD, memoryview(data))
        elif self._closing:
            pass
        elif hasattr(self, "_object"):
            self._shake_hands(data)
        else:
            self._begin_handshake(data)

    def _read_plaintext(self, size: int, rest: memoryview | bytes = b"") -> None:
        """Everything that is there, and the rest that has come; `size` is how much is asked for at a time. A record
        holds less than its bytes, so for one that came alone this is one call, without an exception at its end."""
        incoming, connection = self._incoming, self._object
        pieces: list[bytes] = []
        ended = False
        while True:
            try:
                while piece := connection.read(size):
                    pieces.append(piece)
                    if not incoming.pending and not connection.pending():
                        break
                else:
                    ended = True
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLZeroReturnError:
                ended = True
            except ssl.SSLError:  # a record that was tampered with
                self._send_out()
                self._raw.abort()
                return
            if ended or not rest:
                break
            incoming.write(rest[:_RECORD])
            rest = rest[_RECORD:]
        if self._outgoing.pending:  # new keys, which TLS 1.3 may ask for at any time
            self._send_out()
        protocol = self._protocol
        if protocol is None:
            return
        if pieces:
            protocol.data_received(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if ended:
            self._hear_eof()

    def eof_received(self) -> bool:
        return self._hear_eof()

    def _hear_eof(self) -> bool:
        """By close_notify or by FIN, whichever comes first. True where there is still something to say."""
        if self._protocol is None:
            return False
        if not self._heard_eof:
            self._heard_eof = True
            if not self._protocol.eof_received():
                self.close()
        return not self._closing

    def connection_lost(self, exc: Exception | None) -> None:
        plane = self._plane
        protocol, self._protocol = self._protocol, None  # two objects that know each other are garbage only together
        if protocol is not None:
            self._closing = True
            protocol.connection_lost(exc)
            return
        if hasattr(self, "_object") and not self._closing:
            plane.cells[slot.rejected_cell("tls_handshake")] += 1
        self._closing = True
        plane.deadlines.forget(self)
        plane.client_lost(self)

    # --- what goes ---------------------------------------------------------------------------------------------------

    def write(self, data: Any) -> None:
        if self._finished or not data:
            return
        try:
            if len(data) <= _RECORD:
                self._object.write(data)  # all of it: OpenSSL splits it into records, and memory is never full
                encrypted = self._outgoing.read()
            else:
                encrypted = b"".join(self._encrypted(memoryview(data)))
        except ssl.SSLError:
            self.abort()
            return
        self._raw.write(encrypted)

    def _encrypted(self, data: memoryview) -> Iterator[bytes]:
        for start in range(0, len(data), _RECORD):
            self._object.write(data[start : start + _RECORD])
            yield self._outgoing.read()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """close_notify, then FIN; what comes is still read, as TLS 1.3 has it and TLS 1.2 allows."""
        self._finish()
        if not self._raw.is_closing():
            self._raw.write_eof()

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._finish()
            self._raw.close()

    def abort(self) -> None:
        """Without close_notify, so that nobody takes for whole what was cut."""
        self._closing = self._finished = True
        self._raw.abort()

    def is_closing(self) -> bool:
        return self._closing or self._raw.is_closing()

    def _finish(self) -> None:
        if self._finished:
            return
        self._finished = True
        try:
            self._object.unwrap()
        except (ssl.SSLError, ValueError):  # the other side's close_notify has not come: nobody waits for it
            pass
        self._send_out()

    def _send_out(self) -> None:
        data = self._outgoing.read()
        if data and not self._raw.is_closing():
            self._raw.write(data)

    # --- passed on ---------------------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        if self._protocol is not None:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        if self._protocol is not None:
            self._protocol.resume_writing()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = cast("asyncio.Protocol", protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol or self

    def pause_reading(self) -> None:
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        self._raw.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._raw.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._raw.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "ssl_object":
            return self._object
        return self._certificate if name == "peercert" else self._raw.get_extra_info(name, default)
