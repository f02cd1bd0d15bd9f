"""Finds workers that live and do nothing: a stopped process keeps its socket and its share of the connections."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from bgproxy.shm import worker_slot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bgproxy.controlplane.worker_process import WorkerProcess
    from bgproxy.shm.segment import Segment


class Heartbeats:
    """Calls `condemn(worker, why)` for every worker in `living()` that has been silent for too long."""

    def __init__(
        self,
        segment: Segment,
        living: Callable[[], Iterable[WorkerProcess]],
        condemn: Callable[[WorkerProcess, str], None],
        *,
        heartbeat_bound_s: float,
        start_bound_s: float,
    ) -> None:
        self._segment, self._living, self._condemn = segment, living, condemn
        self._heartbeat_bound_s, self._start_bound_s = heartbeat_bound_s, start_bound_s

    async def watch(self) -> None:
        pause_s = min(1.0, self._heartbeat_bound_s / 4)
        watched_since = looked_at = time.monotonic()
        while True:
            await asyncio.sleep(pause_s)
            now = time.monotonic()
            if now - looked_at > 3 * pause_s:
                # This process did not run either (a frozen container, a stopped machine): begin to count again.
                watched_since = now
            looked_at = now
            for worker in self._living():
                self._judge(worker, now, watched_since)

    def _judge(self, worker: WorkerProcess, now: float, watched_since: float) -> None:
        if not worker.ready:
            if now - max(worker.spawned_at, watched_since) > self._start_bound_s:
                self._condemn(worker, f"was not ready {self._start_bound_s:g} s after its start")
            return
        heartbeat_s = self._segment.slots[worker.number].cells[worker_slot.HEARTBEAT_NS] / 1e9
        silent_s = now - max(heartbeat_s, worker.spawned_at, watched_since)
        if silent_s > self._heartbeat_bound_s:
            self._condemn(worker, f"has shown no sign of life for {silent_s:.1f} s")
