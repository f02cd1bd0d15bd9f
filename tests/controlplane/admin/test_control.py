"""The face of the control plane: passes on, and counts what came of every order."""

from __future__ import annotations

from typing import Any

import pytest

from bgproxy.controlplane.admin.control import Control
from bgproxy.controlplane.admin.metrics import Metrics
from bgproxy.controlplane.drain import DrainWatch
from bgproxy.controlplane.orders import Defaults, SwitchOrder, SwitchReport
from bgproxy.core.model import GREEN
from bgproxy.errors import DrainTimedOut, StaleEpoch
from bgproxy.shm import worker_slot
from bgproxy.shm.segment import Segment
from tests.support.admin import switch_report

ORDER = SwitchOrder(kind="switch", to=GREEN)


class FakeSwitcher:
    answer: SwitchReport | Exception = switch_report()

    async def execute(self, _order: SwitchOrder) -> SwitchReport:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def verdicts(self, to: Any, kind: str) -> list[Any]:
        return [(to, kind)]


class FakeJournal:
    def history(self, limit: int) -> list[dict[str, Any]]:
        return [{"limit": limit}]


class FakeStatus:
    def document(self) -> dict[str, Any]:
        return {"epoch": 1}

    def not_ready(self) -> list[str]:
        return ["why"]


class FakeUpgrade:
    async def execute(self, by: str, timeout_s: float | None = None) -> Any:
        return by, timeout_s


async def test_it_counts_answers_and_failures_and_passes_the_rest_on():
    segment = Segment.create(workers=1)
    switcher, metrics = FakeSwitcher(), Metrics(segment, None)
    drains = DrainWatch(segment, lambda: False, timeout_s=0.0)
    control = Control(
        switcher,
        FakeStatus(),
        metrics,
        drains,
        upgrade=FakeUpgrade(),
        journal=FakeJournal(),
        defaults=Defaults(wait="drained"),
    )
    assert control.history(3) == [{"limit": 3}]
    assert await control.upgrade("me", 1.0) == ("me", 1.0)
    assert await control.execute(ORDER) is switcher.answer
    switcher.answer = StaleEpoch("the epoch is 8")
    with pytest.raises(StaleEpoch):
        await control.execute(ORDER)
    assert metrics.switches.results == {("green", "switch", "ok"): 1, ("green", "switch", "stale_epoch"): 1}
    assert control.preflight(GREEN) == [(GREEN, "switch")]
    assert (control.status(), control.not_ready(), control.defaults.wait) == ({"epoch": 1}, ["why"], "drained")
    await control.until_drained(None, streams=True, if_epoch=None)
    segment.slots[0].cells[worker_slot.TUNNELS + GREEN] = 1
    await control.until_drained(None, streams=False, if_epoch=0)
    with pytest.raises(DrainTimedOut):
        await control.until_drained(None, streams=True, if_epoch=None)
    segment.close()
