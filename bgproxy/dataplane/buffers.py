"""What a worker holds in user space for slow peers, all connections together, and what gives where it is too much.

Nobody pays for it who holds nothing. A connection says `holds` where it keeps bytes back: only in the slow cases,
because `pause_writing` comes as soon as the kernel does not take all of a write. In between, `size` only grows and so
is never too low; each tick, and whenever it passes the limit by a sixteenth, the holders are asked. So the limit is
exceeded by at most a sixteenth, and what one turn of the loop brings.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Protocol


class Holder(Protocol):
    def held(self) -> int:
        """Bytes now; 0 once there is nothing left."""

    def shed(self) -> None:
        """Give it up, whatever becomes of the peer."""


class Buffers:
    """`size` is what is held, or was at the last tick with all that came since. `limit` in bytes, 0 for none."""

    __slots__ = ("_call_soon", "_holders", "_is_due", "_look_at", "limit", "size")

    def __init__(self, call_soon: Callable[[Callable[[], None]], Any]) -> None:
        self._call_soon = call_soon
        self._holders: set[Holder] = set()
        self._is_due = False
        self.size = 0
        self.configure(0)

    def configure(self, limit: int) -> None:
        self.limit = limit
        self._look_at = limit or sys.maxsize

    def holds(self, holder: Holder, grown: int) -> None:
        """It holds so many bytes more than it did."""
        self._holders.add(holder)
        self.size += grown
        if self.size > self._look_at and not self._is_due:
            self._is_due = True
            self._call_soon(self.count)  # not here: who holds may be in the middle of a write

    def forget(self, holder: Holder) -> None:
        """Its connection is lost, and what was left with it."""
        self._holders.discard(holder)

    def count(self) -> None:
        """Ask everybody, and shed down to seven eighths of the limit where it is passed: not again at the next byte."""
        self._is_due = False
        total = 0
        for holder in tuple(self._holders):
            held = holder.held()
            total += held
            if not held:
                self._holders.discard(holder)
        limit = self.limit
        if 0 < limit < total:
            total = self._shed(total, limit - limit // 8)
        self.size = total
        self._look_at = max(limit, total + limit // 16) if limit else sys.maxsize

    def _shed(self, total: int, enough: int) -> int:
        """Who holds most goes first: the fewest are hurt, and a client that keeps up holds nothing."""
        for holder in sorted(self._holders, key=lambda holder: holder.held(), reverse=True):
            if total <= enough:
                break
            total -= holder.held()
            self._holders.discard(holder)
            holder.shed()
        return total
