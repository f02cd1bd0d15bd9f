"""One worker process: started, listened to, told things, and known to be dead when it is.

Death is read from a pidfd, which cannot be confused with a later process of the same number. It becomes readable when
the last thread is gone, and by then every socket of the process is closed: a dead worker provably serves nobody.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING, cast

import msgspec

from bgproxy.core import messages
from bgproxy.core.messages import Certified, Drained, Ejected, OutOfDescriptors, Ready, Seen, TableAccepted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from bgproxy.core.messages import Certify, Configure, ToWorker
    from bgproxy.shm.bequest import Bequest


async def nothing() -> None:
    pass


class WorkerProcess(asyncio.Protocol):
    """`changed` is called after everything that may matter to somebody who waits; `gone` once, when it is dead."""

    def __init__(
        self,
        number: int,
        *,
        changed: Callable[[], None],
        gone: Callable[[WorkerProcess], None],
        ejected: Callable[[WorkerProcess, Ejected], None],
        certified: Callable[[WorkerProcess, Certified], None] = lambda worker, report: None,
        broken: Callable[[WorkerProcess, str], None],
        out_of_descriptors: Callable[[WorkerProcess, int], None] = lambda worker, limit: None,
    ) -> None:
        self.number = number
        self.pid = 0
        self.argv: tuple[str, ...] = ()
        self.spawned_at = time.monotonic()
        self.ready_at: float | None = None
        self.table_version = 0
        self.seen_sequence = -1
        self.configured = False
        self.dead = False
        self.drained: Drained | None = None
        self.exit_status = 0  # negative: the signal that ended it
        self._changed, self._gone, self._ejected, self._broken = changed, gone, ejected, broken
        self._certified = certified
        self._out_of_descriptors = out_of_descriptors
        self._lines = messages.LineSplitter()
        self._transport: asyncio.Transport | None = None
        self._pidfd = -1
        self._process: subprocess.Popen[bytes] | None = None

    async def spawn(
        self,
        command: Sequence[str],
        *,
        segment_fd: int,
        listen_fds: Sequence[int],
        tls_listen_fds: Sequence[int] = (),
        kept: Bequest | None = None,
        takeover_fd: int = -1,
        configure: Callable[[], Configure],
        certify: Callable[[], Certify | None] = lambda: None,
        recorded: Callable[[], Awaitable[None]] = nothing,
    ) -> None:
        """OSError where the system has no process to give. `kept` are the sockets of all, to be handed over on
        `takeover_fd` by those who outlive us. `recorded` tells a successor of it before it serves;
        `configure` and `certify` are asked late, for what holds in that moment."""
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with theirs:
            fds = ",".join(map(str, listen_fds))
            self.argv = (
                *command,
                *("--slot", str(self.number), "--segment-fd", str(segment_fd)),
                *("--control-fd", str(theirs.fileno()), "--listen-fds", fds),
                *(("--tls-listen-fds", ",".join(map(str, tls_listen_fds))) if tls_listen_fds else ()),
                *(("--kept", kept.encode().decode(), "--takeover-fd", str(takeover_fd)) if kept else ()),
            )
            more_fds = {*kept.fds, takeover_fd} - {*listen_fds, *tls_listen_fds} if kept else ()
            try:
                self._process = subprocess.Popen(  # noqa: ASYNC220  returns after exec, in milliseconds; nothing to await
                    self.argv,
                    stdin=subprocess.DEVNULL,
                    pass_fds=(segment_fd, theirs.fileno(), *listen_fds, *tls_listen_fds, *more_fds),
                    process_group=0,  # Ctrl-C in a terminal is for the supervisor, which then asks its workers to drain
                )
            except BaseException:
                ours.close()
                raise
        self.pid = self._process.pid
        self.spawned_at = time.monotonic()
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except OSError:  # no descriptor left: a process that cannot be watched must not stay
            ours.close()
            self._process.kill()
            self._process.wait()
            raise
        loop.add_reader(self._pidfd, self._ended)
        ours.setblocking(False)
        await loop.create_unix_connection(lambda: self, sock=ours)
        # A worker that has no configuration yet ends with us; one that has it serves on, so somebody must know of it.
        await recorded()
        if not self.dead:
            if (certificates := certify()) is not None:
                self.send(certificates)
            self.send(configure())
            self.configured = True

    @property
    def ready(self) -> bool:
        return self.ready_at is not None and not self.dead

    def has_seen(self, sequence: int) -> bool:
        return self.dead or self.seen_sequence >= sequence

    def has_taken(self, version: int) -> bool:
        return self.dead or self.table_version >= version

    def send(self, message: ToWorker) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(messages.encode(message))

    def kill(self) -> None:
        if not self.dead and self._pidfd >= 0:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    @property
    def how_it_ended(self) -> str:
        if self.exit_status >= 0:
            return f"exit status {self.exit_status}"
        try:
            return f"killed by {signal.Signals(-self.exit_status).name}"
        except ValueError:
            return f"killed by signal {-self.exit_status}"

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self.dead:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        try:
            for line in self._lines.feed(data):
                self._take(messages.decode_to_supervisor(line))
        except (ValueError, msgspec.DecodeError) as error:
            self._broken(self, f"said something that is no control message: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.dead:
            self._broken(self, "closed its control connection")

    def _take(self, message: messages.ToSupervisor) -> None:
        match message:
            case Ready():
                self.ready_at = time.monotonic()
            case TableAccepted(version):
                self.table_version = version
            case Seen(sequence):
                self.seen_sequence = max(self.seen_sequence, sequence)
            case Drained():
                self.drained = message
            case Ejected():
                self._ejected(self, message)
            case Certified():
                self._certified(self, message)
            case OutOfDescriptors(limit):
                self._out_of_descriptors(self, limit)
        self._changed()

    def _ended(self) -> None:
        assert self._process is not None
        self.exit_status = self._process.wait()  # readable pidfd: this reaps and does not wait
        self.dead = True
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        if self._transport is not None:
            self._transport.close()
        self._gone(self)
        self._changed()
