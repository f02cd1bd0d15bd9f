"""What the admin API hands to the switcher, and what it gets back."""

from __future__ import annotations

from typing import Literal

import msgspec

from bgproxy.core.model import Colour


class SwitchOrder(msgspec.Struct, frozen=True, kw_only=True):
    """One request to switch or roll back, checked for type and range, not yet for permission by the gates.

    `timeout_s` bounds the wait for the drain (with wait="drained"); None means the configured drain timeout.
    """

    kind: Literal["switch", "rollback"]
    to: Colour | None = None  # None only for a rollback: the previous colour
    if_epoch: int | None = None
    reason: str = ""
    by: str = ""
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
    """What a switch did. Durations in seconds; `undo` is the command that goes back."""

    changed: bool
    kind: str
    from_: str = msgspec.field(name="from")
    to: str
    epoch: int
    at: str
    by: str = ""
    reason: str = ""
    forced: bool = False
    dry_run: bool = False
    durable_s: float = 0.0
    acked_s: float = 0.0
    drain_s: float | None = None
    replaced_workers: tuple[ReplacedWorker, ...] = ()
    overridden: tuple[dict[str, str | float | None], ...] = ()
    undo: str = ""
    detail: str = ""
