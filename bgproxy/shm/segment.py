"""The one memory segment both planes share, as aligned 8-byte cells.

    header       64 cells: magic, layout version, dimensions, and the live word on a cache line of its own
    health board  2 colours × (8 + UPSTREAM_ROWS) cells, written by the supervisor
    worker slots  one per worker, each written by its worker alone

The supervisor creates it as an anonymous memory file and workers inherit the descriptor: nothing is left on disk.
A cell is read and written by one 8-byte move of an aligned `memoryview` item, so it is never seen half written.
"""

from __future__ import annotations

import mmap
import os

from bgproxy.shm import health_board, live_pointer, worker_slot

MAGIC = 0x3158_4F52_5047_42  # "BGPROX1" read as little-endian bytes
LAYOUT_VERSION = 2
CELL_BYTES = 8

_MAGIC_CELL, _LAYOUT_CELL, _WORKERS_CELL, _SLOT_CELLS_CELL = 0, 1, 2, 3
_LIVE_CELL = 8  # cache line 1
_HEADER_CELLS = 64
_BOARD_START = _HEADER_CELLS
_SLOTS_START = _BOARD_START + health_board.BOARD_CELLS


class SegmentError(Exception):
    """The descriptor is not a segment that this version can share."""


class Segment:
    """The mapped segment and typed views of its parts. Close it last: the views share its memory."""

    def __init__(self, fd: int, cells: memoryview, mapping: mmap.mmap) -> None:
        self.fd = fd
        self._mapping = mapping
        self._cells = cells
        self.workers = cells[_WORKERS_CELL]
        self.live = live_pointer.LivePointer(cells[_LIVE_CELL : _LIVE_CELL + 1])
        self.health = health_board.HealthBoard(cells[_BOARD_START:_SLOTS_START])
        self.slots = tuple(worker_slot.WorkerSlot(self._slot_cells(i)) for i in range(self.workers))

    def _slot_cells(self, number: int) -> memoryview:
        start = _SLOTS_START + number * worker_slot.SLOT_CELLS
        return self._cells[start : start + worker_slot.SLOT_CELLS]

    @classmethod
    def create(cls, workers: int) -> Segment:
        """A new segment for `workers` workers, all zero but the header; the descriptor may be inherited."""
        if workers < 1:
            raise ValueError(f"a segment needs at least one worker, not {workers}")
        fd = os.memfd_create("bgproxy", os.MFD_CLOEXEC)
        size = (_SLOTS_START + workers * worker_slot.SLOT_CELLS) * CELL_BYTES
        os.ftruncate(fd, size)
        mapping = mmap.mmap(fd, size)
        cells = memoryview(mapping).cast("Q")
        cells[_LAYOUT_CELL] = LAYOUT_VERSION
        cells[_WORKERS_CELL] = workers
        cells[_SLOT_CELLS_CELL] = worker_slot.SLOT_CELLS
        cells[_MAGIC_CELL] = MAGIC
        return cls(fd, cells, mapping)

    @classmethod
    def attach(cls, fd: int) -> Segment:
        """Map an inherited segment; SegmentError names what does not fit."""
        size = os.fstat(fd).st_size
        if size < _HEADER_CELLS * CELL_BYTES or size % CELL_BYTES:
            raise SegmentError(f"descriptor {fd} holds {size} bytes: not a bgproxy segment")
        mapping = mmap.mmap(fd, size)
        cells = memoryview(mapping).cast("Q")
        problem = _mismatch(cells, size)
        if problem:
            cells.release()
            mapping.close()
            raise SegmentError(f"descriptor {fd}: {problem}")
        return cls(fd, cells, mapping)

    def close(self) -> None:
        """Unmap and close the descriptor. Views handed out before are dead from here on."""
        self.live.release()
        self.health.release()
        for slot in self.slots:
            slot.release()
        self._cells.release()
        self._mapping.close()
        os.close(self.fd)


def _mismatch(cells: memoryview, size: int) -> str:
    if cells[_MAGIC_CELL] != MAGIC:
        return f"magic is {cells[_MAGIC_CELL]:#x}, expected {MAGIC:#x}: not a bgproxy segment"
    if cells[_LAYOUT_CELL] != LAYOUT_VERSION:
        return f"layout version is {cells[_LAYOUT_CELL]}, this program speaks {LAYOUT_VERSION}"
    if cells[_SLOT_CELLS_CELL] != worker_slot.SLOT_CELLS:
        return f"a slot has {cells[_SLOT_CELLS_CELL]} cells, this program expects {worker_slot.SLOT_CELLS}"
    expected = (_SLOTS_START + cells[_WORKERS_CELL] * worker_slot.SLOT_CELLS) * CELL_BYTES
    return "" if size == expected else f"{size} bytes, expected {expected} for {cells[_WORKERS_CELL]} workers"
