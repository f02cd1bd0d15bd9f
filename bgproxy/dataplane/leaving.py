"""How a stream goes because its policy says so: each kind in its own words, at a place where the client can tell that
nothing is missing before them.

A WebSocket gets a Close frame between two messages, an event stream a `retry:` hint and its proper end between two
events. Either waits for such a place for a while. Anything else is cut, as at the worker's own end.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from bgproxy.core.settings import StreamPolicy
from bgproxy.dataplane.tunnel import TunnelEnd
from bgproxy.shm import worker_slot as slot
from bgproxy.wire.event_stream import Events, retry_hint
from bgproxy.wire.websocket import Frames, close_frame

if TYPE_CHECKING:
    from bgproxy.dataplane.exchange import Exchange
    from bgproxy.dataplane.plane import DataPlane
    from bgproxy.dataplane.tunnel import Tunnel
    from bgproxy.wire.response import ResponseHead

# How long a place is waited for, and then how long the client's own goodbye.
PATIENCE_NS: Final = 5_000_000_000
REASON: Final = b"the service moved to another version"
_ENCODED = re.compile(rb"\r\ncontent-encoding:[ \t]*(?!identity[ \t]*\r)[^ \t\r]", re.IGNORECASE)


class Leaving:
    """A stream that may have to go. `due` is when, in ns, 0 where it need not: that belongs to farewell.py.

    `is_asked` from being asked to go, `has_gone` once nothing can stop it.
    """

    kind: int  # in the counters

    def __init__(self, plane: DataPlane, colour: int, policy: StreamPolicy) -> None:
        self._plane = plane
        self.colour = colour
        self.policy = policy
        self.due = 0
        self.is_asked = False
        self.has_gone = False

    def leave(self, now: int) -> int:
        """Begin to end, or go on with it; in how many ns it wants to be asked again, 0 for never."""
        raise NotImplementedError

    def relayed(self, pieces: list[bytes]) -> None:
        """These went to the client of an event stream."""

    def stay(self) -> None:
        """Its colour is live again."""
        if not self.has_gone:
            self.is_asked = False

    def go(self) -> None:
        if not self.has_gone:
            self.has_gone = True
            self._plane.cells[slot.closed_stream_cell(self.colour, self.kind)] += 1


class PlainTunnel(Leaving):
    """A tunnel of which nobody knows what is in it."""

    kind = slot.TUNNEL

    def __init__(self, plane: DataPlane, tunnel: Tunnel, policy: StreamPolicy) -> None:
        super().__init__(plane, tunnel.exchange.word & 1, policy)
        self._tunnel = tunnel

    def leave(self, now: int) -> int:
        self._cut()
        return 0

    def _cut(self) -> None:
        self.go()
        self._tunnel.cut()


class WebSocket(PlainTunnel):
    """`frames` are those from the upstream."""

    def __init__(self, plane: DataPlane, tunnel: Tunnel, policy: StreamPolicy) -> None:
        super().__init__(plane, tunnel, policy)
        self.frames = Frames()
        self._from_upstream = tunnel.replace_upstream_end(lambda *of: FramedEnd(self, *of))
        self._ends_at = 0  # ns
        self._unwritten = 0  # bytes for the client, when last looked at

    def leave(self, now: int) -> int:
        client = self._from_upstream.other
        if not self.is_asked:
            self.is_asked = True
            if self.frames.is_between_messages:
                self.say_goodbye()
            return PATIENCE_NS
        if not self.has_gone and self.frames.is_between_frames:  # in a message that does not end; a Close frame may
            self.say_goodbye()
        if self.has_gone and now < self._ends_at:
            return self._ends_at - now
        before, self._unwritten = self._unwritten, client.unwritten()
        if self.has_gone and 0 < self._unwritten < before:  # it is still being told what came before
            return PATIENCE_NS
        self._cut()
        return 0

    def say_goodbye(self) -> None:
        """From here on the upstream is not heard any more; the client is, so that it learns of its answer."""
        end = self._from_upstream
        self.go()
        self._tunnel.termination = "drained"
        self._ends_at = self._plane.clock() + PATIENCE_NS
        client = end.other.transport
        if not (self.frames.has_closed or end.has_finished or client.is_closing()):
            client.write(close_frame(self.policy.close_code, REASON))
        self._unwritten = end.other.unwritten()


class FramedEnd(TunnelEnd):
    """The upstream's side of a WebSocket that may have to go."""

    __slots__ = ("_stream",)

    def __init__(self, stream: WebSocket, *of: object) -> None:
        super().__init__(*of)  # type: ignore[arg-type]  # as TunnelEnd has them
        self._stream = stream

    def data_received(self, data: bytes) -> None:
        stream = self._stream
        if stream.has_gone:
            self.received += len(data)
        elif not stream.is_asked:
            stream.frames.feed(data)
            super().data_received(data)
        else:
            end = stream.frames.feed_to_end_of_message(data)
            super().data_received(data if end < 0 else data[:end])
            if end >= 0:
                stream.say_goodbye()


class EventStream(Leaving):
    kind = slot.EVENT_STREAM

    def __init__(self, plane: DataPlane, exchange: Exchange, response: ResponseHead, policy: StreamPolicy) -> None:
        super().__init__(plane, exchange.word & 1, policy)
        self._exchange = exchange
        self._events = Events()
        self._is_readable = _ENCODED.search(b"".join(response.pieces)) is None

    def relayed(self, pieces: list[bytes]) -> None:
        if self._is_readable:
            for piece in pieces:
                self._events.feed(piece)
            if self.is_asked and self._events.is_between_events:  # not now: the upstream's connection is being read
                self._plane.loop.call_soon(self._end)

    def leave(self, now: int) -> int:
        if not self.is_asked and self._is_readable:
            self.is_asked = True
            if not self._events.is_between_events:
                return PATIENCE_NS
            self._end()
        else:
            self.go()
            self._exchange.dismiss(b"")
        return 0

    def _end(self) -> None:
        """Where it still has to, and more has not come meanwhile."""
        if self.is_asked and not self.has_gone and not self._exchange.is_over and self._events.is_between_events:
            self.go()
            policy = self.policy
            wait_s = policy.retry + policy.spread * self._plane.farewells.chance()
            self._exchange.dismiss(retry_hint(int(wait_s * 1000)))
