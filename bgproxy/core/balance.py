"""Which upstream of a pool takes the next request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias, TypeVar


class Candidate(Protocol):
    """What the balancers look at. `in_flight` is this worker's own count."""

    @property
    def weight(self) -> int: ...
    @property
    def in_flight(self) -> int: ...


C = TypeVar("C", bound=Candidate)
Pick: TypeAlias = Callable[[Sequence[C]], C]


def least_requests() -> Pick[C]:
    """The upstream with the fewest requests per weight; ties go round, so that equals share a trickle of requests."""
    turn = 0

    def pick(candidates: Sequence[C]) -> C:
        nonlocal turn
        count = len(candidates)
        turn = turn + 1 if turn + 1 < count else 0
        best = candidates[turn]
        best_load = (best.in_flight + 1) / best.weight
        for step in range(1, count):
            other = candidates[turn + step - count]
            load = (other.in_flight + 1) / other.weight
            if load < best_load:
                best, best_load = other, load
        return best

    return pick


def round_robin() -> Pick[C]:
    """Every upstream in turn, `weight` times per round, spread evenly (smooth weighted round-robin)."""
    credits: dict[int, int] = {}

    def pick(candidates: Sequence[C]) -> C:
        total = 0
        best, best_credit = candidates[0], None
        for candidate in candidates:
            total += candidate.weight
            credit = credits.get(id(candidate), 0) + candidate.weight
            credits[id(candidate)] = credit
            if best_credit is None or credit > best_credit:
                best, best_credit = candidate, credit
        credits[id(best)] -= total
        return best

    return pick


BALANCERS: dict[str, Callable[[], Pick[Candidate]]] = {
    "least-requests": least_requests,
    "round-robin": round_robin,
}
