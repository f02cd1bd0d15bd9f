"""Is a history of concurrent operations on one register explained by some order of them, one at a time?

The register is the live word, (epoch, colour): it is read, and it is changed by compare-and-set on its epoch. An order
explains a history when every operation has its effect at one instant between its call and its answer (Herlihy and Wing
1990), and every answer is the one that the register would have given at that instant. An operation whose answer never
came may have had its effect at any time after its call, or none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

Word = tuple[int, str]  # epoch, colour


class Operation(msgspec.Struct, frozen=True):
    """`saw` is the word that the answer told, before or after its own effect; None where no answer came.

    A change has `to` and, where it is a compare-and-set, the `expected` epoch; `done` says that it was carried out.
    """

    called: float
    answered: float = math.inf
    saw: Word | None = None
    to: str = ""
    expected: int | None = None
    done: bool = False

    @property
    def is_open(self) -> bool:
        return self.saw is None


def explain(history: Sequence[Operation], start: Word) -> list[Operation] | None:
    """An order that explains it, None where there is none. Open reads say nothing, so they are left out."""
    pending = sorted((op for op in history if not op.is_open or op.to), key=lambda op: op.called)
    order: list[Operation] = []
    dead_ends: set[tuple[frozenset[int], Word]] = set()

    def search(left: list[Operation], now: Word) -> bool:
        taken = 0
        while True:  # reads change nothing: the earliest that fits is as good as any
            bound = min((op.answered for op in left), default=math.inf)
            fits = [op for op in left if op.called <= bound and not op.done and op.saw == now]
            if not fits:
                break
            order.extend(fits)
            taken += len(fits)
            gone = set(map(id, fits))
            left = [op for op in left if id(op) not in gone]
        if not any(not op.is_open for op in left):
            return True
        place = (frozenset(map(id, left)), now)
        if place not in dead_ends:
            bound = min(op.answered for op in left)
            for op in left:
                if op.called <= bound and (after := _effect(op, now)) is not None:
                    order.append(op)
                    if search([other for other in left if other is not op], after):
                        return True
                    order.pop()
            dead_ends.add(place)
        del order[len(order) - taken :]
        return False

    return order if search(pending, start) else None


def _effect(op: Operation, now: Word) -> Word | None:
    """The word after this change, None where it cannot be what happens next."""
    if not op.to or (op.expected is not None and op.expected != now[0]) or op.to == now[1]:
        return None
    after = (now[0] + 1, op.to)
    if op.is_open or (op.done and op.saw == after):
        return after
    return None
