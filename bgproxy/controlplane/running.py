"""A control plane that runs: announced to all who want to know, replaced by a new version, ended in order."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING, Any

import msgspec

from bgproxy.controlplane import drain
from bgproxy.controlplane.admin.app import AdminServer
from bgproxy.controlplane.events import Events
from bgproxy.controlplane.gate import Gate
from bgproxy.controlplane.listeners import Listeners
from bgproxy.controlplane.orphans import Orphans
from bgproxy.controlplane.pool_tables import PoolTables
from bgproxy.controlplane.records import Records
from bgproxy.controlplane.state_lock import StateLock
from bgproxy.controlplane.switcher import Switcher
from bgproxy.controlplane.systemd import Notifier
from bgproxy.controlplane.takeover import Takeover
from bgproxy.controlplane.upgrade import Upgrade
from bgproxy.controlplane.workers import Workers
from bgproxy.core.messages import IDLE_GRACE_S
from bgproxy.errors import EXIT_FAILED, EXIT_OK, ControlError
from bgproxy.shm.live_pointer import Hold
from bgproxy.shm.segment import Segment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bgproxy.controlplane.patience import Patience
    from bgproxy.controlplane.succession import Predecessor

ORPHAN_GRACE_S = 2.0  # beyond the shutdown timeout that a worker keeps itself


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """What runs, and how it ends. Its parts are released by the exit stack that they were made on."""

    tables: PoolTables
    records: Records
    takeover: Takeover | None
    lock: StateLock
    segment: Segment
    notifier: Notifier
    upgrade: Upgrade
    admin: AdminServer
    events: Events
    listeners: Listeners
    workers: Workers
    orphans: Orphans
    switcher: Switcher
    gate: Gate
    addresses: dict[str, Any]
    retiring: list[asyncio.Task[None]]

    async def announce(self, ready: Callable[[Mapping[str, Any]], None], predecessor: Predecessor | None) -> None:
        await self.records.own()
        self.upgrade.resume = self.resume
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, self._upgrade_by_signal)
        self.claim()
        if predecessor is not None:
            predecessor.serving()
        if self.takeover is not None:
            self.takeover.publish()
        self.events.emit("ready", **self.addresses)
        self.notifier.ready(describe(self.segment, self.workers))
        self.events.listen(
            lambda event, _: self.notifier.status(describe(self.segment, self.workers)) if event == "cut_over" else None
        )
        self.notifier.watch(lambda: any(worker.ready for worker in self.workers.living()))
        ready(self.addresses)
        # Only now: until here the workers of an earlier supervisor were the only ones that surely served.
        self.retire()

    def claim(self) -> None:
        """What others find us by."""
        self.records.write_addresses(self.addresses)
        self.lock.sign()

    def resume(self) -> None:
        """After an upgrade that failed."""
        self.claim()
        self.notifier.ready(describe(self.segment, self.workers))
        self.retire()

    def retire(self) -> None:
        """Workers of an earlier supervisor, or of a new program that failed, finish and leave."""
        bound_s = self.tables.config.server.timeouts.shutdown + ORPHAN_GRACE_S
        self.retiring.append(asyncio.ensure_future(self._retire(bound_s)))

    def _upgrade_by_signal(self) -> None:
        async def upgrade() -> None:
            try:
                await self.upgrade.execute("SIGUSR2")
            except ControlError as error:
                self.events.emit("upgrade_refused", reason=error.detail)

        self.retiring.append(asyncio.ensure_future(upgrade()))

    async def stop(self, patience: Patience) -> int:
        await self.upgrade.cancel("this program is ending")
        bound_s = self.tables.config.server.timeouts.shutdown
        self.events.emit("stopping", bound_s=bound_s)
        idle_s = 0.0
        if self.upgrade.is_done:  # others serve, and what has a name is theirs
            idle_s = IDLE_GRACE_S
            self.listeners.disown()
            self.admin.disown()
            await self.admin.close()
        else:
            self.notifier.stopping()
        self.notifier.close()
        await self.switcher.close()
        impatience = asyncio.ensure_future(self._end_at_second_signal(patience))
        bound_s -= await self._let_go(bound_s, patience)
        # Our copies of the listening sockets: as soon as the workers close theirs, new connections are refused.
        self.listeners.close()
        cuts = await self.workers.drain(bound_s, idle_s=idle_s)
        for cut in cuts:
            self.events.emit("cut_at_shutdown", **msgspec.structs.asdict(cut))
        if patience.lost.is_set():
            for task in self.retiring:
                task.cancel()
            await self.orphans.end_now()
        await asyncio.gather(*self.retiring, return_exceptions=True)
        impatience.cancel()
        self.events.emit(
            "stopped", cut_requests=sum(c.requests for c in cuts), cut_streams=sum(c.streams for c in cuts)
        )
        return EXIT_FAILED if patience.lost.is_set() else EXIT_OK

    async def _let_go(self, bound_s: float, patience: Patience) -> float:
        """What a pause holds, or a fence held until now, is served before the workers leave: they would refuse it.
        Returns the seconds that it took."""
        started = time.perf_counter()
        if self.gate.standing is Hold.ALL:
            await self.gate.stand(Hold.OPEN, self.tables.config.switch.ack_timeout)
            self.events.emit("gate_changed", kind="resume", state="", by="", reason="the proxy ends")
        slots = self.segment.slots
        await drain.until(lambda: not drain.held(slots), bound_s, patience.lost.is_set)
        return min(bound_s, time.perf_counter() - started)

    async def _retire(self, bound_s: float) -> None:
        try:
            await self.orphans.retire(bound_s)
        except ChildProcessError as error:
            self.events.emit("orphans_not_killed", error=str(error))

    async def _end_at_second_signal(self, patience: Patience) -> None:
        await patience.lost.wait()
        self.workers.kill_all()
        for task in self.retiring:
            task.cancel()
        await self.orphans.end_now()


def describe(segment: Segment, workers: Workers) -> str:
    """For a service manager."""
    live = segment.live.load()
    return f"{live.colour.label} is live, epoch {live.epoch}, {workers.ready} workers"
