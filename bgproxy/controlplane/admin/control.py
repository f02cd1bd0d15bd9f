"""The control plane as the admin API sees it: the switcher, the status and the metrics behind one face."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from bgproxy.errors import ControlError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bgproxy.controlplane.admin.metrics import Metrics
    from bgproxy.controlplane.drain import DrainWatch
    from bgproxy.controlplane.orders import Defaults, GateOrder, GateReport, SwitchOrder, SwitchReport
    from bgproxy.controlplane.status import Status
    from bgproxy.controlplane.upgrade import UpgradeReport
    from bgproxy.core.gates import Verdict
    from bgproxy.core.model import Colour


class Switcher(Protocol):
    """Executes orders; ControlError subclasses say why one was not, or not wholly, executed."""

    async def execute(self, order: SwitchOrder) -> SwitchReport: ...
    async def change_gate(self, order: GateOrder) -> GateReport: ...
    def verdicts(self, to: Colour, kind: str) -> Sequence[Verdict]: ...


class Upgrade(Protocol):
    async def execute(self, by: str, timeout_s: float | None = None) -> UpgradeReport: ...


class Journalled(Protocol):
    """What was switched, as dictionaries, the newest first."""

    def history(self, limit: int) -> list[dict[str, Any]]: ...


class Control:
    """Adds counting to the switcher and otherwise only passes on. `defaults` are of [switch]."""

    def __init__(
        self,
        switcher: Switcher,
        status: Status,
        metrics: Metrics,
        drains: DrainWatch,
        *,
        upgrade: Upgrade,
        journal: Journalled,
        defaults: Defaults,
    ) -> None:
        self._upgrade = upgrade
        self._switcher, self._status, self._metrics, self._drains = switcher, status, metrics, drains
        self._journal = journal
        self.defaults = defaults

    async def execute(self, order: SwitchOrder) -> SwitchReport:
        try:
            report = await self._switcher.execute(order)
        except ControlError as error:
            self._metrics.switches.failed(order, error)
            raise
        self._metrics.switches.answered(report)
        return report

    async def change_gate(self, order: GateOrder) -> GateReport:
        return await self._switcher.change_gate(order)

    async def upgrade(self, by: str, timeout_s: float | None) -> UpgradeReport:
        return await self._upgrade.execute(by, timeout_s)

    def preflight(self, to: Colour) -> Sequence[Verdict]:
        return self._switcher.verdicts(to, "switch")

    def status(self) -> dict[str, Any]:
        return self._status.document()

    async def until_drained(self, timeout_s: float | None, *, streams: bool, if_epoch: int | None) -> None:
        await self._drains.until_drained(timeout_s, streams=streams, if_epoch=if_epoch)

    def history(self, limit: int) -> list[dict[str, Any]]:
        return self._journal.history(limit)

    def metrics(self) -> str:
        return self._metrics.render()

    def not_ready(self) -> list[str]:
        return self._status.not_ready()
