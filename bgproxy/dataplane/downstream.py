"""A client connection: reads requests, one at a time, hands each to an exchange, and writes what comes back.

While one request is being answered, what the client sends further (pipelining) is kept up to a bound, and then no
longer read. After any refusal nothing more is taken as a request on that connection (RFC 9112 section 2.2, 9.6).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from bgproxy.dataplane import exchange as exchanges
from bgproxy.dataplane.exchange import DRAINED, Exchange
from bgproxy.dataplane.flow import Connection, unwritten
from bgproxy.dataplane.flow import reset as close_by_reset
from bgproxy.dataplane.linger import linger
from bgproxy.dataplane.peer import Peer
from bgproxy.dataplane.upload import Upload
from bgproxy.shm import worker_slot as slot
from bgproxy.wire.request import (
    MISDIRECTED,
    ReadRequest,
    Refusal,
    RequestHead,
    why_hopeless,
    without_empty_lines,
)

if TYPE_CHECKING:
    from bgproxy.dataplane.plane import DataPlane
    from bgproxy.wire.proxy_protocol import Introduction

# A client that has half-closed is served as long as response bytes flow; quiet for this long, it is taken for gone.
HALF_CLOSED_NS: Final = 2_000_000_000
# How long a drain waits for the first request on a connection that was just accepted.
FIRST_REQUEST_NS: Final = 1_000_000_000


class Downstream(Connection):
    """`deadline`: the head, the next body bytes, room to write, or the next request.

    `upload` is there from the head of a request with a body to the body's last byte; `must_close` where no further
    request will be read; `closing` where nothing more will be said.
    """

    __slots__ = (
        "_buffer",
        "_eof",
        "_introduction",
        "_requests_left",
        "added",
        "closing",
        "exchange",
        "must_close",
        "peer",
        "upload",
    )

    def __init__(self, plane: DataPlane, introduction: Introduction | None = None) -> None:
        super().__init__(plane)
        self._introduction = introduction
        self.exchange: Exchange | None = None
        self.upload: Upload | None = None
        self.must_close = False
        self.closing = False
        self._buffer = b""  # what came and was not used yet: the beginning of a head, or what is pipelined
        self._eof = False
        self._requests_left = plane.requests_per_connection  # 0 at first: without end, because it is never 0 again

    # --- the connection ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        plane = self._plane
        self.peer = Peer(plane, transport, self._introduction)
        self.added = plane.hsts_line if self.peer.proto == b"https" else b""
        plane.clients.add(self)
        plane.cells[slot.CONNECTIONS_TOTAL] += 1
        self.deadline = plane.deadlines.now + plane.keep_alive_ns
        if len(plane.clients) > plane.room.limit and not plane.room.make(self):
            plane.room.turn_away(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.waiting is not None:
            self._turn.handle_now(self)
        self._plane.deadlines.forget(self)
        self._plane.buffers.forget(self)
        self._plane.client_lost(self)
        exchange, self.exchange = self.exchange, None
        self.closing = True
        if exchange is not None:
            exchange.client_gone()

    def eof_received(self) -> bool:
        if self.waiting is not None:
            self._turn.handle_now(self)
        self._eof = True
        exchange = self.exchange
        if exchange is None:
            self._turn.flush()  # an answer may wait there, and is not written behind the close
            if self._buffer:  # a request that waits for its turn is still answered
                self._plane.loop.call_soon(self._next_request)
            return self._buffer != b""
        if self.upload is not None:
            if self._buffer and exchange.upstream is None:
                return True  # perhaps all of the body waits there: seen when it is sent on
            self.exchange = None
            exchange.client_gone()  # the body will never be complete, and must not look as if it were
            return False
        self.deadline = self._plane.deadlines.now + HALF_CLOSED_NS
        return True

    def close(self) -> None:
        """Flush, then FIN. A client that does not read gets no longer than the write timeout."""
        self._turn.flush()
        self.closing = True
        self.deadline = self._plane.deadlines.now + self._plane.write_idle_ns
        if self.transport.get_write_buffer_size():
            self._unwritten = unwritten(self.transport)
        self.transport.close()

    def cut(self, *, reset: bool) -> None:
        """End in the middle of a response, so that the client can't take it for a whole one.

        Short of its Content-Length or its last chunk the FIN shows it. `reset` where a response ends with the
        connection: there a FIN would say that it is complete.
        """
        self.exchange = None
        self._turn.flush()
        if reset:
            self.drop()
        else:
            self.close()

    def drop(self) -> None:
        """End it at once and for both sides: what we and the kernel still hold for it is given up."""
        self.closing = True
        close_by_reset(self.transport)

    def take_over(self) -> tuple[bytes, bool]:
        """The connection becomes a tunnel; what had come behind the request goes there, and whether its FIN had."""
        self.exchange = None
        self.closing = True  # not ours to close when the worker drains: the tunnel ends by itself, or is cut
        self._plane.buffers.forget(self)
        early, self._buffer = self._buffer, b""
        return early, self._eof

    def abandon(self) -> None:
        """Cut at the end of a drain; what was running is logged as such."""
        exchange, self.exchange = self.exchange, None
        self.closing = True
        self.transport.abort()
        if exchange is not None:
            exchange.client_gone(DRAINED)

    def drain(self) -> None:
        """No further request. One that is being read or answered is finished."""
        self._turn.handle_now(self)
        if self.exchange is not None or self._buffer or self.closing:
            return
        grace = self._plane.last_request_ns
        if self.peer.usual_host is None:  # just accepted: its first request is on its way, and is still answered
            grace = max(grace, FIRST_REQUEST_NS)
        if grace:
            self.deadline = self._plane.clock() + grace
        else:
            self.close()

    # --- requests ----------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self.exchange is not None:
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
        if self.exchange is not None or self.closing:
            self._read_on(data)
            return
        if self._buffer:
            data = self._buffer + data
        plane = self._plane
        end = data.find(b"\r\n\r\n") + 4
        if end != len(data) or not 4 < end <= plane.head_bytes:
            self._read_head(data, end)
            return
        self._buffer = b""
        request = plane.requests.read(data)  # exactly one head: nearly always so
        if type(request) is RequestHead:
            self.deadline = 0
            self._requests_left -= 1
            if self._requests_left == 0:
                self._last_request()
            self.exchange = exchange = Exchange(plane, self, request)
            exchange.begin()
        else:
            self._begin_judged(request, data)

    def _read_on(self, data: bytes) -> None:
        if self.closing:
            return
        if self.upload is None:
            self._keep_pipelined(data)
        else:
            self._buffer = self._buffer + data if self._buffer else data
            self._read_body(self.upload)

    def _read_head(self, data: bytes, end: int) -> None:
        """`end` is where the first head in `data` ends, 3 where it does not, 4 where there is only an empty line."""
        plane = self._plane
        if end < 4:
            self._await_rest_of_head(without_empty_lines(data))
        elif end == 4 or data.startswith(b"\r\n"):
            self._buffer = b""
            rest = without_empty_lines(data)
            if rest:
                self.handle(rest)
        elif end > plane.head_bytes:
            self._refuse_hopeless(data[:end])
        else:
            head, self._buffer = data[:end], data[end:]
            self._begin_judged(plane.requests.read(head), head)

    def _begin_judged(self, request: ReadRequest, head: bytes) -> None:
        """Begin a request of any kind, or answer it with its refusal."""
        if isinstance(request, Refusal):
            head = without_empty_lines(head)
            if not self._refuse_hopeless(head):
                self.refuse(request, request_head=head)
            return
        if not self.peer.may_ask_for(request.scheme):
            self.refuse(MISDIRECTED, request=request)
            return
        self.deadline = 0
        self.must_close = not request.keep_alive
        self._requests_left -= 1
        if self._requests_left == 0:
            self._last_request()
        self.exchange = exchange = Exchange(self._plane, self, request)
        if request.body:
            self._begin_body(exchange, request)
            return
        exchange.begin()
        if self._buffer and self.exchange is not None:
            self._keep_pipelined(b"")

    def _last_request(self) -> None:
        """As many as one connection may carry: the answer says so."""
        if not self.must_close:
            self.must_close = True
            self._plane.cells[slot.closed_cell("requests")] += 1

    def _await_rest_of_head(self, data: bytes) -> None:
        if self._refuse_hopeless(data):
            return
        if self._eof:  # and so its end will not come
            self.close()
            return
        if not data:  # empty lines behind the last request are not the beginning of one
            self._buffer = b""
            return
        if not self._buffer:  # once per head: a dripped byte does not extend it
            self.deadline = self._plane.clock() + self._plane.header_ns
        self._plane.buffers.holds(self, len(data) - len(self._buffer))
        self._buffer = data

    def _refuse_hopeless(self, data: bytes) -> bool:
        """Refuse what is wrong with a head for the first reason there is, as if it had come byte by byte."""
        plane = self._plane
        refusal = why_hopeless(data, plane.head_bytes, plane.settings.limits.target_bytes)
        if refusal is None:
            return False
        self.refuse(refusal, request_head=data)
        return True

    def _keep_pipelined(self, data: bytes) -> None:
        self._buffer += data
        plane = self._plane
        plane.buffers.holds(self, len(data) or len(self._buffer))
        if len(self._buffer) > plane.head_bytes or self._buffer.count(b"\r\n\r\n") >= plane.pipeline:
            if not self._reading_paused:
                plane.cells[slot.PIPELINE_PAUSES] += 1
            self.pause_reading()

    # --- request bodies ----------------------------------------------------------------------------------------------

    def _begin_body(self, exchange: Exchange, request: RequestHead) -> None:
        limit = self._plane.settings.limits.body_bytes
        if 0 < limit < request.body:
            self.exchange = None
            refusal = Refusal(413, "body_too_large", f"the request body is larger than {limit} bytes")
            self.refuse(refusal, request=request)
            return
        self.upload = Upload(request.body, limit)
        self.deadline = self._plane.deadlines.now + self._plane.client_body_ns
        exchange.begin()
        if self.exchange is exchange and exchange.upstream is None:
            self._plane.buffers.holds(self, len(self._buffer))
            self.pause_upload()  # no connection yet: what came waits in the buffer, the rest in the kernel

    def pause_upload(self) -> None:
        """The upstream does not keep up."""
        exchange = self.exchange
        if self.upload is not None:
            self.deadline = 0
            self.pause_reading()
            if exchange is not None and exchange.upstream is not None:
                exchange.upstream.waits_for_body(False)

    def resume_upload(self) -> None:
        if self.upload is None:
            return
        self.deadline = self._plane.deadlines.now + self._plane.client_body_ns
        self.resume_reading()
        exchange = self.exchange
        if self._buffer:
            self._read_body(self.upload)
        elif exchange is not None and exchange.upstream is not None and not exchange.request.expects_continue:
            exchange.upstream.waits_for_body(True)  # who waits for a 100 is kept waiting itself
        exchange = self.exchange
        if self._eof and self.upload is not None and exchange is not None:
            self.exchange = None
            exchange.client_gone()  # the body came short
            self.transport.abort()

    def _read_body(self, upload: Upload) -> None:
        exchange = self.exchange
        if exchange is None or exchange.upstream is None:
            self._plane.buffers.holds(self, len(self._buffer))
            self.pause_reading()
            return
        self.deadline = self._plane.deadlines.now + self._plane.client_body_ns
        data, self._buffer = self._buffer, b""
        end = upload.send_on(exchange, data)
        if end >= 0:
            self._buffer = data[end:]
            self._end_upload(exchange)
        elif exchange.upstream is not None and not self._reading_paused:
            exchange.upstream.waits_for_body(True)

    def _end_upload(self, exchange: Exchange) -> None:
        self.upload = None
        self.deadline = self._plane.deadlines.now + HALF_CLOSED_NS if self._eof else 0
        if exchange.upstream is not None:
            exchange.upstream.waits_for_body(False)
        exchange.end_body()
        if self._buffer:
            self._keep_pipelined(b"")

    # --- answers -----------------------------------------------------------------------------------------------------

    def closes_after_this(self) -> bool:
        """Will the answer to the current request be the last on this connection?"""
        return self.must_close or self.upload is not None or self._plane.draining

    def relay(self, data: bytes) -> None:
        self.write(data)
        if self._eof:
            self.deadline = self._plane.deadlines.now + HALF_CLOSED_NS

    def exchange_over(self, *, close: bool) -> None:
        """The response is written. Next request, or goodbye."""
        self.exchange = None
        if close or (self._plane.draining and not self._plane.last_request_ns):
            self.must_close = True
            if self.upload is None and not self._buffer:
                self.close()
            else:
                self._buffer = b""
                linger(self._plane, self)
        elif self.is_slow:
            # resume_writing goes on: answers are not piled up for a client that does not read
            self.pause_reading()
        else:
            plane = self._plane
            self.deadline = plane.deadlines.now + plane.keep_alive_ns
            if self._buffer or self._eof:
                self._plane.loop.call_soon(self._next_request)
            elif self._reading_paused:
                self.resume_reading()

    def _next_request(self) -> None:
        if self.exchange is not None or self.closing or self.is_slow:
            return
        if self._eof and self.waiting is None and not self._buffer:
            self.close()
            return
        self.resume_reading()
        if self._buffer and self.waiting is None:  # what waits came behind the buffer: handled together, in this order
            buffer, self._buffer = self._buffer, b""
            self._turn.put(self, buffer)

    def refuse(self, refusal: Refusal, *, request_head: bytes = b"", request: RequestHead | None = None) -> None:
        """Answer ourselves and read no further request here. `request_head` is what there is of it, broken or not."""
        plane = self._plane
        plane.cells[slot.rejected_cell(refusal.reason)] += 1
        id_line = plane.new_request_id_line() if request is None else self.peer.request_id_line(request)
        answer = plane.replies.reply(
            refusal.status,
            refusal.reason,
            refusal.detail,
            asked=request_head[: plane.head_bytes] if request is None else b"".join(request.pieces),
            date=plane.http_date,
            request_id_line=id_line,
            close=True,
            added=self.added,
        )
        self.write(answer)
        if plane.access_log is not None:
            request_id = id_line.partition(b": ")[2]
            plane.access_log.record_refusal(self.peer.address, request, refusal.status, len(answer), request_id)
        self._buffer = b""
        linger(plane, self)

    # --- held requests -----------------------------------------------------------------------------------------------

    def wait(self) -> None:
        """Its request is held: what else it sends stays in the kernel."""
        if not self._eof:  # behind a FIN uvloop would find the FIN once more
            self.pause_reading()

    def go_on(self) -> None:
        """Its request is held no longer. A body goes on by itself when there is a connection for it."""
        if self.upload is None:
            self.deadline = self._plane.deadlines.now + HALF_CLOSED_NS if self._eof else 0
            self.resume_reading()
        else:
            self.deadline = 0

    def has_finished(self) -> None:
        """Its FIN has come, though it is not read from: it gets as long as any half-closed client."""
        if not self.deadline:
            self.deadline = self._plane.clock() + HALF_CLOSED_NS

    # --- time and flow -----------------------------------------------------------------------------------------------

    def on_deadline(self, now: int) -> None:
        exchange = self.exchange
        if self.waiting is not None:
            self.deadline = now  # it did come: handled first, and asked again in a round
        elif self.closing or self.is_slow:
            self._on_write_deadline(now)
        elif exchange is None:
            self._on_idle_deadline()
        elif exchange.word < 0:
            exchange.client_silent()
        elif self.upload is not None:
            exchange.client_failed(408, "body_timeout", "the request body did not arrive in time")
        elif self._eof:
            exchange.client_silent()

    def _on_write_deadline(self, now: int) -> None:
        if self.takes_what_is_written():
            self.deadline = now + self._plane.write_idle_ns
            return
        self._plane.cells[slot.rejected_cell("write_timeout")] += 1
        self.give_up(exchanges.TIMEOUT)

    def give_up(self, termination: str) -> None:
        """The client takes nothing of its answer; what was running is logged as such."""
        exchange, self.exchange = self.exchange, None
        self.drop()
        if exchange is not None:
            exchange.client_gone(termination)

    def _on_idle_deadline(self) -> None:
        if self._buffer:
            refusal = Refusal(408, "header_timeout", "the request head did not arrive in time")
            self.refuse(refusal, request_head=self._buffer)
        else:
            if not self._plane.draining:
                self._plane.cells[slot.closed_cell("keep_alive")] += 1
            self.close()

    # --- where there is too much of something ------------------------------------------------------------------------

    def idle_since(self) -> int:
        """When it began to wait for its client: for a request, the rest of a head, or to take an answer. In ns; 0 while
        it does not."""
        if self.exchange is not None or self.waiting is not None or self.closing:
            return 0
        plane = self._plane
        patience = plane.write_idle_ns if self.is_slow else plane.header_ns if self._buffer else plane.keep_alive_ns
        return max(1, self.deadline - patience)

    def make_room(self) -> None:
        """Somebody else needs the place more."""
        if self.is_slow:
            self.drop()
        else:
            self.close()

    def held(self) -> int:
        return len(self._buffer) + (self.transport.get_write_buffer_size() if self.is_slow else 0)

    def shed(self) -> None:
        """A request that was not begun is refused; what is being answered is cut."""
        exchange = self.exchange
        why = "this proxy holds as much for slow clients as it may"
        if exchange is None and not self.closing and not self.is_slow:
            self.refuse(Refusal(503, "buffered_bytes", why), request_head=self._buffer)
        elif exchange is not None and not exchange.status and exchange.upstream is None and not self.is_slow:
            exchange.client_failed(503, "buffered_bytes", why)
        else:
            self._plane.cells[slot.rejected_cell("buffered_bytes")] += 1
            self.give_up(exchanges.LIMIT)

    def pause_writing(self) -> None:
        """The client does not keep up: neither does its upstream, then."""
        super().pause_writing()
        self.deadline = self._plane.deadlines.now + self._plane.write_idle_ns
        exchange = self.exchange
        if exchange is None:
            self.pause_reading()  # no further request before this answer is taken
        elif exchange.upstream is not None:
            exchange.upstream.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        exchange = self.exchange
        if self.closing:
            return
        if exchange is None:
            self.deadline = self._plane.deadlines.now + self._plane.keep_alive_ns
            self._next_request()
            return
        self.deadline = 0 if self.upload is None else self._plane.deadlines.now + self._plane.client_body_ns
        if exchange.upstream is not None:
            exchange.upstream.resume_reading()
