"""When is an upstream up, and which upstreams of a pool may take traffic? Decided from probe results, time passed in.

An upstream starts unknown and takes no traffic until `rise` probes in a row succeeded. The live pool never loses its
last upstream to checks alone: an outage of the health endpoint must not become an outage of the service.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from bgproxy.core.model import Upstream

StatusRanges = Sequence[tuple[int, int]]


class Check(msgspec.Struct, frozen=True):
    """What one probe saw. `error` is empty exactly when it succeeded; `status` 0 means there was no answer.

    `release` is the version that the answer names, "" where it names none.
    """

    at: str  # ISO 8601, UTC: when the probe ended
    duration_s: float
    status: int = 0
    error: str = ""
    release: str = ""

    @property
    def ok(self) -> bool:
        return not self.error


class UpstreamHealth(msgspec.Struct, frozen=True):
    """One upstream as the checks see it; `up` None means undecided, `checked_at` and `since` are monotonic seconds."""

    id: str
    index: int
    address: str
    up: bool | None = None
    at: str = ""  # ISO time of the last check, empty before the first
    checked_at: float | None = None
    status: int = 0
    duration_s: float = 0.0
    consecutive: int = 0  # checks in a row with the same outcome as the last one
    error: str = ""  # of the last check; empty when it succeeded
    since: float = 0.0  # when `up` got its present value
    release: str = ""  # as the last check that succeeded said it
    drained: bool = False  # by the operator: no request goes there, however healthy it is

    @property
    def is_healthy(self) -> bool:
        return self.up is True and not self.drained


class Change(Enum):
    """What a probe result did to the verdict."""

    NONE = "none"
    WENT_UP = "went_up"
    WENT_DOWN = "went_down"
    DROPPED = "dropped"  # the result belongs to a prober that was stopped or replaced


class Tracker:
    """The verdict on one upstream: `rise` successes in a row make it up, `fall` failures in a row make it down."""

    __slots__ = ("_fall", "_generation", "_rise", "view")

    def __init__(self, upstream: Upstream, *, rise: int, fall: int, generation: int, now: float) -> None:
        self._rise, self._fall, self._generation = rise, fall, generation
        self.view = UpstreamHealth(upstream.id, upstream.index, str(upstream.address), since=now)

    def record(self, check: Check, *, generation: int, now: float) -> Change:
        if generation != self._generation:
            return Change.DROPPED
        before = self.view
        same_outcome = before.checked_at is not None and (not before.error) == check.ok
        consecutive = before.consecutive + 1 if same_outcome else 1
        up = self._verdict(before.up, check.ok, consecutive)
        self.view = UpstreamHealth(
            id=before.id,
            index=before.index,
            address=before.address,
            up=up,
            at=check.at,
            checked_at=now,
            status=check.status,
            duration_s=check.duration_s,
            consecutive=consecutive,
            error=check.error,
            release=check.release if check.ok else before.release,
            since=before.since if up == before.up else now,
        )
        if up == before.up:
            return Change.NONE
        return Change.WENT_UP if up else Change.WENT_DOWN

    def configure(self, *, rise: int, fall: int) -> None:
        """Other thresholds from the next result on."""
        self._rise, self._fall = rise, fall

    def retire(self) -> None:
        """No result is taken any more: none of a later moment may overwrite what the successor finds."""
        self._generation = -1

    def _verdict(self, before: bool | None, ok: bool, consecutive: int) -> bool | None:
        needed = self._rise if ok else self._fall
        return ok if consecutive >= needed else before


class Routing(msgspec.Struct, frozen=True):
    """Which upstreams of a pool take traffic, in index order. `degraded` says why, when it is against the checks."""

    rows: tuple[bool, ...]
    degraded: str = ""


def routable(views: Sequence[UpstreamHealth], *, live: bool, last_up: Sequence[bool] = ()) -> Routing:
    """The rows for the health board.

    `last_up` are the rows of the last moment at which some upstream was up while the pool was live, if there was one:
    the upstream that went down last goes on serving. A pool that is live without ever having been up (switched to by
    force, or after a restart) serves with every upstream that was checked. An idle pool goes to zero honestly. What the
    operator has drained is never tried.
    """
    up = tuple(view.is_healthy for view in views)
    if any(up) or not live:
        return Routing(up)
    kept = tuple(was_up and not view.drained for was_up, view in zip(last_up, views, strict=False))
    if any(kept):
        return Routing(kept, "every upstream is down; the last one that was up goes on serving")
    checked = tuple(view.up is not None and not view.drained for view in views)
    if not any(checked):
        return Routing(checked)
    return Routing(checked, "no upstream has been up since the pool became live; every checked one is tried")


def judge(status: int, body: bytes, *, expect_status: StatusRanges, expect_body: str) -> str:
    """What is wrong with a probe's answer, as a sentence; empty when it is as expected. Ranges are inclusive."""
    if not any(low <= status <= high for low, high in expect_status):
        return f"answered {status}, expected {_ranges_text(expect_status)}"
    if expect_body and expect_body.encode() not in body:
        return f"answered {status}, but the body does not contain {expect_body!r}"
    return ""


def _ranges_text(ranges: StatusRanges) -> str:
    return " or ".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)
