"""A connection to an upstream: reads responses, one at a time, and tells the exchange what came.

A connection is either parked (no exchange, nothing may arrive) or carries one exchange. Whatever leaves any doubt about
where the next response would begin closes it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from bgproxy.core import failure as failures
from bgproxy.core.failure import Failure
from bgproxy.dataplane.flow import Connection, unwritten
from bgproxy.tls.upstream import why
from bgproxy.wire.framing import BAD, Decoder, UnframedDecoder, decoder_of
from bgproxy.wire.response import BadResponse, ReadResponse, ResponseHead

if TYPE_CHECKING:
    from bgproxy.dataplane.exchange import Exchange
    from bgproxy.dataplane.plane import DataPlane
    from bgproxy.dataplane.server import Server

HEAD_BYTES: Final = 64 * 1024
MAX_INTERIM: Final = 16  # 1xx responses before one final response
TLS_WRITE_BUFFER: Final = 64 * 1024  # bytes, as without TLS; uvloop would take eight times as much


class UpstreamConnection(Connection):
    """`deadline`: the response, the next body bytes, or the end of parking."""

    __slots__ = ("_decoder", "_has_ended", "_held", "_interims", "_keep_alive", "exchange", "server")

    def __init__(self, plane: DataPlane, server: Server) -> None:
        super().__init__(plane)
        self.server = server
        self.exchange: Exchange | None = None
        self._decoder: Decoder | None = None  # of the body that is being read; None before and between
        self._held = b""  # the beginning of a head
        self._interims = 0
        self._keep_alive = False
        self._has_ended = False  # by a FIN, over TLS by a close_notify: nobody has cut it in between

    def _limit_buffers(self) -> None:
        if not self.server.address.server_name:
            super()._limit_buffers()
            return
        # What uvloop has read ahead while we do not read is lost when the upstream closes: let it not read ahead.
        self.transport.set_read_buffer_limits(high=1)  # type: ignore[attr-defined]
        self.transport.set_write_buffer_limits(TLS_WRITE_BUFFER)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.waiting is not None:
            self._turn.handle_now(self)
            if (successor := self.transport.get_protocol()) is not self:  # what waited was a 101
                successor.connection_lost(exc)
                return
        self._plane.deadlines.forget(self)
        self._plane.buffers.forget(self)
        exchange, self.exchange = self.exchange, None
        refused = (
            isinstance(exc, ssl.SSLError) and exchange is not None and not exchange.was_reused and self.nothing_received
        )
        self.server.lost(self, why(exc) if refused and exc is not None else "")
        if exchange is None:
            return
        if self._decoder is None:
            exchange.failed(failures.TLS_FAILED if refused else self._no_answer())
        elif isinstance(self._decoder, UnframedDecoder) and self._has_ended and exc is None:
            exchange.response_complete()
        else:
            exchange.failed(failures.RESPONSE_TRUNCATED)

    def _no_answer(self) -> Failure:
        return failures.CLOSED_BEFORE_RESPONSE if not self._held else failures.BAD_RESPONSE

    def eof_received(self) -> bool:
        if self.waiting is not None:
            self._turn.handle_now(self)
            successor = self.transport.get_protocol()
            if isinstance(successor, asyncio.Protocol) and successor is not self:  # what waited was a 101
                return bool(successor.eof_received())
        self._has_ended = True
        self.server.unpark(self)
        if self.exchange is not None and self.server.address.server_name:
            self.transport.abort()  # uvloop would first wait for all of the request to be taken
        return False  # close: an upstream that half-closes will not read another request either

    # --- an exchange comes and goes ----------------------------------------------------------------------------------

    @property
    def nothing_received(self) -> bool:
        return self._decoder is None and not self._held and self._interims == 0

    def close(self) -> None:
        """Close for good; a request that is on it is not completed."""
        self.exchange = None
        self.transport.abort()

    def leave(self) -> None:
        """Close a parked connection, in the way that TLS asks for: the upstream may log anything else as an error."""
        self.server.unpark(self)
        if self.server.address.server_name:
            self.transport.close()
        else:
            self.transport.abort()

    def _end_response(self, exchange: Exchange, *, clean: bool, trailers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """The response is complete; `clean` where the connection is at a message boundary and may live on."""
        self.exchange = None
        self._decoder = None
        self._interims = 0
        exchange.response_complete(trailers)
        # Only now: the last write to the client may still hold this connection back, whoever has it.
        self.resume_reading()
        if clean and self._keep_alive and exchange.client.upload is None:
            self.server.release(self)
        else:
            self.transport.abort()

    # --- bytes from the upstream -------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self.exchange is None:
            self.server.unpark(self)
            self.transport.abort()  # nobody asked: no later request may see this
        elif self._decoder is not None:
            self.handle(data)
        elif self.waiting is None:
            self.waiting = data
            turn = self._turn
            if not turn.inbox:
                turn.is_due()
            turn.inbox.append(self)
        else:
            self._turn.put(self, data)

    def handle(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:
            return  # the client left while this waited; close() has been called
        if self._decoder is not None:
            self.deadline = self._plane.deadlines.now + exchange.body_idle_ns
            self._read_body(exchange, self._decoder, data)
            return
        if self._held:
            data, self._held = self._held + data, b""
        end = data.find(b"\r\n\r\n") + 4
        if end < 4:
            self._await_rest_of_head(exchange, data)
            return
        response = self._plane.responses.read(data[:end], data, exchange.request.method)
        if (  # plain and whole, to a request that is done: nearly always so
            type(response) is ResponseHead
            and response.body == len(data) - end
            and end <= HEAD_BYTES
            and exchange.client.upload is None
        ):
            self._interims = 0
            self.exchange = None
            exchange.answer_with(response, data[end:])
            if self._reading_paused:
                self.resume_reading()
            self.server.release(self)
        else:
            self._begin_response(exchange, response, data, end)

    def _await_rest_of_head(self, exchange: Exchange, data: bytes) -> None:
        self._plane.buffers.holds(self, len(data))
        self._held = data
        if len(data) > HEAD_BYTES or not data.startswith(b"HTTP/1."[: len(data)]):
            self._bad(exchange, "the response head is too long, or not HTTP/1.1")

    def _begin_response(self, exchange: Exchange, response: ReadResponse, data: bytes, end: int) -> None:
        """A response of any kind, or what is none."""
        if isinstance(response, BadResponse):
            self._bad(exchange, response.detail)
        elif end > HEAD_BYTES:
            self._bad(exchange, "the response head is too long")
        elif response.status >= 200:
            self._keep_alive = response.keep_alive
            self._begin_body(exchange, response, data[end:])
        else:
            self._interim(exchange, response, data[end:])

    def _begin_body(self, exchange: Exchange, response: ResponseHead, rest: bytes) -> None:
        exchange.respond(response, b"")
        if exchange.client.is_slow:  # with an earlier answer: it is not said again
            self.pause_reading()
        self._decoder = decoder = decoder_of(response.body)
        self.deadline = self._plane.deadlines.now + exchange.body_idle_ns
        if rest or response.body == 0:
            self._read_body(exchange, decoder, rest)

    def _read_body(self, exchange: Exchange, decoder: Decoder, data: bytes) -> None:
        end = decoder.feed(data)
        if decoder.pieces:
            pieces, decoder.pieces = decoder.pieces, []
            exchange.relay(pieces)
        if end == BAD:
            self.close()
            exchange.failed(failures.RESPONSE_TRUNCATED)
        elif end >= 0:  # what is behind the end is dropped, and the connection with it
            self._end_response(exchange, clean=end == len(data), trailers=decoder.trailers)

    def _interim(self, exchange: Exchange, response: ResponseHead, rest: bytes) -> None:
        self._interims += 1
        if response.status == 101:
            if not exchange.switch_protocols(response, rest):
                self._bad(exchange, "the upstream switches to a protocol nobody asked for")
        elif self._interims > MAX_INTERIM:
            self._bad(exchange, "too many interim responses")
        else:
            exchange.interim(response)
            if rest and self.exchange is not None:
                self.handle(rest)

    def _bad(self, exchange: Exchange, detail: str) -> None:
        self.close()
        exchange.failed(failures.BAD_RESPONSE, detail)

    # --- time and flow -----------------------------------------------------------------------------------------------

    def on_deadline(self, now: int) -> None:
        exchange = self.exchange
        if self.waiting is not None:
            self.deadline = now  # it did come: handled first, and asked again in a round
        elif exchange is None:
            self.leave()  # parked for long enough
        elif self._reading_paused:
            self.deadline = now + exchange.body_idle_ns  # the client is slow, not the upstream: its own deadline runs
        elif self.is_slow and self.takes_what_is_written():
            self.deadline = now + self._plane.response_ns
        elif self._decoder is not None and not self.is_slow and exchange.client.upload is not None:
            self.deadline = now + exchange.body_idle_ns  # it may wait for the rest of the request: its client is asked
        else:
            failure = failures.RESPONSE_TIMEOUT if self._decoder is None else failures.RESPONSE_IDLE
            self.close()
            exchange.failed(failure)

    def pause_reading(self) -> None:
        """The client does not take its answer."""
        exchange = self.exchange
        if exchange is not None and not self._reading_paused:
            transport = exchange.client.transport
            self.server.stalled.begin(self, self._plane.deadlines.now, lambda: unwritten(transport))
        super().pause_reading()

    def resume_reading(self) -> None:
        if self._reading_paused:
            self.server.stalled.end(self)
        super().resume_reading()

    def waits_for_body(self, does: bool) -> None:
        """The client is to send more of its request, or there is nothing more to come or to be taken now."""
        if does:
            self.server.stalled.begin(self, self._plane.deadlines.now)
        else:
            self.server.stalled.end(self)

    def held(self) -> int:
        return len(self._held) + (self.transport.get_write_buffer_size() if self.is_slow else 0)

    def shed(self) -> None:
        exchange = self.exchange
        if exchange is None:
            self.transport.abort()
        else:
            exchange.client_failed(503, "buffered_bytes", "this proxy holds as much for slow upstreams as it may")

    def pause_writing(self) -> None:
        """The upstream does not keep up: neither does its client, then."""
        super().pause_writing()
        self.deadline = self._plane.deadlines.now + self._plane.response_ns
        if self.exchange is not None:
            self.exchange.client.pause_upload()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.exchange is not None:  # a parked one keeps its end of parking
            self.deadline = 0
            if self.exchange.client.upload is None:
                self.deadline = self._plane.deadlines.now + self.exchange.patience_ns
            self.exchange.client.resume_upload()
