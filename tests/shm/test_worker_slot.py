from __future__ import annotations

from itertools import pairwise

import pytest

from bgproxy.core import failure
from bgproxy.core.model import BLUE, GREEN
from bgproxy.shm import worker_slot as slot
from bgproxy.shm.health_board import UPSTREAM_ROWS
from tests.support.slots import answered


def fresh() -> slot.WorkerSlot:
    return slot.WorkerSlot(memoryview(bytearray(slot.SLOT_CELLS * 8)).cast("Q"))


def regions() -> list[tuple[str, int, int]]:
    """(name, first cell, number of cells) of everything in a slot."""
    pairs = ("CONNECTS", "REUSES", "RETRIES", "REQUEST_BYTES", "RESPONSE_BYTES", "TUNNELS_TOTAL")
    gauge_pairs = ("IN_FLIGHT", "TUNNELS", "EVENT_STREAMS", "WRITES", "PARKED", "UPSTREAM_CONNECTIONS", "WAITING")
    singles = (
        "PID",
        "EPOCH_SEEN",
        "HEARTBEAT_NS",
        "LAG_NS",
        "TABLE_VERSION",
        "CLIENT_CONNECTIONS",
        "BUFFERED_BYTES",
        "HELD",
        "HELD_BYTES",
    )
    gauge_pairs += ("OLDEST", "STREAMS_LEAVING")
    return [
        *(
            (name, getattr(slot, name), 1)
            for name in (
                *singles,
                "CONNECTIONS_TOTAL",
                "ACCESS_LOG_DROPPED",
                "PIPELINE_PAUSES",
                "HELD_TOTAL",
                "HELD_NS",
            )
        ),
        *((name, getattr(slot, name), 2) for name in (*gauge_pairs, *pairs)),
        ("CLOSED", slot.CLOSED, len(slot.CLIENT_CLOSES)),
        ("STREAMS_CLOSED", slot.STREAMS_CLOSED, 2 * len(slot.STREAM_KINDS)),
        ("REJECTED", slot.REJECTED, len(slot.REJECTIONS)),
        *(
            (f"ERRORS {c.label}", slot.error_cell(c, slot.UPSTREAM_ERRORS[0]), len(slot.UPSTREAM_ERRORS))
            for c in (BLUE, GREEN)
        ),
        ("REQUESTS", slot.REQUESTS, 2 * slot.COLOUR_REQUESTS),
        ("HISTOGRAM", slot.HISTOGRAM, 2 * slot.COLOUR_HISTOGRAMS),
        ("ROWS", slot.ROWS, 2 * UPSTREAM_ROWS * slot.ROW_CELLS),
    ]


def test_no_two_things_share_a_cell_and_all_fit():
    end, before = 0, "the beginning"
    for name, start, count in sorted(regions(), key=lambda region: region[1]):
        assert start >= end, f"{name} overlaps {before}"
        end, before = start + count, name
    assert end <= slot.SLOT_CELLS


def test_gauges_lie_before_counters():
    names = {name: start + count for name, start, count in regions()}
    assert max(names["HELD_BYTES"], names["WRITES"], names["STREAMS_LEAVING"]) <= slot.GAUGE_CELLS
    assert min(slot.CONNECTIONS_TOTAL, slot.CONNECTS, slot.REJECTED) >= slot.GAUGE_CELLS


def test_a_slot_fills_whole_cache_lines():
    assert slot.SLOT_CELLS % 8 == 0


def test_every_failure_of_the_data_plane_has_its_counter():
    assert [each.reason for each in failure.ALL] == list(slot.UPSTREAM_ERRORS)


def test_cells_of_reasons_and_rows_are_all_different():
    errors = {slot.error_cell(c, reason) for c in (BLUE, GREEN) for reason in slot.UPSTREAM_ERRORS}
    rejected = {slot.rejected_cell(reason) for reason in slot.REJECTIONS}
    rows = {slot.row_cell(c, i, f) for c in (BLUE, GREEN) for i in range(UPSTREAM_ROWS) for f in range(slot.ROW_CELLS)}
    assert len(errors) == 2 * len(slot.UPSTREAM_ERRORS)
    assert len(rejected) == len(slot.REJECTIONS)
    assert len({slot.closed_cell(reason) for reason in slot.CLIENT_CLOSES} - rejected) == len(slot.CLIENT_CLOSES)
    assert len(rows) == 2 * UPSTREAM_ROWS * slot.ROW_CELLS
    assert max(rows) < slot.SLOT_CELLS
    assert not errors & rejected


