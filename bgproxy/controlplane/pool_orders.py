"""What can be ordered of a pool at run time, and what is answered."""

from __future__ import annotations

from typing import Any

import msgspec

from bgproxy.core.model import Colour

DEFAULT_TIMEOUT_S = 10.0  # for the first verdicts on new upstreams


class SetOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Other upstreams for a pool, as texts or tables like those of the file. `release` None leaves it as it is."""

    colour: Colour
    upstreams: list[str | dict[str, Any]]
    release: str | None = None
    allow_live: bool = False
    if_epoch: int | None = None
    timeout_s: float = DEFAULT_TIMEOUT_S
    reason: str = ""
    by: str = ""


class DrainOrder(msgspec.Struct, frozen=True, kw_only=True):
    """No further request for one upstream, or (`enable`) requests again. `wait`: answer when nothing is in flight
    there, or when its checks call it up; bounded by `timeout_s`, None for the usual bound."""

    colour: Colour
    upstream: str
    enable: bool = False
    wait: bool = False
    force: bool = False
    if_epoch: int | None = None
    timeout_s: float | None = None
    reason: str = ""
    by: str = ""


class PoolReport(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. `added`, `removed`, `drained`, `enabled` are ids; `upstreams` is the pool as it is now."""

    changed: bool
    colour: str
    at: str
    by: str
    reason: str
    source: str
    release: str | None
    table_version: int
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    drained: str | None = None
    enabled: str | None = None
    drain_s: float | None = None
    upstreams: tuple[dict[str, Any], ...] = ()
    detail: str = ""
