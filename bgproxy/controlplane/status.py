"""The whole truth in one document: who is live, how both pools are, what a switch would say now.

Every section carries its age, and what has not been heard of for too long is `stale`, never frozen green.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from bgproxy import __version__
from bgproxy.controlplane import drain
from bgproxy.controlplane.sampler import Sampler, gauge
from bgproxy.core.model import COLOURS, Colour, PoolTable, Upstream
from bgproxy.shm import worker_slot

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bgproxy.core.gates import Verdict
    from bgproxy.core.health import UpstreamHealth
    from bgproxy.shm.segment import Segment

SCHEMA = "bgproxy.status/1"
HEARTBEAT_STALE_S = 2.0  # a worker writes its heartbeat four times a second


class Switching(Protocol):
    """What the switcher says about itself. `state` is steady, switching or draining."""

    @property
    def state(self) -> str: ...
    @property
    def previous(self) -> Colour | None: ...
    @property
    def last_switch(self) -> Mapping[str, Any] | None: ...
    def verdicts(self, to: Colour, kind: str) -> Sequence[Verdict]:
        """Every verdict on a switch or rollback to `to`, now."""


class Probing(Protocol):
    """What the prober says about the upstreams."""

    def views(self, colour: Colour) -> list[UpstreamHealth]: ...
    def degraded(self, colour: Colour) -> str: ...
    def is_stale(self, view: UpstreamHealth) -> bool: ...


class WorkersReport(Protocol):
    """What the supervisor knows of its workers beyond their slots. Times are monotonic seconds."""

    @property
    def ready(self) -> int: ...
    def ejected_until(self, colour: Colour, index: int) -> float | None: ...


class Journalled(Protocol):
    """What the journal says about itself."""

    @property
    def durable(self) -> bool: ...
    @property
    def health(self) -> dict[str, Any]: ...


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What changes only with a pool or by a reload. `min_healthy` and `sources` are (blue, green)."""

    instance: str
    table: PoolTable
    min_healthy: tuple[int, int]
    config_file: str = ""
    config_sha256: str = ""
    sources: tuple[str, str] = ("file", "file")


