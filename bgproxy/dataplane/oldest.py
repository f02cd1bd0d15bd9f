"""Since when the oldest of those has been running that a switch has left behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bgproxy.dataplane.downstream import Downstream
from bgproxy.shm import worker_slot as slot

if TYPE_CHECKING:
    from bgproxy.dataplane.exchange import Exchange
    from bgproxy.dataplane.plane import DataPlane


class Oldest:
    """Looked for only where there is one on a colour that is not live, and again only when that one is over: none that
    begins later can be older."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._found: Exchange | None = None

    def tick(self) -> None:
        cells = self._plane.cells
        live = self._plane.live[0] & 1
        left = 1 - live
        found = self._found
        if not (cells[slot.IN_FLIGHT + left] or cells[slot.TUNNELS + left] or cells[slot.EVENT_STREAMS + left]):
            found = None
        elif found is None or found.is_over or found.word & 1 != left:
            found = min(self._running(left), key=lambda exchange: exchange.started, default=None)
        self._found = found
        cells[slot.OLDEST + live] = 0
        cells[slot.OLDEST + left] = found.started if found is not None else 0

    def _running(self, colour: int) -> Iterator[Exchange]:
        for client in self._plane.clients:
            exchange = client.exchange if isinstance(client, Downstream) else None
            if exchange is not None and exchange.word >= 0 and exchange.word & 1 == colour:
                yield exchange
        for tunnel in self._plane.tunnels:
            if tunnel.exchange.word & 1 == colour:
                yield tunnel.exchange
