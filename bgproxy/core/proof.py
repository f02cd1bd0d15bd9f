"""Does an access log keep what the switches of a journal promise? One pass, in any order of the records.

    C1  the colour of a record is that of its epoch, and the epoch was live
    C2  what begins after something has ended never has an older epoch
    C3  a fence: what ran on the old colour had ended before anything was dispatched under the new epoch
    C4  what was never dispatched has no colour; what was, arrived before that and ended after it

Every check is a claim about all pairs of records, and each comes down to extremes: some record of epoch 5 ended before
some record of epoch 4 arrived exactly where the earliest end of epoch 5 lies before the latest arrival of epoch 4. So
what is kept is a few records per boot and epoch, however long the log is. A record that is missing can hide a
violation and never makes one.

Times are nanoseconds of one boot's CLOCK_MONOTONIC: `arrive` is taken before the live word is loaded, `dispatch` after
it, `end` before the request is no longer counted as in flight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import attrgetter, itemgetter
from typing import Literal, NamedTuple

import msgspec

from bgproxy.core.retry import SAFE

Check = Literal["C1", "C2", "C3", "C4"]
CHECKS: tuple[Check, ...] = ("C1", "C2", "C3", "C4")
KEPT = 20  # violations that are told in full; the others are counted
_SAFE = frozenset(method.decode() for method in SAFE)
_DISPATCH, _END = attrgetter("dispatch"), attrgetter("end")
_OTHER = {"blue": "green", "green": "blue"}


class Move(msgspec.Struct, frozen=True):
    """What a journal says of an epoch. `counts` is False for one that was refused or taken back; `seq` is the number of
    the journal's record, 0 where it is known from a summary."""

    epoch: int
    colour: str
    mode: str = "instant"
    counts: bool = True
    seq: int = 0


class LogRecord(msgspec.Struct, frozen=True):
    """The part of an access log's line that matters here. Without times it was written by an older bgproxy."""

    termination: str
    method: str
    colour: str | None
    epoch: int | None
    arrive_ns: int | None = None
    dispatch_ns: int | None = None
    end_ns: int | None = None
    stream: str | None = None
    boot: str = ""
    request_id: str = ""


class Seen(NamedTuple):
    """A record and where it stands; a time that it does not have is 0."""

    record: LogRecord
    file: str
    line: int
    arrive: int
    dispatch: int
    end: int


class Violation(msgspec.Struct, frozen=True):
    check: Check
    what: str
    records: tuple[Seen, ...] = ()
    move: Move | None = None


class FenceSeen(msgspec.Struct, frozen=True):
    """`gap_ns` lies between the last end on the old colour and the first dispatch under the new epoch; None where the
    log has only one side, so that nothing could be checked."""

    epoch: int
    mode: str
    gap_ns: int | None


class Proof(msgspec.Struct, frozen=True):
    """`compared` is how often each check was made: records for C1 and C4, pairs of epochs for C2, fences for C3.
    `broken` counts what `violations` tells the first of."""

    records: int
    dispatched: int
    streams: int
    without_times: int
    boots: int
    epochs: tuple[int, ...]
    switches: int
    fences: tuple[FenceSeen, ...]
    compared: dict[Check, int]
    broken: int
    violations: tuple[Violation, ...]

    @property
    def verdict(self) -> Literal["proved", "violated", "nothing to check"]:
        if self.broken:
            return "violated"
        return "proved" if self.dispatched > self.without_times else "nothing to check"


