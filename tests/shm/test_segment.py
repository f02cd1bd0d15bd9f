from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bgproxy.core.model import BLUE, GREEN
from bgproxy.shm import health_board, worker_slot
from bgproxy.shm.live_pointer import Live
from bgproxy.shm.segment import CELL_BYTES, LAYOUT_VERSION, MAGIC, Segment, SegmentError

MAGIC_CELL, LAYOUT_CELL, WORKERS_CELL, SLOT_CELLS_CELL = range(4)


@contextmanager
def created(workers: int = 2) -> Iterator[Segment]:
    segment = Segment.create(workers)
    try:
        yield segment
    finally:
        segment.close()


@contextmanager
def attached(to: Segment) -> Iterator[Segment]:
    """A second mapping of the same memory, as a worker has it."""
    segment = Segment.attach(os.dup(to.fd))
    try:
        yield segment
    finally:
        segment.close()


@contextmanager
def file_of(content: bytes) -> Iterator[int]:
    fd = os.memfd_create("test")
    try:
        os.write(fd, content)
        yield fd
    finally:
        os.close(fd)


def content_of(segment: Segment) -> bytearray:
    return bytearray(os.pread(segment.fd, os.fstat(segment.fd).st_size, 0))


def with_cell(content: bytearray, cell: int, value: int) -> bytes:
    content[cell * CELL_BYTES : (cell + 1) * CELL_BYTES] = value.to_bytes(CELL_BYTES, "little")
    return bytes(content)


def test_a_new_segment_names_itself_and_is_otherwise_empty():
    with created(3) as segment:
        content = content_of(segment)
        assert content[:7] == b"BGPROX1"
        assert segment.workers == len(segment.slots) == 3
        assert segment.live.load() == Live(0, BLUE)
        assert not any(content[4 * CELL_BYTES :])


def test_what_one_mapping_writes_the_other_reads():
    with created() as ours, attached(ours) as theirs:
        ours.live.store(5, GREEN)
        ours.health.publish(GREEN, [True])
        theirs.slots[1].cells[worker_slot.PID] = 42
        assert theirs.live.load() == Live(5, GREEN)
        assert theirs.health.routable(GREEN)[0]
        assert ours.slots[1].cells[worker_slot.PID] == 42
        assert theirs.workers == 2


def test_no_part_of_a_segment_overlaps_another():
    with created() as segment:
        for cell in range(len(segment.live.cells)):
            segment.live.cells[cell] = 1
        for cell in range(len(segment.health.cells)):
            segment.health.cells[cell] = 2
        for number, slot in enumerate(segment.slots):
            for cell in range(len(slot.cells)):
                slot.cells[cell] = 3 + number
        assert segment.live.cells.tolist() == [1]
        assert set(segment.health.cells.tolist()) == {2}
        assert [set(slot.cells.tolist()) for slot in segment.slots] == [{3}, {4}]
        assert len(segment.health.cells) == health_board.BOARD_CELLS
        assert all(len(slot.cells) == worker_slot.SLOT_CELLS for slot in segment.slots)
        with attached(segment) as again:
            assert again.workers == 2


def test_the_live_word_lies_on_a_cache_line_that_nobody_else_writes():
    with created() as segment:
        segment.live.cells[0] = 2**64 - 1
        content = content_of(segment)
        assert [cell for cell in range(4, 64) if any(content[cell * 8 : cell * 8 + 8])] == [8]


def test_a_segment_without_workers_is_not_made():
    with pytest.raises(ValueError, match="at least one worker, not 0"):
        Segment.create(0)


def test_the_descriptor_is_not_inherited_by_accident():
    with created() as segment:
        assert not os.get_inheritable(segment.fd)


def test_closing_gives_the_descriptor_and_the_views_back():
    segment = Segment.create(1)
    live, fd = segment.live, segment.fd
    segment.close()
    with pytest.raises(ValueError, match="released"):
        live.load()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@pytest.mark.parametrize("size", [0, 1, 511, 513, 520 * 8 + 3])
def test_a_descriptor_of_another_size_is_not_attached(size):
    with file_of(bytes(size)) as fd, pytest.raises(SegmentError, match=f"descriptor {fd} holds {size} bytes"):
        Segment.attach(fd)


@pytest.mark.parametrize(
    ("cell", "value", "problem"),
    [
        (MAGIC_CELL, 0, "magic is 0x0"),
        (MAGIC_CELL, MAGIC + 1, "not a bgproxy segment"),
        (
            LAYOUT_CELL,
            LAYOUT_VERSION + 1,
            f"layout version is {LAYOUT_VERSION + 1}, this program speaks {LAYOUT_VERSION}",
        ),
        (SLOT_CELLS_CELL, 8, f"a slot has 8 cells, this program expects {worker_slot.SLOT_CELLS}"),
        (WORKERS_CELL, 3, "for 3 workers"),
        (WORKERS_CELL, 2**64 - 1, "expected"),
        (WORKERS_CELL, 0, "for 0 workers"),
    ],
)
def test_a_header_that_does_not_fit_is_named(cell, value, problem):
    with created(2) as segment:
        content = with_cell(content_of(segment), cell, value)
    with file_of(content) as fd, pytest.raises(SegmentError, match=problem):
        Segment.attach(fd)


def test_a_segment_that_was_cut_short_is_not_attached():
    with created(2) as segment:
        content = bytes(content_of(segment)[:-CELL_BYTES])
    with file_of(content) as fd, pytest.raises(SegmentError, match="expected"):
        Segment.attach(fd)
