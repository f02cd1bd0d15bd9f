"""May the live word move to this colour now? Every verdict is given, not only the first refusal.

`/preflight` and `/switch` ask the same evaluator, so what the one lists is what the other refuses for. A rollback
asks about the health of its pool only: it is the way out, so nothing else may stand in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from bgproxy.core.health import UpstreamHealth
from bgproxy.core.model import BLUE, GREEN, Colour

if TYPE_CHECKING:
    from collections.abc import Iterator

POOL_HEALTHY = "pool_healthy"
UPSTREAM_HEALTHY = "upstream_healthy"
TABLE_ACKNOWLEDGED = "table_acknowledged"
WORKERS_READY = "workers_ready"
NO_ORPHANS = "no_orphaned_workers"
EXPECTED_RELEASE = "expected_release"

# A worker that was just replaced is ready a moment later: waiting that moment beats refusing a switch for it.
PASSES_BY_WAITING = frozenset((TABLE_ACKNOWLEDGED, WORKERS_READY))


class PoolView(msgspec.Struct, frozen=True):
    """One pool at the moment of the snapshot."""

    min_healthy: int
    upstreams: tuple[UpstreamHealth, ...]
    release: str = ""  # as configured, for upstreams that do not say theirs

    @property
    def healthy(self) -> int:
        return sum(upstream.is_healthy for upstream in self.upstreams)


class WorkerView(msgspec.Struct, frozen=True):
    """One worker slot. `pid` 0 means it has no process now; `since` (monotonic seconds) is when that last changed."""

    number: int
    pid: int
    ready: bool
    table_version: int
    since: float = 0.0


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What the gates look at. `now` is monotonic seconds, `check` names the probe (`GET /healthz`)."""

    live: Colour
    epoch: int
    blue: PoolView
    green: PoolView
    table_version: int
    workers: tuple[WorkerView, ...]
    orphans: tuple[int, ...] = ()
    check: str = "health check"
    now: float = 0.0

    def pool(self, colour: Colour) -> PoolView:
        return {BLUE: self.blue, GREEN: self.green}[colour]


class Verdict(msgspec.Struct, frozen=True):
    """The answer of one gate about one target: what was checked, what came out, and for how long it has been so."""

    gate: str
    target: str
    check: str
    passed: bool
    result: str
    since_s: float | None = None

    def as_dict(self) -> dict[str, str | float | None]:
        """The members of `failed` in a problem document."""
        return {
            "gate": self.gate,
            "target": self.target,
            "check": self.check,
            "result": self.result,
            "since_s": self.since_s,
        }

    def __str__(self) -> str:
        since = "" if self.since_s is None else f" (for {self.since_s:.1f} s)"
        return f"{self.target}: {self.result}{since}"


def evaluate(now: Snapshot, to: Colour, *, rollback: bool = False) -> list[Verdict]:
    """Every verdict on making `to` live, the failed ones among them."""
    verdicts = list(_health_of(now, to))
    if not rollback:
        verdicts += [_table_acknowledged(now), *_workers_ready(now), no_orphans(now)]
    return verdicts


def expected_release(now: Snapshot, to: Colour, release: str) -> list[Verdict]:
    """A verdict on every upstream of `to` that is up. Nobody up cannot be of another release: other gates see to that.

    This is a condition of the order, like its epoch, so nothing overrides it.
    """
    pool = now.pool(to)
    verdicts = []
    for upstream in pool.upstreams:
        if upstream.up:
            found = upstream.release or pool.release
            verdicts.append(
                Verdict(
                    EXPECTED_RELEASE,
                    f"{to.label}/{upstream.address}",
                    f"its release is {release}",
                    found == release,
                    f"its release is {found}" if found else "it does not say which release it is",
                )
            )
    return verdicts


def failed(verdicts: list[Verdict]) -> list[Verdict]:
    return [verdict for verdict in verdicts if not verdict.passed]


def _health_of(now: Snapshot, to: Colour) -> Iterator[Verdict]:
    pool = now.pool(to)
    enough = pool.healthy >= pool.min_healthy
    yield Verdict(
        POOL_HEALTHY,
        to.label,
        f"at least {pool.min_healthy} of {len(pool.upstreams)} upstreams healthy",
        enough,
        f"{pool.healthy} healthy, {pool.min_healthy} needed",
    )
    for upstream in pool.upstreams:
        if not upstream.is_healthy:
            # Named in any case; it refuses only where the pool has too few without it.
            yield Verdict(
                UPSTREAM_HEALTHY,
                f"{to.label}/{upstream.address}",
                now.check,
                enough,
                condition(upstream),
                max(0.0, now.now - upstream.since),
            )


def condition(upstream: UpstreamHealth) -> str:
    """Why it does not count as healthy."""
    if upstream.drained:
        return "drained by operator"
    if upstream.checked_at is None:
        return "never checked yet"
    times = f"{upstream.consecutive} time{'' if upstream.consecutive == 1 else 's'} in a row"
    if upstream.up is None:
        return f"not decided yet: {upstream.error or 'answered as expected'}, {times}"
    if not upstream.error:
        return f"down, but answered as expected {times}: not often enough to be up again"
    return f"down: {upstream.error}, {times}"


def _table_acknowledged(now: Snapshot) -> Verdict:
    behind = [w for w in now.workers if w.pid and w.table_version != now.table_version]
    named = ", ".join(f"worker {w.number} (pid {w.pid}) has {w.table_version or 'none'}" for w in behind)
    return Verdict(
        TABLE_ACKNOWLEDGED,
        "workers",
        f"every worker has pool table {now.table_version}",
        not behind,
        named or f"all have pool table {now.table_version}",
        max((now.now - w.since for w in behind), default=None),
    )


def _workers_ready(now: Snapshot) -> Iterator[Verdict]:
    waiting = [worker for worker in now.workers if not worker.ready]
    if not waiting:
        yield Verdict(WORKERS_READY, "workers", "every worker is ready", True, f"{len(now.workers)} ready")
    for worker in waiting:
        result = f"pid {worker.pid} is starting" if worker.pid else "has no process; its replacement is on its way"
        yield Verdict(
            WORKERS_READY, f"worker {worker.number}", "every worker is ready", False, result, now.now - worker.since
        )


def no_orphans(now: Snapshot) -> Verdict:
    pids = ", ".join(map(str, now.orphans))
    return Verdict(
        NO_ORPHANS,
        "workers of an earlier supervisor",
        "none is left, because they would go on with their own colour",
        not now.orphans,
        f"still running: pid {pids}" if pids else "none",
    )
