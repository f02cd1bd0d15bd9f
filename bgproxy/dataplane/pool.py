"""The upstreams of one colour as one worker sees them: who is eligible now, and whose turn it is."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from bgproxy.core.balance import BALANCERS
from bgproxy.core.model import Address, Pool, Upstream
from bgproxy.dataplane.server import Server
from bgproxy.shm import worker_slot as slot
from bgproxy.shm.health_board import VERSION_CELL

if TYPE_CHECKING:
    from bgproxy.dataplane.plane import DataPlane


Identity: TypeAlias = tuple[str, int, Address]


class UpstreamPool:
    """Eligible is who the health board calls routable, the operator has not drained and this worker has not ejected.

    `former` is the pool of this colour in the last table: a server that stays is the same object, with its connections
    and whoever waits for one. `retired` are those that left and still have something to finish.
    """

    __slots__ = (
        "_board",
        "_board_cells",
        "_eligible",
        "_pick",
        "_removed",
        "_seen_version",
        "_version_cell",
        "colour",
        "retired",
        "servers",
    )

    def __init__(self, plane: DataPlane, colour: int, pool: Pool, former: UpstreamPool | None = None) -> None:
        self.colour = colour
        known: dict[Identity, Server] = {_identity(each): each for each in former.servers} if former else {}
        self.servers: tuple[Server, ...] = tuple(
            known.pop(identity) if (identity := _identity(each)) in known else Server(plane, self, each)
            for each in pool.upstreams
        )
        for server, upstream in zip(self.servers, pool.upstreams, strict=True):
            server.configure(self, upstream)
        self._removed: list[Server] = list(known.values())
        self.retired: list[Server] = [*former.retired, *self._removed] if former else []
        self._pick = BALANCERS[pool.balance]()
        self._board = plane.board
        self._board_cells = plane.board.cells
        self._version_cell = VERSION_CELL[colour]
        self._seen_version = -1
        self._eligible: Sequence[Server] = ()

    def pick(self) -> Server | None:
        """Who takes the next request; None where nobody may."""
        if self._board_cells[self._version_cell] != self._seen_version:
            self.refresh()
        eligible = self._eligible
        if len(eligible) == 1:
            return eligible[0]
        return self._pick(eligible) if eligible else None  # type: ignore[return-value]

    def room(self) -> int:
        """How many requests could be dispatched now without being refused for it, with some room left for others. Any
        number where nobody may take them: they are told so at once."""
        if self._board_cells[self._version_cell] != self._seen_version:
            self.refresh()
        eligible = self._eligible  # each takes its turn, so the one with the least room counts
        return len(eligible) * max(0, min(server.room for server in eligible)) if eligible else sys.maxsize

    def pick_other(self, tried: Sequence[Server]) -> Server | None:
        """Who takes a request that the `tried` could not be reached for."""
        self.refresh()
        others = [server for server in self._eligible if server not in tried]
        return self._pick(others) if others else None  # type: ignore[return-value]

    def refresh(self) -> None:
        self._seen_version = self._board_cells[self._version_cell]
        routable = self._board.routable(self.colour)
        self._eligible = [s for s in self.servers if routable[s.index] and not s.ejected and not s.is_leaving]

    def may_eject(self, server: Server) -> bool:
        """Never the last one: slow or failing beats nobody."""
        self.refresh()
        return any(other is not server for other in self._eligible)

    def settle(self) -> None:
        """Right after the table has changed: whoever is to be left alone sends on those who wait there."""
        for server in self.servers:
            if server.is_leaving:
                server.stand_aside()
        for server in self._removed:
            server.retire()
        self._removed = []

    def count(self, cells: memoryview, now: int) -> None:
        """At every tick: gauges that need not be exact to the request, and who has waited for long enough."""
        parked = opened = waiting = reuses = 0
        for server in (*self.servers, *self.retired):
            server.give_up_waiting(now)
            parked += len(server.parked)
            opened += server.open
            waiting += len(server.waiting)
            reuses += server.reuses
            server.reuses = 0
        for server in self.servers:
            row = slot.row_cell(self.colour, server.index, 0)
            cells[row + slot.ROW_IN_FLIGHT] = server.in_flight
            cells[row + slot.ROW_PARKED] = len(server.parked)
            cells[row + slot.ROW_REQUESTS] = server.requests
            cells[row + slot.ROW_CONNECT_FAILURES] = server.connect_failures
        cells[slot.PARKED + self.colour] = parked
        cells[slot.UPSTREAM_CONNECTIONS + self.colour] = opened
        cells[slot.WAITING + self.colour] = waiting
        cells[slot.REUSES + self.colour] += reuses
        if self.retired:
            self.retired = [server for server in self.retired if server.open or server.in_flight]


def _identity(one: Server | Upstream) -> Identity:
    """What makes it the same upstream in another table; the weight may differ."""
    return one.id, one.index, one.address
