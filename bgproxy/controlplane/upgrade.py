"""Replacing the whole program by another version, while it serves.

The new one is started as this one was, gets every socket, prepares itself, and says so. Only then does this one stop
taking orders, and only when the new one serves does it end. Until then it can go on as if nothing had been, and does.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import msgspec

from bgproxy import __version__
from bgproxy.controlplane import succession
from bgproxy.controlplane.orphans import NEXT_WORKERS_FILE, WORKERS_FILE, read_record
from bgproxy.controlplane.succession import Failed, Go, Hello, Prepared, Serving
from bgproxy.errors import ControlError, StoreUnavailable, SwitchInProgress, UpgradeFailed, UpgradeImpossible
from bgproxy.shm import bequest
from bgproxy.shm.live_pointer import Hold

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from bgproxy.controlplane.events import Emit
    from bgproxy.controlplane.gate import Gate
    from bgproxy.controlplane.journal import Journal
    from bgproxy.controlplane.orphans import Orphans
    from bgproxy.controlplane.pool_tables import PoolTables
    from bgproxy.controlplane.records import Records
    from bgproxy.controlplane.state_lock import StateLock
    from bgproxy.controlplane.succession import Message
    from bgproxy.controlplane.switcher import Switcher
    from bgproxy.controlplane.systemd import Notifier
    from bgproxy.shm.bequest import Bequest

SERVING_BOUND_S = 10.0  # from Go: the new one only has to write two files
# Of the process that systemd started; another one must not take them for its own.
NOT_INHERITED = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_PID")


class Program(msgspec.Struct, frozen=True):
    """How this program was started. `executable` is the interpreter as it was called, so that what is installed there
    now is what runs next; `directory` likewise, where it is reached by a symbolic link. No command: it is a demo."""

    command: tuple[str, ...]
    directory: str

    @classmethod
    def running(cls, environment: Mapping[str, str]) -> Program:
        """To be asked at the start: both may come to mean something else later."""
        here = os.getcwd()
        told = environment.get("PWD", "")
        is_same = os.path.isabs(told) and os.path.exists(told) and os.path.samefile(told, here)
        return cls((sys.executable, *sys.orig_argv[1:]), told if is_same else here)


class UpgradeReport(msgspec.Struct, frozen=True, kw_only=True):
    """`seconds` until the new one served."""

    old_pid: int
    new_pid: int
    old_version: str
    new_version: str
    seconds: float
    detail: str = ""


class Successor:
    """The new program, as the old one sees it."""

    def __init__(self, program: Program, environment: Mapping[str, str], lock_fd: int) -> None:
        """OSError where it cannot be started."""
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._connection.setblocking(False)
        kept = {name: value for name, value in environment.items() if name not in NOT_INHERITED}
        try:
            with theirs:
                self._process = subprocess.Popen(
                    program.command,
                    cwd=program.directory,
                    env=kept | {succession.VARIABLE: str(theirs.fileno())},
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), lock_fd),
                )
        except BaseException:
            self._connection.close()
            raise
        self.pid = self._process.pid

    def greet(self, hello: Hello, sockets: Bequest) -> None:
        succession.send(self._connection, hello)
        bequest.send(self._connection, sockets)

    def go(self, message: Go) -> None:
        succession.send(self._connection, message)

    async def says(self, timeout_s: float) -> Message:
        """UpgradeFailed where it says nothing in time, or that it failed, or ends."""
        try:
            async with asyncio.timeout(timeout_s):
                message = await succession.hear(self._connection)
        except TimeoutError:
            raise _failed(f"it was not ready within {timeout_s:g} s") from None
        except msgspec.DecodeError as error:
            raise _failed(f"it said what this version does not understand: {error}") from None
        if isinstance(message, Failed):
            raise _failed(message.detail)
        if message is None:
            raise _failed(
                f"it ended before it was ready, with {await self._how_it_ended()}; its own words are in the log"
            )
        return message

    async def kill(self) -> None:
        """It is dead afterwards, whatever it does."""
        self._process.kill()
        await asyncio.to_thread(self._process.wait)
        self._connection.close()

    async def _how_it_ended(self) -> str:
        status = await asyncio.to_thread(self._process.wait)
        return f"exit status {status}" if status >= 0 else f"signal {-status}"

    def let_go(self) -> None:
        self._connection.close()
        self._process.returncode = 0  # it outlives us: nobody is to wait for it


class Upgrade:
    """Carries out one upgrade at a time. `sockets` are asked for what there is to inherit; `handed_over` is called when
    the new program serves, `resume` when it does not."""

    def __init__(
        self,
        directory: Path,
        program: Program,
        *,
        lock: StateLock,
        sockets: Callable[[], Bequest],
        gate: Gate,
        switcher: Switcher,
        orphans: Orphans,
        records: Records,
        journal: Journal,
        tables: PoolTables,
        emit: Emit,
        notifier: Notifier,
        handed_over: Callable[[], None],
        timeout_s: float,
    ) -> None:
        self._directory, self._program, self._lock, self._sockets = directory, program, lock, sockets
        self._gate, self._switcher, self._orphans, self._records = gate, switcher, orphans, records
        self._journal, self._tables = journal, tables
        self._emit, self._notifier, self._handed_over = emit, notifier, handed_over
        self.resume: Callable[[], None] = lambda: None
        self.timeout_s = timeout_s
        self._running: asyncio.Task[UpgradeReport] | None = None
        self._why_cancelled = ""
        self._is_decided = False
        self.is_done = False

    async def execute(self, by: str, timeout_s: float | None = None) -> UpgradeReport:
        """UpgradeFailed, UpgradeImpossible or SwitchInProgress say why not; then everything is as it was."""
        if not self._program.command:
            raise UpgradeImpossible("a demo cannot be upgraded: its apps end with it; nothing was changed")
        if os.getpid() == 1:
            raise UpgradeImpossible(
                "this is the first process of a container, which ends with it; nothing was changed",
                hint="replace the container instead, or run bgproxy under an init (docker run --init)",
            )
        if not await self._journal.is_settled():
            health = self._journal.health
            why = health["error"] or "the disk is slow"
            raise UpgradeImpossible(
                f"{health['pending']} records of what was done are not on disk yet, and the new program would not know "
                f"of them: {why}; nothing was changed",
                hint="make room on the disk or repair its permissions; bgproxy status shows when it is written",
            )
        if self._gate.standing is Hold.ALL:
            raise UpgradeImpossible(
                "requests are paused, and those that wait could not move; nothing was changed",
                hint="bgproxy resume, and then again",
            )
        release_pools = self._tables.hold_for_upgrade()
        try:
            release = self._switcher.hold_for("upgrade", by, give_way=lambda: self.cancel("a rollback was ordered"))
        except SwitchInProgress:
            release_pools()
            raise
        self._why_cancelled, self._is_decided = "", False
        self._running = asyncio.get_running_loop().create_task(self._run(by, timeout_s or self.timeout_s))

        def over(_: asyncio.Task[UpgradeReport]) -> None:
            if not self.is_done:  # else orders are for the new one: here they would change what nobody serves by
                release()
                release_pools()

        self._running.add_done_callback(over)
        return await asyncio.shield(self._running)  # it goes on, even where the client that ordered it is gone

    async def cancel(self, why: str) -> None:
        """Kill the new one, as long as it is not decided; returns when it is dead."""
        if self._running is None or self._running.done() or self._is_decided:
            return
        self._why_cancelled = why
        self._running.cancel()
        await asyncio.wait((self._running,))

    async def _run(self, by: str, timeout_s: float) -> UpgradeReport:
        began = time.monotonic()
        self._notifier.reloading("upgrading")
        self._emit("upgrade_began", by=by, version=__version__, command=" ".join(self._program.command))
        successor: Successor | None = None
        try:
            successor = Successor(self._program, os.environ, self._lock.fd)
            successor.greet(Hello(os.getpid(), __version__, self._lock.fd, int(self._gate.standing)), self._sockets())
            prepared = await successor.says(timeout_s)
            if not isinstance(prepared, Prepared):
                raise _failed(f"it said {prepared}")
            await self._give_journal_away()
            self._is_decided = True
            self._notifier.main_pid(successor.pid)
            successor.go(Go((*self._records.own_workers(), *self._orphans.living())))
            if not isinstance(await successor.says(SERVING_BOUND_S), Serving):
                raise _failed("it took over and did not serve")
        except BaseException as error:
            await self._take_back(successor, self._reason(error))
            if isinstance(error, asyncio.CancelledError) and self._why_cancelled:
                raise _failed(self._why_cancelled) from None
            if isinstance(error, OSError):
                raise _failed(f"it could not be started: {error.strerror or error}") from None
            raise
        successor.let_go()
        self.is_done = True
        self._records.disown()
        report = UpgradeReport(
            old_pid=os.getpid(),
            new_pid=successor.pid,
            old_version=__version__,
            new_version=prepared.version,
            seconds=round(time.monotonic() - began, 6),
        )
        self._emit("upgraded", **msgspec.to_builtins(report))
        self._handed_over()
        return report

    async def _give_journal_away(self) -> None:
        try:
            await self._journal.give_away()
        except StoreUnavailable as error:
            raise _failed(error.detail) from None

    def _reason(self, error: BaseException) -> str:
        return self._why_cancelled or (error.detail if isinstance(error, ControlError) else str(error) or repr(error))

    async def _take_back(self, successor: Successor | None, why: str) -> None:
        """This one goes on. Workers of the other that already served finish what they have: orphans, from now on."""
        self._emit("upgrade_failed", reason=why)
        if successor is not None:
            await successor.kill()
            # In the second file, where it died when it had just made the record its own.
            files = (self._directory / name for name in (NEXT_WORKERS_FILE, WORKERS_FILE))
            left = [worker for file in files for worker in read_record(file, emit=self._emit).workers]
            own = self._records.own_workers()
            self._orphans.adopt([worker for worker in left if worker not in own])
            self._notifier.main_pid(os.getpid())
            await self._journal.take_back()
            await self._records.own()
        self.resume()


def _failed(detail: str) -> UpgradeFailed:
    return UpgradeFailed(
        f"the new program did not take over: {detail}; this one goes on",
        hint="repair what it says and repeat the upgrade; nothing was changed for clients",
    )
