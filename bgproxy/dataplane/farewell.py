"""When streams of a colour that is live no more have to go, and that they need not where it is live again.

Looked at once a tick: nothing is asked of a stream, nor is there a timer for it, before its own instant has come.
Streams whose policy is `keep` are not known here at all.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from bgproxy.core.messages import CONFIGURED
from bgproxy.core.settings import StreamPolicy, StreamSettings
from bgproxy.dataplane.leaving import EventStream, Leaving, PlainTunnel, WebSocket
from bgproxy.shm import worker_slot as slot
from bgproxy.shm.live_pointer import EPOCH_SHIFT

if TYPE_CHECKING:
    from bgproxy.dataplane.exchange import Exchange
    from bgproxy.dataplane.plane import DataPlane
    from bgproxy.dataplane.tunnel import Tunnel
    from bgproxy.wire.response import ResponseHead

AT_ONCE: Final = 256  # ends a tick: however many there are, other clients are served in between
KEEP, CLOSE_NOW = "keep", "close-now"
_NEVER: Final = 0


class Farewells:
    """Keeps every stream that has a policy from `began` to `ended`. `chance` gives numbers from 0 to 1."""

    def __init__(self, plane: DataPlane, *, chance: Callable[[], float] = random.random) -> None:
        self._plane = plane
        self.chance = chance
        self._streams: set[Leaving] = set()
        self._due: list[tuple[int, int, Leaving]] = []  # a heap; what is no longer as it says here is passed over
        self._pushed = self._planned = 0
        self._epoch = -1
        self._switched = 0  # when the present epoch was first seen
        self._is_leaving = False
        self._order = CONFIGURED  # for this epoch
        self._default: StreamPolicy | None = None
        self._routes: list[tuple[bytes, StreamPolicy | None]] = []

    def configure(self, settings: StreamSettings) -> None:
        """For streams that begin from now on."""
        self._default = _or_none(settings.default)
        routes = sorted(settings.routes, key=lambda route: len(route.path), reverse=True)
        self._routes = [(route.path.encode(), _or_none(route.policy)) for route in routes]

    def policy_of(self, target: bytes) -> StreamPolicy | None:
        """None where it is to be kept."""
        for beginning, policy in self._routes:
            if target.startswith(beginning):  # and not its query: no beginning has a question mark
                return policy
        return self._default

    def order(self, streams: str) -> None:
        """For the switch that led to the epoch that is live now: `keep` all, or `close-now` all that have a policy."""
        now = self._plane.deadlines.now
        self._look(now)
        self._order = streams
        for stream in self._streams:
            if self._has_to_go(stream) and not stream.is_asked:
                self._schedule(stream, now)
            elif not self._has_to_go(stream):
                self._forget(stream)
                stream.stay()

    # --- streams come and go -----------------------------------------------------------------------------------------

    def tunnel(self, exchange: Exchange, tunnel: Tunnel) -> Leaving | None:
        """A tunnel that is about to be opened; None where it is to be kept."""
        policy = self.policy_of(exchange.request.target)
        if policy is None:
            return None
        kind = WebSocket if exchange.request.upgrade == b"websocket" else PlainTunnel
        return self.began(kind(self._plane, tunnel, policy))

    def event_stream(self, exchange: Exchange, response: ResponseHead) -> Leaving | None:
        """An event stream whose head is about to be sent; None where it is to be kept."""
        policy = self.policy_of(exchange.request.target)
        if policy is None:
            return None
        return self.began(EventStream(self._plane, exchange, response, policy))

    def began(self, stream: Leaving) -> Leaving:
        now = self._plane.deadlines.now
        self._look(now)
        self._streams.add(stream)
        if self._has_to_go(stream):  # its request came before the switch
            self._schedule(stream, now)
        return stream

    def ended(self, stream: Leaving) -> None:
        self._streams.discard(stream)
        self._forget(stream)

    # --- time --------------------------------------------------------------------------------------------------------

    def tick(self, now: int) -> None:
        self._look(now)
        asked = 0
        while self._due and self._due[0][0] <= now and asked < AT_ONCE:
            due, _, stream = heapq.heappop(self._due)
            if stream.due != due:
                continue  # over, or its plans have changed
            asked += 1
            self._forget(stream)
            if self._has_to_go(stream) and (again := stream.leave(now)):
                self._push(stream, now + again)
        if len(self._due) > 2 * self._planned + AT_ONCE:  # what is over need not be remembered until its instant
            self._due = [entry for entry in self._due if entry[2].due == entry[0]]
            heapq.heapify(self._due)

    def leave_all(self, now: int, within_s: float) -> None:
        """The worker leaves, and asks them all to; half of the time is for those who are slow to answer."""
        self._is_leaving = True
        for stream in self._streams:
            if not stream.is_asked:
                self._push(stream, now + int(self.chance() * min(stream.policy.spread, within_s / 2) * 1e9))

    def _look(self, now: int) -> None:
        """Where the word has moved, who is live need not go any more, and everybody else has to."""
        epoch = self._plane.live[0] >> EPOCH_SHIFT
        if epoch == self._epoch:
            return
        self._epoch, self._switched, self._order = epoch, now, CONFIGURED
        for stream in self._streams:
            if not self._has_to_go(stream):
                self._forget(stream)
                stream.stay()
            elif not stream.due:
                self._schedule(stream, now)

    def _has_to_go(self, stream: Leaving) -> bool:
        if self._is_leaving or stream.has_gone:
            return True
        return self._order != KEEP and stream.colour != self._plane.live[0] & 1

    def _schedule(self, stream: Leaving, now: int) -> None:
        policy = stream.policy
        at_once = self._is_leaving or self._order == CLOSE_NOW or policy.policy == CLOSE_NOW
        delay_s = 0.0 if at_once else policy.timeout
        begins = max(now, self._switched + int(delay_s * 1e9))
        self._push(stream, begins + int(self.chance() * policy.spread * 1e9))

    def _push(self, stream: Leaving, due: int) -> None:
        self._forget(stream)
        stream.due = due
        self._pushed += 1
        self._planned += 1
        heapq.heappush(self._due, (due, self._pushed, stream))
        self._plane.cells[slot.STREAMS_LEAVING + stream.colour] += 1

    def _forget(self, stream: Leaving) -> None:
        if stream.due != _NEVER:
            stream.due = _NEVER
            self._planned -= 1
            self._plane.cells[slot.STREAMS_LEAVING + stream.colour] -= 1


def _or_none(policy: StreamPolicy) -> StreamPolicy | None:
    return None if policy.policy == KEEP else policy
