"""The checker itself: it finds an order where there is one, and none where there is none."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.linearizability import Operation, Word, explain

BLUE: Word = (0, "blue")
KINDS = ["read", "win", "lose", "lost"]


def read(called: float, answered: float, saw: Word) -> Operation:
    return Operation(called, answered, saw)


def changed(called: float, answered: float, expected: int, to: str) -> Operation:
    return Operation(called, answered, (expected + 1, to), to, expected, done=True)


def refused(called: float, answered: float, expected: int, to: str, saw: Word) -> Operation:
    return Operation(called, answered, saw, to, expected)


def lost(called: float, expected: int, to: str) -> Operation:
    return Operation(called, to=to, expected=expected)


def test_one_after_the_other_is_explained_in_that_order():
    history = [read(0, 1, BLUE), changed(2, 3, 0, "green"), read(4, 5, (1, "green")), changed(6, 7, 1, "blue")]
    assert explain(history, BLUE) == history


def test_a_read_that_began_after_a_change_was_answered_must_see_it():
    assert explain([changed(0, 1, 0, "green"), read(2, 3, BLUE)], BLUE) is None
    assert explain([changed(0, 2, 0, "green"), read(1, 3, BLUE)], BLUE) is not None


def test_two_reads_must_not_see_it_come_and_go():
    history = [changed(0, 9, 0, "green"), read(1, 2, (1, "green")), read(3, 4, BLUE)]
    assert explain(history, BLUE) is None


def test_two_winners_of_one_epoch_are_one_too_many():
    assert explain([changed(0, 9, 0, "green"), changed(0, 9, 0, "green")], BLUE) is None


def test_a_refusal_has_seen_the_word_that_refused_it():
    winner = changed(0, 4, 0, "green")
    assert explain([winner, refused(1, 5, 0, "green", (1, "green"))], BLUE) is not None
    assert explain([winner, refused(5, 6, 0, "green", BLUE)], BLUE) is None


def test_what_was_never_answered_may_have_happened_or_not():
    assert explain([lost(0, 0, "green"), read(1, 2, BLUE), read(3, 4, (1, "green"))], BLUE) is not None
    assert explain([lost(0, 0, "green"), read(1, 2, BLUE), read(3, 4, BLUE)], BLUE) is not None
    assert explain([lost(2.5, 0, "green"), read(1, 2, (1, "green"))], BLUE) is None


def test_a_change_that_nobody_made_is_found_out():
    assert explain([read(0, 1, BLUE), read(2, 3, (1, "green"))], BLUE) is None


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.sampled_from(["read", "win", "lose", "lost"]), st.floats(0, 3), st.floats(0, 3)), max_size=40)
)
def test_a_history_made_by_a_register_is_always_explained(steps):
    """Each operation takes effect at its own instant, and is called and answered some time around it."""
    now, history = BLUE, []
    for instant, (kind, before, after) in enumerate(steps):
        called, answered = instant - before, instant + after
        other = "blue" if now[1] == "green" else "green"
        if kind == "read":
            history.append(read(called, answered, now))
        elif kind == "lose":
            history.append(refused(called, answered, now[0] + 7, other, now))
        else:
            operation = changed(called, answered, now[0], other) if kind == "win" else lost(called, now[0], other)
            history.append(operation)
            now = (now[0] + 1, other)
    assert explain(history, BLUE) is not None
