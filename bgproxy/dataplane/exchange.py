"""One request and its response: which colour, which upstream, what is sent where, and how it ended.

The live word is read once, in the same tick in which the request is counted as in flight. Whatever happens afterwards,
retries included, happens inside the pool of that colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bgproxy.core import failure as failures
from bgproxy.core.failure import Failure
from bgproxy.core.retry import SAFE, may_send_again, may_try_another_upstream
from bgproxy.dataplane.access_log import REFUSED
from bgproxy.dataplane.tunnel import Tunnel
from bgproxy.shm import worker_slot as slot
from bgproxy.shm.live_pointer import HOLD_MASK
from bgproxy.wire import encode, hop_by_hop, upgrade
from bgproxy.wire.request import RequestHead

if TYPE_CHECKING:
    from bgproxy.dataplane.downstream import Downstream
    from bgproxy.dataplane.leaving import Leaving
    from bgproxy.dataplane.plane import DataPlane
    from bgproxy.dataplane.server import Server
    from bgproxy.dataplane.upstream import UpstreamConnection
    from bgproxy.wire.response import ResponseHead

_REQUEST_CELLS = {
    name.encode(): tuple(slot.REQUESTS + colour * slot.COLOUR_REQUESTS + row * slot.CODE_ROW for colour in (0, 1))
    for row, name in enumerate(slot.METHODS)
}
_OTHER_CELLS = _REQUEST_CELLS[b"OTHER"]
_HISTOGRAM_ROWS = tuple(
    tuple(
        slot.HISTOGRAM + colour * slot.COLOUR_HISTOGRAMS + code * slot.HISTOGRAM_ROW
        for code in range(slot.CODE_CLASSES)
    )
    for colour in (0, 1)
)
_STREAMS = {slot.TUNNELS: "tunnel", slot.EVENT_STREAMS: "events"}
_ERROR_CELLS = {f.reason: tuple(slot.error_cell(colour, f.reason) for colour in (0, 1)) for f in failures.ALL}

# How the body of a response is framed for the client.
AS_IT_IS, IN_CHUNKS, UNTIL_THE_END = range(3)

# How an exchange ended, in the access log.
OK, CLIENT_ABORT, UPSTREAM_RESET, TIMEOUT, DRAINED = "ok", "client_abort", "upstream_reset", "timeout", "drained"
LIMIT = "limit"  # cut because this worker held too much
CUT = "cut"  # by a fence that lost patience

NOT_DISPATCHED = -1  # no word


class Exchange:
    """Lives from the end of a request head to the end of its response.

    `word` is the live word it was dispatched under, NOT_DISPATCHED while it is held and where it never was; `upstream`
    the connection it is on, None before; `status` is 0 until a response head has been sent, and from then on the
    response can only be completed or cut.
    """

    __slots__ = (
        "_framing",
        "_gauge",
        "_head",
        "_plane",
        "attempts",
        "client",
        "dispatched",
        "held_ns",
        "is_over",
        "is_write",
        "leaving",
        "request",
        "request_bytes",
        "request_id_line",
        "response_bytes",
        "server",
        "started",
        "status",
        "upstream",
        "waiting_until",
        "was_resent",
        "was_reused",
        "word",
    )

    was_reused: bool  # with `upstream`: the connection had carried a request before
    waiting_until: int  # while it waits for a connection
    leaving: Leaving | None  # once it is one; None where it is kept whatever is live

    def __init__(self, plane: DataPlane, client: Downstream, request: RequestHead) -> None:
        self._plane = plane
        self.client = client
        self.request = request
        self.started = plane.turn.now  # when what has come in this turn began to be handled
        self.is_over = False
        self.upstream: UpstreamConnection | None = None
        self.server: Server | None = None
        self.status = 0
        self.request_bytes = 0
        self.response_bytes = 0
        self.attempts = 1
        self.dispatched = self.held_ns = 0  # ns; the first only where there is an access log
        self.is_write = request.method != b"GET" and request.method not in SAFE
        self._gauge = slot.IN_FLIGHT
        self._framing = AS_IT_IS
        self.was_resent = False

    # --- towards the upstream ----------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Choose the colour and be counted under it, or be held: one block, nothing may come between.

        Called once more for a held request, which is so judged by the word as it is then.
        """
        plane = self._plane
        self.word = word = plane.live[0]
        if (word & HOLD_MASK or plane.holds) and plane.held.stops(self, word):
            return
        colour, cells = word & 1, plane.cells
        cells[slot.IN_FLIGHT + colour] += 1
        if self.is_write:
            cells[slot.WRITES + colour] += 1
        if plane.access_log is not None:
            self.dispatched = plane.clock()

        client, request = self.client, self.request
        peer = client.peer
        if peer.is_trusted or request.host != peer.usual_host:
            lines, id_line = peer.forwarding(request), peer.request_id_line(request)
        else:
            lines, id_line = peer.usual_lines, plane.new_request_id_line()
        self.request_id_line = id_line
        self._head = encode.request(request, lines, id_line)
        self.server = server = plane.pools[colour].pick()
        if server is None:
            self.failed(failures.NO_HEALTHY_UPSTREAM)
            return
        connection = server.take(self)
        if connection is not None:
            self.send_on(connection, reused=True)

    def send_on(self, connection: UpstreamConnection, *, reused: bool) -> None:
        """A connection is there: send the head, and let the body follow."""
        self.upstream = connection
        self.was_reused = reused
        connection.exchange = self
        plane = self._plane
        turn = plane.turn
        if not turn.outbox:
            turn.is_due()
        turn.outbox.append((connection.send, self._head))
        if self.client.upload is None:
            connection.deadline = plane.deadlines.now + plane.response_ns
        else:
            connection.deadline = 0  # runs from the end of the upload
            self.client.resume_upload()

    @property
    def request_id(self) -> bytes:
        """Only for answers of our own and for the log; the line is what is sent."""
        return self.request_id_line.partition(b": ")[2]

    @property
    def body_idle_ns(self) -> int:
        return self._plane.stream_idle_ns if self._gauge == slot.EVENT_STREAMS else self._plane.body_idle_ns

    def send_body(self, data: bytes) -> None:
        self.request_bytes += len(data)
        if self.upstream is not None and not self.upstream.transport.is_closing():
            self.upstream.write(data)

    def end_body(self) -> None:
        if self.upstream is not None:
            self.upstream.deadline = self._plane.clock() + self.patience_ns

    @property
    def patience_ns(self) -> int:
        """How long the upstream may say nothing once it has the whole request: before its answer, and within it."""
        return self.body_idle_ns if self.status else self._plane.response_ns

    # --- attempts that failed ----------------------------------------------------------------------------------------

    def connect_failed(self, failure: Failure) -> None:
        """Nothing was sent: another upstream of the same pool may take it, whatever the method."""
        self._count_error(failure)
        if may_try_another_upstream(failure, self.attempts, self._plane.settings.upstream.retries):
            first = self.server
            assert first is not None
            other = self._plane.pools[self.word & 1].pick_other((first,))
            if other is not None:
                self.attempts += 1
                self._plane.cells[slot.RETRIES + (self.word & 1)] += 1
                self.move_to(other)
                return
        self._end_with(failure)

    def move_to(self, other: Server) -> None:
        """To another upstream of the same pool, before anything was sent."""
        if self.server is not None:
            self.server.in_flight -= 1
        self.server = other
        connection = other.take(self)
        if connection is not None:
            self.send_on(connection, reused=True)

    def failed(self, failure: Failure, detail: str = "") -> None:
        """The upstream side is lost. Before the response head: send again, or answer ourselves. After it: cut."""
        if self.is_over:
            return
        connection, self.upstream = self.upstream, None
        self._count_error(failure)
        if connection is not None and connection.nothing_received and self._may_send_again(failure):
            assert self.server is not None
            self.attempts += 1
            self.was_resent = True
            self._plane.cells[slot.RETRIES + (self.word & 1)] += 1
            self.server.connect_or_wait(self)
            return
        self._end_with(failure, detail)

    def _may_send_again(self, failure: Failure) -> bool:
        return may_send_again(
            failure,
            self.request.method,
            has_body=self.request.body != 0,
            reused=self.was_reused,
            resent=self.was_resent,
        )

    def _end_with(self, failure: Failure, detail: str = "") -> None:
        termination = TIMEOUT if failure.status == 504 else UPSTREAM_RESET
        if self.status:
            self._finish(termination)
            self.client.cut(reset=self._framing == UNTIL_THE_END)
            return
        self._answer(failure.status, failure.reason, detail or failure.detail, termination)

    def _answer(self, status: int, reason: str, detail: str, termination: str) -> None:
        """Our own response in place of the upstream's."""
        close = self._reply(status, reason, detail)
        self._finish(termination)
        self.client.exchange_over(close=close)

    def _reply(self, status: int, reason: str, detail: str) -> bool:
        """Says so; whether it is the last that is said on this connection."""
        client = self.client
        close = client.closes_after_this()
        answer = self._plane.replies.reply(
            status,
            reason,
            detail,
            asked=b"".join(self.request.pieces),
            date=self._plane.http_date,
            request_id_line=self.request_id_line,
            close=close,
            added=client.added,
        )
        self.status = status
        self.response_bytes = len(answer)
        client.write(answer)
        return close

    # --- towards the client ------------------------------------------------------------------------------------------

    def interim(self, response: ResponseHead) -> None:
        """1xx: passed on, but 100 only to who asked, and none to HTTP/1.0 (RFC 9110 15.2)."""
        wanted = response.status != 100 or self.request.expects_continue
        if self.request.minor == 1 and wanted:
            self.client.write(encode.interim(response))
            if response.status == 100 and self.client.upload is not None and self.upstream is not None:
                self.upstream.waits_for_body(True)

    def respond(self, response: ResponseHead, body: bytes) -> None:
        """The final head, and the beginning of the body or all of it."""
        client, plane = self.client, self._plane
        self.status = response.status
        if response.body < 0:
            self._framing = IN_CHUNKS if self.request.minor == 1 else UNTIL_THE_END
            if response.is_event_stream:
                self._become(slot.EVENT_STREAMS)
                self.leaving = plane.farewells.event_stream(self, response)
        added = client.added + plane.expose(self.word) if plane.exposes else client.added
        if self._framing == UNTIL_THE_END or client.closes_after_this():
            client.must_close = True
            added += b"\r\nConnection: close"
        elif self.request.minor == 0:
            added += b"\r\nConnection: keep-alive"
        data = encode.response(response, added, body, chunked=self._framing == IN_CHUNKS)
        self.response_bytes = len(data)
        plane.turn.write(client.send, data)

    def answer_with(self, response: ResponseHead, body: bytes) -> None:
        """A whole plain response to a request that is done: the path of nearly every exchange."""
        client, plane = self.client, self._plane
        if type(self.request) is not RequestHead or plane.exposes or plane.draining or client.must_close:
            self.respond(response, body)
            self.response_complete()
            return
        self.status = response.status
        data = encode.plain_response(response, client.added, body)
        self.response_bytes = len(data)
        turn = plane.turn
        if not turn.outbox:
            turn.is_due()
        turn.outbox.append((client.send, data))
        turn.finished.append(self)
        client.exchange_over(close=False)

    def count(self) -> None:
        self._finish(OK)

    def relay(self, pieces: list[bytes]) -> None:
        """Body bytes, framed for the client, in the same tick in which they came."""
        data = encode.chunk(pieces) if self._framing == IN_CHUNKS else b"".join(pieces)
        self.response_bytes += len(data)
        self.client.relay(data)
        if self._gauge == slot.EVENT_STREAMS and self.leaving is not None:
            self.leaving.relayed(pieces)

    def response_complete(self, trailers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """The upstream's response has ended where it said it would."""
        client = self.client
        if self._framing == IN_CHUNKS:
            client.write(encode.last_chunk(hop_by_hop.passing_trailers(trailers)))
        self._finish(OK)
        client.exchange_over(close=client.must_close)

    def switch_protocols(self, response: ResponseHead, early: bytes) -> bool:
        """101: from here on a tunnel. False where nobody asked for this protocol."""
        offer = self.request.upgrade
        if not upgrade.is_accepted(offer, response.options, response.upgrade) or self.upstream is None:
            return False
        self.status = 101
        self.client.write(encode.switching_protocols(response, offer, self._plane.expose(self.word)))
        self._become(slot.TUNNELS)
        self._plane.cells[slot.TUNNELS_TOTAL + (self.word & 1)] += 1
        tunnel = Tunnel(self._plane, self, self.client, self.upstream)
        self.leaving = self._plane.farewells.tunnel(self, tunnel)
        tunnel.open(early)
        return True

    # --- the end -----------------------------------------------------------------------------------------------------

    def client_failed(self, status: int, reason: str, detail: str, termination: str = "") -> None:
        """It ends before its time, and not for its upstream's sake: the upstream's copy is never completed."""
        if self.word < 0:
            self._turn_away(status, reason, detail)
            return
        self._drop_upstream()
        termination = termination or (TIMEOUT if status == 408 else LIMIT if status == 503 else CLIENT_ABORT)
        self._plane.cells[slot.rejected_cell(reason)] += 1
        if self.status:
            self._finish(termination)
            self.client.cut(reset=self._framing == UNTIL_THE_END)
            return
        self._answer(status, reason, detail, termination)

    def _turn_away(self, status: int, reason: str, detail: str) -> None:
        self.request_id_line = self.client.peer.request_id_line(self.request)
        close = self._reply(status, reason, detail)
        self._end_undispatched(reason, REFUSED)
        self.client.exchange_over(close=close)

    def _end_undispatched(self, reason: str, termination: str) -> None:
        """What never reached a colour is counted under none."""
        self.is_over = True
        self.attempts = 0
        plane = self._plane
        plane.held.forget(self)
        plane.cells[slot.rejected_cell(reason)] += 1
        if plane.access_log is not None:
            plane.access_log.record(self, plane.clock(), termination)

    def runs_on(self, colour: int, *, writes: bool) -> bool:
        """Is it in flight on this colour, no stream, and with `writes` of an unsafe method?"""
        is_running = self.word >= 0 and self._gauge == slot.IN_FLIGHT
        return is_running and self.word & 1 == colour and (self.is_write or not writes)

    def cut_by_fence(self) -> None:
        """It may not run on beside the other colour, and is not sent again there: half of it may have been done."""
        self.client_failed(503, "fence_cut", "it took longer than a switch of versions could wait", CUT)

    def stalled(self) -> None:
        """Others wait for the upstream connection that this client keeps busy by doing nothing."""
        if not self.status:
            self.client_failed(408, "stalled", "the request body came too slowly while others had to wait")
            return
        self._plane.cells[slot.rejected_cell("stalled")] += 1
        self.client.exchange = None
        self.client.drop()
        self.client_gone(TIMEOUT)

    def client_gone(self, termination: str = CLIENT_ABORT) -> None:
        """Nobody is left to answer: 499, and the upstream learns of it by its connection being closed."""
        if self.is_over:
            return
        if self.word < 0:
            self.status = failures.CLIENT_GONE.status
            self.request_id_line = self.client.peer.request_id_line(self.request)
            self._end_undispatched("hold_abandoned", termination)
            return
        self._drop_upstream()
        self._count_error(failures.CLIENT_GONE)
        if self.status == 0:
            self.status = failures.CLIENT_GONE.status
        self._finish(termination)

    def client_silent(self) -> None:
        """Half-closed, and told nothing for too long: it has probably left. If not, it must not see a whole answer."""
        self.client_gone()
        self.client.cut(reset=self._framing == UNTIL_THE_END)

    def dismiss(self, last_words: bytes) -> None:
        """End this stream for its upstream: with these words and as if it were whole; without any it is cut."""
        self._drop_upstream()
        client = self.client
        if not last_words:
            self._finish(DRAINED)
            client.cut(reset=self._framing == UNTIL_THE_END)
            return
        self.relay([last_words])
        if self._framing == IN_CHUNKS:
            client.write(encode.LAST_CHUNK)
        self._finish(DRAINED)
        client.exchange_over(close=client.must_close)

    def _drop_upstream(self) -> None:
        connection, self.upstream = self.upstream, None
        if connection is not None:
            connection.close()

    def tunnel_closed(self, *, client_bytes: int, upstream_bytes: int, termination: str) -> None:
        self.request_bytes += client_bytes
        self.response_bytes += upstream_bytes
        self._finish(termination)

    def _become(self, gauge: int) -> None:
        """From in flight to a long-lived stream, without ever being counted as neither."""
        colour = self.word & 1
        self._plane.cells[gauge + colour] += 1
        if self.is_write:
            self.is_write = False
            self._plane.cells[slot.WRITES + colour] -= 1
        self._plane.cells[self._gauge + colour] -= 1
        self._gauge = gauge

    @property
    def kind_of_stream(self) -> str | None:
        """Which kind of long-lived stream it has become."""
        return _STREAMS.get(self._gauge)

    def _count_error(self, failure: Failure) -> None:
        self._plane.cells[_ERROR_CELLS[failure.reason][self.word & 1]] += 1

    def _finish(self, termination: str) -> None:
        """Counted once, whatever happened."""
        self.is_over = True
        plane, colour, status = self._plane, self.word & 1, self.status
        server = self.server
        if server is not None:
            server.in_flight -= 1
            if self.upstream is None:
                server.forget(self)
        cells = plane.cells
        cells[_REQUEST_CELLS.get(self.request.method, _OTHER_CELLS)[colour] + status] += 1
        now = plane.clock()
        duration = now - self.started
        if self._gauge == slot.IN_FLIGHT:  # a stream's length says nothing about latency
            row = _HISTOGRAM_ROWS[colour][status // 100]
            cells[row + slot.bucket_of(duration)] += 1
            cells[row + slot.HISTOGRAM_SUM] += duration
        elif self.leaving is not None:
            plane.farewells.ended(self.leaving)
        plane.response_bytes[colour] += self.response_bytes
        if self.request_bytes:
            cells[slot.REQUEST_BYTES + colour] += self.request_bytes
        if plane.access_log is not None:
            plane.access_log.record(self, now, termination)
        if self.is_write:
            cells[slot.WRITES + colour] -= 1
        cells[self._gauge + colour] -= 1  # last: who reads 0 knows that nothing is left to do
