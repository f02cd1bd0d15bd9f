"""What happens on the journal's thread: records in order, those that must be written before everything else.

A record that somebody waits for is written, or it is not; if it lands after he has given it up, it is taken back by the
record behind it. A record that must be written stays first in the queue until the disk takes it.
"""

from __future__ import annotations

import errno
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

import msgspec

from bgproxy.core import replay
from bgproxy.errors import StateCorrupt

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from bgproxy.controlplane.journal_file import JournalFile
    from bgproxy.core.journal import AnyRecord


class Ticket:
    """One record that somebody waits for. Whether it is `done` or `given_up` is decided under the writer's lock."""

    def __init__(self, record: AnyRecord) -> None:
        self.record = record
        self.begun = self.done = self.given_up = False


class Queued(msgspec.Struct, eq=False):
    """One record that has to be written whatever happens. `postponed`: what it says was done already."""

    record: AnyRecord
    future: asyncio.Future[None] | None = None
    postponed: bool = False
    late: bool = False


class Owner(Protocol):
    """Who is told, on whatever thread it happens."""

    def queued(self, queued: Queued) -> None: ...
    def written(self, queued: Queued) -> None: ...
    def lost(self, records: list[AnyRecord], error: str) -> None: ...
    def failing(self, error: str) -> None: ...
    def healed(self, after_s: float) -> None: ...
    def compacted(self, kept_as: str) -> None: ...


class Writer:
    """`now` is a time stamp. `error` and `since` are empty while the disk does what it should; `wrote` is told the
    seconds of every append."""

    def __init__(self, file: JournalFile, owner: Owner, now: Callable[[], str]) -> None:
        self.error = self.since = ""
        self.last_fsync_s = 0.0
        self.wrote: Callable[[float], None] = lambda _seconds: None
        self._file, self._owner, self._now = file, owner, now
        self._lock = threading.Lock()
        self._queue: deque[Queued] = deque()
        self._failing_since = 0.0
        self._is_given_away = False

    # --- another program's turn ---

    def give_away(self) -> None:
        """From here on nothing is written: it queues. OSError where what was before this is not on disk."""
        self.flush()
        self._is_given_away = True

    def take_back(self) -> None:
        """What comes now follows from whatever the other program wrote."""
        if self._is_given_away:
            self._is_given_away = False
            try:
                self._file.reload()
            except (OSError, StateCorrupt) as error:
                self.note_failure(getattr(error, "strerror", None) or str(error))
            else:
                self.try_again()

    # --- records ---

    def write(self, ticket: Ticket) -> None:
        """OSError where it is not on disk."""
        if self._is_given_away:
            raise OSError(errno.EBUSY, "another program is taking it over")
        with self._lock:
            if ticket.given_up:
                return
            ticket.begun = True
        self.flush()
        undo = replay.taken_back(self._file.now, ticket.record)
        self._append(ticket.record)
        with self._lock:
            ticket.done = True
            too_late = ticket.given_up
        if too_late:
            self._take_back(msgspec.structs.replace(undo, at=self._now()))
        self._well()

    def give_up(self, ticket: Ticket) -> bool:
        """False where it was done in this very moment."""
        with self._lock:
            ticket.given_up = not ticket.done
            return ticket.given_up

    def accept(self, queued: Queued) -> None:
        with self._lock:
            self._queue.append(queued)
        try:
            self.flush()
        except OSError:
            return  # it is tried again
        self._well()
        if self._file.has_grown and not self._is_given_away:
            self._compact()

    def flush(self) -> None:
        """OSError where the first of the queue cannot be written: then it stays the first."""
        while self._queue and not self._is_given_away:
            queued = self._queue[0]
            record = msgspec.structs.replace(queued.record, late=True) if queued.late else queued.record
            try:
                self._append(record)
            except OSError:
                self._all_are_late()
                raise
            except ValueError as error:  # a fault of ours, and no reason to keep what comes behind it waiting
                self._owner.lost([record], str(error))
            with self._lock:
                self._queue.popleft()
            self._owner.written(queued)

    def try_again(self) -> None:
        """With nothing in the queue, whether the disk takes something is found out beside the journal."""
        if self._is_given_away:
            return
        try:
            self.flush()
            self._file.repair()
            self._file.probe()
        except OSError as error:
            self.note_failure(error.strerror or str(error))
        else:
            self._well()

    def _all_are_late(self) -> None:
        with self._lock:
            for each in self._queue:
                each.late = True

    def in_queue(self) -> list[AnyRecord]:
        with self._lock:
            return [each.record for each in self._queue]

    def note_failure(self, error: str) -> None:
        with self._lock:
            if not self.error:
                self.since, self._failing_since = self._now(), time.monotonic()
            self.error = error
        self._owner.failing(error)

    def _take_back(self, undo: AnyRecord) -> None:
        """Behind the record itself, in front of everything that waits."""
        queued = Queued(undo)
        self._owner.queued(queued)
        with self._lock:
            self._queue.appendleft(queued)
        self.flush()

    def _append(self, record: AnyRecord) -> None:
        started = time.perf_counter()
        try:
            self._file.append(record)
        except OSError as error:
            self.note_failure(error.strerror or str(error))
            raise
        self.last_fsync_s = time.perf_counter() - started
        self.wrote(self.last_fsync_s)

    def _compact(self) -> None:
        try:
            kept = self._file.compact(self._now())
        except OSError as error:
            self.note_failure(error.strerror or str(error))
        else:
            self._owner.compacted(kept)

    def _well(self) -> None:
        with self._lock:
            if not self.error or self._queue:
                return
            self.error = self.since = ""
        self._owner.healed(time.monotonic() - self._failing_since)