class _Extremes:
    """Of one epoch in one boot: the records that are part of a violation, if any is."""

    __slots__ = (
        "arrived_last",
        "dispatched_first",
        "ended_first",
        "ended_last",
        "write_dispatched_first",
        "write_ended_last",
    )

    def __init__(self, seen: Seen) -> None:
        self.arrived_last = self.dispatched_first = self.ended_first = seen
        self.write_dispatched_first: Seen | None = None
        self.ended_last: Seen | None = None  # without streams: no fence waits for them
        self.write_ended_last: Seen | None = None
        self.widen(seen)

    def widen(self, seen: Seen) -> None:
        if seen.end < self.ended_first.end:
            self.ended_first = seen
        if seen.arrive > self.arrived_last.arrive:
            self.arrived_last = seen
        if seen.dispatch < self.dispatched_first.dispatch:
            self.dispatched_first = seen
        is_write = seen.record.method not in _SAFE
        if is_write:
            self.write_dispatched_first = _first((self.write_dispatched_first, seen), _DISPATCH)
        if seen.record.stream is not None:
            return
        if self.ended_last is None or seen.end > self.ended_last.end:
            self.ended_last = seen
        if is_write:
            self.write_ended_last = _last((self.write_ended_last, seen), _END)


class _Alike:
    """Records that claim the same epoch and colour: how many, and one of them."""

    __slots__ = ("count", "first")

    def __init__(self, first: Seen) -> None:
        self.count = 1
        self.first = first


