"""Room for one more client where a worker has as many as it may, or as its descriptors hold.

Who has been heard and only lingers goes first, then who has been idle for longest: between two requests, with half a
head, or with an answer that it does not take. Candidates are found by looking at all clients once, and kept: one look
serves a sixteenth of all, and there is at most one look a tick. Nothing is written down per request.
"""

from __future__ import annotations

import errno
import os
import resource
import sys
from typing import TYPE_CHECKING, Final

from bgproxy.core.descriptors import room_for_clients
from bgproxy.core.messages import OutOfDescriptors
from bgproxy.shm import worker_slot as slot
from bgproxy.wire.request import Refusal

if TYPE_CHECKING:
    from bgproxy.core.model import PoolTable
    from bgproxy.core.settings import WorkerSettings
    from bgproxy.dataplane.downstream import Downstream
    from bgproxy.dataplane.linger import Lingering
    from bgproxy.dataplane.plane import Client, DataPlane

HEARD_NS: Final = 250_000_000  # a lingering client has had its answer by then
MAX_REFUSED: Final = 64  # lingering at once beyond the limit
FEW: Final = 64  # candidates at least, and clients that go at once where descriptors have run out
SAID_EVERY_NS: Final = 60_000_000_000

_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)


def is_out_of_descriptors(error: OSError) -> bool:
    return error.errno in _OUT_OF_DESCRIPTORS


def descriptor_limit() -> int:
    """How many descriptors this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


class Room:
    """`limit` counts clients; those that were refused and still linger are few and stand aside."""

    __slots__ = ("_candidates", "_looked_at", "_plane", "_refused", "_said_at", "limit", "lingering")

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self.limit = 0
        self.lingering: dict[Client, Lingering] = {}  # the oldest first
        self._refused: dict[Client, Lingering] = {}
        self._candidates: list[tuple[int, Client]] = []  # the longest idle last
        self._looked_at = -1
        self._said_at = -SAID_EVERY_NS

    def configure(self, settings: WorkerSettings, table: PoolTable) -> None:
        self.limit = room_for_clients(descriptor_limit(), settings, table)
        self._said_at = -SAID_EVERY_NS  # with other settings it is news again

    # --- clients come and go -----------------------------------------------------------------------------------------

    def make(self, newcomer: Client | None = None) -> bool:
        """Close one connection that can be spared. False where all are busy."""
        return self._end_lingering(HEARD_NS) or self._close_idle(newcomer) or self._end_lingering(0)

    def turn_away(self, client: Downstream) -> None:
        """Tell it why. A flood of them must not fill what the limit keeps free."""
        self._plane.clients.discard(client)
        client.refuse(Refusal(503, "connections", "this proxy has as many connections as it may"))
        lingering = self.lingering.pop(client, None)
        if lingering is not None:
            self._refused[client] = lingering
            if len(self._refused) > MAX_REFUSED:
                self._refused.pop(next(iter(self._refused))).end()

    def forget(self, client: Client) -> None:
        self.lingering.pop(client, None)
        self._refused.pop(client, None)

    def _end_lingering(self, since_ns: int) -> bool:
        for client, lingering in self.lingering.items():
            if lingering.since > self._plane.clock() - since_ns:
                break
            del self.lingering[client]
            self._goes(client)
            lingering.end()
            return True
        return False

    def _close_idle(self, newcomer: Client | None) -> bool:
        for _ in range(2):
            while self._candidates:
                idle_since, client = self._candidates.pop()
                if client in self._plane.clients and client.idle_since() == idle_since:
                    self._goes(client)
                    client.make_room()
                    return True
            if self._looked_at == self._plane.deadlines.now:
                break
            self._look(newcomer)
        return False

    def _look(self, newcomer: Client | None) -> None:
        self._looked_at = self._plane.deadlines.now
        clients = self._plane.clients
        idle = [
            (since, id(client), client)
            for client in clients
            if client is not newcomer and (since := client.idle_since())
        ]
        idle.sort()
        self._candidates = [(since, client) for since, _, client in idle[: max(FEW, len(clients) // 16)][::-1]]

    def _goes(self, client: Client) -> None:
        """It counts no longer from now on, not from when its socket is closed."""
        self._plane.clients.discard(client)
        self._plane.cells[slot.closed_cell("make_room")] += 1

    # --- descriptors -------------------------------------------------------------------------------------------------

    def look_for_descriptors(self) -> None:
        """At every tick. libuv tells nobody that it could not accept: it closes what waits in the queue."""
        try:
            os.close(os.dup(2))
        except OSError as error:
            if is_out_of_descriptors(error):
                self.out_of_descriptors()

    def out_of_descriptors(self) -> None:
        """Close what can be spared, so that upstreams and clients can be connected again; say so, but not for ever."""
        for _ in range(FEW):
            if not self._end_lingering(0) and not self._close_idle(None):
                break
        now = self._plane.clock()
        if now - self._said_at >= SAID_EVERY_NS:
            self._said_at = now
            self._plane.report(OutOfDescriptors(descriptor_limit()))
