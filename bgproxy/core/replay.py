"""What the records of a journal amount to: the state, the history, and what is still open.

    intent ──▶ outcome acknowledged, unconfirmed, recovered   it counts: epoch and colour are those of the intent
           └─▶ outcome refused, aborted                       it never happened; its epoch is free again

An intent without an outcome is one that the process died in. `restart` says what becomes of it. Where workers outlived
the process, their word is what clients are told, so it decides, and it may even be ahead of the journal. Where there
are none, an instant one is completed, because the word may have moved, and a fence only where it was `decided`: before
that, every request went to the old colour.
"""

from __future__ import annotations

from typing import Any

import msgspec

from bgproxy.core.journal import (
    Answer,
    AnyRecord,
    ColourName,
    Decided,
    Entry,
    GateSet,
    Intent,
    LastSwitch,
    Maintenance,
    Outcome,
    PoolsSet,
    Snapshot,
    State,
    StoredAnswer,
)

HISTORY = 200
ANSWERS = 1000
VOID = ("refused", "aborted")
RECOVERED = 0  # as the status of an answer: it was never given, and this is what it would have said


class Replayed(msgspec.Struct, frozen=True):
    """`open` is an intent whose outcome is not known, `decided` whether its fence had come that far."""

    state: State
    open: Intent | None = None
    decided: bool = False


class Witness(msgspec.Struct, frozen=True):
    """The newest word that workers of a dead supervisor serve by."""

    epoch: int
    live: ColourName


def replay(records: list[AnyRecord]) -> Replayed:
    """Of a file, which begins with a snapshot. ValueError begins with the number of the record that contradicts."""
    first = records[0]
    assert isinstance(first, Snapshot)
    now = Replayed(first.state)
    for record in records[1:]:
        try:
            now = apply(now, record)
        except ValueError as error:
            raise ValueError(f"record {record.seq} cannot be: {error}") from None
    return now


def apply(now: Replayed, record: AnyRecord) -> Replayed:
    """`now` and this record; ValueError where it contradicts what came before."""
    match record:
        case Intent():
            return _intended(now, record)
        case Decided():
            if now.open is None or now.open.epoch != record.epoch:
                raise ValueError(f"epoch {record.epoch} was decided, and no such switch is on its way")
            return msgspec.structs.replace(now, decided=True)
        case Outcome():
            return _concluded(now, record)
        case Answer():
            return _with(now, answers=_remembered(now.state.answers, record))
        case GateSet():
            since = Maintenance(at=record.at, by=record.by, reason=record.reason) if record.maintenance else None
            word = "on" if record.maintenance else "off"
            return _with(now, maintenance=since, history=_also(now, _event(now, record, f"maintenance {word}")))
        case PoolsSet():
            entry = msgspec.structs.replace(_event(now, record, "pools"), detail=record.detail)
            return _with(now, pools=record.document, history=_also(now, entry))
        case _:
            raise ValueError("a snapshot stands only at the beginning of a file")


def restart(now: Replayed, witness: Witness | None = None) -> Outcome | None:
    """The record that says what becomes of the intent that the process died in, None where there is none."""
    if now.open is None:
        return None
    epoch, before = now.open.epoch, "the proxy ended before"
    if witness is not None and witness.epoch < epoch:
        why = f"{before} the word moved; the workers still served the word before it"
        return Outcome(epoch=epoch, result="aborted", detail=why)
    if witness is not None:
        why = f"{before} its outcome was written; the workers serve by it"
        return Outcome(epoch=epoch, result="recovered", detail=why)
    if now.open.mode == "instant" or now.decided:
        why = f"{before} its outcome was written; the word may have moved, so it was completed"
        return Outcome(epoch=epoch, result="recovered", detail=why)
    why = f"{before} the old colour was empty; no request had reached the new one"
    return Outcome(epoch=epoch, result="aborted", detail=why)


def recovery(now: Replayed, witness: Witness | None = None) -> list[AnyRecord]:
    """All that a start has to add. ValueError where the journal cannot lead to what the workers serve."""
    outcome = restart(now, witness)
    if outcome is not None:
        now = apply(now, outcome)
    records: list[AnyRecord] = [] if outcome is None else [outcome]
    return records if witness is None else records + _missed(now.state, witness)


def _missed(state: State, witness: Witness) -> list[AnyRecord]:
    """The workers are ahead of what is written: a rollback that the disk did not take, perhaps more than one."""
    ahead, moved = witness.epoch - state.epoch, witness.live != state.live
    if ahead < 0 or moved is not bool(ahead % 2):
        raise ValueError(
            f"the workers serve {witness.live} as epoch {witness.epoch}, and by the journal {state.live} is live as "
            f"epoch {state.epoch}"
        )
    why = "the disk had not taken it; the workers serve by it"
    records: list[AnyRecord] = []
    live = state.live
    first = witness.epoch if moved else witness.epoch - 1
    for epoch in range(first, witness.epoch + 1) if ahead else ():
        to = _other(live)
        records += [
            Intent(epoch=epoch, from_=live, to=to, kind="rollback"),
            Outcome(epoch=epoch, result="recovered", detail=why),
        ]
        live = to
    return records


def _other(colour: ColourName) -> ColourName:
    return "green" if colour == "blue" else "blue"


def settled(records: list[AnyRecord]) -> Replayed:
    """As after a restart; for a file with damage, so what contradicts ends it."""
    now = Replayed(records[0].state) if isinstance(records[0], Snapshot) else Replayed(State(epoch=0, live="blue"))
    for record in records[1:]:
        try:
            now = apply(now, record)
        except ValueError:
            break
    unfinished = restart(now)
    return now if unfinished is None else apply(now, unfinished)


