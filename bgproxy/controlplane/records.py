"""What a supervisor writes down for others: where it listens, for commands, and its workers, for its successor."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import msgspec

from bgproxy.controlplane.orphans import NEXT_WORKERS_FILE, WORKERS_FILE, Record, Recorded, describe, write_record

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping
    from pathlib import Path

    from bgproxy.controlplane.events import Emit
    from bgproxy.controlplane.orphans import Orphans
    from bgproxy.controlplane.workers import Workers

ADDRESSES_FILE = "addresses.json"
RECORD_BOUND_S = 2.0  # a disk that hangs must not keep a worker from serving


class Records:
    """`in_thread` does file work in the order in which it is asked for. Until `own`, a predecessor's records stay as
    they are and ours go beside them; after `disown`, they are a successor's. `workers` is set once there are some."""

    workers: Workers

    def __init__(
        self,
        directory: Path,
        orphans: Orphans,
        listen: Iterable[str],
        *,
        in_thread: Callable[[Callable[[], None]], Awaitable[None]],
        emit: Emit,
        has_predecessor: bool = False,
    ) -> None:
        self._directory, self._orphans, self._listen = directory, orphans, set(listen)
        self._in_thread, self._emit = in_thread, emit
        self._file = NEXT_WORKERS_FILE if has_predecessor else WORKERS_FILE
        self._is_ours = True

    # --- workers ---

    async def record(self) -> None:
        """So that the next supervisor finds them, should this one be killed."""
        await asyncio.wait((self.write(),), timeout=RECORD_BOUND_S)

    def write(self) -> asyncio.Task[None]:
        """In the background, in order."""
        record = Record(
            (*self.own_workers(), *self._orphans.living()), tuple(sorted(self._listen | self._orphans.listen))
        )
        file = self._file
        task = asyncio.ensure_future(self._in_thread(lambda: self._write(record, file)))
        task.add_done_callback(self._written)
        return task

    def own_workers(self) -> tuple[Recorded, ...]:
        return tuple(found for worker in self.workers.living() if (found := describe(worker.pid, worker.argv)))

    def _write(self, record: Record, file: str) -> None:
        if self._is_ours:
            write_record(self._directory, record, file)
            if file == WORKERS_FILE:  # it names them all
                (self._directory / NEXT_WORKERS_FILE).unlink(missing_ok=True)

    def _written(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            self._emit("workers_record_unusable", error=str(error))

    # --- whose they are ---

    async def own(self) -> None:
        """There is no predecessor any more, or none that knows better."""
        self._file, self._is_ours = WORKERS_FILE, True
        await self.record()

    def disown(self) -> None:
        self._is_ours = False

    def forget(self) -> None:
        """At the end. Our own workers are dead by now; those of an earlier supervisor may not be, and the next one must
        still find them."""
        if not self._is_ours:
            return
        _remove_addresses(self._directory / ADDRESSES_FILE)
        left = self._orphans.living()
        try:
            if left and self._file == WORKERS_FILE:
                write_record(self._directory, Record(tuple(left), tuple(self._orphans.listen)), self._file)
            else:
                (self._directory / self._file).unlink(missing_ok=True)
        except OSError as error:  # what is there names them too, and some that are dead
            self._emit("workers_record_unusable", error=str(error))

    def write_addresses(self, addresses: Mapping[str, Any]) -> None:
        """Where that cannot be, it is told: commands then need --admin. No reason not to serve: without a control plane
        there is no rollback either."""
        path = self._directory / ADDRESSES_FILE
        temporary = path.with_name(path.name + ".new")
        try:
            temporary.write_bytes(msgspec.json.encode(addresses) + b"\n")
            os.replace(temporary, path)
        except OSError as error:
            self._emit("addresses_not_written", file=str(path), error=error.strerror or str(error), **addresses)


def _remove_addresses(path: Path) -> None:
    """Those of a predecessor that goes on stay."""
    try:
        if msgspec.json.decode(path.read_bytes())["pid"] == os.getpid():
            path.unlink()
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none, or not one of ours
