from __future__ import annotations

import pytest

from bgproxy.controlplane.idempotency import digest_of
from bgproxy.controlplane.orders import SwitchOrder
from bgproxy.controlplane.switch_record import SwitchRecord
from bgproxy.core.journal import Decided, Intent
from bgproxy.core.model import BLUE, GREEN
from bgproxy.core.switch import Event
from bgproxy.errors import StoreUnavailable
from tests.support.proxies import Recorder


class FakeJournal:
    """Says no while `broken`."""

    def __init__(self) -> None:
        self.broken = False
        self.said: list[object] = []
        self.durable = True
        self.health = {"error": None}
        self.patience: list[float] = []

    async def intend(self, intent, *, patience_s):
        self.patience.append(patience_s)
        self._say(intent)

    async def decide(self, epoch, *, patience_s):
        self.patience.append(patience_s)
        self._say(("decided", epoch))

    def _say(self, what):
        if self.broken:
            raise StoreUnavailable("the disk is full; nothing was changed")
        self.said.append(what)

    def postpone(self, record):
        self.durable = False
        self.said.append(("postponed", record))

    def conclude(self, outcome):
        self.said.append((outcome.result, outcome.epoch))


class Desk:
    def __init__(self, **order) -> None:
        self.journal, self.emit = FakeJournal(), Recorder()
        self.order = SwitchOrder(**({"kind": "switch", "to": GREEN, "by": "ci"} | order))
        self.record = SwitchRecord(self.journal, self.emit, self.order, BLUE, GREEN, epoch=8, at="t")


async def test_it_says_everything_about_the_order():
    desk = Desk(reason="1.3", mode="fence", key="k")
    assert await desk.record.intend(forced=True) is Event.INTENT_DURABLE
    assert desk.journal.said == [
        Intent(
            at="t",
            epoch=8,
            from_="blue",
            to="green",
            kind="switch",
            mode="fence",
            by="ci",
            reason="1.3",
            forced=True,
            key="k",
            request_hash=digest_of(desk.order),
        )
    ]
    assert await desk.record.decide() is Event.INTENT_DURABLE
    desk.record.conclude("acknowledged", acked_s=0.1)
    assert desk.journal.said[1:] == [("decided", 8), ("acknowledged", 8)]
    assert desk.record.warning == ""


async def test_of_what_was_not_intended_there_is_no_outcome():
    desk = Desk()
    desk.record.conclude("aborted")
    desk.journal.broken = True
    assert await desk.record.intend(forced=False) is Event.INTENT_NOT_WRITTEN
    desk.record.conclude("aborted")
    assert desk.journal.said == []
    assert "the disk is full" in desk.record.error.detail
    assert desk.emit.of("switch_not_written")[0]["to"] == "green"


async def test_a_decision_that_cannot_be_written_is_none():
    desk = Desk(mode="fence")
    await desk.record.intend(forced=False)
    desk.journal.broken = True
    assert await desk.record.decide() is Event.INTENT_NOT_WRITTEN
    assert desk.record.error is not None


@pytest.mark.parametrize("broken_at", ["intent", "decision"])
async def test_a_rollback_goes_on_and_is_written_later(broken_at):
    desk = Desk(kind="rollback", mode="fence")
    desk.journal.broken = broken_at == "intent"
    await desk.record.intend(forced=False)
    desk.journal.broken = True
    assert await desk.record.decide() is Event.INTENT_POSTPONED
    assert ("postponed", Decided(epoch=8)) in desk.journal.said
    assert desk.record.error is None
    assert desk.record.warning.startswith("NOT ON DISK YET: the disk is slow")
    desk.record.conclude("acknowledged")
    assert desk.journal.said[-1] == ("acknowledged", 8)


async def test_a_disk_that_failed_a_moment_ago_keeps_no_rollback_waiting():
    rollback, switch = Desk(kind="rollback"), Desk()
    for desk in (rollback, switch):
        await desk.record.intend(forced=False)
        desk.journal.health["error"] = "the disk did not answer"
        await desk.record.decide()
    (first, then), (always, still) = rollback.journal.patience, switch.journal.patience
    assert then < first < always == still
