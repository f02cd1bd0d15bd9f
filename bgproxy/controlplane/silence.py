"""Workers that do not say that they looked at the word. Only a dead one surely serves nobody, so they are killed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from bgproxy.controlplane.orders import ReplacedWorker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bgproxy.controlplane.orphans import Orphans
    from bgproxy.controlplane.worker_process import WorkerProcess
    from bgproxy.controlplane.workers import Workers

# They were asked to leave when their successors were ready; a rollback does not wait for their last request.
ORPHANS_PATIENCE_S = 0.02


class Silence:
    """Of one operation: `replaced` are the workers, `orphans_killed` the pids of earlier ones, that it had to end."""

    def __init__(self, workers: Workers, orphans: Orphans, *, patience_s: float) -> None:
        self._workers, self._orphans, self._patience_s = workers, orphans, patience_s
        self._silent: Sequence[WorkerProcess] = ()
        self.replaced: list[ReplacedWorker] = []
        self.orphans_killed: list[int] = []

    def is_left_by(self, silent: Sequence[WorkerProcess]) -> bool:
        """Is there anybody to end? Orphans read another word: they can only be here where gates were overridden."""
        self._silent = silent
        return bool(silent or self._orphans.pids())

    async def end_orphans(self) -> str:
        """Those that have not left by themselves in a moment are killed. Who is still alive then, as a sentence."""
        try:
            self.orphans_killed += await self._orphans.end_now(min(ORPHANS_PATIENCE_S, self._patience_s))
        except ChildProcessError as error:
            return str(error)
        return ""

    async def end(self, reason: str) -> list[str]:
        """Kill them, await their deaths. The names of those that are still alive."""
        deaths = await asyncio.gather(*(self._workers.kill_and_replace(w, reason) for w in self._silent))
        fates = list(zip(self._silent, deaths, strict=True))
        self.replaced += [ReplacedWorker(w.number, w.pid, reason) for w, dead in fates if dead]
        alive = [f"worker {w.number} (pid {w.pid})" for w, dead in fates if not dead]
        if left := await self.end_orphans():
            alive.append(f"workers of an earlier supervisor: {left}")
        return alive
