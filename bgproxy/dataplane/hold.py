"""Requests that wait for the live word to let them go, and the end of those that a fence cannot wait for.

A held request has not been dispatched: it has no colour and no upstream, and is not in flight; its client is not read
from. It goes when the word lets it, in the order in which it came, judged by the word as it is in that instant.
"""

from __future__ import annotations

import select
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from bgproxy.dataplane.exchange import CLIENT_ABORT, NOT_DISPATCHED
from bgproxy.shm import worker_slot as slot
from bgproxy.shm.live_pointer import HOLD_MASK, HOLD_SHIFT, Hold

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bgproxy.core.settings import HoldSettings
    from bgproxy.dataplane.exchange import Exchange
    from bgproxy.dataplane.plane import DataPlane

SLICE: Final = 50  # dispatched in one turn of the loop: some milliseconds of work, and others are served in between
LOOK_AGAIN_S: Final = 0.005  # where the pool has no room
# So long after the word has opened, who comes is put behind who waits. By then the pool is what is waited for, and a
# queue of its own would only stand in front of the pool's.
IN_ORDER_NS: Final = 1_000_000_000

_WRITES, _ALL, _MAINTENANCE = (hold << HOLD_SHIFT for hold in (Hold.WRITES, Hold.ALL, Hold.MAINTENANCE))
_GONE: Final = select.POLLHUP | select.POLLERR


class _Place(NamedTuple):
    since: int  # ns
    size: int  # bytes


class HeldRequests:
    """Of one worker. `plane.holds` says whether there are any, for the hot path."""

    __slots__ = ("_is_alone", "_is_waking", "_opened_at", "_places", "_plane", "_settings", "_size", "_timeout_ns")

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._places: dict[Exchange, _Place] = {}  # the longest held first
        self._size = 0
        self._is_alone = False
        self._is_waking = False  # _wake() will be called
        self._opened_at = 0

    def configure(self, settings: HoldSettings) -> None:
        """Bounds hold for who comes from now on; the time for those who wait as well."""
        self._settings = settings
        self._timeout_ns = int(settings.timeout * 1e9)

    # --- may it go? --------------------------------------------------------------------------------------------------

    def stops(self, exchange: Exchange, word: int) -> bool:
        """Asked by every request that is to be dispatched under this word, where the word holds or others are held.
        True where it may not: it then waits here, or has been answered."""
        if word & HOLD_MASK == _MAINTENANCE:
            exchange.word = NOT_DISPATCHED
            exchange.client_failed(503, "maintenance", "this site is closed for maintenance")
            return True
        if not self._may_go(exchange, word):
            exchange.word = NOT_DISPATCHED
            if exchange not in self._places and not self._keep(exchange):
                exchange.client_failed(503, "hold_full", "as many requests wait for a switch of versions as may wait")
            return True
        if exchange in self._places:
            self.forget(exchange)
            exchange.client.go_on()
            return False
        if not self._is_open(word):
            return False
        self.look()  # it has opened, and nobody has told us yet
        if self._plane.clock() - self._opened_at > IN_ORDER_NS or not self._keep(exchange):
            return False
        exchange.word = NOT_DISPATCHED
        return True

    def _is_open(self, word: int) -> bool:
        """For all; maintenance is another question."""
        return not word & HOLD_MASK or self._is_alone

    def _may_go(self, exchange: Exchange, word: int) -> bool:
        return self._is_open(word) or (word & HOLD_MASK == _WRITES and not exchange.is_write)

    def _keep(self, exchange: Exchange) -> bool:
        """False where it has no room."""
        settings, plane = self._settings, self._plane
        size = sum(map(len, exchange.request.pieces)) + exchange.client.held()
        if len(self._places) >= settings.max or self._size + size > settings.bytes:
            return False
        exchange.client.wait()
        self._places[exchange] = _Place(plane.clock(), size)
        self._size += size
        plane.cells[slot.HELD_TOTAL] += 1
        self._count()
        return True

    def forget(self, exchange: Exchange) -> None:
        """It waits no longer: it goes, or it is over. Nothing where it does not wait here."""
        place = self._places.pop(exchange, None)
        if place is not None:
            exchange.held_ns = self._plane.clock() - place.since
            self._plane.cells[slot.HELD_NS] += exchange.held_ns
            self._size -= place.size
            self._count()

    def _count(self) -> None:
        plane = self._plane
        plane.holds = bool(self._places)
        plane.cells[slot.HELD] = len(self._places)
        plane.cells[slot.HELD_BYTES] = self._size

    # --- letting go --------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """The word may be another one."""
        if self._places and not self._is_waking:
            self._is_waking = True
            self._opened_at = self._plane.clock()
            self._plane.loop.call_soon(self._wake)

    def wait_for_nobody(self) -> None:
        """The supervisor is gone, and with it who would open: what it held is served by the colour that the word names.
        Maintenance was an order for longer than that."""
        self._is_alone = True
        self.look()

    def _wake(self) -> None:
        """Dispatch some of those who may go, as many as the pool has room for; the rest in the next turns."""
        plane = self._plane
        word = plane.live[0]
        closed = word & HOLD_MASK == _MAINTENANCE
        ready = list(islice((each for each in self._places if closed or self._may_go(each, word)), SLICE))
        if not ready:
            self._is_waking = False
            return
        room = SLICE if closed else plane.pools[word & 1].room()
        if room:
            plane.loop.call_soon(self._wake)
        else:
            plane.loop.call_later(LOOK_AGAIN_S, self._wake)
        ready = ready[:room]
        self._look_at_clients(ready)
        for exchange in ready:
            if exchange in self._places:
                try:
                    exchange.begin()
                except Exception as error:  # a bug of ours: one connection pays for it, not all that wait
                    message = {"message": "a held request could not be dispatched", "exception": error}
                    plane.loop.call_exception_handler(message)
                    exchange.client.transport.abort()

    # --- waiting no longer -------------------------------------------------------------------------------------------

    def tick(self, now: int) -> None:
        """Ends what was held for too long, and what nobody waits for any more."""
        if not self._places:
            return
        self.look()
        for exchange, place in tuple(self._places.items()):
            if place.since + self._timeout_ns > now:
                break
            exchange.client_failed(503, "hold_timeout", "a switch of versions took longer than may be waited for")
        self._look_at_clients(tuple(self._places))

    def give_up(self) -> None:
        """This worker leaves."""
        for exchange in tuple(self._places):
            exchange.client_failed(503, "draining", "this proxy is being stopped")

    def _look_at_clients(self, exchanges: Sequence[Exchange]) -> None:
        """End those whose client is gone: not read from, they don't tell. A FIN alone may be half a close."""
        by_descriptor = {exchange.client.fileno(): exchange for exchange in exchanges}
        poll = select.poll()
        for descriptor in by_descriptor:
            if descriptor >= 0:
                poll.register(descriptor, select.POLLRDHUP)
        for descriptor, events in poll.poll(0):
            client = by_descriptor[descriptor].client
            if events & _GONE:
                client.give_up(CLIENT_ABORT)
            else:
                client.has_finished()


def cut(plane: DataPlane, colour: int, *, writes: bool) -> None:
    """End what is in flight on this colour; with `writes` what has an unsafe method. Not streams."""
    for client in tuple(plane.clients):
        exchange: Exchange | None = getattr(client, "exchange", None)
        if exchange is not None and exchange.runs_on(colour, writes=writes):
            exchange.cut_by_fence()
