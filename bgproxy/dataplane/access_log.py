"""One record per exchange or refusal, off the path of requests: collected, formatted and written a few times a second.

Writing happens in a thread, because a full pipe or a slow disk must not stop a request. What does not fit the bound is
dropped and counted, never waited for. Query strings are not logged: they carry secrets.
"""

from __future__ import annotations

import functools
import os
import queue
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import orjson

from bgproxy.core.model import COLOURS
from bgproxy.core.settings import AccessLogSettings
from bgproxy.shm import worker_slot as slot
from bgproxy.shm.live_pointer import EPOCH_SHIFT

if TYPE_CHECKING:
    from bgproxy.dataplane.exchange import Exchange
    from bgproxy.wire.request import RequestHead

BATCHES: Final = 64  # waiting for the thread
RECORDS: Final = 50_000  # waiting for the next flush
REFUSED: Final = "refused"  # how a request ended that never became an exchange


class AccessLog:
    """`json` (one object a line) or `combined`, appended to a file or written to standard output."""

    def __init__(self, settings: AccessLogSettings, cells: memoryview) -> None:
        self._settings = settings
        self._format = _as_json if settings.format == "json" else _as_combined
        self._cells = cells
        self._records: list[tuple[Any, ...]] = []
        self._batches: queue.Queue[bytes | None] = queue.Queue(BATCHES)
        if settings.file == "-":
            self._fd = os.dup(1)
        else:
            self._fd = os.open(settings.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._thread = threading.Thread(target=self._write, name="access-log", daemon=True)
        self._thread.start()

    def is_current(self, settings: AccessLogSettings) -> bool:
        """Does it write what is asked for, to the file that has the name now?"""
        if settings != self._settings or settings.file == "-":
            return settings == self._settings
        try:
            named, ours = os.stat(settings.file), os.fstat(self._fd)
        except OSError:
            return False
        return (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino)

    def record(self, exchange: Exchange, end_ns: int, termination: str) -> None:
        """`end_ns` is from before it is counted as in flight no longer: who sees that it is not, knows a later time."""
        if len(self._records) >= RECORDS:
            self._cells[slot.ACCESS_LOG_DROPPED] += 1
            return
        request = exchange.request
        self._records.append(
            (
                time.time(),
                exchange.client.peer.address,
                request.method,
                request.host,
                request.target,
                exchange.status,
                exchange.request_bytes,
                exchange.response_bytes,
                exchange.started,
                exchange.dispatched,
                end_ns,
                exchange.held_ns,
                exchange.word if exchange.word >= 0 else None,
                exchange.kind_of_stream,
                exchange.server.id if exchange.server else "",
                exchange.attempts,
                exchange.upstream is not None and exchange.was_reused,
                exchange.request_id,
                termination,
            )
        )

    def record_refusal(
        self, remote: bytes, request: RequestHead | None, status: int, bytes_out: int, request_id: bytes
    ) -> None:
        """A request that never became an exchange. None where it could not be read: broken bytes are not for a log."""
        if len(self._records) >= RECORDS:
            self._cells[slot.ACCESS_LOG_DROPPED] += 1
            return
        asked = (b"", b"", b"") if request is None else (request.method, request.host, request.target)
        now = time.monotonic_ns()
        said = (status, 0, bytes_out, now, 0, now, 0, None, None, "", 0, False, request_id, REFUSED)
        self._records.append((time.time(), remote, *asked, *said))

    def flush(self) -> None:
        records, self._records = self._records, []
        if not records:
            return
        try:
            self._batches.put_nowait(b"".join(map(self._format, records)))
        except queue.Full:
            self._cells[slot.ACCESS_LOG_DROPPED] += len(records)

    def close(self) -> None:
        """Write what is left; a reader that does not read is waited for a second."""
        self.flush()
        try:
            self._batches.put(None, timeout=1)
        except queue.Full:
            return
        self._thread.join(timeout=1)

    def _write(self) -> None:
        while (batch := self._batches.get()) is not None:
            rest = memoryview(batch)
            try:
                while rest:
                    rest = rest[os.write(self._fd, rest) :]
            except OSError:  # the disk is full or the reader is gone: counted, and tried again with the next batch
                self._cells[slot.ACCESS_LOG_DROPPED] += bytes(rest).count(b"\n")
        os.close(self._fd)


@functools.cache
def _boot() -> str:
    """Which boot of the machine the monotonic times belong to; "" where the system does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read(8)
    except OSError:
        return ""


def _as_json(record: tuple[Any, ...]) -> bytes:
    (at, remote, method, host, target, status, bytes_in, bytes_out, arrive_ns, dispatch_ns, end_ns, held_ns, word,
     stream, upstream, attempts, reused, request_id, termination) = record  # fmt: skip
    return orjson.dumps(
        {
            "ts": datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds"),
            "remote": _text(remote),
            "method": _text(method),
            "host": _text(host),
            "path": _text(target.partition(b"?")[0]),
            "status": status,
            "bytes_in": bytes_in,
            "bytes_out": bytes_out,
            "duration_s": round((end_ns - arrive_ns) / 1e9, 6),
            "held_s": round(held_ns / 1e9, 6),
            "arrive_ns": arrive_ns,
            "dispatch_ns": dispatch_ns or None,
            "end_ns": end_ns,
            "boot": _boot(),
            "colour": None if word is None else COLOURS[word & 1].label,
            "epoch": None if word is None else word >> EPOCH_SHIFT,
            "stream": stream,
            "upstream": upstream,
            "attempts": attempts,
            "reused": reused,
            "request_id": _text(request_id),
            "termination": termination,
        },
        option=orjson.OPT_APPEND_NEWLINE,
    )


def _as_combined(record: tuple[Any, ...]) -> bytes:
    at, remote, method, _, target, status, _, bytes_out = record[:8]
    when = datetime.fromtimestamp(at, UTC).strftime("%d/%b/%Y:%H:%M:%S %z")
    request = f"{_text(method)} {_text(target.partition(b'?')[0])} HTTP/1.1" if method else "-"
    return f'{_text(remote)} - - [{when}] "{request}" {status} {bytes_out} "-" "-"\n'.encode()


def _text(raw: bytes) -> str:
    return raw.decode("ascii", "backslashreplace").replace('"', "%22")
