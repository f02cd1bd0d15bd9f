"""Which upstreams may take traffic, written by the supervisor alone, read by every worker.

One row per upstream index and colour, and per colour a version that moves after every change: a worker that has seen
the version need not read the rows again.
"""

from __future__ import annotations

from collections.abc import Iterable

UPSTREAM_ROWS = 256  # per colour; config refuses more
_COLOUR_CELLS = 8 + UPSTREAM_ROWS  # the version has a cache line of its own
BOARD_CELLS = 2 * _COLOUR_CELLS


class HealthBoard:
    """`cells` is public for the hot path: `board.cells[VERSION_CELL[colour]]` is the whole read."""

    __slots__ = ("cells",)

    def __init__(self, cells: memoryview) -> None:
        self.cells = cells

    def publish(self, colour: int, routable: Iterable[bool]) -> bool:
        """Set the rows of one colour in index order; rows beyond are cleared. True where anything changed."""
        start = VERSION_CELL[colour] + 8
        rows = [int(row) for row in routable]
        if len(rows) > UPSTREAM_ROWS:
            raise ValueError(f"{len(rows)} upstreams do not fit the board: at most {UPSTREAM_ROWS} per colour")
        rows += [0] * (UPSTREAM_ROWS - len(rows))
        if self.cells[start : start + UPSTREAM_ROWS].tolist() == rows:
            return False
        for i, row in enumerate(rows):
            self.cells[start + i] = row
        self.cells[VERSION_CELL[colour]] += 1  # last: who sees it, sees the rows
        return True

    def version(self, colour: int) -> int:
        version: int = self.cells[VERSION_CELL[colour]]
        return version

    def routable(self, colour: int) -> list[bool]:
        """Read the version first, then these: a row that changes in between shows up as a newer version later."""
        start = VERSION_CELL[colour] + 8
        return [bool(row) for row in self.cells[start : start + UPSTREAM_ROWS].tolist()]

    def release(self) -> None:
        self.cells.release()


VERSION_CELL = (0, _COLOUR_CELLS)
