"""What was asked, answered, lost and switched, and what about it breaks a promise. Times on one monotonic clock."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple


class Answered(NamedTuple):
    """`colour` is what the app called itself, `stamped` and `epoch` what the proxy wrote into the head."""

    started: float
    ended: float
    connection: int
    colour: str
    stamped: str
    epoch: int


class Lost(NamedTuple):
    """A request without its whole answer. `killed_worker` is the pid whose death explains it, 0 where none does."""

    at: float
    connection: int
    what: str
    killed_worker: int = 0


class Moved(NamedTuple):
    """A switch or rollback that was answered: called and returned as the caller saw it."""

    called: float
    returned: float
    epoch: int
    colour: str


def violations(answers: Iterable[Answered], moves: Sequence[Moved], losses: Iterable[Lost] = ()) -> list[str]:
    """One sentence per broken promise. Moves in the order in which they were made; the first epoch is that before."""
    return [*_unexplained(losses), *_disorder(moves), *_wrong_answers(answers, moves)]


def _unexplained(losses: Iterable[Lost]) -> list[str]:
    return [f"failed: {lost.what} on connection {lost.connection}" for lost in losses if not lost.killed_worker]


def _disorder(moves: Sequence[Moved]) -> list[str]:
    return [
        f"disorder: epoch {after.epoch} came after epoch {before.epoch}"
        for before, after in pairwise(moves)
        if after.epoch != before.epoch + 1
    ]


def _wrong_answers(answers: Iterable[Answered], moves: Sequence[Moved]) -> list[str]:
    colour_of = {move.epoch: move.colour for move in moves}
    returned = [move.returned for move in moves]
    called = [move.called for move in moves]
    last_epoch: dict[int, int] = {}
    found = []
    for answer in answers:
        colour = colour_of.get(answer.epoch)
        if colour is None:
            found.append(f"unknown epoch: {answer}")
            continue
        if not answer.colour == answer.stamped == colour:
            found.append(f"wrong colour: epoch {answer.epoch} is {colour}: {answer}")
        answered_before = bisect_right(returned, answer.started) - 1
        if answer.epoch < moves[answered_before].epoch:
            found.append(f"stale: began after epoch {moves[answered_before].epoch} was acknowledged: {answer}")
        if answer.epoch > moves[bisect_right(called, answer.ended) - 1].epoch:
            found.append(f"premature: nobody had asked for this epoch yet: {answer}")
        if answer.epoch < last_epoch.get(answer.connection, answer.epoch):
            found.append(f"backwards: epoch {last_epoch[answer.connection]} came before: {answer}")
        last_epoch[answer.connection] = answer.epoch
    return found
