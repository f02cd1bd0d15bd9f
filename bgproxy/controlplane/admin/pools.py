"""Pools and the configuration over the admin API: shown, set, drained, reloaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import orjson
from aiohttp import web

from bgproxy.controlplane.admin import bodies
from bgproxy.controlplane.admin.auth import CALLER
from bgproxy.controlplane.admin.handlers import CONTROL
from bgproxy.controlplane.pool_orders import DEFAULT_TIMEOUT_S, DrainOrder, SetOrder
from bgproxy.core.model import COLOURS, Colour
from bgproxy.errors import UnknownUpstream

if TYPE_CHECKING:
    from bgproxy.controlplane.pool_changes import PoolChanges
    from bgproxy.controlplane.pool_orders import PoolReport
    from bgproxy.controlplane.pool_tables import PoolTables
    from bgproxy.controlplane.reload import Reload, ReloadReport


class Pools(Protocol):
    """What the handlers ask for. ControlError subclasses are answers."""

    async def set(self, order: SetOrder) -> PoolReport: ...
    async def drain(self, order: DrainOrder) -> PoolReport: ...
    async def reload(self, by: str) -> ReloadReport: ...
    def facts(self, colour: Colour) -> dict[str, Any]:
        """source, table_version, changed."""


class PoolControl:
    """Both kinds of order, and what is known, behind one face."""

    def __init__(self, tables: PoolTables, changes: PoolChanges, reload: Reload) -> None:
        self.facts = tables.facts
        self.set, self.drain, self.reload = changes.set, changes.drain, reload.execute


POOLS = web.AppKey("pools", Pools)


class SetBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    upstreams: list[str | dict[str, Any]]
    release: str | None = None
    allow_live: bool = False
    if_epoch: bodies.Epoch | None = None
    timeout: float | str | None = None
    reason: bodies.Reason = ""


class DrainBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    wait: bool = False
    force: bool = False
    if_epoch: bodies.Epoch | None = None
    timeout: float | str | None = None
    reason: bodies.Reason = ""


class ReloadBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    pass


async def get_pools(request: web.Request) -> web.Response:
    document = request.app[CONTROL].status()
    return _json(
        {
            "epoch": document["epoch"],
            "live": document["live"],
            "pools": {colour.label: _pool(request, document, colour) for colour in COLOURS},
        }
    )


async def get_pool(request: web.Request) -> web.Response:
    return _json(_pool(request, request.app[CONTROL].status(), _colour(request)))


async def put_upstreams(request: web.Request) -> web.Response:
    body = bodies.typed(await bodies.document(request), SetBody)
    timeout_s = bodies.seconds(body.timeout, "timeout")
    order = SetOrder(
        colour=_colour(request),
        upstreams=body.upstreams,
        release=body.release,
        allow_live=body.allow_live,
        if_epoch=body.if_epoch,
        timeout_s=DEFAULT_TIMEOUT_S if timeout_s is None else timeout_s,
        reason=bodies.plain_text(body.reason),
        by=request[CALLER].by,
    )
    return _json(msgspec.to_builtins(await request.app[POOLS].set(order)))


async def post_drain(request: web.Request) -> web.Response:
    return await _set_aside(request, enable=False)


async def post_enable(request: web.Request) -> web.Response:
    return await _set_aside(request, enable=True)


async def _set_aside(request: web.Request, *, enable: bool) -> web.Response:
    body = bodies.typed(await bodies.document(request), DrainBody)
    order = DrainOrder(
        colour=_colour(request),
        upstream=request.match_info["id"],
        enable=enable,
        wait=body.wait,
        force=body.force,
        if_epoch=body.if_epoch,
        timeout_s=bodies.seconds(body.timeout, "timeout"),
        reason=bodies.plain_text(body.reason),
        by=request[CALLER].by,
    )
    return _json(msgspec.to_builtins(await request.app[POOLS].drain(order)))


async def post_reload(request: web.Request) -> web.Response:
    bodies.typed(await bodies.document(request), ReloadBody)
    return _json(msgspec.to_builtins(await request.app[POOLS].reload(request[CALLER].by)))


def _pool(request: web.Request, status: dict[str, Any], colour: Colour) -> dict[str, Any]:
    shown: dict[str, Any] = status["pools"][colour.label]
    return {"colour": colour.label} | shown | request.app[POOLS].facts(colour)


def _colour(request: web.Request) -> Colour:
    name = request.match_info["colour"]
    try:
        return Colour.named(name)
    except ValueError as error:
        raise UnknownUpstream(str(error)) from None


def _json(document: Any) -> web.Response:
    return web.Response(body=orjson.dumps(document) + b"\n", content_type="application/json")


ROUTES = (
    web.get("/pools", get_pools),
    web.get("/pools/{colour}", get_pool),
    web.put("/pools/{colour}/upstreams", put_upstreams),
    web.post("/pools/{colour}/upstreams/{id:.+}/drain", post_drain),
    web.post("/pools/{colour}/upstreams/{id:.+}/enable", post_enable),
    web.post("/reload", post_reload),
)
