"""Keeps one worker alive per slot, tells all of them what is live, and knows which of them has said so.

A dead worker is replaced at once, one that dies again and again more slowly, but always. One that is alive and does
not answer is killed first: only a dead process is known to serve nobody.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING

import msgspec

from bgproxy.controlplane.bell import Bell
from bgproxy.controlplane.ejections import Ejections
from bgproxy.controlplane.heartbeats import Heartbeats
from bgproxy.controlplane.worker_process import WorkerProcess, nothing
from bgproxy.core.gates import WorkerView
from bgproxy.core.messages import CONFIGURED, Certify, Configure, Drain, Published
from bgproxy.core.messages import Cut as CutRequests
from bgproxy.core.model import COLOURS
from bgproxy.shm import worker_slot

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from bgproxy.controlplane.events import Emit
    from bgproxy.controlplane.listeners import Listeners
    from bgproxy.core.certificates import TlsMaterial
    from bgproxy.core.messages import Certified, Ejected
    from bgproxy.core.model import Colour, PoolTable
    from bgproxy.core.settings import WorkerSettings
    from bgproxy.shm.segment import Segment

COMMAND = (sys.executable, "-m", "bgproxy.worker")
DEATH_BOUND_S = 5.0  # after SIGKILL; only a process stuck in the kernel takes longer
BACKOFF_S = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0)  # connections wait in the accept queue meanwhile
SERVED_LONG_ENOUGH_S = 1.0  # a worker that was ready for this long did not die of its start
DEATH_NOTICE_S = 0.5
DRAIN_GRACE_S = 1.0  # a worker keeps the deadline itself; this is for its last words


class Cut(msgspec.Struct, frozen=True):
    """What a worker had to leave unfinished at the shutdown; `killed` where it did not keep the deadline itself."""

    worker: int
    pid: int
    requests: int
    streams: int
    killed: bool


class _Slot:
    def __init__(self, number: int) -> None:
        self.number = number
        self.worker: WorkerProcess | None = None
        self.quick_deaths = 0
        self.since = time.monotonic()


class Workers:
    """`heartbeat_bound_s` is for workers that are ready, `start_bound_s` for those that are not yet."""

    def __init__(
        self,
        segment: Segment,
        listeners: Listeners,
        settings: WorkerSettings,
        table: PoolTable,
        *,
        emit: Emit,
        record: Callable[[], Awaitable[None]] = nothing,
        command: Sequence[str] = COMMAND,
        takeover_fd: int = -1,
        heartbeat_bound_s: float = 10.0,
        start_bound_s: float = 30.0,
    ) -> None:
        self._segment, self._listeners, self._emit, self._command = segment, listeners, emit, command
        self._configure = Configure(settings, table)
        self._announced = table.version
        self._certificates: Certify | None = None
        self._record = record
        self._takeover_fd = takeover_fd  # none: there is nothing that workers could hand over to a successor
        self._heartbeats = Heartbeats(
            segment, self.living, self._put_down, heartbeat_bound_s=heartbeat_bound_s, start_bound_s=start_bound_s
        )
        self._slots = [_Slot(number) for number in range(segment.workers)]
        self._bell = Bell()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ejections = Ejections(table, emit=emit)
        self._killed: dict[int, Cut] = {}
        self._sequence = 0
        self._stopping = False
        self.deaths = 0

    # --- what they are ---

    @property
    def configured(self) -> int:
        return len(self._slots)

    @property
    def ready(self) -> int:
        return sum(slot.worker is not None and slot.worker.ready for slot in self._slots)

    @property
    def table_version(self) -> int:
        """That of the table every worker should have: from its announcement on that of the next one."""
        return self._announced

    def living(self) -> list[WorkerProcess]:
        return [slot.worker for slot in self._slots if slot.worker is not None and not slot.worker.dead]

    def views(self) -> tuple[WorkerView, ...]:
        return tuple(_view(slot) for slot in self._slots)

    def epochs(self) -> list[int]:
        """The epoch that each slot's worker has seen; a slot without one shows 0."""
        return [slot.cells[worker_slot.EPOCH_SEEN] for slot in self._segment.slots]

    def lag_s(self) -> list[float]:
        return [slot.cells[worker_slot.LAG_NS] / 1e9 for slot in self._segment.slots]

    def ejected_until(self, colour: Colour, index: int) -> float | None:
        """Monotonic seconds; None where no worker leaves this upstream out."""
        return self._ejections.until(colour, index)

    # --- what is asked of them ---

    async def start(self) -> None:
        """Returns once every worker is started, not yet ready."""
        for slot in self._slots:
            await self._spawn(slot)
        self._keep(self._heartbeats.watch())

    async def all_ready(self, timeout_s: float) -> bool:
        return await self._bell.until(lambda: self.ready == len(self._slots), timeout_s)

    async def publish(self, timeout_s: float, *, streams: str = CONFIGURED) -> list[WorkerProcess]:
        """Tell every worker to look at the live word; returns those that have neither said that they did, nor died.

        A worker that is started later is born with the word as it is then.
        """
        self._sequence = sequence = self._sequence + 1
        audience = [worker for worker in self.living() if worker.configured]
        for worker in audience:
            worker.send(Published(sequence, streams))
        await self._bell.until(lambda: all(worker.has_seen(sequence) for worker in audience), timeout_s)
        return [worker for worker in audience if not worker.has_seen(sequence)]

    def cut(self, colour: Colour, *, writes: bool) -> None:
        """End what runs on `colour` (with `writes` only unsafe requests). The gauges show when it is done."""
        for worker in self.living():
            if worker.configured:
                worker.send(CutRequests(colour, writes))

    def announce_table(self, version: int) -> None:
        """Another table is about to be told: until every worker has it, none of them counts as having the present one.
        Where it is not told after all, name the present one again."""
        self._announced = version

    async def reconfigure(self, settings: WorkerSettings, table: PoolTable, timeout_s: float) -> list[WorkerProcess]:
        """Serve with these from now on, in the workers that there are and in all that come; returns those that have
        neither said that they do, nor died."""
        self._configure = Configure(settings, table)
        self._announced = table.version
        audience = [worker for worker in self.living() if worker.configured]
        for worker in audience:
            worker.send(self._configure)
        await self._bell.until(lambda: all(worker.has_taken(table.version) for worker in audience), timeout_s)
        self._ejections.table_changed(table)
        return [worker for worker in audience if not worker.has_taken(table.version)]

    def certify(self, material: TlsMaterial) -> None:
        """New handshakes use these certificates, in the workers that there are and in all that come."""
        self._certificates = Certify(material)
        for worker in self.living():
            if worker.configured:
                worker.send(self._certificates)

    async def kill_and_replace(self, worker: WorkerProcess, reason: str) -> bool:
        """True once it is dead, and then its replacement is on its way; False where that could not be seen in time."""
        self._put_down(worker, reason)
        return await self._bell.until(lambda: worker.dead, DEATH_BOUND_S)

    async def drain(self, timeout_s: float, *, idle_s: float = 0.0) -> list[Cut]:
        """Stop accepting, finish, leave. Returns what could not be finished; all are dead then. Where others serve from
        now on, idle connections may ask once more within `idle_s`."""
        self._stopping = True
        everyone = self.living()
        for worker in everyone:
            worker.send(Drain(timeout_s, idle_s))
            if not worker.configured:
                worker.kill()
        await self._bell.until(lambda: all(worker.dead for worker in everyone), timeout_s + DRAIN_GRACE_S)
        self.kill_all()
        await self._bell.until(lambda: all(worker.dead for worker in everyone), DEATH_BOUND_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        cuts = [self._killed.get(worker.pid) or _reported(worker) for worker in everyone]
        return [cut for cut in cuts if cut is not None]

    def kill_all(self) -> None:
        """The end without patience; `drain` returns soon after."""
        self._stopping = True
        for worker in self.living():
            self._killed.setdefault(worker.pid, self._unfinished(worker))
            worker.kill()

    # --- how they are kept alive ---

    async def _spawn(self, slot: _Slot) -> None:
        worker = WorkerProcess(
            slot.number,
            changed=self._bell.ring,
            gone=self._gone,
            ejected=self._ejected,
            certified=self._certified,
            broken=self._broken,
            out_of_descriptors=self._out_of_descriptors,
        )
        try:
            slot.worker = worker
            await worker.spawn(
                self._command,
                segment_fd=self._segment.fd,
                listen_fds=self._listeners.fds(slot.number),
                tls_listen_fds=self._listeners.tls_fds(slot.number),
                kept=self._listeners.bequest if self._takeover_fd >= 0 else None,
                takeover_fd=self._takeover_fd,
                configure=lambda: self._configure,
                certify=lambda: self._certificates,
                recorded=self._record,
            )
        except OSError as error:
            slot.worker = None
            slot.quick_deaths += 1
            self._emit("worker_not_started", worker=slot.number, error=error.strerror or str(error))
            self._replace(slot)
            return
        slot.since = time.monotonic()
        self._emit("worker_started", worker=slot.number, pid=worker.pid)

    def _gone(self, worker: WorkerProcess) -> None:
        slot = self._slots[worker.number]
        cells = self._segment.slots[worker.number].cells
        unfinished = sum(cells[worker_slot.IN_FLIGHT + colour] for colour in COLOURS)
        self._segment.slots[worker.number].hand_over()
        self._ejections.forget(worker.number)
        slot.worker, slot.since = None, time.monotonic()
        if self._stopping:
            return
        self.deaths += 1
        lived = worker.ready_at is not None and slot.since - worker.ready_at >= SERVED_LONG_ENOUGH_S
        slot.quick_deaths = 0 if lived else slot.quick_deaths + 1
        self._emit(
            "worker_died", worker=worker.number, pid=worker.pid, how=worker.how_it_ended, requests_lost=unfinished
        )
        self._replace(slot)

    def _replace(self, slot: _Slot) -> None:
        delay_s = BACKOFF_S[min(max(slot.quick_deaths - 1, 0), len(BACKOFF_S) - 1)]
        if delay_s:
            self._emit("worker_crash_loop", worker=slot.number, deaths=slot.quick_deaths, next_start_s=delay_s)
        self._keep(self._spawn_after(slot, delay_s))

    async def _spawn_after(self, slot: _Slot, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        if not self._stopping:
            await self._spawn(slot)

    def _broken(self, worker: WorkerProcess, why: str) -> None:
        # A worker that dies loses its connection a moment before its death is seen; that is no reason to blame it.
        asyncio.get_running_loop().call_later(DEATH_NOTICE_S, self._put_down, worker, why)

    def _put_down(self, worker: WorkerProcess, why: str) -> None:
        if not worker.dead:
            self._emit("worker_killed", worker=worker.number, pid=worker.pid, reason=why)
            worker.kill()

    def _ejected(self, worker: WorkerProcess, report: Ejected) -> None:
        self._ejections.add(worker.number, report)

    def _certified(self, worker: WorkerProcess, report: Certified) -> None:
        if report.error:
            self._emit("tls_not_taken", worker=worker.number, version=report.version, error=report.error)

    def _out_of_descriptors(self, worker: WorkerProcess, limit: int) -> None:
        self._emit("worker_out_of_descriptors", worker=worker.number, limit=limit)

    def _unfinished(self, worker: WorkerProcess) -> Cut:
        cells = self._segment.slots[worker.number].cells
        requests = sum(cells[worker_slot.IN_FLIGHT + colour] for colour in COLOURS)
        streams = sum(cells[worker_slot.TUNNELS + c] + cells[worker_slot.EVENT_STREAMS + c] for c in COLOURS)
        return Cut(worker.number, worker.pid, requests, streams, killed=True)

    def _keep(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _view(slot: _Slot) -> WorkerView:
    worker = slot.worker
    if worker is None:
        return WorkerView(slot.number, 0, False, 0, slot.since)
    return WorkerView(slot.number, worker.pid, worker.ready, worker.table_version, slot.since)


def _reported(worker: WorkerProcess) -> Cut | None:
    said = worker.drained
    if said is None or not (said.cut_requests or said.cut_streams):
        return None
    return Cut(worker.number, worker.pid, said.cut_requests, said.cut_streams, killed=False)
