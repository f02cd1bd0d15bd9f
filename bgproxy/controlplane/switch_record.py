"""What the journal is told of one switch or rollback: that it was intended, that it was decided, what came of it.

A switch that cannot be written does not happen. A rollback is the way out, so it does, and is written when the disk
returns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bgproxy.controlplane.idempotency import digest_of
from bgproxy.core.journal import Decided, Intent, Outcome, Result
from bgproxy.core.switch import Event
from bgproxy.errors import StoreUnavailable

if TYPE_CHECKING:
    from bgproxy.controlplane.events import Emit
    from bgproxy.controlplane.journal import Journal
    from bgproxy.controlplane.orders import SwitchOrder
    from bgproxy.core.model import Colour

PATIENCE_S = 2.0
ROLLBACK_PATIENCE_S = 0.5  # a disk under load answers by then
BROKEN_PATIENCE_S = 0.05  # one that failed a moment ago is tried, and no longer waited for


class SwitchRecord:
    """`error` is why it could not be written."""

    def __init__(
        self, journal: Journal, emit: Emit, order: SwitchOrder, old: Colour, to: Colour, *, epoch: int, at: str
    ) -> None:
        self.error: StoreUnavailable | None = None
        self._journal, self._emit, self._order = journal, emit, order
        self._old, self._to, self._epoch, self._at = old, to, epoch, at
        self._open = False

    @property
    def _patience_s(self) -> float:
        if self._order.kind != "rollback":
            return PATIENCE_S
        return BROKEN_PATIENCE_S if self._journal.health["error"] else ROLLBACK_PATIENCE_S

    def intent(self, *, forced: bool) -> Intent:
        order = self._order
        return Intent(
            at=self._at,
            epoch=self._epoch,
            from_=self._old.label,  # type: ignore[arg-type]  # the two labels are the two literals
            to=self._to.label,  # type: ignore[arg-type]
            kind=order.kind,
            mode=order.mode,
            by=order.by,
            reason=order.reason,
            forced=forced,
            key=order.key,
            request_hash=digest_of(order) if order.key else "",
        )

    async def intend(self, *, forced: bool) -> Event:
        intent = self.intent(forced=forced)
        try:
            await self._journal.intend(intent, patience_s=self._patience_s)
        except StoreUnavailable as error:
            return self._without_disk(intent, error)
        self._open = True
        return Event.INTENT_DURABLE

    async def decide(self) -> Event:
        try:
            await self._journal.decide(self._epoch, patience_s=self._patience_s)
        except StoreUnavailable as error:
            return self._without_disk(Decided(epoch=self._epoch), error)
        return Event.INTENT_DURABLE

    def conclude(self, result: Result, **members: Any) -> None:
        """Of what was intended; once more where more is known. Waits for nothing."""
        if self._open:
            self._journal.conclude(Outcome(epoch=self._epoch, result=result, **members))

    def _without_disk(self, record: Intent | Decided, error: StoreUnavailable) -> Event:
        told = {"to": self._to.label, "kind": self._order.kind, "error": error.detail}
        if self._order.kind != "rollback":
            self.error = error
            self._emit("switch_not_written", **told)
            return Event.INTENT_NOT_WRITTEN
        self._journal.postpone(record)
        self._open = True
        self._emit("rollback_not_durable", epoch=self._epoch, **told)
        return Event.INTENT_POSTPONED

    @property
    def warning(self) -> str:
        """For the answer of something that was done all the same; "" where there is nothing to warn of."""
        if self._journal.durable:
            return ""
        return (
            f"NOT ON DISK YET: {self._journal.health['error'] or 'the disk is slow'}; a restart before it is would not "
            f"come up with {self._to.label}, epoch {self._epoch}"
        )
