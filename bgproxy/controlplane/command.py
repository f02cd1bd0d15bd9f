"""Who decides: switches and what is held, pools, reloads and upgrades; none of them while another one runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from bgproxy.controlplane.checklist import Checklist
from bgproxy.controlplane.drain import DrainWatch
from bgproxy.controlplane.gate import Gate
from bgproxy.controlplane.outlook import standing_hold
from bgproxy.controlplane.pool_changes import PoolChanges
from bgproxy.controlplane.pool_record import KeptPools
from bgproxy.controlplane.pool_tables import PoolTables
from bgproxy.controlplane.reload import Reload
from bgproxy.controlplane.running import describe
from bgproxy.controlplane.switcher import Switcher
from bgproxy.controlplane.upgrade import Program, Upgrade

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AsyncExitStack

    from bgproxy.config import Config
    from bgproxy.controlplane.crew import Crew
    from bgproxy.controlplane.events import Emit
    from bgproxy.controlplane.openings import Openings
    from bgproxy.controlplane.outlook import Outlook
    from bgproxy.controlplane.premises import Premises
    from bgproxy.controlplane.systemd import Notifier
    from bgproxy.core.journal import State


class Command(msgspec.Struct, frozen=True, kw_only=True):
    tables: PoolTables
    checklist: Checklist
    gate: Gate
    switcher: Switcher
    drains: DrainWatch
    upgrade: Upgrade
    changes: PoolChanges
    reload: Reload

    def configure(self, config: Config) -> None:
        """After a reload."""
        self.switcher.configure(
            ack_timeout_s=config.switch.ack_timeout,
            drain_timeout_s=config.switch.drain_timeout,
            fence_timeout_s=config.switch.fence_timeout,
            fence_policy=config.switch.fence_policy,
        )
        self.drains.timeout_s = config.switch.drain_timeout
        self.upgrade.timeout_s = config.server.timeouts.upgrade

    def look_at_pools(self) -> None:
        """They are others now."""
        tables = self.tables
        self.checklist.configure(min_healthy=tables.standing.min_healthy, check=_check(tables.config))


def take_command(
    config: Config,
    state: State,
    premises: Premises,
    outlook: Outlook,
    openings: Openings,
    crew: Crew,
    stack: AsyncExitStack,
    *,
    program: Program,
    notifier: Notifier,
    reread: Callable[[], Config] | None,
    handed_over: Callable[[], None],
    emit: Emit,
) -> Command:
    """By `state`, which the journal and the word agree on."""
    segment, orphans = outlook.segment, premises.orphans
    tables = _tables(config, premises, outlook, openings, crew, is_switching=lambda: switcher.is_busy, emit=emit)
    checklist = Checklist(
        segment,
        crew.workers,
        orphans,
        outlook.prober,
        min_healthy=outlook.pools.min_healthy,
        check=_check(config),
        release=lambda colour: tables.table.pool(colour).release,
    )
    gate = Gate(segment, crew.workers, standing_hold(state))
    switcher = _switcher(config, state, premises, outlook, crew, checklist, gate, emit)
    drains = DrainWatch(
        segment,
        lambda: switcher.state in ("switching", "holding") or bool(orphans.pids()),
        timeout_s=config.switch.drain_timeout,
    )
    stack.callback(drains.close)
    upgrade = _upgrade(config, premises, openings, crew, tables, switcher, gate, program, notifier, handed_over, emit)
    changes = PoolChanges(tables, segment, outlook.prober, orphans, emit=emit)
    stack.push_async_callback(changes.close)
    reload = Reload(
        reread,
        tables,
        segment,
        outlook.certificates,
        emit=emit,
        notifier=notifier,
        describe=lambda: describe(segment, crew.workers),
    )
    stack.push_async_callback(reload.close)
    return Command(
        tables=tables,
        checklist=checklist,
        gate=gate,
        switcher=switcher,
        drains=drains,
        upgrade=upgrade,
        changes=changes,
        reload=reload,
    )


def _tables(
    config: Config,
    premises: Premises,
    outlook: Outlook,
    openings: Openings,
    crew: Crew,
    *,
    is_switching: Callable[[], bool],
    emit: Emit,
) -> PoolTables:
    return PoolTables(
        config,
        outlook.pools,
        outlook.table,
        KeptPools(premises.journal),
        outlook.segment,
        outlook.prober,
        crew.workers,
        is_switching=is_switching,
        settings=lambda wanted: wanted.worker_settings(tls_port=openings.listeners.tls_port),
        emit=emit,
    )


def _switcher(
    config: Config,
    state: State,
    premises: Premises,
    outlook: Outlook,
    crew: Crew,
    checklist: Checklist,
    gate: Gate,
    emit: Emit,
) -> Switcher:
    return Switcher(
        state,
        outlook.segment,
        premises.journal,
        crew.workers,
        premises.orphans,
        checklist,
        announce=outlook.prober.live_changed,
        emit=emit,
        gate=gate,
        ack_timeout_s=config.switch.ack_timeout,
        drain_timeout_s=config.switch.drain_timeout,
        fence_timeout_s=config.switch.fence_timeout,
        fence_policy=config.switch.fence_policy,
    )


def _upgrade(
    config: Config,
    premises: Premises,
    openings: Openings,
    crew: Crew,
    tables: PoolTables,
    switcher: Switcher,
    gate: Gate,
    program: Program,
    notifier: Notifier,
    handed_over: Callable[[], None],
    emit: Emit,
) -> Upgrade:
    return Upgrade(
        premises.directory,
        program,
        lock=premises.lock,
        sockets=lambda: openings.bequest,
        gate=gate,
        switcher=switcher,
        orphans=premises.orphans,
        records=crew.records,
        journal=premises.journal,
        tables=tables,
        emit=emit,
        notifier=notifier,
        handed_over=handed_over,
        timeout_s=config.server.timeouts.upgrade,
    )


def _check(config: Config) -> str:
    return f"{config.health.method} {config.health.path}"