def switch_of(intent: Intent) -> LastSwitch:
    """What is to be said of it before anything is known of its outcome."""
    return LastSwitch(
        at=intent.at,
        from_=intent.from_,
        to=intent.to,
        kind=intent.kind,
        by=intent.by,
        reason=intent.reason,
        forced=intent.forced,
        mode=intent.mode,
    )


def taken_back(now: Replayed, record: AnyRecord) -> AnyRecord:
    """What makes `record`, which came too late for who waited for it, count for nothing. `now` is before it."""
    why = "the disk took it only after it had been given up"
    match record:
        case Intent():
            return Outcome(epoch=record.epoch, result="refused", detail=why)
        case Decided():
            return Outcome(epoch=record.epoch, result="aborted", detail=why)
        case GateSet():
            was = now.state.maintenance
            by, reason = (was.by, was.reason) if was else ("", "")
            return GateSet(maintenance=was is not None, by=by, reason=reason)
        case _:
            return PoolsSet(document=now.state.pools, reason=why)


def _intended(now: Replayed, intent: Intent) -> Replayed:
    if (unfinished := _superseded(now, intent)) is not None:
        now = apply(now, unfinished)
    state = now.state
    if intent.epoch <= state.epoch:
        raise ValueError(f"it intends epoch {intent.epoch} while epoch {state.epoch} is live")
    if intent.from_ != state.live or intent.to == intent.from_:
        raise ValueError(f"it goes from {intent.from_} to {intent.to} while {state.live} is live")
    entry = Entry(
        at=intent.at,
        kind=intent.kind,
        epoch=intent.epoch,
        from_=intent.from_,
        to=intent.to,
        mode=intent.mode,
        by=intent.by,
        reason=intent.reason,
        forced=intent.forced,
        late=intent.late,
    )
    return Replayed(msgspec.structs.replace(state, history=_also(now, entry)), intent)


def _superseded(now: Replayed, intent: Intent) -> Outcome | None:
    """Who intends the same epoch once more knows that the word did not move."""
    if now.open is not None and now.open.epoch == intent.epoch:
        return Outcome(epoch=intent.epoch, result="aborted", detail="it ended without an outcome")
    return restart(now)


def _concluded(now: Replayed, outcome: Outcome) -> Replayed:
    """An outcome may be followed by another of the same epoch, which knows more, like how long the drain took."""
    told = {name: getattr(outcome, name) for name in ("held_s", "acked_s", "drain_s", "detail")}
    members: dict[str, Any] = {"result": outcome.result} | {name: value for name, value in told.items() if value}
    state = msgspec.structs.replace(now.state, history=_amended(now.state.history, outcome.epoch, members))
    intent = now.open
    if intent is None or intent.epoch != outcome.epoch:
        if state.last_switch is not None and state.epoch == outcome.epoch and outcome.result not in VOID:
            state = msgspec.structs.replace(state, last_switch=_more(state.last_switch, members))
        return msgspec.structs.replace(now, state=state)
    if outcome.result in VOID:
        return Replayed(state)
    last = _more(switch_of(intent), members)
    answers = _remembered(state.answers, _unheard(intent, outcome)) if intent.key else state.answers
    return Replayed(
        msgspec.structs.replace(
            state, epoch=intent.epoch, live=intent.to, previous=intent.from_, last_switch=last, answers=answers
        )
    )


def _unheard(intent: Intent, outcome: Outcome) -> Answer:
    """A key must not move the word twice, also where the process died before it could answer: a rollback would go back
    and forth. The answer that is given replaces this one."""
    document = msgspec.to_builtins(switch_of(intent)) | {"epoch": intent.epoch, "changed": True}
    for name in ("result", "drain_s", "held_s", "acked_s"):
        del document[name]
    document["detail"] = "the proxy ended before it could answer; this is what the journal says"
    return Answer(
        at=outcome.at,
        until=intent.until,
        key=intent.key,
        request_hash=intent.request_hash,
        status=RECOVERED,
        document=document,
    )


def _more(last: LastSwitch, members: dict[str, Any]) -> LastSwitch:
    return msgspec.structs.replace(last, **{name: value for name, value in members.items() if name != "detail"})


def _amended(history: tuple[Entry, ...], epoch: int, members: dict[str, Any]) -> tuple[Entry, ...]:
    """With these members in the last switch of this epoch: those before it were taken back."""
    for place in range(len(history) - 1, -1, -1):
        if history[place].epoch == epoch and history[place].to is not None:
            return (*history[:place], msgspec.structs.replace(history[place], **members), *history[place + 1 :])
    return history


def _event(now: Replayed, record: GateSet | PoolsSet, kind: str) -> Entry:
    return Entry(at=record.at, kind=kind, epoch=now.state.epoch, by=record.by, reason=record.reason, late=record.late)


def _also(now: Replayed, entry: Entry) -> tuple[Entry, ...]:
    return (*now.state.history, entry)[-HISTORY:]


def _remembered(answers: dict[str, StoredAnswer], record: Answer) -> dict[str, StoredAnswer]:
    """The newest last: as many as are kept, without those whose time is over."""
    kept = {key: each for key, each in answers.items() if each.until > record.at and key != record.key}
    kept[record.key] = StoredAnswer(
        at=record.at,
        until=record.until,
        request_hash=record.request_hash,
        status=record.status,
        document=record.document,
    )
    return dict(list(kept.items())[-ANSWERS:])


def _with(now: Replayed, **members: Any) -> Replayed:
    return msgspec.structs.replace(now, state=msgspec.structs.replace(now.state, **members))
