from __future__ import annotations

import itertools
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bgproxy.core.proof import KEPT, Checker, LogRecord, Move

MOVES = (Move(0, "blue"), Move(1, "green", "instant", seq=2), Move(2, "blue", "fence", seq=4))
numbers = itertools.count(1)


def record(epoch, arrive, dispatch, end, **more):
    told = {
        "termination": "ok",
        "method": "GET",
        "colour": None if epoch is None else ("blue", "green")[epoch % 2],
        "epoch": epoch,
        "arrive_ns": arrive,
        "dispatch_ns": dispatch,
        "end_ns": end,
        "boot": "a",
        "request_id": f"r{next(numbers)}",
    }
    return LogRecord(**told | more)


def proof(*records, moves=MOVES):
    checker = Checker()
    for line, each in enumerate(records, 1):
        checker.take(each, "access.log", line)
    return checker.proof(moves)


def broken(*records, moves=MOVES):
    return [violation.check for violation in proof(*records, moves=moves).violations]


GOOD = (
    record(0, 10, 11, 20),
    record(1, 21, 22, 30),
    record(None, 25, None, 26, termination="refused"),
    record(2, 28, 31, 40),
)


def test_a_log_that_keeps_every_promise_is_proved():
    found = proof(*GOOD)
    assert found.verdict == "proved"
    assert (found.records, found.dispatched, found.epochs, found.switches, found.boots) == (4, 3, (0, 1, 2), 2, 1)
    assert found.compared == {"C1": 3, "C2": 2, "C3": 1, "C4": 4}
    assert [(fence.epoch, fence.mode, fence.gap_ns) for fence in found.fences] == [(2, "fence", 1)]


@pytest.mark.parametrize("records", [(), (record(None, 1, None, 2, termination="refused"),)])
def test_where_nothing_was_dispatched_there_is_nothing_to_check(records):
    assert proof(*records).verdict == "nothing to check"


def test_a_record_without_times_is_of_an_older_version_and_judged_by_its_colour_alone():
    old = record(1, None, None, None)
    found = proof(old)
    assert (found.verdict, found.without_times) == ("nothing to check", 1)
    assert broken(msgspec.structs.replace(old, colour="blue")) == ["C1"]


# --- C1 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (record(1, 21, 22, 30, colour="blue"), "it says blue, and epoch 1 is green"),
        (record(7, 41, 42, 43), "it says epoch 7, which the journal does not know"),
    ],
)
def test_a_colour_that_is_not_that_of_the_epoch_is_found(wrong, what):
    found = proof(*GOOD, wrong)
    assert found.verdict == "violated"
    assert [(each.check, each.what) for each in found.violations] == [("C1", what)]
    assert found.violations[0].records[0].line == 5


def test_many_records_that_are_wrong_alike_are_one_violation():
    found = proof(*(record(1, 1, 2, 3, colour="blue") for _ in range(7)))
    assert [each.what for each in found.violations] == ["7 records say blue, and epoch 1 is green"]


def test_an_epoch_before_the_beginning_of_the_journal_is_not_proved_and_says_why():
    found = proof(record(3, 1, 2, 3), moves=(Move(5, "green"), Move(6, "blue")))
    assert found.violations[0].what == "it says epoch 3, which the journal does not know; it begins with epoch 5"


def test_an_epoch_that_was_taken_back_was_never_live_unless_it_came_later():
    taken_back = Move(3, "green", "fence", counts=False, seq=6)
    assert broken(record(3, 1, 2, 3), moves=(*MOVES, taken_back)) == ["C1"]
    what = proof(record(3, 1, 2, 3), moves=(*MOVES, taken_back)).violations[0].what
    assert what == "it says epoch 3, which was never live: the fence switch to it was taken back"
    assert broken(record(3, 1, 2, 3), moves=(*MOVES, taken_back, Move(3, "green"))) == []


def test_a_journal_that_gives_an_epoch_two_colours_proves_nothing():
    assert broken(moves=(*MOVES, Move(1, "blue"))) == ["C1"]
    assert broken(moves=(*MOVES, Move(1, "green"), Move(1, "blue", counts=False))) == []


# --- C2 ---------------------------------------------------------------------------------------------------------------


def test_an_older_epoch_after_the_end_of_a_newer_one_is_found_with_both_records():
    found = proof(record(1, 1, 2, 3), record(0, 3, 4, 5))
    assert [each.check for each in found.violations] == ["C2"]
    late, first = found.violations[0].records
    assert (late.record.epoch, first.record.epoch) == (0, 1)
    assert "epoch 0 came after epoch 1" in found.violations[0].what


def test_epochs_that_overlap_are_no_violation_however_the_lines_stand():
    assert broken(record(1, 2, 3, 9), record(0, 1, 4, 12)) == []


def test_an_epoch_that_goes_back_is_found_across_others_between():
    assert broken(
        record(0, 9, 9, 10), record(1, 2, 3, 20), record(2, 1, 2, 5), moves=(*MOVES[:2], Move(2, "blue"))
    ) == ["C2"]


