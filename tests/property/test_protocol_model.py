"""Every interleaving of the switch protocol, and every way of building it wrongly that somebody might fall for.

The model takes its steps from the table of the code; `make soak` looks at larger worlds.
"""

from __future__ import annotations

import pytest

from bgproxy.core.switch import NEXT, Action, Event, Phase
from tests.support.model import INVARIANTS, Bounds, Build, Violation, explore

DISK_WAYS = {
    *((Phase.INTENT, Event.INTENT_NOT_WRITTEN), (Phase.INTENT, Event.INTENT_POSTPONED)),
    *((Phase.DECIDING, Event.INTENT_NOT_WRITTEN), (Phase.DECIDING, Event.INTENT_POSTPONED)),
}
NOT_DURABLE = {"S1", "S4", "S5"}  # what a rollback gives up that goes on without a disk, should all be killed then


def rewired(way: tuple[Phase, Event], to: tuple[Phase, Action]) -> Build:
    assert way in NEXT
    return Build(table=NEXT | {way: to})


TWO_SWITCHES = Bounds(switches=2, crashes=0, deaths=0)
ONE_SWITCH_AND_A_CRASH = Bounds(switches=1, crashes=1, deaths=0)
TWO_SWITCHES_AND_A_CRASH = Bounds(switches=2, crashes=1, deaths=0, requests=1)
LARGE = Bounds(switches=2, crashes=1, deaths=1)
MANY_REQUESTS = Bounds(switches=2, crashes=0, deaths=1, requests=3)
TWO_CRASHES = Bounds(switches=2, crashes=2, deaths=0, requests=1)


@pytest.mark.parametrize(
    "bounds",
    [
        TWO_SWITCHES,
        ONE_SWITCH_AND_A_CRASH,
        TWO_SWITCHES_AND_A_CRASH,
        *(pytest.param(each, marks=pytest.mark.long) for each in (LARGE, MANY_REQUESTS)),
        pytest.param(TWO_CRASHES, marks=pytest.mark.soak),
    ],
    ids=str,
)
@pytest.mark.timeout(1800)
def test_every_interleaving_keeps_every_promise(bounds, record_property):
    explored = explore(bounds=bounds)
    record_property("states", explored.states)
    print(f"{bounds}: {explored.states:,} states, {explored.steps:,} steps")
    assert explored.states > 10_000


def test_a_disk_that_fails_can_only_cost_what_was_said_not_to_be_durable():
    bounds = Bounds(switches=1, crashes=1, deaths=0, requests=2, disk_fails=True)
    explore(bounds=bounds, watch=INVARIANTS.keys() - NOT_DURABLE)
    with pytest.raises(Violation, match="a restart comes up with epoch 0") as caught:
        explore(bounds=bounds, watch={"S5"})
    assert any("INTENT_POSTPONED" in step for step in caught.value.trace)
    deaths = sum("dies" in step for step in caught.value.trace)
    assert deaths == 2, "as long as one worker lives, its word tells the successor"


def test_a_write_that_lands_after_it_was_given_up_can_be_carried_out_by_a_restart_and_breaks_nothing_else():
    """Whoever was told that nothing was changed was told too much: nobody can know what a disk does that is silent."""
    bounds = Bounds(switches=1, crashes=1, deaths=0, requests=1, writes_land_late=True)
    explore(bounds=bounds, watch=INVARIANTS.keys() - {"S5"})
    with pytest.raises(Violation, match="a restart comes up with epoch 1") as caught:
        explore(bounds=bounds, watch={"S5"})
    assert any("INTENT: INTENT_NOT_WRITTEN" in step for step in caught.value.trace)
    assert sum("dies" in step for step in caught.value.trace) == 2, "no worker is left whose word would tell"


def test_the_model_goes_every_way_of_the_table():
    calm = explore(bounds=Bounds(switches=2, crashes=0, deaths=0, requests=1)).taken
    accidents = explore(
        bounds=Bounds(switches=1, crashes=1, deaths=0, requests=1, disk_fails=True),
        watch=INVARIANTS.keys() - NOT_DURABLE,
    ).taken
    assert calm | accidents == set(NEXT)
    assert accidents >= DISK_WAYS


