"""Fake workers and what they need, for tests of the control plane."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import TYPE_CHECKING, Any

from bgproxy.controlplane.listeners import Listeners
from bgproxy.controlplane.workers import Workers
from bgproxy.core.messages import CONFIGURED
from bgproxy.core.model import Address, Pool, PoolTable, Upstream
from bgproxy.core.settings import WorkerSettings
from bgproxy.shm.segment import Segment

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable

    from bgproxy.controlplane.worker_process import WorkerProcess

LOOPBACK = Address("127.0.0.1", 0)
FAKE_WORKER = "tests.support.fake_worker"  # a module, so that it finds bgproxy where the tests find it
TABLE = PoolTable(
    1,
    Pool((Upstream("b1", 0, Address("127.0.0.1", 9001)),)),
    Pool((Upstream("g1", 0, Address("127.0.0.1", 9002)),)),
)
PATIENCE_S = 10.0


class Recorder:
    """Takes the place of the event log; `of` gives the fields of every event of a name."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, event: str, /, **fields: object) -> None:
        self.events.append((event, dict(fields)))

    def of(self, name: str) -> list[dict[str, Any]]:
        return [fields for event, fields in self.events if event == name]


async def eventually(condition: Callable[[], object], what: str = "the condition") -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true within {PATIENCE_S:g} s"
        await asyncio.sleep(0.005)


class FairWorkers(Workers):
    """On a busy machine a worker that means to answer may be slower than one that never does is waited for: nobody is
    taken for silent who is only slow."""

    is_silent: Callable[[WorkerProcess], bool]

    async def publish(self, timeout_s: float, *, streams: str = CONFIGURED) -> list[WorkerProcess]:
        silent = await super().publish(timeout_s, streams=streams)
        sequence, slow = self._sequence, [each for each in silent if not self.is_silent(each)]
        await eventually(lambda: all(each.has_seen(sequence) for each in slow), "the answer of those that answer")
        return [each for each in silent if each not in slow]


class FakeProxy:
    """A segment, listeners and supervised fake workers. `modes` makes workers misbehave from their next start on."""

    def __init__(self, directory: pathlib.Path, workers: int = 2, **options: Any) -> None:
        self.emit = Recorder()
        self._modes = directory / "modes.json"
        self._by_slot: dict[int, str] = {}
        self._silent: set[int] = set()  # pids of those that were started under other modes than these
        self.segment = Segment.create(workers)
        self.listeners = Listeners.open([LOOPBACK], workers)
        self.command = (sys.executable, "-m", FAKE_WORKER, "--modes", str(self._modes))
        self.workers = FairWorkers(
            self.segment,
            self.listeners,
            WorkerSettings(),
            TABLE,
            emit=self.emit,
            **({"command": self.command} | options),
        )
        self.workers.is_silent = self.is_silent

    def modes(self, **by_slot: str) -> None:
        """`modes(w0="silent")`: worker 0 says nothing after its next start."""
        self._silent |= {each.pid for each in self.workers.living() if self.is_silent(each)}
        self._by_slot = {int(name[1:]): mode for name, mode in by_slot.items()}
        self._modes.write_text(json.dumps(self._by_slot))

    def is_silent(self, worker: WorkerProcess) -> bool:
        return worker.pid in self._silent or self._by_slot.get(worker.number) in ("silent", "stops-on-publish")

    async def start(self) -> None:
        await self.workers.start()
        assert await self.workers.all_ready(PATIENCE_S), self.emit.events

    async def close(self) -> None:
        await self.workers.drain(0.2)
        self.listeners.close()
        self.segment.close()

    async def ask(self) -> tuple[int, str, int]:
        """(epoch, colour, pid) of the worker that answers one request."""
        port = int(self.listeners.addresses[0].rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        epoch, colour, pid = answer.rpartition(b"\r\n\r\n")[2].decode().split()
        return int(epoch), colour, int(pid)
