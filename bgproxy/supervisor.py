"""The control plane's composition root: everything is made here, started in order, and ended in the reverse of it.

`run` returns 0 after an orderly end by SIGTERM or SIGINT, also where requests had to be cut at the deadline
(they are in the log); 1 where a second signal ended it without patience.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import uvloop

from bgproxy import __version__, log
from bgproxy.controlplane.command import Command, take_command
from bgproxy.controlplane.crew import Crew, muster
from bgproxy.controlplane.events import Events
from bgproxy.controlplane.openings import Openings, open_up
from bgproxy.controlplane.orphans import WORKERS_FILE, read_record
from bgproxy.controlplane.outlook import Outlook, look_out
from bgproxy.controlplane.patience import Interrupted, Patience
from bgproxy.controlplane.premises import Premises, enter
from bgproxy.controlplane.recovery import succeed
from bgproxy.controlplane.reports import open_admin
from bgproxy.controlplane.running import Running
from bgproxy.controlplane.succession import Predecessor, tell_predecessor
from bgproxy.controlplane.systemd import Notifier
from bgproxy.controlplane.upgrade import Program
from bgproxy.controlplane.workers import COMMAND
from bgproxy.core.messages import IDLE_GRACE_S
from bgproxy.errors import EXIT_OK, BgproxyError, StartupError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bgproxy.config import Config
    from bgproxy.controlplane.admin.app import AdminServer
    from bgproxy.controlplane.events import Emit
    from bgproxy.controlplane.switcher import Switcher
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
    """What is found, what is known, where others come in, who serves, who decides, what is told. Beside a predecessor
    nobody decides before it has let go."""
    events, notifier = Events(), Notifier(os.environ)
    emit = events.emit
    stack.callback(notifier.close)
    for warning in config.warnings:
        emit("configuration_warning", warning=warning)
    premises = await enter(config, stack, predecessor, emit=emit)
    outlook = await look_out(config, premises.state, stack, emit=emit)
    if premises.are_others_serving:
        # They do so meanwhile, so no connection may come to wait here before somebody can answer it.
        await _first_verdicts(outlook, patience, emit)
    openings = open_up(config, premises, stack, workers_outlive=command == COMMAND, emit=emit)
    crew = muster(config, premises, outlook, openings, command=command, emit=emit)

    async def decide_and_tell(state: State) -> tuple[Command, AdminServer]:
        decided = take_command(
            *(config, state, premises, outlook, openings, crew, stack),
            program=program,
            notifier=notifier,
            reread=reread,
            handed_over=patience.asked_to_stop.set,
            emit=emit,
        )
        if predecessor is not None:
            predecessor.when_serving(_refuse_orders(decided.switcher))
        admin = await open_admin(config, state, premises, outlook, openings, crew, decided, stack, events=events)
        return decided, admin

    if predecessor is None:
        decided, admin = await decide_and_tell(premises.state)
        await _serve(config, crew, outlook, stack, patience, emit)
        outlook.note_pools(premises.journal, premises.state)
    else:  # until it lets go, orders are for it to take, and so are its workers
        await _serve(config, crew, outlook, stack, patience, emit, idle_s=IDLE_GRACE_S)
        state = await _succeed(predecessor, premises, emit)
        decided, admin = await decide_and_tell(state)
        predecessor.when_serving(partial(outlook.note_pools, premises.journal, state))
    following = asyncio.create_task(decided.reload.follow(patience.asked_to_reload))
    stack.callback(following.cancel)
    return _running(config, premises, outlook, openings, crew, decided, admin, events, notifier)


async def _serve(
    config: Config,
    crew: Crew,
    outlook: Outlook,
    stack: AsyncExitStack,
    patience: Patience,
    emit: Emit,
    *,
    idle_s: float = 0.0,
) -> None:
    """Start the workers. Beside a predecessor (`idle_s`) a start that fails cuts nothing: those that served already
    finish what they have."""
    workers = crew.workers
    stack.callback(crew.records.forget)
    bound_s = config.server.timeouts.shutdown if idle_s else 0.0
    stack.push_async_callback(partial(workers.drain, bound_s, idle_s=idle_s))
    await _first_verdicts(outlook, patience, emit)
    await workers.start()
    if not await patience.wait_for(workers.all_ready(WORKERS_READY_BOUND_S)):
        raise StartupError(
            f"{workers.ready} of {workers.configured} workers were ready within {WORKERS_READY_BOUND_S:g} s",
            hint="what the others said is above; start with --workers 1 to see one of them alone",
        )


async def _succeed(predecessor: Predecessor, premises: Premises, emit: Emit) -> State:
    """The predecessor's workers are orphans from here on, and the journal is ours."""
    old = await predecessor.take_over(__version__)
    record = premises.directory / WORKERS_FILE
    premises.orphans.adopt(read_record(record, emit=emit).workers if old is None else old)
    return succeed(premises.journal, premises.state)


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


async def _first_verdicts(outlook: Outlook, patience: Patience, emit: Emit) -> None:
    """Before any worker accepts: a connection waits in its queue for a moment rather than be told 503."""
    if not await patience.wait_for(outlook.prober.all_checked(FIRST_VERDICTS_BOUND_S)):
        emit("verdicts_missing", waited_s=FIRST_VERDICTS_BOUND_S)


def _running(
    config: Config,
    premises: Premises,
    outlook: Outlook,
    openings: Openings,
    crew: Crew,
    decided: Command,
    admin: AdminServer,
    events: Events,
    notifier: Notifier,
) -> Running:
    here = {"admin": str(admin.address or ""), "socket": str(config.admin.socket or ""), "pid": os.getpid()}
    return Running(
        tables=decided.tables,
        segment=outlook.segment,
        records=crew.records,
        takeover=openings.takeover,
        lock=premises.lock,
        notifier=notifier,
        upgrade=decided.upgrade,
        admin=admin,
        events=events,
        listeners=openings.listeners,
        workers=crew.workers,
        orphans=premises.orphans,
        switcher=decided.switcher,
        gate=decided.gate,
        addresses=openings.addresses() | here,
        retiring=[],
    )