class Checker:
    """`take` every record, in any order; `proof` says what they amount to. Ask the journal last: whatever epoch is in a
    log was in the journal before."""

    def __init__(self) -> None:
        self._records = self._dispatched = self._streams = self._without_times = self._broken = 0
        self._violations: list[Violation] = []
        self._alike: dict[tuple[int, str], _Alike] = {}
        self._extremes: dict[tuple[str, int], _Extremes] = {}
        self._moves: dict[int, Move] = {}

    def take(self, record: LogRecord, file: str, line: int) -> None:
        self._records += 1
        seen = _seen(record, file, line)
        epoch, colour = record.epoch, record.colour
        if epoch is None or colour is None:
            if epoch is not None or colour is not None or record.dispatch_ns is not None:
                what = f"epoch {epoch}, colour {colour}, dispatched at {record.dispatch_ns}: all of them or none"
                self._violation("C4", what, seen)
            return
        self._dispatched += 1
        self._streams += record.stream is not None
        alike = self._alike.get((epoch, colour))
        if alike is None:
            self._alike[epoch, colour] = _Alike(seen)
        else:
            alike.count += 1
        if not (seen.arrive and seen.dispatch and seen.end):
            self._without_times += 1
            return
        if not seen.arrive <= seen.dispatch <= seen.end:
            what = f"it arrived at {seen.arrive}, was dispatched at {seen.dispatch} and ended at {seen.end}"
            self._violation("C4", what, seen)
        extremes = self._extremes.get((record.boot, epoch))
        if extremes is None:
            self._extremes[record.boot, epoch] = _Extremes(seen)
        else:
            extremes.widen(seen)

    def proof(self, moves: Iterable[Move]) -> Proof:
        """Once, at the end."""
        self._learn(moves)
        for (epoch, colour), alike in sorted(self._alike.items()):
            self._check_colour(epoch, colour, alike)
        epochs = sorted({epoch for epoch, _ in self._alike})
        boots = sorted({boot for boot, _ in self._extremes})
        pairs = sum(self._check_order(boot) for boot in boots)
        live = [move for _, move in sorted(self._moves.items()) if move.counts]
        fences = [self._check_fence(move, boots) for move in live if move.mode != "instant"]
        begun = [move for move in live if epochs and epochs[0] < move.epoch <= epochs[-1]]
        return Proof(
            records=self._records,
            dispatched=self._dispatched,
            streams=self._streams,
            without_times=self._without_times,
            boots=len(boots),
            epochs=tuple(epochs),
            switches=len(begun),
            fences=tuple(fences),
            compared={
                "C1": self._dispatched,
                "C2": pairs,
                "C3": sum(fence.gap_ns is not None for fence in fences),
                "C4": self._records,
            },
            broken=self._broken,
            violations=tuple(self._violations),
        )

    def _learn(self, moves: Iterable[Move]) -> None:
        """An epoch that was taken back is free for the next switch."""
        for move in moves:
            known = self._moves.get(move.epoch)
            if known is None or not known.counts:
                self._moves[move.epoch] = move
            elif move.counts and move.colour != known.colour:
                what = f"the journal makes epoch {move.epoch} {known.colour} and {move.colour}"
                self._violation("C1", what, move=move)

    # --- the checks ---------------------------------------------------------------------------------------------------

    def _check_colour(self, epoch: int, colour: str, alike: _Alike) -> None:
        """C1."""
        move = self._moves.get(epoch)
        many = f"{alike.count} records say" if alike.count > 1 else "it says"
        if move is None:
            first = min(self._moves, default=0)
            more = f"; it begins with epoch {first}" if epoch < first else ""
            what = f"{many} epoch {epoch}, which the journal does not know{more}"
        elif not move.counts:
            what = f"{many} epoch {epoch}, which was never live: the {move.mode} switch to it was taken back"
        elif move.colour != colour:
            what = f"{many} {colour}, and epoch {epoch} is {move.colour}"
        else:
            return
        self._violation("C1", what, alike.first, move=move)

    def _check_order(self, boot: str) -> int:
        """C2. The newest epoch first, with who ended first of all that are newer: one comparison for each epoch finds
        every one that is too late. The number of comparisons."""
        compared = 0
        first: Seen | None = None
        for epoch, found in reversed(self._of(boot)):
            late = found.arrived_last
            if first is not None:
                compared += 1
                if first.end <= late.arrive:
                    what = (
                        f"epoch {epoch} came after epoch {first.record.epoch}: the first of these arrived "
                        f"{_span(late.arrive - first.end)} after the second had ended"
                    )
                    self._violation("C2", what, late, first, move=self._moves.get(epoch))
            first = _first((first, found.ended_first), _END)
        return compared

    def _check_fence(self, move: Move, boots: list[str]) -> FenceSeen:
        """C3, within each boot."""
        writes = move.mode == "fence-writes"
        gaps = []
        for boot in boots:
            old, new = [], []
            for epoch, found in self._of(boot):
                if epoch >= move.epoch:
                    new.append(found.write_dispatched_first if writes else found.dispatched_first)
                elif self._colour(epoch) == _OTHER[move.colour]:
                    old.append(found.write_ended_last if writes else found.ended_last)
            last, first = _last(old, _END), _first(new, _DISPATCH)
            if last is None or first is None:
                continue
            gaps.append(first.dispatch - last.end)
            if gaps[-1] < 0:
                what = (
                    f"the {move.mode} to epoch {move.epoch} let both colours run for {_span(-gaps[-1])}: the first of "
                    f"these had not ended when the second was dispatched"
                )
                self._violation("C3", what, last, first, move=move)
        return FenceSeen(move.epoch, move.mode, min(gaps, default=None))

    def _of(self, boot: str) -> list[tuple[int, _Extremes]]:
        """By epoch."""
        return sorted(((epoch, each) for (of, epoch), each in self._extremes.items() if of == boot), key=itemgetter(0))

    def _colour(self, epoch: int) -> str | None:
        move = self._moves.get(epoch)
        return move.colour if move is not None and move.counts else None

    def _violation(self, check: Check, what: str, *records: Seen, move: Move | None = None) -> None:
        self._broken += 1
        if len(self._violations) < KEPT:
            self._violations.append(Violation(check, what, records, move))


def _seen(record: LogRecord, file: str, line: int) -> Seen:
    return Seen(record, file, line, record.arrive_ns or 0, record.dispatch_ns or 0, record.end_ns or 0)


def _first(some: Iterable[Seen | None], when: Callable[[Seen], int]) -> Seen | None:
    return min((each for each in some if each is not None), key=when, default=None)


def _last(some: Iterable[Seen | None], when: Callable[[Seen], int]) -> Seen | None:
    return max((each for each in some if each is not None), key=when, default=None)


def _span(ns: int) -> str:
    return f"{ns / 1e6:.3f} ms"
