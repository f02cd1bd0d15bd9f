"""What the workers hold: for a fence while it lasts, for a pause or maintenance until an operator ends it.

The hold is a part of the live word, so every change of it goes through here, and no two of them overlap: the switcher
lets one operation run at a time.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bgproxy.controlplane import drain
from bgproxy.controlplane.orders import GateOrder, GateReport
from bgproxy.controlplane.silence import Silence
from bgproxy.core.journal import GateSet
from bgproxy.core.model import COLOURS
from bgproxy.errors import DrainTimedOut, GateConflict, StaleEpoch, StoreUnavailable, WorkersDidNotAcknowledge
from bgproxy.shm.live_pointer import Hold

if TYPE_CHECKING:
    from bgproxy.controlplane.operation import Tools
    from bgproxy.controlplane.worker_process import WorkerProcess
    from bgproxy.controlplane.workers import Workers
    from bgproxy.core.model import Colour
    from bgproxy.shm.segment import Segment

STANDING = {Hold.OPEN: "", Hold.ALL: "paused", Hold.MAINTENANCE: "maintenance"}


class Gate:
    """`standing` is what an operator asked for; a fence comes on top of it and leaves it as it was."""

    def __init__(self, segment: Segment, workers: Workers, standing: Hold = Hold.OPEN) -> None:
        self._segment, self._workers = segment, workers
        self.standing = standing

    @property
    def state(self) -> str:
        """paused, maintenance, or empty."""
        return STANDING[self.standing]

    async def hold(self, hold: Hold, timeout_s: float) -> list[WorkerProcess]:
        """For a fence. Who pauses or is in maintenance dispatches nothing already. Returns who is silent."""
        return await self._store(hold if self.standing is Hold.OPEN else self.standing, timeout_s)

    async def release(self, timeout_s: float) -> list[WorkerProcess]:
        """End a fence's hold with the same colour live."""
        return await self._store(self.standing, timeout_s)

    async def stand(self, hold: Hold, timeout_s: float) -> list[WorkerProcess]:
        """A pause, maintenance, or the end of either. Returns who is silent."""
        self.standing = hold
        return await self._store(hold, timeout_s)

    def move(self, epoch: int, colour: Colour) -> None:
        """The cutover, which is also the end of a fence's hold: one store."""
        self._segment.live.store(epoch, colour, self.standing)

    async def _store(self, hold: Hold, timeout_s: float) -> list[WorkerProcess]:
        live = self._segment.live.load()
        self._segment.live.store(live.epoch, live.colour, hold)
        return await self._workers.publish(timeout_s)


