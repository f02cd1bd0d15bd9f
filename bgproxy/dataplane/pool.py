"""The upstreams of one colour as one worker sees them: who is eligible now, and whose turn it is."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bgproxy.core.balance import BALANCERS
from bgproxy.core.model import Pool
from bgproxy.dataplane.server import Server
from bgproxy.shm.health_board import VERSION_CELL

if TYPE_CHECKING:
    from bgproxy.dataplane.plane import DataPlane


class UpstreamPool:
    """Eligible is who the health board calls routable and this worker has not ejected."""

    __slots__ = ("_board", "_board_cells", "_eligible", "_pick", "_seen_version", "_version_cell", "colour", "servers")

    def __init__(self, plane: DataPlane, colour: int, pool: Pool) -> None:
        self.colour = colour
        self.servers = tuple(Server(plane, self, upstream) for upstream in pool.upstreams)
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
        self._eligible = [s for s in self.servers if routable[s.index] and not s.ejected]

    def may_eject(self, server: Server) -> bool:
        """Never the last one: slow or failing beats nobody."""
        self.refresh()
        return any(other is not server for other in self._eligible)