def test_every_kind_of_stream_has_its_counter_for_each_colour():
    cells = {slot.closed_stream_cell(c, kind) for c in (BLUE, GREEN) for kind in (slot.TUNNEL, slot.EVENT_STREAM)}
    assert cells == set(range(slot.STREAMS_CLOSED, slot.STREAMS_CLOSED + 4))
    assert (slot.STREAM_KINDS[slot.TUNNEL], slot.STREAM_KINDS[slot.EVENT_STREAM]) == ("tunnel", "event_stream")


def test_an_unknown_reason_has_no_cell():
    with pytest.raises(ValueError, match="tuple"):
        slot.error_cell(BLUE, "bad luck")
    with pytest.raises(ValueError, match="tuple"):
        slot.rejected_cell("bad luck")
    with pytest.raises(ValueError, match="tuple"):
        slot.closed_cell("bad luck")


def test_handing_over_clears_what_died_and_keeps_what_was_counted():
    worker = fresh()
    for cell in range(slot.SLOT_CELLS):
        worker.cells[cell] = cell + 1
    worker.hand_over()
    kept = [cell for cell in range(slot.SLOT_CELLS) if worker.cells[cell] == cell + 1]
    cleared = [cell for cell in range(slot.SLOT_CELLS) if worker.cells[cell] == 0]
    rows = [(c, i) for c in (BLUE, GREEN) for i in range(UPSTREAM_ROWS)]
    gauges_of_rows = [slot.row_cell(c, i, f) for c, i in rows for f in (slot.ROW_IN_FLIGHT, slot.ROW_PARKED)]
    assert cleared == [*range(slot.GAUGE_CELLS), *sorted(gauges_of_rows)]
    assert len(kept) + len(cleared) == slot.SLOT_CELLS


def test_requests_are_told_by_colour_method_and_code():
    worker = fresh()
    assert list(worker.requests()) == []
    answered(worker, BLUE, method="GET", code=0)
    answered(worker, BLUE, method="OTHER", code=599, times=3)
    answered(worker, GREEN, method="POST", code=201, times=2)
    assert list(worker.requests()) == [(0, "GET", 0, 1), (0, "OTHER", 599, 3), (1, "POST", 201, 2)]


def test_a_histogram_tells_counts_and_sum_of_one_colour_and_class():
    worker = fresh()
    answered(worker, GREEN, code=503, times=4, duration_s=0.25)
    counts, total_ns = worker.histogram(GREEN, 5)
    assert len(counts) == slot.BUCKETS
    assert counts[slot.bucket_of(250_000_000)] == sum(counts) == 4
    assert total_ns == 1_000_000_000
    assert worker.histogram(BLUE, 5) == worker.histogram(GREEN, 4) == ([0] * slot.BUCKETS, 0)


# --- buckets ---------------------------------------------------------------------------------------------------------

LAST = slot.BUCKETS - 1
DURATIONS_NS = [0, 1, 1023, 1024, 16_383, 16_384, 17_407, 10**6, 10**9, 3600 * 10**9, 16_492 * 10**9]


@pytest.mark.parametrize("duration_ns", DURATIONS_NS)
def test_a_duration_lies_between_the_edges_of_its_bucket(duration_ns):
    bucket = slot.bucket_of(duration_ns)
    lower = slot.bucket_upper_s(bucket - 1) if bucket else 0.0
    assert lower <= duration_ns / 1e9 < slot.bucket_upper_s(bucket)


def test_bucket_edges_rise_and_every_bucket_begins_at_the_edge_before():
    edges = [slot.bucket_upper_s(bucket) for bucket in range(slot.BUCKETS)]
    assert edges == sorted(set(edges))
    for bucket, edge in enumerate(edges[:-1]):
        assert slot.bucket_of(round(edge * 1e9)) == bucket + 1
        assert slot.bucket_of(round(edge * 1e9) - 1) == bucket


def test_no_bucket_but_the_first_few_is_wider_than_an_eighth():
    edges = [slot.bucket_upper_s(bucket) for bucket in range(slot.BUCKETS)]
    widths = [upper / lower for lower, upper in pairwise(edges[16:])]
    assert max(widths) <= 1.125


@pytest.mark.parametrize("hours", [5, 24, 10_000])
def test_everything_longer_shares_the_last_bucket(hours):
    assert slot.bucket_of(hours * 3600 * 10**9) == LAST


def test_a_released_slot_holds_its_memory_no_longer():
    worker = fresh()
    worker.release()
    with pytest.raises(ValueError, match="released"):
        list(worker.requests())
