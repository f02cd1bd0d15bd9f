"""The bookkeeping of the load tests finds each kind of broken promise: a checker that can't complain proves nothing."""

from __future__ import annotations

import pytest

from tests.support.ledger import Answered, Lost, Moved, violations

MOVES = [Moved(0, 0, 0, "blue"), Moved(10, 11, 1, "green"), Moved(20, 21, 2, "blue")]
GOOD = [
    Answered(1, 2, 1, "blue", "blue", 0),
    Answered(9, 12, 1, "blue", "blue", 0),  # began before the answer: the old colour may finish it
    Answered(10.5, 12, 2, "green", "green", 1),  # began while the switch was under way: either is right
    Answered(10.6, 12, 3, "blue", "blue", 0),
    Answered(11.1, 12, 1, "green", "green", 1),
    Answered(22, 23, 1, "blue", "blue", 2),
]


def test_what_keeps_every_promise_is_not_complained_about() -> None:
    assert violations(GOOD, MOVES, [Lost(5, 9, "the connection was closed", killed_worker=4711)]) == []


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("wrong colour", Answered(12, 13, 7, "blue", "green", 1)),
        ("wrong colour", Answered(12, 13, 7, "green", "blue", 1)),
        ("wrong colour", Answered(12, 13, 7, "blue", "blue", 1)),
        ("unknown epoch", Answered(12, 13, 7, "blue", "blue", 7)),
        ("stale", Answered(11.1, 13, 7, "blue", "blue", 0)),
        ("stale", Answered(22, 23, 7, "blue", "blue", 0)),  # the right colour, of two epochs ago
        ("premature", Answered(8, 9, 7, "green", "green", 1)),
        ("backwards", Answered(10.5, 12, 2, "blue", "blue", 0)),
    ],
)
def test_a_wrong_answer_is_found(kind: str, answer: Answered) -> None:
    (found,) = violations([*GOOD, answer], MOVES)
    assert found.startswith(kind)


def test_a_lost_request_that_no_killed_worker_explains_is_found() -> None:
    assert violations(GOOD, MOVES, [Lost(5, 9, "the answer b'HTTP/1.1 502'")]) == [
        "failed: the answer b'HTTP/1.1 502' on connection 9"
    ]


def test_epochs_that_do_not_follow_each_other_are_found() -> None:
    assert violations([], [MOVES[0], MOVES[2]]) == ["disorder: epoch 2 came after epoch 0"]
