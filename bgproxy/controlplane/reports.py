"""What is told and asked from outside: status, metrics, and the admin API that hands orders to those who decide."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from bgproxy import log
from bgproxy.controlplane.admin.app import AdminServer, start_admin
from bgproxy.controlplane.admin.control import Control
from bgproxy.controlplane.admin.metrics import Metrics
from bgproxy.controlplane.admin.pools import PoolControl
from bgproxy.controlplane.idempotency import Answers
from bgproxy.controlplane.kept_answers import keep_in, kept_by
from bgproxy.controlplane.orders import Defaults
from bgproxy.controlplane.sampler import Sampler
from bgproxy.controlplane.status import Facts, Status

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from bgproxy.config import Config
    from bgproxy.controlplane.command import Command
    from bgproxy.controlplane.crew import Crew
    from bgproxy.controlplane.events import Events
    from bgproxy.controlplane.openings import Openings
    from bgproxy.controlplane.outlook import Outlook
    from bgproxy.controlplane.pool_tables import PoolTables
    from bgproxy.controlplane.premises import Premises
    from bgproxy.core.journal import State


async def open_admin(
    config: Config,
    state: State,
    premises: Premises,
    outlook: Outlook,
    openings: Openings,
    crew: Crew,
    command: Command,
    stack: AsyncExitStack,
    *,
    events: Events,
) -> AdminServer:
    """Orders are taken from here on."""
    segment, prober, certificates = outlook.segment, outlook.prober, outlook.certificates
    tables, journal, switcher = command.tables, premises.journal, command.switcher
    sampler = Sampler(segment.slots)
    sampler.start()
    stack.push_async_callback(sampler.stop)
    report = certificates.report
    status = Status(_facts(tables), segment, prober, crew.workers, switcher, sampler, tls=report, journal=journal)
    metrics = Metrics(segment, prober, certificates, journal)
    journal.listen(metrics.journal_writes.add)
    events.listen(metrics.switches.told)
    metrics.reloads = command.reload.results
    control = Control(
        switcher,
        status,
        metrics,
        command.drains,
        upgrade=command.upgrade,
        journal=journal,
        defaults=_defaults(config),
    )

    def adopted() -> None:
        status.configure(_facts(tables))
        command.look_at_pools()

    def reloaded(wanted: Config) -> None:
        log.set_up(wanted.log.level, wanted.log.format)
        status.configure(_facts(tables), reloaded=True)
        command.configure(wanted)
        control.defaults = _defaults(wanted)
        admin.configure(wanted.admin.tokens, wanted.admin.allowed_hosts)

    tables.adopted, command.reload.applied = adopted, reloaded
    admin = await start_admin(
        control,
        doors=openings.doors,
        tokens=config.admin.tokens,
        allowed_hosts=config.admin.allowed_hosts,
        answers=Answers(kept_by(state), keep=keep_in(journal)),
        pools=PoolControl(tables, command.changes, command.reload),
    )
    stack.push_async_callback(admin.close)
    return admin


def _facts(tables: PoolTables) -> Facts:
    return Facts(
        instance=socket.gethostname(),
        table=tables.table,
        min_healthy=tables.standing.min_healthy,
        config_file=tables.config.source.file,
        config_sha256=tables.config.source.sha256,
        sources=tables.standing.sources,
    )


def _defaults(config: Config) -> Defaults:
    return Defaults(mode=config.switch.mode, wait=config.switch.wait)
