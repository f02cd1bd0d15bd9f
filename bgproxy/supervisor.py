"""The control plane's composition root: everything is made here, started in order, and ended in the reverse of it.

`run` returns 0 after an orderly end by SIGTERM or SIGINT, also where requests had to be cut at the deadline
(they are in the log); 1 where a second signal ended it without patience.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import uvloop

from bgproxy import __version__, log
from bgproxy.controlplane.admin.app import AdminServer, start_admin
from bgproxy.controlplane.admin.control import Control
from bgproxy.controlplane.admin.metrics import Metrics
from bgproxy.controlplane.admin.pools import PoolControl
from bgproxy.controlplane.admin.sockets import Doors
from bgproxy.controlplane.certificates import Certificates
from bgproxy.controlplane.checklist import Checklist
from bgproxy.controlplane.descriptors import make_the_most_of_descriptors
from bgproxy.controlplane.drain import DrainWatch
from bgproxy.controlplane.events import Events
from bgproxy.controlplane.gate import Gate
from bgproxy.controlplane.idempotency import Answers
from bgproxy.controlplane.inherited import Inherited
from bgproxy.controlplane.journal import Journal
from bgproxy.controlplane.kept_answers import keep_in, kept_by
from bgproxy.controlplane.listeners import Listeners
from bgproxy.controlplane.orders import Defaults
from bgproxy.controlplane.orphans import WORKERS_FILE, Orphans, read_record
from bgproxy.controlplane.patience import Interrupted, Patience
from bgproxy.controlplane.pool_changes import PoolChanges
from bgproxy.controlplane.pool_record import FROM_CONFIGURATION, KeptPools, Note, recorded
from bgproxy.controlplane.pool_tables import PoolTables, probe_of, say_overtaken
from bgproxy.controlplane.pools import first_table
from bgproxy.controlplane.pools import standing as standing_of
from bgproxy.controlplane.prober import Prober
from bgproxy.controlplane.records import Records
from bgproxy.controlplane.recovery import foresee, recover, succeed
from bgproxy.controlplane.reload import Reload
from bgproxy.controlplane.running import Running, describe
from bgproxy.controlplane.sampler import Sampler
from bgproxy.controlplane.state_lock import StateLock, prepare_directory
from bgproxy.controlplane.status import Facts, Status
from bgproxy.controlplane.succession import Predecessor, tell_predecessor
from bgproxy.controlplane.switcher import Switcher
from bgproxy.controlplane.systemd import Notifier, passed_sockets
from bgproxy.controlplane.takeover import Takeover, inherit
from bgproxy.controlplane.upgrade import Program, Upgrade
from bgproxy.controlplane.workers import COMMAND, Workers
from bgproxy.core.messages import IDLE_GRACE_S
from bgproxy.errors import EXIT_OK, BgproxyError, StartupError
from bgproxy.shm.bequest import Bequest
from bgproxy.shm.live_pointer import Hold
from bgproxy.shm.segment import Segment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from bgproxy.config import Config
    from bgproxy.controlplane.pools import Standing
    from bgproxy.core.journal import State

__all__ = ["run", "serve", "tell_predecessor"]

WORKERS_READY_BOUND_S = 30.0
FIRST_VERDICTS_BOUND_S = 3.0


def run(
    config: Config,
    *,
    ready: Callable[[Mapping[str, Any]], None] = lambda _: None,
    workers_outlive: bool = True,
    reread: Callable[[], Config] | None = None,
) -> int:
    """Serve until a signal; the exit code. BgproxyError where it cannot start. `ready` gets what addresses.json says:
    listen and tls (addresses with their real ports), admin (host:port or ""), socket (path or ""), pid.
    Without `workers_outlive` a worker ends even where this process is killed, instead of going on for a successor, and
    everything ends with its terminal. `reread` reads the configuration again, None where there is no file to reload."""
    command = COMMAND if workers_outlive else (*COMMAND, "--end-with-supervisor")
    log.set_up(config.log.level, config.log.format)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        program = None if workers_outlive else Program((), "")
        return runner.run(serve(config, ready=ready, command=command, program=program, reread=reread))


async def serve(
    config: Config,
    *,
    ready: Callable[[Mapping[str, Any]], None] = lambda _: None,
    command: Sequence[str] = COMMAND,
    program: Program | None = None,
    reread: Callable[[], Config] | None = None,
) -> int:
    """`run` on the running loop. `command` starts a worker, `program` this whole program, at an upgrade."""
    code = EXIT_OK
    program = program or Program.running(os.environ)
    predecessor = Predecessor.find(os.environ)
    async with AsyncExitStack() as stack:
        patience = Patience(stack, hang_up_ends=not program.command)
        try:
            supervisor = await _start(config, stack, patience, command, predecessor, program, reread)
            await supervisor.announce(ready, predecessor)
            await patience.asked_to_stop.wait()
            code = await supervisor.stop(patience)
        except Interrupted:
            pass  # by the operator, before everything was started: an orderly end too
        except BgproxyError as error:
            if predecessor is not None:
                predecessor.failed(error.detail)
            raise
    return code


async def _start(
    config: Config,
    stack: AsyncExitStack,
    patience: Patience,
    command: Sequence[str],
    predecessor: Predecessor | None,
    program: Program,
    reread: Callable[[], Config] | None = None,
) -> Running:
    events = Events()
    notifier = Notifier(os.environ)
    stack.callback(notifier.close)
    for warning in config.warnings:
        events.emit("configuration_warning", warning=warning)
    directory = config.state.dir
    prepare_directory(directory)
    passed = passed_sockets(os.environ)
    lock = StateLock.adopt(predecessor.hello.lock_fd, directory) if predecessor else StateLock.acquire(directory)
    stack.callback(lock.release)
    journal = Journal(directory, emit=events.emit)
    stack.callback(journal.close)
    # Those of a predecessor that still lives are its own, until it says who they are.
    orphans = Orphans(emit=events.emit) if predecessor else Orphans.find(directory, emit=events.emit)
    stack.callback(orphans.release)
    # Before any of them can be ended: what waits to be accepted waits for us.
    inherited = Inherited(predecessor.bequest) if predecessor else _inherit(passed, directory, orphans, events)
    stack.callback(inherited.close)
    if predecessor is None:
        state = await recover(journal, orphans, config.switch.initial, emit=events.emit)
    else:
        state = foresee(journal)
    persisted = KeptPools(journal)
    pools = _stand(config, state, events)
    table = first_table(pools)
    make_the_most_of_descriptors(config.worker_settings(), table, emit=events.emit)

    certificates = Certificates(config.tls, emit=events.emit)
    if config.tls.listen:
        await certificates.start()
        stack.push_async_callback(certificates.stop)

    segment = Segment.create(config.server.workers)
    stack.callback(segment.close)
    standing = Hold.OPEN if state.maintenance is None else Hold.MAINTENANCE
    segment.live.store(state.epoch, state.live_colour, standing)
    prober = Prober(
        config.health,
        table,
        segment.health,
        lambda: segment.live.load().colour,
        emit=events.emit,
        probe=probe_of(config, table),
    )
    prober.start()
    stack.push_async_callback(prober.stop)
    if orphans.pids() or predecessor:
        # They serve meanwhile, so no connection may come to wait here before somebody can answer it.
        await _first_verdicts(prober, patience, events)
    listeners = Listeners.open(
        config.server.listen,
        config.server.workers,
        tls=config.tls.listen,
        held_by_orphans=orphans.listen,
        inherited=inherited,
    )
    stack.callback(listeners.close)
    doors = Doors.open(config.admin.listen, config.admin.socket, inherited)
    stack.callback(doors.close)
    if predecessor is None and inherited.unwanted:
        raise StartupError(
            f"systemd passes a socket for {', '.join(inherited.unwanted)}, and nothing in the configuration is there",
            hint="add it to [server] listen, [tls] listen or [admin] listen, or take it out of the socket unit",
        )
    inherited.close()
    takeover = _takeover(directory, events) if command == COMMAND else None
    if takeover is not None:
        stack.callback(takeover.close)
    names = {*listeners.addresses, *map(str, (*config.server.listen, *config.tls.listen))}
    records = Records(
        directory,
        orphans,
        names,
        in_thread=journal.in_thread,
        emit=events.emit,
        has_predecessor=predecessor is not None,
    )
    settings = config.worker_settings(tls_port=listeners.tls_port)
    workers = records.workers = Workers(
        segment,
        listeners,
        settings,
        table,
        emit=events.emit,
        record=records.record,
        command=command,
        takeover_fd=-1 if takeover is None else takeover.fd,
    )
    certificates.tell = workers.certify
    orphans.changed = records.write
    checklist = Checklist(
        segment,
        workers,
        orphans,
        prober,
        min_healthy=pools.min_healthy,
        check=_check(config),
        release=lambda colour: tables.table.pool(colour).release,
    )
    gate = Gate(segment, workers, standing)
    switcher = Switcher(
        state,
        segment,
        journal,
        workers,
        orphans,
        checklist,
        announce=prober.live_changed,
        emit=events.emit,
        ack_timeout_s=config.switch.ack_timeout,
        drain_timeout_s=config.switch.drain_timeout,
        gate=gate,
        fence_timeout_s=config.switch.fence_timeout,
        fence_policy=config.switch.fence_policy,
    )
    sampler = Sampler(segment.slots)
    sampler.start()
    stack.push_async_callback(sampler.stop)
    drains = DrainWatch(
        segment,
        lambda: switcher.state in ("switching", "holding") or bool(orphans.pids()),
        timeout_s=config.switch.drain_timeout,
    )
    stack.callback(drains.close)
    tables = PoolTables(
        config,
        pools,
        table,
        persisted,
        segment,
        prober,
        workers,
        is_switching=lambda: switcher.is_busy,
        settings=lambda wanted: wanted.worker_settings(tls_port=listeners.tls_port),
        emit=events.emit,
    )
    upgrade = Upgrade(
        directory,
        program,
        lock=lock,
        sockets=lambda: Bequest((*listeners.bequest.heirlooms, *doors.bequest.heirlooms)),
        gate=gate,
        switcher=switcher,
        orphans=orphans,
        records=records,
        journal=journal,
        tables=tables,
        emit=events.emit,
        notifier=notifier,
        resume=lambda: supervisor.resume(),  # noqa: PLW0108  there will be one
        handed_over=patience.asked_to_stop.set,
        timeout_s=config.server.timeouts.upgrade,
    )
    status = Status(
        _facts(tables), segment, prober, workers, switcher, sampler, tls=certificates.report, journal=journal
    )
    metrics = Metrics(segment, prober, certificates, journal)
    journal.listen(metrics.journal_writes.add)
    events.listen(metrics.switches.told)
    control = Control(switcher, status, metrics, drains, upgrade=upgrade, journal=journal, defaults=_defaults(config))

    def adopted() -> None:
        status.configure(_facts(tables))
        checklist.configure(min_healthy=tables.standing.min_healthy, check=_check(tables.config))

    def reloaded(wanted: Config) -> None:
        status.configure(_facts(tables), reloaded=True)
        drains.timeout_s, upgrade.timeout_s = wanted.switch.drain_timeout, wanted.server.timeouts.upgrade
        _apply(wanted, switcher, control, admin)

    tables.adopted = adopted
    changes = PoolChanges(tables, segment, prober, orphans, emit=events.emit)
    reload = Reload(
        reread,
        tables,
        segment,
        certificates,
        applied=reloaded,
        emit=events.emit,
        notifier=notifier,
        describe=lambda: describe(segment, workers),
    )
    metrics.reloads = reload.results
    stack.push_async_callback(changes.close)
    stack.push_async_callback(reload.close)
    open_admin = partial(
        start_admin,
        control,
        doors=doors,
        tokens=config.admin.tokens,
        allowed_hosts=config.admin.allowed_hosts,
        pools=PoolControl(tables, changes, reload),
    )
    if predecessor is None:
        admin = await open_admin(answers=Answers(kept_by(state), keep=keep_in(journal)))
        stack.push_async_callback(admin.close)
    stack.callback(records.forget)
    # Where a start fails beside a predecessor, workers that served already finish what they have: it cuts nothing.
    bound_s, idle_s = (config.server.timeouts.shutdown, IDLE_GRACE_S) if predecessor else (0.0, 0.0)
    stack.push_async_callback(partial(workers.drain, bound_s, idle_s=idle_s))
    await _first_verdicts(prober, patience, events)
    await workers.start()
    if not await patience.wait_for(workers.all_ready(WORKERS_READY_BOUND_S)):
        raise StartupError(
            f"{workers.ready} of {workers.configured} workers were ready within {WORKERS_READY_BOUND_S:g} s",
            hint="what the others said is above; start with --workers 1 to see one of them alone",
        )

    def note_pools() -> None:
        if pools.record != recorded(state):
            persisted.note(pools.record, Note(what=FROM_CONFIGURATION))

    if predecessor is None:
        note_pools()
    else:  # until here orders were for it to take, and so were its workers
        old = await predecessor.take_over(__version__)
        orphans.adopt(read_record(directory / WORKERS_FILE, emit=events.emit).workers if old is None else old)
        take_orders = _refuse_orders(switcher)

        def from_here_on() -> None:
            note_pools()
            take_orders()

        predecessor.refuse_orders(until_serving=from_here_on)
        state = succeed(journal, state)
        admin = await open_admin(answers=Answers(kept_by(state), keep=keep_in(journal)))
        stack.push_async_callback(admin.close)
    addresses = {
        "listen": listeners.plain_addresses,
        "tls": listeners.tls_addresses,
        "admin": str(admin.address or ""),
        "socket": str(config.admin.socket or ""),
        "pid": os.getpid(),
    }
    following = asyncio.create_task(reload.follow(patience.asked_to_reload))
    stack.callback(following.cancel)
    supervisor = Running(
        tables=tables,
        segment=segment,
        records=records,
        takeover=takeover,
        lock=lock,
        notifier=notifier,
        upgrade=upgrade,
        admin=admin,
        events=events,
        listeners=listeners,
        workers=workers,
        orphans=orphans,
        switcher=switcher,
        gate=gate,
        addresses=addresses,
        retiring=[],
    )
    return supervisor


def _refuse_orders(switcher: Switcher) -> Callable[[], None]:
    """Until the returned function is called: then the predecessor knows that it is over."""
    over = asyncio.Event()

    async def until_over() -> None:
        await over.wait()

    release = switcher.hold_for("upgrade", "", give_way=until_over)

    def take_orders() -> None:
        release()
        over.set()

    return take_orders


async def _first_verdicts(prober: Prober, patience: Patience, events: Events) -> None:
    """Before any worker accepts: a connection waits in its queue for a moment rather than be told 503."""
    if not await patience.wait_for(prober.all_checked(FIRST_VERDICTS_BOUND_S)):
        events.emit("verdicts_missing", waited_s=FIRST_VERDICTS_BOUND_S)


def _inherit(passed: Bequest, directory: Path, orphans: Orphans, events: Events) -> Inherited:
    return Inherited(passed, *(inherit(directory, emit=events.emit) if orphans.pids() else ()))


def _stand(config: Config, state: State, events: Events) -> Standing:
    """The pools as configuration and record say. Where the configuration has other upstreams than when some were set at
    run time, it counts, and the record is over."""
    found = standing_of(config, recorded(state))
    for colour in found.overtaken:
        say_overtaken(colour, events.emit)
    return found


def _check(config: Config) -> str:
    return f"{config.health.method} {config.health.path}"


def _facts(tables: PoolTables) -> Facts:
    return Facts(
        instance=socket.gethostname(),
        table=tables.table,
        min_healthy=tables.standing.min_healthy,
        config_file=tables.config.source.file,
        config_sha256=tables.config.source.sha256,
        sources=tables.standing.sources,
    )


def _apply(config: Config, switcher: Switcher, control: Control, admin: AdminServer) -> None:
    """What a reload changes besides pools, workers and probes."""
    log.set_up(config.log.level, config.log.format)
    switcher.configure(
        ack_timeout_s=config.switch.ack_timeout,
        drain_timeout_s=config.switch.drain_timeout,
        fence_timeout_s=config.switch.fence_timeout,
        fence_policy=config.switch.fence_policy,
    )
    control.defaults = _defaults(config)
    admin.configure(config.admin.tokens, config.admin.allowed_hosts)


def _defaults(config: Config) -> Defaults:
    return Defaults(mode=config.switch.mode, wait=config.switch.wait)


def _takeover(directory: Path, events: Events) -> Takeover | None:
    try:
        return Takeover(directory)
    except OSError as error:  # a file system without sockets: then a successor opens its own
        events.emit("sockets_not_inherited", error=f"{directory} takes no socket: {error.strerror}")
        return None
