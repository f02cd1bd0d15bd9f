"""What the admin API hands to the switcher, and what it gets back."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from bgproxy.core.model import Colour

FenceMode: TypeAlias = Literal["fence", "fence-writes"]
Mode: TypeAlias = Literal["instant"] | FenceMode
StreamsOrder: TypeAlias = Literal["configured", "keep", "close-now"]
FencePolicy: TypeAlias = Literal["abort", "cut"]
GateKind: TypeAlias = Literal["pause", "resume", "maintenance on", "maintenance off"]


class Defaults(msgspec.Struct, frozen=True, kw_only=True):
    """What [switch] says where an order says nothing."""

    mode: Mode = "instant"
    wait: Literal["acked", "drained"] = "acked"


class SwitchOrder(msgspec.Struct, frozen=True, kw_only=True):
    """One request to switch or roll back, checked for type and range, not yet for permission by the gates.

    `timeout_s` bounds the wait for the drain (with wait="drained"), `fence_timeout_s` how long a fence holds requests
    until the old colour is empty; then `fence_policy` aborts it or cuts what is left. None means as configured.
    """

    kind: Literal["switch", "rollback"]
    to: Colour | None = None  # None only for a rollback: the previous colour
    if_epoch: int | None = None
    expect_release: str = ""
    key: str = ""  # the Idempotency-Key
    reason: str = ""
    by: str = ""
    mode: Mode = "instant"
    fence_timeout_s: float | None = None
    fence_policy: FencePolicy | None = None
    streams: StreamsOrder = "configured"
    wait: Literal["acked", "drained"] = "acked"
    timeout_s: float | None = None
    force: bool = False
    dry_run: bool = False


class ReplacedWorker(msgspec.Struct, frozen=True):
    """A worker that did not acknowledge in time, was killed, and whose slot has a new process."""

    worker: int
    pid: int
    reason: str


class SwitchReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a switch did. Durations in seconds; `undo` is the command that goes back.

    `durable` is False where something that was done is not on disk yet: a restart would not know it.
    `held_s` is how long a fence held requests, None without one; `held` how many, and `cut` those of the old colour
    that it ended by policy. `streams` says what becomes of the `streams_left` on the old colour.
    """

    changed: bool
    kind: str
    from_: str = msgspec.field(name="from")
    to: str
    epoch: int
    at: str
    by: str = ""
    reason: str = ""
    mode: str = "instant"
    forced: bool = False
    dry_run: bool = False
    durable: bool = True
    durable_s: float = 0.0
    acked_s: float = 0.0
    held_s: float | None = None
    cut: int = 0
    held: int = 0
    streams: str = "configured"
    streams_left: int = 0
    drain_s: float | None = None
    replaced_workers: tuple[ReplacedWorker, ...] = ()
    overridden: tuple[dict[str, str | float | None], ...] = ()
    undo: str = ""
    detail: str = ""


class GateOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Pause, resume, maintenance on or off."""

    kind: GateKind
    by: str = ""
    reason: str = ""
    wait: Literal["acked", "drained"] = "acked"
    timeout_s: float | None = None


class GateReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the proxy does with requests now, and how many of the live colour are still in flight."""

    changed: bool
    kind: str
    state: str
    live: str
    epoch: int
    at: str
    by: str = ""
    reason: str = ""
    durable: bool = True
    acked_s: float = 0.0
    drain_s: float | None = None
    in_flight: int = 0
    replaced_workers: tuple[ReplacedWorker, ...] = ()
    undo: str = ""
