from __future__ import annotations

import pytest

from bgproxy.core.chronicle import moves_of
from bgproxy.core.journal import FORMAT, Decided, Entry, GateSet, Intent, Outcome, Snapshot, State
from bgproxy.core.proof import Move

START = Snapshot(format=FORMAT, state=State(epoch=0, live="blue"))


def intent(epoch, mode="instant", seq=0):
    old, new = ("blue", "green") if epoch % 2 else ("green", "blue")
    return Intent(epoch=epoch, from_=old, to=new, kind="switch", mode=mode, seq=seq)


def test_a_snapshot_knows_its_own_epoch_and_those_of_its_history():
    history = (
        Entry(at="", kind="switch", epoch=1, to="green", mode="fence", result="aborted"),
        Entry(at="", kind="switch", epoch=1, to="green", mode="fence", result="acknowledged"),
        Entry(at="", kind="maintenance on", epoch=1),
        Entry(at="", kind="rollback", epoch=2, to="blue"),
        Entry(at="", kind="switch", epoch=3, to="green", mode="instant"),  # it was on its way
    )
    state = State(epoch=2, live="blue", history=history)
    assert moves_of([Snapshot(format=FORMAT, state=state)]) == [
        Move(1, "green", "fence", counts=False),
        Move(1, "green", "fence"),
        Move(2, "blue"),
        Move(3, "green", counts=False),
    ]
    assert moves_of([START]) == [Move(0, "blue")]


@pytest.mark.parametrize(
    ("result", "counts"),
    [("acknowledged", True), ("unconfirmed", True), ("recovered", True), ("aborted", False), ("refused", False)],
)
def test_an_outcome_says_whether_an_epoch_was_ever_live(result, counts):
    records = [START, intent(1, "fence", seq=7), Decided(epoch=1), Outcome(epoch=1, result=result)]
    assert moves_of(records)[1:] == [Move(1, "green", "fence", counts, 7)]


def test_a_later_outcome_of_the_same_epoch_adds_nothing():
    records = [START, intent(1), Outcome(epoch=1, result="acknowledged"), Outcome(epoch=1, result="acknowledged")]
    assert len(moves_of(records)) == 2


@pytest.mark.parametrize(
    ("mode", "decided", "counts"), [("instant", False, True), ("fence", False, False), ("fence-writes", True, True)]
)
def test_what_was_left_open_counts_as_a_restart_would_see_it(mode, decided, counts):
    left = [intent(1, mode), *([Decided(epoch=1)] if decided else [])]
    assert moves_of([START, *left])[1:] == [Move(1, "green", mode, counts)]
    followed = [*left, GateSet(maintenance=True), intent(2), Outcome(epoch=2, result="acknowledged")]
    assert moves_of([START, *followed])[1:] == [Move(1, "green", mode, counts), Move(2, "blue")]


def test_who_intends_the_same_epoch_once_more_knows_that_the_first_did_not_count():
    records = [START, intent(1), intent(1, "fence"), Decided(epoch=1), Outcome(epoch=1, result="acknowledged")]
    assert moves_of(records)[1:] == [Move(1, "green", "fence")]
