"""Which epochs a journal knows: of what colour, by which kind of switch, and whether they were ever live."""

from __future__ import annotations

from collections.abc import Iterable

from bgproxy.core.journal import AnyRecord, Decided, Intent, Outcome, Snapshot, State
from bgproxy.core.proof import Move
from bgproxy.core.replay import VOID


def moves_of(records: Iterable[AnyRecord]) -> list[Move]:
    """Of one file, in the order of its records; an epoch that was taken back may come again."""
    found: list[Move] = []
    intent: Intent | None = None
    decided = False
    for record in records:
        match record:
            case Snapshot(state=state):
                found += _of_state(state)
            case Intent():
                if intent is not None and intent.epoch != record.epoch:
                    found.append(_left_open(intent, decided=decided))
                intent, decided = record, False
            case Decided():
                decided = True
            case Outcome(epoch=epoch, result=result) if intent is not None and intent.epoch == epoch:
                found.append(_move(intent, counts=result not in VOID))
                intent = None
    if intent is not None:
        found.append(_left_open(intent, decided=decided))
    return found


def _of_state(state: State) -> list[Move]:
    found = [
        Move(entry.epoch, entry.to, entry.mode or "instant", entry.result not in VOID and entry.epoch <= state.epoch)
        for entry in state.history
        if entry.to is not None
    ]
    if not any(move.epoch == state.epoch and move.counts for move in found):
        found.append(Move(state.epoch, state.live))
    return found


def _left_open(intent: Intent, *, decided: bool) -> Move:
    """As a restart would see it, or one that is on its way right now: its word may have moved."""
    return _move(intent, counts=intent.mode == "instant" or decided)


def _move(intent: Intent, *, counts: bool) -> Move:
    return Move(intent.epoch, intent.to, intent.mode, counts, intent.seq)
