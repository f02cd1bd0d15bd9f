from __future__ import annotations

import msgspec
import pytest

from bgproxy.core.journal import (
    Answer,
    Decided,
    GateSet,
    Intent,
    LastSwitch,
    Maintenance,
    Outcome,
    PoolsSet,
    Snapshot,
    State,
)
from bgproxy.core.replay import (
    ANSWERS,
    HISTORY,
    RECOVERED,
    Replayed,
    Witness,
    apply,
    recovery,
    replay,
    restart,
    settled,
    taken_back,
)

BEGIN = Snapshot(format=2, state=State(epoch=0, live="blue"), at="t0")


def intent(epoch: int = 1, **members) -> Intent:
    a, b = ("green", "blue") if epoch % 2 == 0 else ("blue", "green")
    told = {"at": f"t{epoch}", "epoch": epoch, "from_": a, "to": b, "kind": "switch", "by": "ci", "reason": "1.3"}
    return Intent(**(told | members))


def outcome(epoch: int = 1, result: str = "acknowledged", **members) -> Outcome:
    return Outcome(at="t9", epoch=epoch, result=result, **members)


def after(*records, begin: Snapshot = BEGIN) -> Replayed:
    return replay([begin, *records])


def word(now: Replayed) -> tuple[int, str, str | None]:
    return now.state.epoch, now.state.live, now.state.previous


OLD, NEW = (0, "blue", None), (1, "green", "blue")


@pytest.mark.parametrize("result", ["acknowledged", "unconfirmed", "recovered"])
def test_an_intent_with_such_an_outcome_counts(result):
    now = after(intent(), outcome(result=result, acked_s=0.5))
    assert (word(now), now.open) == (NEW, None)
    assert now.state.last_switch == LastSwitch(
        at="t1",
        from_="blue",
        to="green",
        kind="switch",
        by="ci",
        reason="1.3",
        forced=False,
        result=result,
        acked_s=0.5,
    )


@pytest.mark.parametrize("result", ["refused", "aborted"])
@pytest.mark.parametrize("decided", [(), (Decided(epoch=1),)])
def test_an_intent_with_such_an_outcome_never_happened_and_its_epoch_is_free_again(result, decided):
    now = after(intent(mode="fence"), *decided, outcome(result=result, detail="why"))
    assert (word(now), now.open, now.state.last_switch) == (OLD, None, None)
    assert (now.state.history[0].result, now.state.history[0].detail) == (result, "why")
    assert word(apply(apply(now, intent()), outcome())) == NEW


def test_an_intent_without_an_outcome_counts_for_nothing_yet():
    now = after(intent())
    assert (word(now), now.open, now.decided) == (OLD, intent(), False)
    assert now.state.history[0].result is None


@pytest.mark.parametrize(
    ("records", "result", "word_then"),
    [
        ((intent(),), "recovered", NEW),
        ((intent(mode="fence"),), "aborted", OLD),
        ((intent(mode="fence-writes"),), "aborted", OLD),
        ((intent(mode="fence"), Decided(epoch=1)), "recovered", NEW),
    ],
)
def test_a_restart_completes_what_may_have_moved_the_word_and_nothing_else(records, result, word_then):
    now = after(*records)
    decision = restart(now)
    assert (decision.epoch, decision.result) == (1, result)
    assert "the proxy ended before" in decision.detail
    assert word(apply(now, decision)) == word_then
    assert settled([BEGIN, *records]) == apply(now, decision)
    assert restart(apply(now, decision)) is None


def settled_by(now: Replayed, witness: Witness | None) -> tuple[Replayed, list[str]]:
    records = recovery(now, witness)
    for record in records:
        now = apply(now, record)
    assert now.open is None
    return now, [record.result for record in records if isinstance(record, Outcome)]


@pytest.mark.parametrize(
    "records", [(intent(),), (intent(mode="fence"),), (intent(mode="fence"), Decided(epoch=1))], ids=len
)
def test_where_workers_outlived_the_process_their_word_decides(records):
    """An instant switch is void where they serve the word before, a fence done where they serve the word behind it."""
    now, results = settled_by(after(*records), Witness(0, "blue"))
    assert (word(now), results) == (OLD, ["aborted"])
    assert "still served the word before it" in now.state.history[-1].detail
    now, results = settled_by(after(*records), Witness(1, "green"))
    assert (word(now), results) == (NEW, ["recovered"])
    assert "the workers serve by it" in now.state.history[-1].detail


