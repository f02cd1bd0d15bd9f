"""One switch or rollback on its way through the protocol of core/switch.py: each action is performed here.

The intent is on disk before the word moves, and the answer waits until every worker has said that it saw the word, or
is known to be dead.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import msgspec

from bgproxy.controlplane import drain
from bgproxy.controlplane.fence import Fence
from bgproxy.controlplane.orders import FenceMode, FencePolicy, SwitchOrder, SwitchReport
from bgproxy.controlplane.silence import Silence
from bgproxy.controlplane.switch_record import SwitchRecord
from bgproxy.core import gates
from bgproxy.core.switch import Action, Event, Phase, Switch
from bgproxy.errors import (
    ControlError,
    DrainTimedOut,
    StaleEpoch,
    SwitchRefused,
    WorkersDidNotAcknowledge,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bgproxy.controlplane.drain import Outcome
    from bgproxy.controlplane.events import Emit
    from bgproxy.controlplane.gate import Gate
    from bgproxy.controlplane.journal import Journal
    from bgproxy.controlplane.orphans import Orphans
    from bgproxy.controlplane.workers import Workers
    from bgproxy.core.gates import Verdict
    from bgproxy.core.model import Colour
    from bgproxy.shm.live_pointer import Live
    from bgproxy.shm.segment import Segment

UNDO = "bgproxy rollback"


class Tools(msgspec.Struct, frozen=True, kw_only=True):
    """What an operation works with. `announce(colour, forced)` prepares the health board just before the word moves;
    `verdicts(to, kind)` evaluates the gates as things are now; `called_off()` why a fence
    is not to go on, "" where it is. Times in seconds."""

    segment: Segment
    journal: Journal
    workers: Workers
    orphans: Orphans
    announce: Callable[[Colour, bool], None]
    verdicts: Callable[[Colour, str], list[Verdict]]
    emit: Emit
    gate: Gate
    ack_timeout_s: float
    drain_timeout_s: float
    fence_timeout_s: float
    fence_policy: FencePolicy
    called_off: Callable[[], str]


class Operation:
    """`phase_changed` is called after every step; `moved` once, right after the cutover."""

    def __init__(
        self,
        tools: Tools,
        order: SwitchOrder,
        before: Live,
        to: Colour,
        at: str,
        *,
        moved: Callable[[Operation], None],
        acknowledged: Callable[[Operation], asyncio.Task[Outcome]],
        phase_changed: Callable[[Operation], None],
    ) -> None:
        self.tools, self.order, self.before, self.to, self.at = tools, order, before, to, at
        self.epoch = before.epoch + 1
        self.record = SwitchRecord(tools.journal, tools.emit, order, before.colour, to, epoch=self.epoch, at=at)
        self.protocol = Switch()
        self.overridden: list[Verdict] = []
        self.durable_s = self.acked_s = 0.0
        self.drain_s: float | None = None
        self._moved, self._acknowledged, self._phase_changed = moved, acknowledged, phase_changed
        self._stored_at = 0.0
        self._silence = Silence(tools.workers, tools.orphans, patience_s=tools.ack_timeout_s)
        self._fence: Fence | None = None
        self._drain: asyncio.Task[Outcome] | None = None
        self._error: ControlError | None = None

    async def run(self) -> SwitchReport:
        """ControlError says why it was refused, or what is not as it should be although the word has moved."""
        perform: dict[Action, Callable[[], Awaitable[Event]]] = {
            Action.CHECK_GATES: self._check_gates,
            Action.WRITE_INTENT: self._write_intent,
            Action.CHOOSE_MODE: self._choose_mode,
            Action.WRITE_DECISION: self._write_decision,
            Action.CUT_OVER: self._cut_over,
            Action.REPLACE_SILENT: self._replace_silent,
            Action.CHOOSE_ANSWER: self._choose_answer,
            Action.WATCH_DRAIN: self._watch_drain,
        }
        if self.order.mode != "instant":
            self._fence = self._new_fence(self.order.mode)
            perform |= self._fence.actions()
        action: Action | None = Action.CHECK_GATES
        try:
            while action is not None:
                action = self.protocol.step(await perform[action]())
                self._phase_changed(self)
        except Exception:
            if self._fence is not None:  # nobody else would end its hold
                await self.tools.gate.release(self.tools.ack_timeout_s)
            raise
        finally:
            # Also after a fault of ours: what is certain not to have happened must not be completed by a restart.
            if not self.protocol.word_may_have_moved:
                self.record.conclude("aborted", detail=self._why_not())
        if self.protocol.phase is Phase.ABORTED:
            self._error = self._error or (self._fence.error if self._fence else None)
            self._tell_of_abort()
        if self._error is not None:
            self._error.was_done = self.protocol.word_may_have_moved
            raise self._error
        return self._report()

    # --- the actions ---

    async def _check_gates(self) -> Event:
        failed = gates.failed(self.tools.verdicts(self.to, self.order.kind))
        if failed and not self.order.force and all(v.gate in gates.PASSES_BY_WAITING for v in failed):
            await self.tools.workers.all_ready(self.tools.ack_timeout_s)
            failed = gates.failed(self.tools.verdicts(self.to, self.order.kind))
        if failed and not self.order.force:
            self._error = refused(self.order.kind, self.to, failed)
            self.tools.emit("switch_refused", to=self.to.label, kind=self.order.kind, reasons=[str(v) for v in failed])
            return Event.GATES_FAILED
        self.overridden = failed
        return Event.GATES_PASSED

    async def _write_intent(self) -> Event:
        return await self._written(self.record.intend(forced=bool(self.overridden)))

    async def _write_decision(self) -> Event:
        return await self._written(self.record.decide())

    async def _written(self, writing: Awaitable[Event]) -> Event:
        started = time.perf_counter()
        event = await writing
        self._error = self.record.error
        self.durable_s += time.perf_counter() - started
        return event

    async def _choose_mode(self) -> Event:
        return Event.GO_AT_ONCE if self._fence is None else Event.FENCE_WANTED

    async def _cut_over(self) -> Event:
        await self._silence.end_orphans()  # or they would go on with an older epoch beside the new one
        self.tools.announce(self.to, self.order.force)
        self._stored_at = time.perf_counter()
        self.tools.gate.move(self.epoch, self.to)
        if self._fence is not None:
            self._fence.over()
        self._moved(self)
        silent = await self.tools.workers.publish(self.tools.ack_timeout_s, streams=self.order.streams)
        return Event.SOME_SILENT if self._silence.is_left_by(silent) else Event.ALL_ACKNOWLEDGED

    async def _replace_silent(self) -> Event:
        reason = f"did not acknowledge epoch {self.epoch} within {self.tools.ack_timeout_s:g} s"
        alive = await self._silence.end(reason)
        if not alive:
            return Event.SILENT_ONES_DEAD
        self._error = WorkersDidNotAcknowledge(
            f"{self.to.label} is live (epoch {self.epoch}), but {'; '.join(alive)} did not acknowledge it and could "
            f"not be killed: until that ends, requests may still reach {self.before.colour.label}",
            hint="kill -9 the named processes; if they stay, the machine has to be restarted",
            extra={"epoch": self.epoch, "live": self.to.label, "workers": alive},
        )
        self.tools.emit("workers_did_not_acknowledge", epoch=self.epoch, workers=alive)
        self.record.conclude("unconfirmed", **self._hold_facts(), detail="; ".join(alive))
        return Event.DEATH_NOT_CONFIRMED

    async def _choose_answer(self) -> Event:
        self.acked_s = time.perf_counter() - self._stored_at
        self._drain = self._acknowledged(self)
        self.record.conclude("acknowledged", **self._hold_facts(), acked_s=round(self.acked_s, 6))
        self.tools.emit(
            "cut_over",
            colour=self.to.label,
            epoch=self.epoch,
            kind=self.order.kind,
            by=self.order.by,
            reason=self.order.reason,
            mode=self.order.mode,
            held_s=round(self._fence.held_s, 6) if self._fence else None,
            durable_s=round(self.durable_s, 6),
            acked_s=round(self.acked_s, 6),
            replaced_workers=[each.worker for each in self._silence.replaced],
            overridden=[str(verdict) for verdict in self.overridden],
        )
        return Event.DRAIN_WANTED if self.order.wait == "drained" else Event.ANSWER_NOW

    async def _watch_drain(self) -> Event:
        assert self._drain is not None
        outcome = await asyncio.shield(self._drain)
        self.drain_s = time.perf_counter() - self._stored_at
        if outcome is drain.Outcome.EMPTY:
            return Event.OLD_COLOUR_EMPTY
        if outcome is drain.Outcome.TIMED_OUT:
            self._error = drain_timed_out(self.tools, self.before.colour, self.drain_s)
            return Event.DRAIN_TIMED_OUT
        now = self.tools.segment.live.load()
        self._error = StaleEpoch(
            f"the {self.order.kind} to {self.to.label} (epoch {self.epoch}) was done, but epoch {now.epoch} "
            f"({now.colour.label}) came before {self.before.colour.label} was drained",
            hint="look at bgproxy status for who made the later switch",
            extra={"epoch": now.epoch, "live": now.colour.label},
        )
        return Event.NEXT_SWITCH_CAME

    def _new_fence(self, mode: FenceMode) -> Fence:
        tools, order = self.tools, self.order
        return Fence(
            tools.segment,
            tools.gate,
            tools.workers,
            self._silence,
            mode,
            self.before.colour,
            timeout_s=tools.fence_timeout_s if order.fence_timeout_s is None else order.fence_timeout_s,
            policy=order.fence_policy or tools.fence_policy,
            ack_timeout_s=tools.ack_timeout_s,
            called_off=tools.called_off,
        )

    def _tell_of_abort(self) -> None:
        assert self._fence is not None
        self.tools.emit(
            "fence_taken_back",
            to=self.to.label,
            kind=self.order.kind,
            held_s=round(self._fence.held_s, 6),
            error=self._error.detail if self._error else "",
        )

    @property
    def held_s(self) -> float | None:
        """How long its fence held requests; None without one."""
        return self._fence.held_s if self._fence else None

    def _hold_facts(self) -> dict[str, Any]:
        return {} if self._fence is None else {"held_s": round(self._fence.held_s, 6), "cut": self._fence.cut}

    def _why_not(self) -> str:
        error = self._error or (self._fence.error if self._fence else None)
        return error.detail if error else "a fault in bgproxy"

    def _report(self) -> SwitchReport:
        assert self.protocol.phase is Phase.SETTLED
        killed = ", ".join(map(str, self._silence.orphans_killed))
        return SwitchReport(
            changed=True,
            kind=self.order.kind,
            from_=self.before.colour.label,
            to=self.to.label,
            epoch=self.epoch,
            at=self.at,
            by=self.order.by,
            reason=self.order.reason,
            mode=self.order.mode,
            forced=bool(self.overridden),
            held_s=self.held_s,
            held=self._fence.held if self._fence else 0,
            cut=self._fence.cut if self._fence else 0,
            streams=self.order.streams,
            streams_left=drain.remaining(self.tools.segment.slots, self.before.colour).streams,
            durable=self.tools.journal.durable,
            durable_s=self.durable_s,
            acked_s=self.acked_s,
            drain_s=self.drain_s,
            replaced_workers=tuple(self._silence.replaced),
            overridden=tuple(verdict.as_dict() for verdict in self.overridden),
            undo=UNDO,
            detail="; ".join(
                filter(
                    None,
                    (
                        f"workers of an earlier supervisor had to be killed: pid {killed}" if killed else "",
                        self.record.warning,
                    ),
                )
            ),
        )


def refused(kind: str, to: Colour, failed: list[Verdict]) -> SwitchRefused:
    reasons = "; ".join(map(str, failed))
    return SwitchRefused(
        f"the {kind} to {to.label} was refused: {reasons}; nothing was changed",
        failed=[verdict.as_dict() for verdict in failed],
        hint=f"repair what is named and repeat it; `bgproxy preflight {to.label}` tells when it would pass, "
        "--force overrides",
    )


def drain_timed_out(tools: Tools, old: Colour, waited_s: float) -> DrainTimedOut:
    live = tools.segment.live.load()
    left = drain.remaining(tools.segment.slots, old)
    return DrainTimedOut(
        f"{live.colour.label} is live (epoch {live.epoch}), but after {waited_s:.1f} s {left.requests} requests "
        f"still run on {old.label}",
        hint=f"they go on undisturbed; wait before you stop {old.label}, or look at bgproxy status",
        extra={
            "epoch": live.epoch,
            "live": live.colour.label,
            "remaining": {"requests": left.requests, "streams": left.streams},
            "drain_s": round(waited_s, 3),
        },
    )