class GateChange:
    """One pause, resume or change of maintenance."""

    def __init__(self, tools: Tools, order: GateOrder, at: str) -> None:
        self._tools, self._order, self._at = tools, order, at
        self._silence = Silence(tools.workers, tools.orphans, patience_s=tools.ack_timeout_s)
        self._changed = False
        self._acked_s = 0.0

    async def run(self) -> None:
        """GateConflict where the order makes no sense now; WorkersDidNotAcknowledge names who may not follow it."""
        tools, order = self._tools, self._order
        to = self._target()
        if to is tools.gate.standing:
            return
        await self._write(to)
        started = time.perf_counter()
        self._changed = True
        silent = await tools.gate.stand(to, tools.ack_timeout_s)
        if self._silence.is_left_by(silent):
            alive = await self._silence.end(f"did not acknowledge: {order.kind}")
            if alive:
                raise WorkersDidNotAcknowledge(
                    f"{order.kind} is in force, but {'; '.join(alive)} did not acknowledge it and could not be killed",
                    hint="kill -9 the named processes; if they stay, the machine has to be restarted",
                    extra={"state": tools.gate.state, "workers": alive},
                )
        self._acked_s = time.perf_counter() - started
        tools.emit("gate_changed", kind=order.kind, state=tools.gate.state, by=order.by, reason=order.reason)

    async def drained(self) -> GateReport:
        """The report, with wait=drained after nothing is in flight any more."""
        tools, order = self._tools, self._order
        live = tools.segment.live.load()
        drain_s = None
        if order.wait == "drained":
            started = time.perf_counter()
            timeout_s = tools.drain_timeout_s if order.timeout_s is None else order.timeout_s
            standing = tools.gate.standing
            outcome = await drain.until(
                lambda: not self._in_flight(), timeout_s, lambda: tools.gate.standing is not standing
            )
            drain_s = time.perf_counter() - started
            if outcome is drain.Outcome.TIMED_OUT:
                raise self._not_drained(drain_s)
            if outcome is drain.Outcome.OVERTAKEN:
                raise self._overtaken()
        return GateReport(
            changed=self._changed,
            kind=order.kind,
            state=tools.gate.state or "open",
            live=live.colour.label,
            epoch=live.epoch,
            at=self._at,
            by=order.by,
            reason=order.reason,
            durable=tools.journal.durable,
            acked_s=self._acked_s,
            drain_s=drain_s,
            in_flight=self._in_flight(),
            replaced_workers=tuple(self._silence.replaced),
            undo=UNDO[order.kind],
        )

    def _in_flight(self) -> int:
        """On both colours: after a switch what began before it still runs on the one that was left."""
        return sum(drain.remaining(self._tools.segment.slots, colour).requests for colour in COLOURS)

    def _not_drained(self, waited_s: float) -> DrainTimedOut:
        slots, gate = self._tools.segment.slots, self._tools.gate
        left = {colour: drain.remaining(slots, colour).requests for colour in COLOURS}
        where = " and ".join(colour.label for colour in COLOURS if left[colour])
        return DrainTimedOut(
            f"{self._order.kind} is in force, but after {waited_s:.1f} s {sum(left.values())} requests still run"
            + (f" on {where}" if where else ""),
            hint="they go on undisturbed; look at bgproxy status",
            extra={"state": gate.state, "remaining": {"requests": sum(left.values())}},
        )

    def _overtaken(self) -> StaleEpoch:
        live, state = self._tools.segment.live.load(), self._tools.gate.state or "open"
        return StaleEpoch(
            f"{self._order.kind} was done, but the state is {state!r} by now, and requests were in flight until then",
            hint="the log says who changed it (gate_changed); look at bgproxy status and decide again",
            extra={"epoch": live.epoch, "live": live.colour.label, "state": state},
        )

    async def _write(self, to: Hold) -> None:
        """Maintenance outlives the process; a pause does not. Neither waits for a disk that does not work."""
        journal, order = self._tools.journal, self._order
        if Hold.MAINTENANCE not in (to, self._tools.gate.standing):
            return
        on = to is Hold.MAINTENANCE
        try:
            await journal.set_maintenance(on, by=order.by, reason=order.reason)
        except StoreUnavailable as error:
            journal.postpone(GateSet(at=self._at, maintenance=on, by=order.by, reason=order.reason))
            self._tools.emit("gate_not_durable", kind=order.kind, error=error.detail)

    def _target(self) -> Hold:
        """A pause does not end maintenance, nor maintenance a pause: each is ended by its own word."""
        standing, kind = self._tools.gate.standing, self._order.kind
        to, ends = TARGETS[kind]
        if standing not in (Hold.OPEN, ends):
            if to is Hold.OPEN:
                return standing  # there is no pause to resume from, no maintenance to end
            raise GateConflict(
                f"the proxy is in state {STANDING[standing]!r}; nothing was changed",
                hint=f"end that first: bgproxy {UNDO_STATE[standing]}",
                extra={"state": STANDING[standing]},
            )
        return to


TARGETS = {
    "pause": (Hold.ALL, Hold.ALL),
    "resume": (Hold.OPEN, Hold.ALL),
    "maintenance on": (Hold.MAINTENANCE, Hold.MAINTENANCE),
    "maintenance off": (Hold.OPEN, Hold.MAINTENANCE),
}
UNDO_STATE = {Hold.ALL: "resume", Hold.MAINTENANCE: "maintenance off"}
UNDO = {
    "pause": "bgproxy resume",
    "resume": "bgproxy pause",
    "maintenance on": "bgproxy maintenance off",
    "maintenance off": "bgproxy maintenance on",
}
