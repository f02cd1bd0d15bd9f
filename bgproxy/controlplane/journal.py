"""What survives a kill -9: which colour is live, how it came to be, and every answer that was given for it.

All file work happens on one thread of its own: the loop never waits for a disk. Whoever asks for a record waits as long
as he has patience; the write itself is never cut off, so what lands after that is taken back by the next record. What
has to be written whatever happens (an outcome, a rollback that a broken disk must not prevent) queues in memory, in
order, in front of everything that comes later, and is tried again every second.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from bgproxy.controlplane import migration
from bgproxy.controlplane.events import Events
from bgproxy.controlplane.journal_file import TORN_FILE, JournalFile
from bgproxy.controlplane.journal_writer import Queued, Ticket, Writer
from bgproxy.core import replay
from bgproxy.core.journal import Answer, AnyRecord, Decided, GateSet, Intent, Outcome, PoolsSet, State
from bgproxy.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bgproxy.controlplane.events import Emit

RETRY_S = 1.0
PATIENCE_S = 2.0
ANSWERS_KEPT = timedelta(hours=24)
HINT = "make room on the disk or repair its permissions, then repeat the command"


class Journal:
    """The journal of one directory. `wrote` is told the seconds of every append, on the journal's thread;
    `on_recovered` is called on the loop when everything is on disk again."""

    def __init__(
        self,
        directory: Path,
        *,
        system: Any = os,
        emit: Emit | None = None,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
        retry_s: float = RETRY_S,
    ) -> None:
        self.on_recovered: Callable[[], None] = lambda: None
        self._directory, self._os = directory, system
        self._emit, self._wall, self._retry_s = emit or Events().emit, wall, retry_s
        self._file = JournalFile(directory, system=system)
        self._writer = Writer(self._file, self, self._now)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="bgproxy-journal")
        self._unwritten: list[Queued] = []  # also what the thread has not come to yet
        self._loop: asyncio.AbstractEventLoop | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._trying: asyncio.Future[None] | None = None
        self._told = self._closed = self._is_given_away = False

    # --- the start ---

    def look(self) -> replay.Replayed | None:
        """What is on disk now, perhaps of another process that writes it; nothing is changed, nothing is decided. None
        where there is nothing; StateCorrupt where there is no telling. Blocks: for the start."""
        return self._file.look()

    def load(self, witness: replay.Witness | None = None) -> State | None:
        """The state, None where there never was one; StateCorrupt where there is no telling. Blocks: for the start.
        `witness` is what workers of a dead supervisor serve by; it has to be one that `replay.recovery` takes."""
        torn = self._file.load()
        if torn is None:
            return self._migrated()
        if torn:
            self._emit("journal_tail_cut", file=str(self._file.path), bytes=len(torn), kept_as=TORN_FILE)
        try:
            self._file.repair()
        except OSError as error:
            self._writer.note_failure(error.strerror or str(error))
        state = self._recovered(witness)
        if migration.check_beside(self._directory, state, self._os):
            self._put_away()
        return state

    async def begin(self, state: State) -> None:
        """The very first start; StoreUnavailable where it cannot be written."""
        try:
            await self.in_thread(lambda: self._file.begin(state, self._now()))
        except OSError as error:
            raise self._unavailable(error) from error

    # --- records that somebody waits for: StoreUnavailable where it is not on disk; then it is as if never asked ---

    async def intend(self, intent: Intent, *, patience_s: float = PATIENCE_S) -> None:
        await self._in_time(intent, patience_s)

    async def decide(self, epoch: int, *, patience_s: float = PATIENCE_S) -> None:
        """A fence counts from here on."""
        await self._in_time(Decided(epoch=epoch), patience_s)

    async def set_maintenance(
        self, on: bool, *, by: str = "", reason: str = "", patience_s: float = PATIENCE_S
    ) -> None:
        await self._in_time(GateSet(maintenance=on, by=by, reason=reason), patience_s)

    async def save_pools(
        self, document: Any, *, by: str = "", reason: str = "", detail: str = "", patience_s: float = PATIENCE_S
    ) -> None:
        """`document` is JSON of any shape; None goes back to the configuration."""
        await self._in_time(PoolsSet(document=document, by=by, reason=reason, detail=detail), patience_s)

    # --- records that are written whatever happens ---

    def conclude(self, record: Outcome | PoolsSet) -> asyncio.Future[None]:
        """Done once it is on disk. Never fails; need not be waited for."""
        return self._queue_up(record)

    def postpone(self, record: AnyRecord) -> asyncio.Future[None]:
        """What was done although it could not be written in time. Until it is on disk, `durable` is False."""
        return self._queue_up(record, postponed=True)

    async def answered(
        self, key: str, request_hash: str, status: int, document: Any, *, patience_s: float = PATIENCE_S
    ) -> bool:
        """Remember the answer to an order with an Idempotency-Key; False where it is not on disk yet. Never fails."""
        if self._is_given_away:
            return False
        answer = Answer(key=key, request_hash=request_hash, status=status, document=document, until=self._expiry())
        # A disk that is known not to work is not waited for: the answer itself is what matters now.
        done, _ = await asyncio.wait((self._queue_up(answer),), timeout=0 if self._writer.error else patience_s)
        return bool(done)

    # --- between two programs ---

    async def is_settled(self, *, patience_s: float = PATIENCE_S) -> bool:
        """Is everything that was asked for before this on disk?"""
        behind = asyncio.ensure_future(self.in_thread(lambda: None))
        await asyncio.wait((behind,), timeout=patience_s)
        return behind.done() and not self._unwritten

    async def give_away(self, *, patience_s: float = PATIENCE_S) -> None:
        """From here on it is for another program to write. StoreUnavailable where not everything is on disk; also then
        `take_back` is to be called if this one goes on."""
        self._is_given_away = True
        job = self._attach().run_in_executor(self._thread, self._writer.give_away)
        job.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        await asyncio.wait((job,), timeout=patience_s)
        error = job.exception() if job.done() else None
        if error is not None or not job.done():
            why = (error.strerror or error) if isinstance(error, OSError) else error or "the disk does not answer"
            raise StoreUnavailable(f"{self._file.path}: the journal is not wholly on disk: {why}", hint=HINT)

    async def take_back(self, *, patience_s: float = PATIENCE_S) -> None:
        """The other program is dead, and what it may have written counts. Never fails: a journal that cannot be gone on
        with is told like one that cannot be written."""
        self._is_given_away = False
        job = self._attach().run_in_executor(self._thread, self._writer.take_back)
        await asyncio.wait((job,), timeout=patience_s)

    # --- what it says ---

    @property
    def state(self) -> State:
        """As it is on disk."""
        return self._file.now.state

    @property
    def durable(self) -> bool:
        """False while something that was done is not on disk: a restart would not know it."""
        return not any(each.postponed for each in self._unwritten)

    @property
    def health(self) -> dict[str, Any]:
        return {
            "ok": not self._writer.error,
            "durable": self.durable,
            "pending": len(self._unwritten),
            "error": self._writer.error or None,
            "since": self._writer.since or None,
            "file": str(self._file.path),
            "records": self._file.records,
            "seq": self._file.seq_of_last,
            "bytes": self._file.bytes,
            "last_fsync_s": round(self._writer.last_fsync_s, 6),
        }

    def listen(self, wrote: Callable[[float], None]) -> None:
        self._writer.wrote = wrote

    def history(self, limit: int = replay.HISTORY) -> list[dict[str, Any]]:
        """The newest first, with what is not on disk yet."""
        now = self._file.now
        for record in self._writer.in_queue():
            try:
                now = replay.apply(now, record)
            except ValueError:
                break
        return [msgspec.to_builtins(entry) for entry in reversed(now.state.history)][:limit]

    # --- and else ---

    async def in_thread(self, work: Callable[[], None]) -> None:
        """Other small file work of the control plane, after everything that was asked for before."""
        await self._attach().run_in_executor(self._thread, work)

    def close(self) -> None:
        """After a last try. What is lost then is said."""
        self._closed = True
        if self._retry is not None:
            self._retry.cancel()
        if self._unwritten:
            self._thread.submit(self._writer.flush)
        self._thread.shutdown(wait=True)
        if left := self._writer.in_queue():
            self._tell_lost(left, self._writer.error or "another program has taken the journal over")
        self._file.close()

    # --- on the loop ---

    async def _in_time(self, record: AnyRecord, patience_s: float) -> None:
        ticket = Ticket(self._stamped(record))
        job = self._attach().run_in_executor(self._thread, self._writer.write, ticket)
        job.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # perhaps nobody asks any more
        try:
            await asyncio.wait((job,), timeout=patience_s)
        except asyncio.CancelledError:
            self._writer.give_up(ticket)
            raise
        if not job.done() and self._writer.give_up(ticket):
            raise self._too_slow(ticket, patience_s)
        try:
            await job
        except OSError as error:
            raise self._unavailable(error) from error

    def _queue_up(self, record: AnyRecord, *, postponed: bool = False) -> asyncio.Future[None]:
        future: asyncio.Future[None] = self._attach().create_future()
        queued = Queued(self._stamped(record), future, postponed, late=postponed)
        self._unwritten.append(queued)
        self._thread.submit(self._writer.accept, queued)
        return future

    def _attach(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            if self._writer.error:
                self._schedule_retry()
        return self._loop

    def _schedule_retry(self) -> None:
        if self._loop is not None and self._retry is None and not self._closed:
            self._retry = self._loop.call_later(self._retry_s, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        if self._trying is None or self._trying.done():  # a disk that hangs is not asked once more every second
            self._trying = self._attach().run_in_executor(self._thread, self._writer.try_again)
        self._schedule_retry()

    def _too_slow(self, ticket: Ticket, patience_s: float) -> StoreUnavailable:
        error = f"the disk did not answer within {patience_s:g} s"
        self._writer.note_failure(error)
        sentence = f"{self._file.path}: the journal could not be written: {error}"
        if not ticket.begun:
            return StoreUnavailable(f"{sentence}; nothing was changed", hint=HINT)
        return StoreUnavailable(
            f"{sentence}; nothing was changed, and if it is written after all, it is taken back at once; a restart in "
            "between would come up with it",
            hint=HINT,
        )

    def _unavailable(self, error: OSError) -> StoreUnavailable:
        sentence = f"{self._file.path}: the journal could not be written: {error.strerror or error}"
        if not self._file.in_doubt:
            return StoreUnavailable(f"{sentence}; nothing was changed", hint=HINT)
        return StoreUnavailable(
            f"{sentence}; nothing was changed, but what was written could not be taken back yet: a restart would come "
            "up with it",
            hint=HINT,
        )

    # --- what the writer tells, from either thread ---

    def queued(self, queued: Queued) -> None:
        self._tell(self._unwritten.append, queued)

    def written(self, queued: Queued) -> None:
        self._tell(self._is_written, queued)

    def lost(self, records: list[AnyRecord], error: str) -> None:
        self._tell(self._tell_lost, records, error)

    def failing(self, error: str) -> None:
        self._tell(self._tell_failing, error)

    def healed(self, after_s: float) -> None:
        self._tell(self._tell_healed, after_s)

    def compacted(self, kept_as: str) -> None:
        self._tell(lambda: self._emit("journal_compacted", kept_as=kept_as, bytes=self._file.bytes))

    def _tell(self, work: Callable[..., None], *arguments: Any) -> None:
        """On the loop, once there is one: events, futures and timers belong there."""
        if self._loop is None:
            work(*arguments)
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(work, *arguments)

    def _is_written(self, queued: Queued) -> None:
        self._unwritten.remove(queued)
        if queued.future is not None and not queued.future.done():
            queued.future.set_result(None)

    def _tell_lost(self, records: list[AnyRecord], error: str) -> None:
        first = f"{type(records[0]).__name__.lower()} of {records[0].at}"
        self._emit("journal_not_written", records=len(records), first=first, error=error)

    def _tell_failing(self, error: str) -> None:
        if not self._told:
            self._told = True
            self._emit("journal_unavailable", error=error, pending=len(self._unwritten), durable=self.durable)
        self._schedule_retry()

    def _tell_healed(self, after_s: float) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._told = False
        self._emit("journal_recovered", after_s=round(after_s, 3), records=self._file.seq_of_last)
        self.on_recovered()

    # --- at the start, before there is a loop ---

    def _recovered(self, witness: replay.Witness | None) -> State:
        """What was open is decided, and that it was is on disk as soon as the disk takes it."""
        now = self._file.now
        for record in replay.recovery(now, witness):
            # Without its outcome on disk, a restart that finds no workers would decide otherwise.
            queued = Queued(self._stamped(record), postponed=witness is not None)
            now = replay.apply(now, queued.record)
            if isinstance(queued.record, Outcome):
                epoch, result = queued.record.epoch, queued.record.result
                self._emit("switch_recovered", epoch=epoch, result=result, live=now.state.live)
            self._unwritten.append(queued)
            self._writer.accept(queued)
        return now.state

    def _migrated(self) -> State | None:
        old = migration.find(self._directory, self._os)
        if old is None:
            return None
        try:
            self._file.begin(old, self._now())
        except OSError as error:
            raise self._unavailable(error) from error
        self._put_away()
        self._emit("journal_begun", migrated=migration.STATE_FILE, epoch=old.epoch, live=old.live)
        return self.state

    def _put_away(self) -> None:
        try:
            migration.put_away(self._directory, self._os)
        except OSError:
            pass  # tried again at the next start

    def _stamped(self, record: AnyRecord) -> AnyRecord:
        if isinstance(record, Intent) and record.key:
            record = msgspec.structs.replace(record, until=self._expiry())
        return record if record.at else msgspec.structs.replace(record, at=self._now())

    def _expiry(self) -> str:
        return _stamp(self._wall() + ANSWERS_KEPT)

    def _now(self) -> str:
        return _stamp(self._wall())


def _stamp(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
