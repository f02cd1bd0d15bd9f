"""Takes orders and lets one operation run at a time; knows what was switched last.

An operation runs to its end even where the client that ordered it is gone: half a switch does not exist. While an old
colour drains, nobody is kept waiting: a rollback must be possible during it.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from bgproxy.controlplane import drain, operation
from bgproxy.controlplane.gate import Gate, GateChange
from bgproxy.controlplane.operation import Operation
from bgproxy.controlplane.orders import FencePolicy, GateOrder, GateReport, SwitchOrder, SwitchReport
from bgproxy.core import gates, replay
from bgproxy.core.model import Colour
from bgproxy.errors import BadRequest, NothingToRollBackTo, StaleEpoch, SwitchInProgress

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping

    from bgproxy.controlplane.checklist import Checklist
    from bgproxy.controlplane.drain import Outcome
    from bgproxy.controlplane.events import Emit
    from bgproxy.controlplane.journal import Journal
    from bgproxy.controlplane.orphans import Orphans
    from bgproxy.controlplane.workers import Workers
    from bgproxy.core.gates import Verdict
    from bgproxy.core.journal import LastSwitch, State
    from bgproxy.shm.live_pointer import Live
    from bgproxy.shm.segment import Segment


R = TypeVar("R")


class Switcher:
    """`state` is what was loaded or began with; the segment already holds its word. `announce(colour, forced)` prepares
    the health board just before the word moves. Times in seconds."""

    def __init__(
        self,
        state: State,
        segment: Segment,
        journal: Journal,
        workers: Workers,
        orphans: Orphans,
        checklist: Checklist,
        *,
        announce: Callable[[Colour, bool], None],
        emit: Emit,
        gate: Gate,
        ack_timeout_s: float,
        drain_timeout_s: float,
        fence_timeout_s: float,
        fence_policy: FencePolicy,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._segment, self._checklist, self._emit, self._wall = segment, checklist, emit, wall
        self._previous = state.previous_colour
        self._last = _last_switch(state.last_switch, state.epoch)
        self._holder: dict[str, str] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._drain: asyncio.Task[Outcome] | None = None
        self._closed = self._holds = False
        self._called_off = ""  # why the fence that holds is to be taken back
        self._give_way: Callable[[], Awaitable[None]] | None = None
        self._tools = operation.Tools(
            segment=segment,
            journal=journal,
            workers=workers,
            orphans=orphans,
            announce=announce,
            verdicts=checklist.verdicts,
            emit=emit,
            gate=gate,
            ack_timeout_s=ack_timeout_s,
            drain_timeout_s=drain_timeout_s,
            fence_timeout_s=fence_timeout_s,
            fence_policy=fence_policy,
            called_off=lambda: "the proxy was told to end" if self._closed else self._called_off,
        )

    def configure(
        self, *, ack_timeout_s: float, drain_timeout_s: float, fence_timeout_s: float, fence_policy: FencePolicy
    ) -> None:
        """For the next order."""
        self._tools = msgspec.structs.replace(
            self._tools,
            ack_timeout_s=ack_timeout_s,
            drain_timeout_s=drain_timeout_s,
            fence_timeout_s=fence_timeout_s,
            fence_policy=fence_policy,
        )

    # --- what it says about itself ---

    @property
    def is_busy(self) -> bool:
        """Is the word about to move, or the whole program?"""
        return self._holder is not None

    @property
    def state(self) -> str:
        """upgrading, switching, holding (a fence), paused, maintenance, draining or steady: the first that is true."""
        if self._holder is not None:
            if self._give_way is not None:
                return "upgrading"
            return "holding" if self._holds else "switching"
        if self._tools.gate.state:
            return self._tools.gate.state
        return "draining" if self._drain is not None and not self._drain.done() else "steady"

    @property
    def previous(self) -> Colour | None:
        return self._previous

    @property
    def last_switch(self) -> Mapping[str, Any] | None:
        """at, from, to, kind, mode, by, reason, epoch, forced, held_s, acked_s, drain_s, result. After a restart
        `result` is that of the journal: acknowledged, unconfirmed, recovered; "decided" where it says nothing."""
        return self._last

    def verdicts(self, to: Colour, kind: str) -> list[Verdict]:
        """Every verdict on a switch or rollback to `to`, now."""
        return self._checklist.verdicts(to, kind)

    # --- orders ---

    async def execute(self, order: SwitchOrder) -> SwitchReport:
        """The answer to an order; ControlError says why it was not, or not wholly, executed."""
        if not order.dry_run:
            if order.kind == "rollback" and self._give_way is not None:
                await self._give_way()
            if order.kind == "rollback" and self._holder is not None and self._holds:
                return await self._call_off(order, self._holder)
            self._refuse_if_busy()
        before = self._segment.live.load()
        to = self._target(order)
        _refuse_stale(order, before)
        self._refuse_another_release(order, to)
        if to == before.colour:
            return await self._already_live(order, before)
        if order.dry_run:
            return self._rehearse(order, before, to)
        holder = self._hold_place(order.kind, to.label, order.by)
        return await self._to_the_end(self._run(order, before, to, holder))

    async def change_gate(self, order: GateOrder) -> GateReport:
        """Pause, resume, maintenance on or off; returns when every worker does so, or is dead."""
        self._refuse_if_busy()
        holder = self._hold_place(order.kind, "", order.by)
        return await self._to_the_end(self._run_gate(order, holder))

    def hold_for(self, kind: str, by: str, *, give_way: Callable[[], Awaitable[None]]) -> Callable[[], None]:
        """Nothing is changed until the returned function is called. A rollback does not wait for it: `give_way` returns
        when it is over, or cannot be ended any more. SwitchInProgress where something else is running."""
        self._refuse_if_busy()
        holder, self._give_way = self._hold_place(kind, "", by), give_way

        def release() -> None:
            self._release(holder)
            self._give_way = None

        return release

    async def close(self) -> None:
        """Refuse what comes; return when what runs has ended."""
        self._closed = True
        await asyncio.gather(*self._tasks, *filter(None, [self._drain]), return_exceptions=True)

    # --- how they are executed ---

    async def _call_off(self, order: SwitchOrder, holder: dict[str, str]) -> SwitchReport:
        """A rollback does not wait for a fence: that of a switch is taken back, and if it was decided already, the word
        moves back; that of a rollback gives way. The colour to come to is known from here on: two of these never go
        back and forth."""
        before = self._segment.live.load()
        _refuse_stale(order, before)
        goal = before.colour if holder["kind"] == "switch" else before.colour.other
        self._called_off = "a rollback was ordered"
        await drain.until(lambda: self._holder is not holder, inf, every_s=drain.LOOK_OFTEN_S)
        now = self._segment.live.load()
        if now.colour is not goal:
            return await self.execute(msgspec.structs.replace(order, to=goal, if_epoch=None))
        was = "taken back" if now.epoch == before.epoch else "over"
        return self._unchanged(
            order, now, goal, f"the {holder['kind']} to {holder['to']} was {was}: {goal.label} is live"
        )

    async def _to_the_end(self, work: Coroutine[Any, Any, R]) -> R:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(self._nobody_heard)
            raise

    async def _run_gate(self, order: GateOrder, holder: dict[str, str]) -> GateReport:
        try:
            change = GateChange(self._tools, order, self._now())
            await change.run()
        finally:
            self._release(holder)
        return await change.drained()

    async def _run(self, order: SwitchOrder, before: Live, to: Colour, holder: dict[str, str]) -> SwitchReport:
        def phase_changed(op: Operation) -> None:
            self._holds = op.protocol.holding
            if not op.protocol.exclusive:
                self._release(holder)

        self._called_off = ""
        try:
            return await Operation(
                self._tools,
                order,
                before,
                to,
                self._now(),
                moved=self._moved,
                acknowledged=self._acknowledged,
                phase_changed=phase_changed,
            ).run()
        finally:
            if self._holder is holder:
                self._holds = False
            self._release(holder)

    def _moved(self, op: Operation) -> None:
        self._previous = op.before.colour
        self._last = _last_switch(replay.switch_of(op.record.intent(forced=bool(op.overridden))), op.epoch)
        self._note(op.epoch, result="not_acknowledged")

    def _acknowledged(self, op: Operation) -> asyncio.Task[Outcome]:
        self._note(op.epoch, result="acknowledged", acked_s=op.acked_s, held_s=op.held_s)
        self._drain = asyncio.get_running_loop().create_task(self._watch(op))
        return self._drain

    async def _watch(self, op: Operation) -> Outcome:
        started = time.perf_counter()
        timeout_s = self._drain_timeout_s(op.order)
        old = op.before.colour
        outcome = await drain.until_empty(
            self._segment.slots, old, timeout_s, lambda: self._closed or self._segment.live.load().epoch != op.epoch
        )
        if self._closed and outcome is drain.Outcome.OVERTAKEN:
            outcome = drain.Outcome.TIMED_OUT  # the shutdown has a bound of its own
        drain_s = op.acked_s + time.perf_counter() - started
        left = drain.remaining(self._segment.slots, old)
        if outcome is drain.Outcome.EMPTY:
            self._note(op.epoch, result="drained", drain_s=drain_s)
            op.record.conclude("acknowledged", drain_s=round(drain_s, 6))
            self._emit("drained", colour=old.label, epoch=op.epoch, drain_s=round(drain_s, 6), streams=left.streams)
        elif outcome is drain.Outcome.TIMED_OUT:
            self._note(op.epoch, result="drain_timed_out")
            self._emit(
                "drain_timed_out", colour=old.label, epoch=op.epoch, requests=left.requests, streams=left.streams
            )
        elif self._segment.live.load().colour is old:
            self._emit(
                "drain_cancelled", colour=old.label, epoch=op.epoch, requests=left.requests, streams=left.streams
            )
        return outcome

    def _note(self, epoch: int, **members: Any) -> None:
        """Only the last switch is remembered: what becomes of an earlier one is no longer of interest."""
        if self._last is not None and self._last["epoch"] == epoch:
            self._last = self._last | members

    def _hold_place(self, kind: str, to: str, by: str) -> dict[str, str]:
        self._holder = {"kind": kind, "to": to, "by": by, "since": self._now()}
        return self._holder

    def _release(self, holder: dict[str, str]) -> None:
        if self._holder is holder:  # the next operation may be running by now
            self._holder = None

    def _refuse_if_busy(self) -> None:
        if self._closed:
            raise SwitchInProgress(
                "the proxy is shutting down; nothing was changed", hint="repeat it when the proxy runs again"
            )
        if self._holder is not None:
            by = f" by {self._holder['by']}" if self._holder["by"] else ""
            to = f" to {self._holder['to']}" if self._holder["to"] else ""
            what = ("an " if self._holder["kind"][0] in "aeiou" else "a ") + self._holder["kind"]
            raise SwitchInProgress(
                f"{what}{to}{by} is running since {self._holder['since']}; nothing was changed",
                hint="repeat it when that one has ended; bgproxy status shows it",
                extra={"holder": dict(self._holder)},
            )

    def _refuse_another_release(self, order: SwitchOrder, to: Colour) -> None:
        if order.expect_release:
            failed = gates.failed(self._checklist.release_verdicts(to, order.expect_release))
            if failed:
                error = operation.refused(order.kind, to, failed)
                error.hint = "wait until the whole pool runs the release, or name the one that it runs"
                raise error

    def _target(self, order: SwitchOrder) -> Colour:
        if order.kind == "switch":
            if order.to is None:
                raise BadRequest("a switch names the colour that is to be live", hint='give "to": "blue" or "green"')
            return order.to
        if self._previous is None:
            raise NothingToRollBackTo(
                "there has been no switch yet, so there is nothing to go back to; nothing was changed",
                hint="name the colour instead: bgproxy switch COLOUR",
            )
        if order.to is not None and order.to != self._previous:
            raise BadRequest(
                f"a rollback goes to the previous colour, {self._previous.label}, not to {order.to.label}",
                hint=f"leave the colour out, or use bgproxy switch {order.to.label}",
            )
        return self._previous

    async def _already_live(self, order: SwitchOrder, now: Live) -> SwitchReport:
        """Nothing to do, and said so; a repeated order still waits for the drain that it asks for.

        Not while workers of an earlier supervisor serve, perhaps by another word: this answer acknowledges, too.
        """
        orphans = gates.no_orphans(self._checklist.snapshot())
        if not orphans.passed:
            raise operation.refused(order.kind, now.colour, [orphans])
        drain_s = None
        old = now.colour.other
        if order.wait == "drained" and not order.dry_run:
            started = time.perf_counter()
            outcome = await drain.until_empty(
                self._segment.slots,
                old,
                self._drain_timeout_s(order),
                lambda: self._segment.live.load().epoch != now.epoch,
            )
            drain_s = time.perf_counter() - started
            if outcome is drain.Outcome.TIMED_OUT:
                error = operation.drain_timed_out(self._tools, old, drain_s)
                error.was_done = True
                raise error
        detail = f"{now.colour.label} is live already; nothing was changed"
        return self._unchanged(order, now, now.colour, detail, drain_s=drain_s)

    def _rehearse(self, order: SwitchOrder, before: Live, to: Colour) -> SwitchReport:
        failed = gates.failed(self.verdicts(to, order.kind))
        if failed and not order.force:
            raise operation.refused(order.kind, to, failed)
        overridden = tuple(verdict.as_dict() for verdict in failed)
        detail = f"the {order.kind} to {to.label} would be done; nothing was changed"
        return self._unchanged(order, before, to, detail, overridden=overridden)

    def _unchanged(self, order: SwitchOrder, now: Live, to: Colour, detail: str, **more: Any) -> SwitchReport:
        return SwitchReport(
            changed=False,
            kind=order.kind,
            from_=now.colour.label,
            to=to.label,
            epoch=now.epoch,
            at=self._now(),
            by=order.by,
            reason=order.reason,
            mode=order.mode,
            dry_run=order.dry_run,
            detail=detail,
            **more,
        )

    def _drain_timeout_s(self, order: SwitchOrder) -> float:
        return self._tools.drain_timeout_s if order.timeout_s is None else order.timeout_s

    def _nobody_heard(self, task: asyncio.Task[Any]) -> None:
        """The client left before the end; what came of it is told in the log instead."""
        error = None if task.cancelled() else task.exception()
        self._emit("switch_answer_unheard", error=str(error) if error else "")

    def _now(self) -> str:
        return self._wall().astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _refuse_stale(order: SwitchOrder, now: Live) -> None:
    if order.if_epoch is not None and order.if_epoch != now.epoch:
        raise StaleEpoch(
            f"the epoch is {now.epoch} ({now.colour.label} is live) and not {order.if_epoch}; nothing was changed",
            hint="look at bgproxy status, decide again, and repeat it with the present epoch",
            extra={"epoch": now.epoch, "live": now.colour.label},
        )


def _last_switch(last: LastSwitch | None, epoch: int) -> dict[str, Any] | None:
    if last is None:
        return None
    known: dict[str, Any] = msgspec.to_builtins(last)
    return known | {"epoch": epoch, "result": last.result or "decided"}
