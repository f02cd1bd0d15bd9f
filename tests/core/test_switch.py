from __future__ import annotations

import pytest

from bgproxy.core.switch import ENDS, NEXT, Action, Event, Phase, Switch


def stepped(*events: Event) -> tuple[Switch, list[Action | None]]:
    switch = Switch()
    return switch, [switch.step(event) for event in events]


TO_THE_CUTOVER = (Event.GATES_PASSED, Event.INTENT_DURABLE, Event.GO_AT_ONCE)
TO_THE_HOLD = (Event.GATES_PASSED, Event.INTENT_DURABLE, Event.FENCE_WANTED)


def test_a_switch_writes_its_intent_before_the_word_moves_and_answers_after_every_worker():
    switch, actions = stepped(*TO_THE_CUTOVER, Event.ALL_ACKNOWLEDGED, Event.ANSWER_NOW)
    assert actions == [Action.WRITE_INTENT, Action.CHOOSE_MODE, Action.CUT_OVER, Action.CHOOSE_ANSWER, None]
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


def test_a_fence_holds_before_it_waits_and_decides_before_the_word_moves():
    switch, actions = stepped(*TO_THE_HOLD, Event.ALL_ACKNOWLEDGED, Event.OLD_COLOUR_EMPTY, Event.INTENT_DURABLE)
    assert actions[2:] == [Action.CLOSE_THE_GATE, Action.AWAIT_EMPTY, Action.WRITE_DECISION, Action.CUT_OVER]
    assert switch.phase is Phase.CUTOVER
    assert not switch.holding


@pytest.mark.parametrize(
    "way",
    [
        (Event.SOME_SILENT, Event.DEATH_NOT_CONFIRMED),
        (Event.ALL_ACKNOWLEDGED, Event.FENCE_TIMED_OUT),
        (Event.ALL_ACKNOWLEDGED, Event.CUT_WANTED, Event.FENCE_TIMED_OUT),
        (Event.SOME_SILENT, Event.SILENT_ONES_DEAD, Event.OLD_COLOUR_EMPTY, Event.INTENT_NOT_WRITTEN),
    ],
)
def test_until_it_is_decided_a_fence_can_be_taken_back(way):
    switch, actions = stepped(*TO_THE_HOLD, *way)
    assert actions[-1] is Action.REOPEN
    assert switch.holding
    assert not switch.word_may_have_moved
    assert switch.step(Event.REOPENED) is None
    assert switch.phase is Phase.ABORTED
    assert not switch.holding
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


def ways_to(end: Phase, way: tuple[tuple[Phase, Event], ...] = (), phase: Phase = Phase.GATES):
    """Every way from the gates, as the steps that it takes."""
    if phase is end:
        yield way
        return
    for (start, event), (target, _) in NEXT.items():
        if start is phase:
            yield from ways_to(end, (*way, (start, event)), target)


def test_every_way_to_the_cutover_goes_through_the_intent():
    ways = list(ways_to(Phase.CUTOVER))
    assert len(ways) > 2
    intents = {(Phase.INTENT, Event.INTENT_DURABLE), (Phase.INTENT, Event.INTENT_POSTPONED)}
    assert all(len(intents & set(way)) == 1 for way in ways)


def test_every_way_of_a_fence_to_the_cutover_empties_the_old_colour_and_then_decides():
    fenced = [way for way in ways_to(Phase.CUTOVER) if (Phase.READY, Event.FENCE_WANTED) in way]
    assert fenced
    for way in fenced:
        (*_, (emptied, how), (decided, _)) = way
        assert emptied in {Phase.EMPTYING, Phase.CUTTING}
        assert how is Event.OLD_COLOUR_EMPTY
        assert decided is Phase.DECIDING
