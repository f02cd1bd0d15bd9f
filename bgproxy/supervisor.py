"""The control plane's composition root: everything is made here, started in order, and ended in the reverse of it.

`run` returns 0 after an orderly end by SIGTERM, SIGINT or SIGHUP, also where requests had to be cut at the deadline
(they are in the log); 1 where a second signal ended it without patience.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import uvloop

from bgproxy import log
from bgproxy.controlplane.admin.app import start_admin
from bgproxy.controlplane.admin.control import Control
from bgproxy.controlplane.admin.metrics import Metrics
from bgproxy.controlplane.certificates import Certificates
from bgproxy.controlplane.checklist import Checklist
from bgproxy.controlplane.descriptors import make_the_most_of_descriptors
from bgproxy.controlplane.drain import DrainWatch
from bgproxy.controlplane.events import Events
from bgproxy.controlplane.gate import Gate
from bgproxy.controlplane.inherited import Inherited
from bgproxy.controlplane.listeners import Listeners
from bgproxy.controlplane.orders import Defaults
from bgproxy.controlplane.orphans import Orphans
from bgproxy.controlplane.patience import Interrupted, Patience
from bgproxy.controlplane.probe import probe
from bgproxy.controlplane.prober import Prober
from bgproxy.controlplane.records import Records
from bgproxy.controlplane.sampler import Sampler
from bgproxy.controlplane.state_lock import StateLock, prepare_directory
from bgproxy.controlplane.state_store import State, StateStore
from bgproxy.controlplane.status import Facts, Status
from bgproxy.controlplane.switcher import Switcher
from bgproxy.controlplane.takeover import Takeover, inherit
from bgproxy.controlplane.workers import COMMAND, Workers
from bgproxy.errors import EXIT_FAILED, EXIT_OK, StartupError
from bgproxy.shm.segment import Segment
from bgproxy.tls.upstream import client_context

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from bgproxy.config import Config

WORKERS_READY_BOUND_S = 30.0
FIRST_VERDICTS_BOUND_S = 3.0
ORPHAN_GRACE_S = 2.0  # beyond the shutdown timeout that a worker keeps itself


def run(
    config: Config,
    *,
    ready: Callable[[Mapping[str, Any]], None] = lambda _: None,
    workers_outlive: bool = True,
) -> int:
    """Serve until a signal; the exit code. BgproxyError where it cannot start. `ready` gets what addresses.json says:
    listen and tls (addresses with their real ports), admin (host:port or ""), socket (path or ""), pid.
    Without `workers_outlive` a worker ends even where this process is killed, instead of going on for a successor."""
    command = COMMAND if workers_outlive else (*COMMAND, "--end-with-supervisor")
    log.set_up(config.log.level, config.log.format)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve(config, ready=ready, command=command))


async def serve(
    config: Config,
    *,
    ready: Callable[[Mapping[str, Any]], None] = lambda _: None,
    command: Sequence[str] = COMMAND,
) -> int:
    """`run` on the running loop. `command` starts a worker."""
    code = EXIT_OK
    async with AsyncExitStack() as stack:
        patience = Patience(stack)
        try:
            supervisor = await _start(config, stack, patience, command)
            supervisor.announce(ready)
            await patience.asked_to_stop.wait()
            code = await supervisor.stop(patience)
        except Interrupted:
            pass  # by the operator, before everything was started: an orderly end too
    return code


class Supervisor(msgspec.Struct, frozen=True, kw_only=True):
    """What runs, and how it ends. Its parts are released by the exit stack that they were made on."""

    config: Config
    records: Records
    takeover: Takeover | None
    events: Events
    listeners: Listeners
    workers: Workers
    orphans: Orphans
    switcher: Switcher
    addresses: dict[str, Any]
    retiring: list[asyncio.Task[None]]

    def announce(self, ready: Callable[[Mapping[str, Any]], None]) -> None:
        self.records.write_addresses(self.addresses)
        if self.takeover is not None:
            self.takeover.publish()
        self.events.emit("ready", **self.addresses)
        ready(self.addresses)
        # Only now: until here the workers of an earlier supervisor were the only ones that surely served.
        self.retiring.append(asyncio.ensure_future(self._retire(self.config.server.timeouts.shutdown + ORPHAN_GRACE_S)))

    async def stop(self, patience: Patience) -> int:
        bound_s = self.config.server.timeouts.shutdown
        self.events.emit("stopping", bound_s=bound_s)
        await self.switcher.close()
        # Our copies of the listening sockets: as soon as the workers close theirs, new connections are refused.
        self.listeners.close()
        impatience = asyncio.ensure_future(self._end_at_second_signal(patience))
        cuts = await self.workers.drain(bound_s)
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


async def _start(config: Config, stack: AsyncExitStack, patience: Patience, command: Sequence[str]) -> Supervisor:
    events = Events()
    for warning in config.warnings:
        events.emit("configuration_warning", warning=warning)
    make_the_most_of_descriptors(config.worker_settings(), config.pools, emit=events.emit)
    directory = config.state.dir
    prepare_directory(directory)
    stack.callback(StateLock.acquire(directory).release)
    store = StateStore(directory)
    stack.callback(store.close)
    state = await _load(store, config)
    orphans = Orphans.find(directory, emit=events.emit)
    stack.callback(orphans.release)

    certificates = Certificates(config.tls, emit=events.emit)
    if config.tls.listen:
        await certificates.start()
        stack.push_async_callback(certificates.stop)

    segment = Segment.create(config.server.workers)
    stack.callback(segment.close)
    segment.live.store(state.epoch, state.live_colour)
    prober = Prober(
        config.health,
        config.pools,
        segment.health,
        lambda: segment.live.load().colour,
        emit=events.emit,
        probe=partial(probe, tls=client_context(config.upstream_tls) if config.pools.over_tls else None),
    )
    prober.start()
    stack.push_async_callback(prober.stop)
    if orphans.pids():
        # They serve meanwhile, so no connection may come to wait here before somebody can answer it.
        await _first_verdicts(prober, patience, events)
    inherited = Inherited(*(inherit(directory, emit=events.emit) if orphans.pids() else ()))
    stack.callback(inherited.close)
    listeners = Listeners.open(
        config.server.listen,
        config.server.workers,
        tls=config.tls.listen,
        held_by_orphans=orphans.listen,
        inherited=inherited,
    )
    stack.callback(listeners.close)
    takeover = _takeover(directory, events) if command == COMMAND else None
    if takeover is not None:
        stack.callback(takeover.close)
    names = {*listeners.addresses, *map(str, (*config.server.listen, *config.tls.listen))}
    records = Records(directory, orphans, names, in_thread=store.in_thread, emit=events.emit)
    settings = config.worker_settings(tls_port=listeners.tls_port)
    workers = records.workers = Workers(
        segment,
        listeners,
        settings,
        config.pools,
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
        min_healthy=config.min_healthy,
        check=f"{config.health.method} {config.health.path}",
        release=lambda colour: config.pools.pool(colour).release,
    )
    switcher = Switcher(
        state,
        segment,
        store,
        workers,
        orphans,
        checklist,
        announce=prober.live_changed,
        emit=events.emit,
        ack_timeout_s=config.switch.ack_timeout,
        drain_timeout_s=config.switch.drain_timeout,
        gate=Gate(segment, workers),
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
    admin = await start_admin(
        _control(config, segment, prober, workers, switcher, sampler, events, certificates, drains),
        listen=config.admin.listen,
        socket_path=config.admin.socket,
        tokens=config.admin.tokens,
        allowed_hosts=config.admin.allowed_hosts,
    )
    stack.push_async_callback(admin.close)
    stack.callback(drains.close)

    stack.callback(records.forget)
    stack.push_async_callback(workers.drain, 0.0)
    await _first_verdicts(prober, patience, events)
    await workers.start()
    if not await patience.wait_for(workers.all_ready(WORKERS_READY_BOUND_S)):
        raise StartupError(
            f"{workers.ready} of {workers.configured} workers were ready within {WORKERS_READY_BOUND_S:g} s",
            hint="what the others said is above; start with --workers 1 to see one of them alone",
        )
    addresses = {
        "listen": listeners.plain_addresses,
        "tls": listeners.tls_addresses,
        "admin": str(admin.address or ""),
        "socket": str(config.admin.socket or ""),
        "pid": os.getpid(),
    }
    return Supervisor(
        config=config,
        records=records,
        takeover=takeover,
        events=events,
        listeners=listeners,
        workers=workers,
        orphans=orphans,
        switcher=switcher,
        addresses=addresses,
        retiring=[],
    )


async def _first_verdicts(prober: Prober, patience: Patience, events: Events) -> None:
    """Before any worker accepts: a connection waits in its queue for a moment rather than be told 503."""
    if not await patience.wait_for(prober.all_checked(FIRST_VERDICTS_BOUND_S)):
        events.emit("verdicts_missing", waited_s=FIRST_VERDICTS_BOUND_S)


async def _load(store: StateStore, config: Config) -> State:
    """The persisted state; at the very first start that of the configuration, which from then on is persisted."""
    state = store.load()
    if state is None:
        state = State(epoch=0, live=config.switch.initial.name.lower())  # type: ignore[arg-type]  # one of two literals
        await store.save(state)
    return state


def _control(
    config: Config,
    segment: Segment,
    prober: Prober,
    workers: Workers,
    switcher: Switcher,
    sampler: Sampler,
    events: Events,
    certificates: Certificates,
    drains: DrainWatch,
) -> Control:
    facts = Facts(
        instance=socket.gethostname(),
        table=config.pools,
        min_healthy=config.min_healthy,
        config_file=config.source.file,
        config_sha256=config.source.sha256,
    )
    status = Status(facts, segment, prober, workers, switcher, sampler, tls=certificates.report)
    metrics = Metrics(segment, prober, certificates)
    events.listen(metrics.switches.told)
    return Control(
        switcher, status, metrics, drains, defaults=Defaults(mode=config.switch.mode, wait=config.switch.wait)
    )


def _takeover(directory: Path, events: Events) -> Takeover | None:
    try:
        return Takeover(directory)
    except OSError as error:  # a file system without sockets: then a successor opens its own
        events.emit("sockets_not_inherited", error=f"{directory} takes no socket: {error.strerror}")
        return None