@pytest.mark.parametrize("begin", [(), (intent(), outcome())])
@pytest.mark.parametrize("ahead", [0, 1, 2, 3, 1000])
def test_a_journal_that_is_behind_the_workers_catches_up(begin, ahead):
    """A rollback is done without a disk: its intent may be written nowhere."""
    now = after(*begin)
    epoch = now.state.epoch + ahead
    live = "green" if epoch % 2 else "blue"
    then, results = settled_by(now, Witness(epoch, live))
    assert (then.state.epoch, then.state.live) == (epoch, live)
    assert len(results) == min(ahead, 1 if ahead % 2 else 2)
    if ahead:
        assert then.state.previous != live
        assert then.state.last_switch.kind == "rollback"


def test_a_switch_on_its_way_and_a_rollback_behind_it_are_both_found():
    now, results = settled_by(after(intent()), Witness(2, "blue"))
    assert (word(now), results) == ((2, "blue", "green"), ["recovered", "recovered"])


@pytest.mark.parametrize(
    ("records", "witness"),
    [
        ((intent(), outcome()), Witness(0, "blue")),
        ((intent(), outcome()), Witness(1, "blue")),
        ((intent(),), Witness(1, "blue")),
        ((intent(),), Witness(0, "green")),
        ((), Witness(1, "blue")),
    ],
)
def test_workers_that_the_journal_cannot_have_led_to_are_a_contradiction(records, witness):
    with pytest.raises(ValueError, match=f"the workers serve {witness.live} as epoch {witness.epoch}, and by "):
        recovery(after(*records), witness)


def test_without_workers_a_recovery_is_the_decision_of_the_restart():
    assert recovery(after()) == []
    assert recovery(after(intent())) == [restart(after(intent()))]


def test_the_next_intent_settles_one_that_was_left_open_as_a_restart_would():
    now = after(intent(1), intent(2))
    assert word(now) == NEW
    assert now.open.epoch == 2
    assert word(after(intent(1, mode="fence"), intent(1))) == OLD


def test_an_intent_for_the_same_epoch_says_that_the_one_before_did_not_move_the_word():
    now = after(intent(1), intent(1, by="again"), outcome())
    assert word(now) == NEW
    assert [(entry.by, entry.result) for entry in now.state.history] == [("ci", "aborted"), ("again", "acknowledged")]


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        (intent(epoch=1, from_="green", to="blue"), "it goes from green to blue while blue is live"),
        (intent(to="blue"), "it goes from blue to blue while blue is live"),
        (intent(epoch=0, from_="blue", to="green"), "it intends epoch 0 while epoch 0 is live"),
        (Decided(epoch=1), "epoch 1 was decided, and no such switch is on its way"),
        (BEGIN, "a snapshot stands only at the beginning of a file"),
    ],
)
def test_what_contradicts_is_refused_with_its_number(record, complaint):
    with pytest.raises(ValueError, match=f"^record 5 cannot be: {complaint}"):
        after(msgspec.structs.replace(record, seq=5))
    assert settled([BEGIN, record]).state == BEGIN.state


def test_a_decision_is_about_the_switch_on_its_way():
    with pytest.raises(ValueError, match="epoch 2 was decided"):
        after(intent(), Decided(epoch=2))


def test_of_a_file_without_a_beginning_nothing_is_known():
    assert settled([intent()]).state == State(epoch=0, live="blue")


def test_a_second_outcome_adds_what_became_known_later():
    now = after(intent(), outcome(acked_s=0.1, held_s=0.2), outcome(drain_s=3.0))
    assert (now.state.last_switch.held_s, now.state.last_switch.acked_s, now.state.last_switch.drain_s) == (0.2, 0.1, 3)
    (entry,) = now.state.history
    assert (entry.result, entry.acked_s, entry.drain_s) == ("acknowledged", 0.1, 3.0)


