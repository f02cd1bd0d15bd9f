"""The lower way of the switch protocol: hold, wait until the old colour is empty, and only then let the word move.

Held requests wait in the workers. Until the decision is on disk everything can be taken back: then the old colour
serves what was held.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from bgproxy.controlplane import drain
from bgproxy.core.switch import Action, Event
from bgproxy.errors import FenceTimedOut, WorkersDidNotAcknowledge
from bgproxy.shm.live_pointer import Hold

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bgproxy.controlplane.gate import Gate
    from bgproxy.controlplane.orders import FenceMode
    from bgproxy.controlplane.silence import Silence
    from bgproxy.controlplane.workers import Workers
    from bgproxy.core.model import Colour
    from bgproxy.errors import ControlError
    from bgproxy.shm.segment import Segment

IMPATIENT = "give it longer (--fence-timeout), cut what is slow (--fence-policy cut), or use --mode instant"
HOLD_OF = {"fence": Hold.ALL, "fence-writes": Hold.WRITES}


class Fence:
    """One fence around `old`. Each action returns what came of it; `error` says why it was taken back. Seconds."""

    def __init__(
        self,
        segment: Segment,
        gate: Gate,
        workers: Workers,
        silence: Silence,
        mode: FenceMode,
        old: Colour,
        *,
        timeout_s: float,
        policy: str,
        ack_timeout_s: float,
        called_off: Callable[[], str],
    ) -> None:
        self._segment, self._gate, self._workers, self._silence = segment, gate, workers, silence
        self._old = old
        self._writes_only = mode == "fence-writes"
        self._hold = HOLD_OF[mode]
        self._timeout_s, self._policy, self._ack_timeout_s = timeout_s, policy, ack_timeout_s
        self._called_off = called_off
        self._closed_at = 0.0
        self.held_s = 0.0
        self.held = 0  # requests
        self.cut = 0  # requests of the old colour that were ended by policy
        self._held_before = 0
        self.error: ControlError | None = None

    def actions(self) -> dict[Action, Callable[[], Awaitable[Event]]]:
        return {
            Action.CLOSE_THE_GATE: self.close,
            Action.EXPEL_SILENT: self.expel,
            Action.AWAIT_EMPTY: self.await_empty,
            Action.CUT_THE_REST: self.cut_the_rest,
            Action.REOPEN: self.reopen,
        }

    async def close(self) -> Event:
        self._closed_at = time.perf_counter()
        self._held_before = drain.held_ever(self._segment.slots)
        silent = await self._gate.hold(self._hold, self._ack_timeout_s)
        return Event.SOME_SILENT if self._silence.is_left_by(silent) else Event.ALL_ACKNOWLEDGED

    async def expel(self) -> Event:
        alive = await self._silence.end(f"did not hold its requests within {self._ack_timeout_s:g} s")
        if not alive:
            return Event.SILENT_ONES_DEAD
        self.error = WorkersDidNotAcknowledge(
            f"{self._old.label} is live: {'; '.join(alive)} did not hold its requests and could not be killed; "
            "nothing was changed",
            hint="kill -9 the named processes; if they stay, the machine has to be restarted",
            extra={"live": self._old.label, "workers": alive},
        )
        return Event.DEATH_NOT_CONFIRMED

    async def await_empty(self) -> Event:
        if await self._is_empty_within(self._timeout_s, lambda: bool(self._called_off())):
            return Event.OLD_COLOUR_EMPTY
        if why := self._called_off():  # whatever the policy: it is not wanted any more
            self._take_back(f"when {why}", hint="")
            return Event.FENCE_TIMED_OUT
        if self._policy == "cut":
            return Event.CUT_WANTED
        self._take_back("and [switch] fence_policy, or the request, says abort")
        return Event.FENCE_TIMED_OUT

    async def cut_the_rest(self) -> Event:
        self.cut = self._left()
        self._workers.cut(self._old, writes=self._writes_only)
        if await self._is_empty_within(self._ack_timeout_s):
            return Event.OLD_COLOUR_EMPTY
        # Who does not even cut is stuck; dead, it serves nobody.
        busy = [w for w in self._workers.living() if self._left_of(w.number)]
        deaths = await asyncio.gather(
            *(self._workers.kill_and_replace(worker, "did not cut its requests for a fence") for worker in busy)
        )
        if all(deaths) and await self._is_empty_within(self._ack_timeout_s):
            return Event.OLD_COLOUR_EMPTY
        self._take_back("and could not be cut")
        return Event.FENCE_TIMED_OUT

    async def reopen(self) -> Event:
        """Nobody has to be waited for: a worker that has not looked yet holds, or serves the same colour."""
        await self._gate.release(self._ack_timeout_s)
        self.over()
        return Event.REOPENED

    def over(self) -> None:
        """The word is open again, under whichever colour."""
        self.held_s = time.perf_counter() - self._closed_at
        self.held = drain.held_ever(self._segment.slots) - self._held_before

    async def _is_empty_within(self, timeout_s: float, given_up: Callable[[], bool] = lambda: False) -> bool:
        outcome = await drain.until(lambda: not self._left(), timeout_s, given_up, every_s=drain.LOOK_OFTEN_S)
        return outcome is drain.Outcome.EMPTY

    def _left(self) -> int:
        left = drain.remaining(self._segment.slots, self._old)
        return left.writes if self._writes_only else left.requests

    def _left_of(self, number: int) -> int:
        left = drain.remaining((self._segment.slots[number],), self._old)
        return left.writes if self._writes_only else left.requests

    def _take_back(self, why: str, *, hint: str = IMPATIENT) -> None:
        left, what = self._left(), "unsafe requests" if self._writes_only else "requests"
        waited_s = min(self._timeout_s, time.perf_counter() - self._closed_at)
        then = f"{self._gate.state} goes on" if self._gate.state else "it has served what was held"
        self.error = FenceTimedOut(
            f"after {waited_s:.3g} s {left} {what} still ran on {self._old.label} {why}: the switch was taken back, "
            f"{self._old.label} is live, and {then}",
            hint=hint,
            extra={"live": self._old.label, "remaining": {"requests": left}},
        )
