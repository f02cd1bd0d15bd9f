from __future__ import annotations

import pytest

from bgproxy.core.model import BLUE, GREEN
from bgproxy.shm.health_board import BOARD_CELLS, UPSTREAM_ROWS, VERSION_CELL, HealthBoard


def board() -> HealthBoard:
    return HealthBoard(memoryview(bytearray(BOARD_CELLS * 8)).cast("Q"))


def test_nobody_takes_traffic_before_something_is_published():
    fresh = board()
    for colour in (BLUE, GREEN):
        assert fresh.version(colour) == 0
        assert not any(fresh.routable(colour))
        assert len(fresh.routable(colour)) == UPSTREAM_ROWS


def test_rows_are_read_as_they_were_published_for_that_colour_alone():
    shared = board()
    assert shared.publish(GREEN, [True, False, True])
    assert shared.routable(GREEN)[:4] == [True, False, True, False]
    assert not any(shared.routable(BLUE))


def test_every_row_of_both_colours_has_its_own_cell():
    shared = board()
    shared.publish(BLUE, [True] * UPSTREAM_ROWS)
    assert all(shared.routable(BLUE))
    assert not any(shared.routable(GREEN))
    shared.publish(GREEN, [True] * UPSTREAM_ROWS)
    shared.publish(BLUE, [])
    assert all(shared.routable(GREEN))
    assert (shared.version(BLUE), shared.version(GREEN)) == (2, 1)


def test_the_version_moves_with_every_change_and_only_then():
    shared = board()
    assert shared.publish(BLUE, [True])
    assert not shared.publish(BLUE, [True])
    assert not shared.publish(BLUE, iter([True, False]))
    assert shared.publish(BLUE, [False])
    assert shared.version(BLUE) == 2
    assert shared.version(GREEN) == 0


def test_rows_beyond_those_published_are_cleared():
    shared = board()
    shared.publish(BLUE, [True] * 5)
    shared.publish(BLUE, [True])
    assert sum(shared.routable(BLUE)) == 1


def test_the_version_is_written_after_the_rows():
    written = []

    class Recorder:
        def __init__(self, cells: memoryview) -> None:
            self.cells = cells

        def __getitem__(self, key):
            return self.cells[key]

        def __setitem__(self, key, value):
            written.append(key)
            self.cells[key] = value

    HealthBoard(Recorder(board().cells)).publish(GREEN, [True] * 3)
    assert written[-1] == VERSION_CELL[GREEN]
    assert written.count(VERSION_CELL[GREEN]) == 1


def test_more_upstreams_than_rows_are_refused_and_nothing_is_written():
    shared = board()
    with pytest.raises(ValueError, match=f"{UPSTREAM_ROWS + 1} upstreams"):
        shared.publish(BLUE, [True] * (UPSTREAM_ROWS + 1))
    assert shared.version(BLUE) == 0
    assert not any(shared.routable(BLUE))


def test_each_version_has_a_cache_line_of_its_own():
    assert all(cell % 8 == 0 for cell in VERSION_CELL)


def test_a_released_board_holds_its_memory_no_longer():
    shared = board()
    shared.release()
    with pytest.raises(ValueError, match="released"):
        shared.version(BLUE)
