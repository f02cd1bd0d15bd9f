from __future__ import annotations

import pytest

from bgproxy.core.switch import ENDS, NEXT, Action, Event, Phase, Switch


def stepped(*events: Event) -> tuple[Switch, list[Action | None]]:
    switch = Switch()
    return switch, [switch.step(event) for event in events]


TO_THE_CUTOVER = (Event.GATES_PASSED, Event.INTENT_DURABLE)


def test_a_switch_writes_its_intent_before_the_word_moves_and_answers_after_every_worker():
    switch, actions = stepped(*TO_THE_CUTOVER, Event.ALL_ACKNOWLEDGED, Event.ANSWER_NOW)
    assert actions == [Action.WRITE_INTENT, Action.CUT_OVER, Action.CHOOSE_ANSWER, None]
    assert switch.phase is Phase.SETTLED
    assert switch.ended


def test_failed_gates_change_nothing():
    switch, actions = stepped(Event.GATES_FAILED)
    assert actions == [None]
    assert switch.ended
    assert not switch.word_may_have_moved


def test_an_intent_that_could_not_be_written_changes_nothing():
    switch, _ = stepped(Event.GATES_PASSED, Event.INTENT_NOT_WRITTEN)
    assert switch.phase is Phase.REFUSED
    assert not switch.word_may_have_moved


def test_silent_workers_are_replaced_before_the_answer():
    switch, actions = stepped(*TO_THE_CUTOVER, Event.SOME_SILENT, Event.SILENT_ONES_DEAD)
    assert actions[-2:] == [Action.REPLACE_SILENT, Action.CHOOSE_ANSWER]
    assert switch.phase is Phase.ACKNOWLEDGED


def test_a_worker_that_cannot_be_confirmed_dead_ends_the_switch_with_the_word_moved():
    switch, _ = stepped(*TO_THE_CUTOVER, Event.SOME_SILENT, Event.DEATH_NOT_CONFIRMED)
    assert switch.phase is Phase.UNCONFIRMED
    assert switch.word_may_have_moved


@pytest.mark.parametrize(
    ("event", "end"),
    [
        (Event.OLD_COLOUR_EMPTY, Phase.SETTLED),
        (Event.DRAIN_TIMED_OUT, Phase.OVERDUE),
        (Event.NEXT_SWITCH_CAME, Phase.OVERTAKEN),
    ],
)
def test_the_drain_is_watched_only_after_every_worker_has_answered(event, end):
    switch, actions = stepped(*TO_THE_CUTOVER, Event.ALL_ACKNOWLEDGED, Event.DRAIN_WANTED)
    assert actions[-1] is Action.WATCH_DRAIN
    assert not switch.ended
    switch.step(event)
    assert switch.phase is end


def test_a_drain_does_not_keep_the_next_switch_waiting():
    switch, _ = stepped(*TO_THE_CUTOVER, Event.ALL_ACKNOWLEDGED)
    assert switch.exclusive
    switch.step(Event.DRAIN_WANTED)
    assert not switch.exclusive


def test_an_event_that_cannot_follow_is_an_error_and_moves_nothing():
    switch = Switch()
    with pytest.raises(ValueError, match="ALL_ACKNOWLEDGED cannot happen in GATES"):
        switch.step(Event.ALL_ACKNOWLEDGED)
    assert switch.phase is Phase.GATES


def test_ends_are_exactly_the_phases_without_a_way_out_and_every_phase_can_be_reached():
    assert {phase for phase in Phase if not any(phase is start for start, _ in NEXT)} == ENDS
    assert {target for target, _ in NEXT.values()} | {Phase.GATES} == set(Phase)


def test_an_action_follows_exactly_where_the_switch_goes_on():
    for phase, action in NEXT.values():
        assert (action is None) == (phase in ENDS)


def test_every_way_to_the_cutover_goes_through_the_durable_intent():
    assert [key for key, (_, action) in NEXT.items() if action is Action.CUT_OVER] == [
        (Phase.INTENT, Event.INTENT_DURABLE)
    ]