BROKEN = {
    "the word is stored before the hold": (
        "S2",
        rewired((Phase.READY, Event.FENCE_WANTED), (Phase.CUTOVER, Action.CUT_OVER)),
    ),
    "the decision is skipped": (
        "S5",
        rewired((Phase.EMPTYING, Event.OLD_COLOUR_EMPTY), (Phase.CUTOVER, Action.CUT_OVER)),
    ),
    "nobody waits for the old colour to be empty": (
        "S2",
        rewired((Phase.CLOSING, Event.ALL_ACKNOWLEDGED), (Phase.DECIDING, Action.WRITE_DECISION)),
    ),
    "the old colour counts as empty at the time-out": (
        "S2",
        rewired((Phase.EMPTYING, Event.FENCE_TIMED_OUT), (Phase.DECIDING, Action.WRITE_DECISION)),
    ),
    "silent workers are left alive before the fence": (
        "S2",
        rewired((Phase.CLOSING, Event.SOME_SILENT), (Phase.EMPTYING, Action.AWAIT_EMPTY)),
    ),
    "silent workers are left alive before the answer": (
        "S1",
        rewired((Phase.CUTOVER, Event.SOME_SILENT), (Phase.ACKNOWLEDGED, Action.CHOOSE_ANSWER)),
    ),
    "a fence that timed out is not taken back": (
        "S6",
        rewired((Phase.EMPTYING, Event.FENCE_TIMED_OUT), (Phase.ABORTED, None)),
    ),
    "a fence goes round and round": (
        "S7",
        rewired((Phase.REOPENING, Event.REOPENED), (Phase.REOPENING, Action.REOPEN)),
    ),
    "the hold is not acknowledged": ("S2", Build(waits_for_holds=False)),
    "the cutover is not acknowledged": ("S1", Build(waits_for_cutover=False)),
    "a worker answers between the load and the count": ("S1", Build(acknowledges_between_blocks=False)),
    "a worker that wakes does not look again": ("S2", Build(rechecks_on_wake=False)),
    "a worker does not hold": ("S2", Build(holds_while_supervised=False)),
    "the hold stays after the fence was taken back": ("S6", Build(reopens=False)),
    "nobody is told that the fence was taken back": ("S6", Build(tells_of_reopening=False)),
    "a worker without a supervisor holds for ever": ("S6", Build(leaves_hold_alone=False)),
    "a fence leaves orphans alive": ("S2", Build(expels_orphans=False, ends_orphans_before_the_word_moves=False)),
    "orphans are ended after the word has moved": ("S4", Build(ends_orphans_before_the_word_moves=False)),
    "a restart goes by the journal while orphans serve": ("S4", Build(orphans_decide=False)),
    "a restart completes a fence while orphans serve": ("S2", Build(orphans_decide=False)),
    "a restart completes a fence that was not decided": (
        "S5",
        Build(completes_undecided=True),
    ),
    "what is live already is told while orphans serve": ("S1", Build(repeats_before_orphans_are_gone=True)),
}
BOUNDS = {"what is live already is told while orphans serve": Bounds(switches=2, crashes=1, deaths=0, requests=1)}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_build_is_found(name):
    invariant, build = BROKEN[name]
    with pytest.raises(Violation) as caught:
        explore(build, BOUNDS.get(name, ONE_SWITCH_AND_A_CRASH), watch={invariant})
    assert caught.value.name == invariant
    assert caught.value.trace, "the way to it is told"


def test_a_restart_may_also_end_the_orphans_where_a_switch_was_not_finished():
    explore(Build(orphans_decide=False, retired_before_serving=True), ONE_SWITCH_AND_A_CRASH)


def test_a_table_that_does_not_say_what_follows_is_found():
    table = {way: to for way, to in NEXT.items() if way != (Phase.EMPTYING, Event.FENCE_TIMED_OUT)}
    with pytest.raises(Violation, match="T1: the table does not say what follows FENCE_TIMED_OUT in EMPTYING"):
        explore(Build(table=table), Bounds(switches=1, crashes=0, deaths=0, requests=1))