class Status:
    """Reads from everybody, writes nothing. `clock` is monotonic, `wall` is in UTC."""

    def __init__(
        self,
        facts: Facts,
        segment: Segment,
        prober: Probing,
        workers: WorkersReport,
        switcher: Switching,
        sampler: Sampler,
        *,
        tls: Callable[[], dict[str, Any] | None] = lambda: None,
        journal: Journalled | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._facts, self._segment, self._prober = facts, segment, prober
        self._workers, self._switcher, self._sampler = workers, switcher, sampler
        self._clock, self._wall = clock, wall
        self._tls, self._journal = tls, journal
        self._started, self._started_at = clock(), wall()
        self._loaded, self._loaded_at = self._started, self._started_at

    def configure(self, facts: Facts, *, reloaded: bool = False) -> None:
        """Other facts from now on; `reloaded` where the configuration was read again."""
        self._facts = facts
        if reloaded:
            self._loaded, self._loaded_at = self._clock(), self._wall()

    def document(self) -> dict[str, Any]:
        live = self._segment.live.load()
        return {
            "schema": SCHEMA,
            "version": __version__,
            "instance": self._facts.instance,
            "at": iso(self._wall()),
            "started_at": iso(self._started_at),
            "uptime_s": round(self._clock() - self._started, 3),
            "epoch": live.epoch,
            "live": live.colour.label,
            "idle": live.colour.other.label,
            "state": self._switcher.state,
            "held": drain.held(self._segment.slots),
            "can_switch": self._can_switch(live.colour.other),
            "rollback": self._rollback(),
            "last_switch": self._last_switch(),
            "pools": {colour.label: self._pool(colour, live.colour) for colour in COLOURS},
            "workers": self._workers_section(),
            "tls": self._tls(),
            "durable": self._journal.durable if self._journal else True,
            "journal": self._journal.health if self._journal else None,
            "config": {
                "file": self._facts.config_file or None,
                "sha256": self._facts.config_sha256 or None,
                "loaded_at": iso(self._loaded_at),
                "age_s": round(self._clock() - self._loaded, 3),
                "stale": False,
            },
        }

    def not_ready(self) -> list[str]:
        """Why no traffic should be sent here; empty when it should."""
        reasons = []
        configured = self._segment.workers
        if self._workers.ready < configured:
            reasons.append(f"{self._workers.ready} of {configured} workers are ready")
        live = self._segment.live.load().colour
        if not any(self._segment.health.routable(live)):
            reasons.append(f"no upstream of the live pool ({live.label}) takes traffic")
        return reasons

    def _can_switch(self, to: Colour) -> dict[str, Any]:
        reasons = [str(verdict) for verdict in self._switcher.verdicts(to, "switch") if not verdict.passed]
        return {"ok": not reasons, "to": to.label, "reasons": reasons} | self._checked(to)

    def _rollback(self) -> dict[str, Any]:
        to = self._switcher.previous
        if to is None:
            reasons = ["there has been no switch yet, so there is nothing to go back to"]
            verified, checked = None, {"age_s": 0.0, "stale": False}
        else:
            reasons = [str(verdict) for verdict in self._switcher.verdicts(to, "rollback") if not verdict.passed]
            verified = max((view.at for view in self._prober.views(to)), default="") or None
            checked = self._checked(to)
        label = to.label if to is not None else None
        return {"ready": not reasons, "to": label, "reasons": reasons, "last_verified_at": verified} | checked

    def _last_switch(self) -> dict[str, Any] | None:
        last = self._switcher.last_switch
        if last is None:
            return None
        at = last.get("at")
        age_s = (self._wall() - datetime.fromisoformat(at)).total_seconds() if isinstance(at, str) and at else None
        return dict(last) | {"age_s": age_s}

    def _pool(self, colour: Colour, live: Colour) -> dict[str, Any]:
        pool = self._facts.table.pool(colour)
        views = self._prober.views(colour)
        slots = self._segment.slots
        in_flight = gauge(slots, worker_slot.IN_FLIGHT + colour)
        streams = gauge(slots, worker_slot.TUNNELS + colour) + gauge(slots, worker_slot.EVENT_STREAMS + colour)
        rates = self._sampler.rates(colour)
        degraded = self._prober.degraded(colour)
        return {
            "role": "live" if colour == live else "idle",
            "release": pool.release or None,
            "source": self._facts.sources[colour],
            "healthy": sum(view.is_healthy for view in views),
            "total": len(pool.upstreams),
            "min_healthy": self._facts.min_healthy[colour],
            "degraded": degraded or None,
            "in_flight": in_flight,
            "streams": streams,
            "draining": colour != live and in_flight + streams > 0,
            "remaining": None if colour == live else self._remaining(colour),
            "leaving": gauge(slots, worker_slot.STREAMS_LEAVING + colour),
            "rps": rates.rps,
            "error_share": rates.error_share,
            "latency_s": {"p50": rates.p50, "p90": rates.p90, "p99": rates.p99},
            "traffic_age_s": round(self._sampler.age_s, 3),
            "upstreams": [
                self._upstream(colour, upstream, view) for upstream, view in zip(pool.upstreams, views, strict=True)
            ],
        } | self._checked(colour, also_stale=self._sampler.stale)

    def _remaining(self, colour: Colour) -> dict[str, Any]:
        """What a switch has left behind, and for how long the oldest of it has been running."""
        slots = self._segment.slots
        left = drain.remaining(slots, colour)
        began_ns = drain.oldest_ns(slots, colour)
        age_s = round(self._clock() - began_ns / 1e9, 3) if began_ns and left.requests + left.streams else None
        return {"requests": left.requests, "streams": left.streams, "oldest_s": age_s}

    def _upstream(self, colour: Colour, upstream: Upstream, view: UpstreamHealth) -> dict[str, Any]:
        slots = self._segment.slots
        stale = self._prober.is_stale(view)
        ejected_until = self._workers.ejected_until(colour, upstream.index)
        return {
            "id": upstream.id,
            "address": str(upstream.address),
            # A verdict that nobody renews any more is no verdict.
            "up": None if stale else view.up,
            "since_s": round(self._clock() - view.since, 3),
            "weight": upstream.weight,
            "drained": upstream.drained,
            "in_flight": gauge(slots, worker_slot.row_cell(colour, upstream.index, worker_slot.ROW_IN_FLIGHT)),
            "parked": gauge(slots, worker_slot.row_cell(colour, upstream.index, worker_slot.ROW_PARKED)),
            "check": {
                "ok": None if view.checked_at is None else not view.error,
                "at": view.at or None,
                "age_s": self._age(view),
                "stale": stale,
                "status": view.status or None,
                "duration_s": round(view.duration_s, 6),
                "consecutive": view.consecutive,
                "error": view.error or None,
            },
            "release": view.release or None,
            "ejected_until": self._wall_time(ejected_until),
        }

    def _workers_section(self) -> dict[str, Any]:
        slots = self._segment.slots
        ages_s = [self._clock() - slot.cells[worker_slot.HEARTBEAT_NS] / 1e9 for slot in slots]
        return {
            "configured": len(slots),
            "ready": self._workers.ready,
            "pids": [slot.cells[worker_slot.PID] or None for slot in slots],
            "epochs": [slot.cells[worker_slot.EPOCH_SEEN] for slot in slots],
            "table_version": self._facts.table.version,
            "table_versions": [slot.cells[worker_slot.TABLE_VERSION] for slot in slots],
            "lag_s": [round(slot.cells[worker_slot.LAG_NS] / 1e9, 6) for slot in slots],
            "connections": gauge(slots, worker_slot.CLIENT_CONNECTIONS),
            "age_s": round(max(ages_s), 3),
            "stale": max(ages_s) > HEARTBEAT_STALE_S,
        }

    def _checked(self, colour: Colour, *, also_stale: bool = False) -> dict[str, Any]:
        """The age of what the checks say about a pool: that of its oldest check."""
        views = self._prober.views(colour)
        ages_s = [age_s for view in views if (age_s := self._age(view)) is not None]
        stale = also_stale or any(self._prober.is_stale(view) for view in views)
        return {"age_s": max(ages_s, default=None), "stale": stale}

    def _age(self, view: UpstreamHealth) -> float | None:
        return None if view.checked_at is None else round(self._clock() - view.checked_at, 3)

    def _wall_time(self, monotonic_s: float | None) -> str | None:
        if monotonic_s is None or monotonic_s <= self._clock():
            return None
        return iso(self._wall() + timedelta(seconds=monotonic_s - self._clock()))


def iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
