"""Workers that outlived their supervisor: they go on forwarding, on a live word that nobody writes any more.

Every supervisor keeps a record of its workers in the state directory. The next one finds those that still run, starts
its own beside them, and then asks the old ones to leave. A process is taken for one of them only when its number, its
start time and its command line all agree: a number alone may belong to somebody else by now.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
from typing import TYPE_CHECKING

import msgspec

from bgproxy.shm.segment import Segment, SegmentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from bgproxy.controlplane.events import Emit
    from bgproxy.shm.live_pointer import Live

WORKERS_FILE = "workers.json"
NEXT_WORKERS_FILE = "workers.next.json"  # of a successor that has not taken over yet
SEGMENT_OPTION = "--segment-fd"
_DEATH_BOUND_S = 5.0
_POLL_S = 0.01  # several processes, none of them a child: looked at, not waited for


class Recorded(msgspec.Struct, frozen=True):
    """Who a worker is. `started` is its start time in clock ticks since boot, as /proc tells it."""

    pid: int
    started: int
    argv: tuple[str, ...]


class Record(msgspec.Struct, frozen=True):
    """The file. `listen` are the addresses that these workers hold."""

    workers: tuple[Recorded, ...] = ()
    listen: tuple[str, ...] = ()


class Orphan:
    """A verified process, held by a pidfd: from here on the number cannot come to mean another."""

    def __init__(self, recorded: Recorded, pidfd: int) -> None:
        self.recorded = recorded
        self._pidfd = pidfd

    @property
    def alive(self) -> bool:
        if self._pidfd < 0:
            return False
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        if not poll.poll(0):
            return True
        self.release()
        return False

    def send(self, number: signal.Signals) -> None:
        if self.alive:
            signal.pidfd_send_signal(self._pidfd, number)

    def word(self) -> Live | None:
        """The live word that it serves by, from its own shared memory; None where that cannot be read."""
        argv = self.recorded.argv
        if SEGMENT_OPTION not in argv[:-1]:
            return None
        number = argv[argv.index(SEGMENT_OPTION) + 1]
        try:
            fd = os.open(f"/proc/{self.recorded.pid}/fd/{number}", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            segment = Segment.attach(fd)
        except (SegmentError, OSError, ValueError):
            os.close(fd)
            return None
        try:
            return segment.live.load() if self.alive else None
        finally:
            segment.close()

    def release(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


class Orphans:
    """Those of the last record that still run. `changed` is called when one of them is gone."""

    def __init__(self, orphans: Iterable[Orphan] = (), listen: Iterable[str] = (), *, emit: Emit) -> None:
        self._orphans = list(orphans)
        self._emit = emit
        self.listen = frozenset(listen) if self._orphans else frozenset()
        self.changed: Callable[[], object] = lambda: None

    @classmethod
    def find(cls, directory: Path, *, emit: Emit) -> Orphans:
        """Reads the records. One that cannot be read is reported and taken as empty: it is an aid, not the truth."""
        orphans = cls(emit=emit)
        for name in (WORKERS_FILE, NEXT_WORKERS_FILE):
            record = read_record(directory / name, emit=emit)
            orphans.adopt(record.workers, record.listen)
        if orphans.pids():
            emit("orphans_found", pids=list(orphans.pids()))
        return orphans

    def adopt(self, workers: Iterable[Recorded], listen: Iterable[str] = ()) -> None:
        """Those of them that still run and are not known yet."""
        known = {orphan.recorded for orphan in self._orphans}
        found = [orphan for recorded in workers if recorded not in known and (orphan := _verified(recorded))]
        self._orphans += found
        if found:
            self.listen |= frozenset(listen)

    def living(self) -> list[Recorded]:
        return [orphan.recorded for orphan in self._orphans if orphan.alive]

    def pids(self) -> tuple[int, ...]:
        return tuple(recorded.pid for recorded in self.living())

    def words(self) -> list[Live | None]:
        """What each of them serves by: the truth about what clients are told now, whatever is on disk."""
        return [orphan.word() for orphan in self._orphans if orphan.alive]

    async def retire(self, bound_s: float) -> None:
        """Ask them to finish and leave; after the bound they are killed. All are dead afterwards, or reported."""
        for orphan in self._orphans:
            orphan.send(signal.SIGTERM)
        await self._gone_within(bound_s)
        await self.end_now()

    async def end_now(self, patience_s: float = 0.0) -> list[int]:
        """The pids that had to be killed; ChildProcessError names those that could not be."""
        await self._gone_within(patience_s)
        killed = self.pids()
        for orphan in self._orphans:
            orphan.send(signal.SIGKILL)
        if killed:
            self._emit("orphans_killed", pids=list(killed))
        if not await self._gone_within(_DEATH_BOUND_S):
            raise ChildProcessError(f"still running after SIGKILL: pid {', '.join(map(str, self.pids()))}")
        return list(killed)

    def release(self) -> None:
        for orphan in self._orphans:
            orphan.release()

    async def _gone_within(self, bound_s: float) -> bool:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + bound_s
        left = len(self._orphans)
        while self._orphans:
            self._orphans = [orphan for orphan in self._orphans if orphan.alive]
            if len(self._orphans) < left:
                left = len(self._orphans)
                self.changed()
            if self._orphans and loop.time() >= deadline:
                return False
            await asyncio.sleep(_POLL_S if self._orphans else 0)
        return True


def describe(pid: int, argv: Iterable[str]) -> Recorded | None:
    """What to record of a worker; None where it is gone already."""
    try:
        return Recorded(pid, start_time(pid), tuple(argv))
    except OSError:
        return None


def read_record(path: Path, *, emit: Emit) -> Record:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except FileNotFoundError:
        return Record()
    except (OSError, ValueError) as error:
        emit("workers_record_unusable", file=str(path), error=str(error))
        return Record()


def write_record(directory: Path, record: Record, name: str = WORKERS_FILE) -> None:
    """Replaces the file as a whole. Not synced: after a crash of the machine there are no workers to find."""
    temporary = directory / (name + ".new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(msgspec.json.encode(record))
    os.replace(temporary, directory / name)


def start_time(pid: int) -> int:
    """Field 22 of /proc/PID/stat; OSError where there is no such process. The name in field 2 may hold anything."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19])


def _verified(recorded: Recorded) -> Orphan | None:
    try:
        pidfd = os.pidfd_open(recorded.pid)
    except (OSError, ValueError, OverflowError):
        return None
    orphan = Orphan(recorded, pidfd)
    # Looked at after the pidfd was opened: what agrees now is what the pidfd holds.
    if orphan.alive and _is(recorded):
        return orphan
    orphan.release()
    return None


def _is(recorded: Recorded) -> bool:
    try:
        with open(f"/proc/{recorded.pid}/cmdline", "rb") as file:
            argv = file.read().removesuffix(b"\0").split(b"\0")
        return start_time(recorded.pid) == recorded.started and argv == [os.fsencode(arg) for arg in recorded.argv]
    except OSError:
        return False