def test_times_of_different_boots_are_not_compared():
    assert broken(record(1, 1, 2, 3), record(0, 3, 4, 5, boot="b")) == []


# --- C3 ---------------------------------------------------------------------------------------------------------------


def test_a_fence_that_let_both_run_is_found_with_both_records_and_the_record_of_the_journal():
    found = proof(record(1, 1, 2, 30), record(2, 28, 29, 40))
    assert [each.check for each in found.violations] == ["C3"]
    old, new = found.violations[0].records
    assert (old.record.epoch, old.line, new.record.epoch, new.line) == (1, 1, 2, 2)
    assert found.violations[0].move == MOVES[2]
    assert found.fences[0].gap_ns == -1


@pytest.mark.parametrize(
    "old",
    [
        pytest.param(record(1, 1, 2, 50, stream="tunnel"), id="a stream is not waited for"),
        pytest.param(record(0, 1, 2, 50), id="the colour that becomes live again may run on"),
        pytest.param(record(1, 1, 2, 29), id="an end at the instant of the dispatch is an end"),
    ],
)
def test_what_a_fence_does_not_wait_for_is_no_violation(old):
    assert broken(old, record(2, 28, 29, 40)) == []


def test_a_fence_is_kept_for_every_later_epoch_and_against_every_older_one():
    moves = (*MOVES, Move(3, "green", "instant"))
    assert broken(record(1, 1, 2, 60), record(3, 50, 51, 55), moves=moves) == ["C3"]


def test_a_fence_for_writes_speaks_of_unsafe_methods_only():
    moves = (*MOVES[:2], Move(2, "blue", "fence-writes"))
    read, write = record(2, 3, 4, 5), record(2, 3, 4, 5, method="POST")
    assert broken(record(1, 1, 2, 30), read, moves=moves) == []
    assert broken(record(1, 1, 2, 30), write, moves=moves) == []
    assert broken(record(1, 1, 2, 30, method="PUT"), read, moves=moves) == []
    assert broken(record(1, 1, 2, 30, method="PUT"), write, moves=moves) == ["C3"]
    assert broken(record(1, 1, 2, 30, method="PUT", stream="events"), write, moves=moves) == []


def test_a_fence_of_which_the_log_has_one_side_is_not_counted_as_checked():
    found = proof(record(2, 28, 29, 40))
    assert (found.fences[0].gap_ns, found.compared["C3"]) == (None, 0)
    found = proof(record(1, 1, 2, 3), record(2, 1, 2, 3, boot="b"))
    assert (found.fences[0].gap_ns, found.boots) == (None, 2)


def test_an_epoch_that_nobody_knows_belongs_to_no_side_of_a_fence():
    assert broken(record(1, 1, 2, 50), record(2, 60, 61, 62), moves=(Move(0, "blue"), Move(2, "blue", "fence"))) == [
        "C1"
    ]


# --- C4 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        record(None, 1, 2, 3),
        record(None, 1, None, 3, colour="blue"),
        record(0, 1, None, 3, colour=None),
        record(0, 5, 4, 6),
        record(0, 4, 5, 3),
    ],
)
def test_what_is_half_dispatched_or_out_of_order_is_found(wrong):
    assert broken(wrong) == ["C4"]


def test_all_are_counted_and_the_first_are_told():
    found = proof(*(record(0, 5, 4, 6) for _ in range(KEPT + 5)))
    assert (found.broken, len(found.violations)) == (KEPT + 5, KEPT)


# --- the extremes say what all pairs say ------------------------------------------------------------------------------


def every_pair(records, moves):
    """The definitions, word for word."""
    known = {move.epoch: move for move in moves}
    for a, b in itertools.product(records, repeat=2):
        if a.boot != b.boot:
            continue
        if a.end_ns <= b.arrive_ns and a.epoch > b.epoch:
            yield "C2"
        for fence in moves:
            writes = fence.mode == "fence-writes"
            counts = fence.mode == "fence" or (writes and a.method == b.method == "POST")
            old = a.epoch < fence.epoch and known[a.epoch].colour != fence.colour and a.stream is None
            if counts and old and b.epoch >= fence.epoch and a.end_ns > b.dispatch_ns:
                yield "C3"


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.integers(0, 2**32), st.lists(st.sampled_from(["instant", "fence", "fence-writes"]), min_size=3, max_size=3))
def test_the_extremes_find_exactly_what_all_pairs_find(seed, modes):
    random = Random(seed)
    moves = (Move(0, "blue"), *(Move(n, ("blue", "green")[n % 2], mode) for n, mode in enumerate(modes, 1)))
    records = []
    for _ in range(random.randint(1, 8)):
        arrive, dispatch, end = sorted(random.randint(1, 30) for _ in range(3))
        epoch = min(3, max(0, dispatch // 8 + random.choice((-1, 0, 0, 0, 0, 1))))
        more = {"method": random.choice(("GET", "POST")), "stream": random.choice((None, None, "tunnel"))}
        records.append(record(epoch, arrive, dispatch, end, boot=random.choice("aab"), **more))
    assert set(broken(*records, moves=moves)) == set(every_pair(records, moves))