def test_the_end_of_an_earlier_drain_says_nothing_about_the_switch_on_its_way():
    now = after(intent(1), outcome(1), intent(2), outcome(1, drain_s=3.0))
    assert (now.open.epoch, word(now)) == (2, NEW)
    assert [entry.drain_s for entry in now.state.history] == [3.0, None]
    later = apply(apply(now, outcome(2)), outcome(1, drain_s=4.0))
    assert later.state.last_switch.drain_s is None


def test_a_refusal_that_comes_once_more_changes_nothing():
    now = after(intent(), outcome(result="refused"), outcome(result="aborted"))
    assert word(now) == OLD
    done = after(intent(), outcome(), outcome(result="aborted"))
    assert (word(done), done.state.last_switch.result) == (NEW, "acknowledged")
    assert after(outcome(epoch=5)).state == BEGIN.state, "of what is not known at all"


def test_the_history_tells_everything_in_order_and_is_bounded():
    now = after(intent(1), outcome(1), GateSet(at="t2", maintenance=True, by="ops", reason="db"), PoolsSet(at="t3"))
    assert [(entry.kind, entry.epoch, entry.at) for entry in now.state.history] == [
        ("switch", 1, "t1"),
        ("maintenance on", 1, "t2"),
        ("pools", 1, "t3"),
    ]
    for _ in range(HISTORY):
        now = apply(now, GateSet(maintenance=False))
    assert len(now.state.history) == HISTORY
    assert {entry.kind for entry in now.state.history} == {"maintenance off"}


def test_maintenance_and_pools_are_as_they_were_set_last():
    now = after(GateSet(at="t1", maintenance=True, by="ops"), PoolsSet(document=[1]))
    assert (now.state.maintenance, now.state.pools) == (Maintenance(at="t1", by="ops"), [1])
    now = apply(apply(now, GateSet(maintenance=False)), PoolsSet())
    assert (now.state.maintenance, now.state.pools) == (None, None)


def answer(key: str, at: str = "t1", until: str = "t8") -> Answer:
    return Answer(at=at, key=key, request_hash="h", status=200, document={"key": key}, until=until)


def test_answers_are_kept_until_their_time_is_over_or_there_are_too_many():
    now = after(answer("a", until="t4"), answer("b"), answer("a2", at="t4"))
    assert list(now.state.answers) == ["b", "a2"]
    assert now.state.answers["b"].document == {"key": "b"}
    for number in range(ANSWERS):
        now = apply(now, answer(str(number)))
    assert len(now.state.answers) == ANSWERS
    assert "b" not in now.state.answers
    assert list(apply(now, answer("7")).state.answers)[-1] == "7"


def test_a_key_whose_order_was_done_has_an_answer_also_where_none_was_given():
    """Asked again after a crash, a rollback would go back to where it came from."""
    keyed = intent(key="k", request_hash="h", until="t99", kind="rollback")
    now = after(keyed, outcome(result="recovered"))
    kept = now.state.answers["k"]
    assert (kept.status, kept.request_hash, kept.until) == (RECOVERED, "h", "t99")
    assert (kept.document["changed"], kept.document["epoch"], kept.document["to"]) == (True, 1, "green")
    assert apply(now, answer("k")).state.answers["k"].status == 200
    assert after(keyed, outcome(result="aborted")).state.answers == {}


def test_what_came_too_late_is_taken_back():
    maintained = after(GateSet(maintenance=True, by="ops"), PoolsSet(document=[1]))
    for record in (intent(), GateSet(maintenance=False), PoolsSet(document=[2])):
        there = apply(maintained, record)
        back = apply(there, taken_back(maintained, record))
        assert (word(back), back.open) == (OLD, None)
        assert (back.state.maintenance.by, back.state.pools) == ("ops", [1])
    open_fence = after(intent(mode="fence"))
    decision = Decided(epoch=1)
    assert word(apply(apply(open_fence, decision), taken_back(open_fence, decision))) == OLD
    on = GateSet(maintenance=True)
    assert apply(after(on), taken_back(after(), on)).state.maintenance is None
