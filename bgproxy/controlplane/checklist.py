"""The gates, asked about things as they are now."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bgproxy.core import gates
from bgproxy.core.gates import PoolView, Snapshot
from bgproxy.core.model import BLUE, GREEN, Colour

if TYPE_CHECKING:
    from collections.abc import Callable

    from bgproxy.controlplane.orphans import Orphans
    from bgproxy.controlplane.prober import Prober
    from bgproxy.controlplane.workers import Workers
    from bgproxy.core.gates import Verdict
    from bgproxy.shm.segment import Segment


class Checklist:
    """`min_healthy` is (blue, green); `check` names the probe for the verdicts (`GET /healthz`); `release(colour)` is
    what the configuration says."""

    def __init__(
        self,
        segment: Segment,
        workers: Workers,
        orphans: Orphans,
        prober: Prober,
        *,
        min_healthy: tuple[int, int],
        check: str,
        release: Callable[[Colour], str] = lambda colour: "",
    ) -> None:
        self._segment, self._workers, self._orphans, self._prober = segment, workers, orphans, prober
        self._min_healthy, self._check, self._release = min_healthy, check, release

    def configure(self, *, min_healthy: tuple[int, int], check: str) -> None:
        self._min_healthy, self._check = min_healthy, check

    def verdicts(self, to: Colour, kind: str) -> list[Verdict]:
        """`kind` is switch or rollback."""
        return gates.evaluate(self.snapshot(), to, rollback=kind == "rollback")

    def release_verdicts(self, to: Colour, release: str) -> list[Verdict]:
        return gates.expected_release(self.snapshot(), to, release)

    def snapshot(self) -> Snapshot:
        live = self._segment.live.load()
        return Snapshot(
            live=live.colour,
            epoch=live.epoch,
            blue=self._pool(BLUE),
            green=self._pool(GREEN),
            table_version=self._workers.table_version,
            workers=self._workers.views(),
            orphans=self._orphans.pids(),
            check=self._check,
            now=time.monotonic(),
        )

    def _pool(self, colour: Colour) -> PoolView:
        return PoolView(self._min_healthy[colour], tuple(self._prober.views(colour)), self._release(colour))
