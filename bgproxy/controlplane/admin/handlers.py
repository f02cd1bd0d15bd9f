"""One function per route: read the request, call the control plane, write the answer."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import orjson
from aiohttp import web

from bgproxy import __version__
from bgproxy.controlplane.admin.auth import CALLER
from bgproxy.controlplane.admin.bodies import (
    colour_of_query,
    drain_of_query,
    gate_order,
    maintenance_order,
    rollback_order,
    switch_order,
    upgrade_timeout,
)
from bgproxy.controlplane.admin.etag import Revisions
from bgproxy.controlplane.admin.history import limit_of_query
from bgproxy.controlplane.admin.problems import HttpError, answer_problem, document_of, problem
from bgproxy.controlplane.idempotency import Answer, Answers, digest_of
from bgproxy.errors import ControlError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from bgproxy.controlplane.orders import Defaults, GateOrder, GateReport, SwitchOrder, SwitchReport
    from bgproxy.controlplane.upgrade import UpgradeReport
    from bgproxy.core.gates import Verdict
    from bgproxy.core.model import Colour

LISTENING_S = 1.0  # how often a client that waits is looked after
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class ControlPlane(Protocol):
    """What the handlers ask for. ControlError subclasses are answers, anything else is a fault."""

    @property
    def defaults(self) -> Defaults: ...

    async def execute(self, order: SwitchOrder) -> SwitchReport: ...
    async def change_gate(self, order: GateOrder) -> GateReport: ...
    async def upgrade(self, by: str, timeout_s: float | None) -> UpgradeReport: ...
    def preflight(self, to: Colour) -> Sequence[Verdict]: ...
    def status(self) -> dict[str, Any]: ...
    async def until_drained(self, timeout_s: float | None, *, streams: bool, if_epoch: int | None) -> None: ...
    def history(self, limit: int) -> list[dict[str, Any]]: ...
    def metrics(self) -> str: ...
    def not_ready(self) -> list[str]:
        """Why no traffic should be sent here; empty when it should."""


class Reading:
    """One costly read per turn of the loop. However many ask for the status, an order waits for one of them at most."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> None:
        await self._turn.acquire()
        await asyncio.sleep(0)

    async def __aexit__(self, *_: object) -> None:
        self._turn.release()


CONTROL = web.AppKey("control", ControlPlane)
ANSWERS = web.AppKey("answers", Answers)
READING = web.AppKey("reading", Reading)
REVISIONS = web.AppKey("revisions", Revisions)


async def get_status(request: web.Request) -> web.Response:
    wanted = drain_of_query(request)
    if wanted is not None:
        waiting = request.app[CONTROL].until_drained(wanted.timeout_s, streams=wanted.streams, if_epoch=wanted.if_epoch)
        await _while_somebody_listens(request, waiting)
    async with request.app[READING]:
        return _status(request)


def _status(request: web.Request) -> web.Response:
    document = request.app[CONTROL].status()
    tag = request.app[REVISIONS].tag(document)
    if any(known.value == tag or known.value == "*" for known in request.if_none_match or ()):
        return web.Response(status=304, headers={"ETag": f'"{tag}"'})
    answer = _json(document)
    answer.headers["ETag"] = f'"{tag}"'
    return answer


async def post_switch(request: web.Request) -> web.Response:
    return await _executed(request, await switch_order(request, by=request[CALLER].by, defaults=_defaults(request)))


async def post_rollback(request: web.Request) -> web.Response:
    return await _executed(request, await rollback_order(request, by=request[CALLER].by, defaults=_defaults(request)))


def _defaults(request: web.Request) -> Defaults:
    return request.app[CONTROL].defaults


async def _executed(request: web.Request, order: SwitchOrder) -> web.Response:
    """With an Idempotency-Key the answer is kept; a dry run has none to keep."""
    control = request.app[CONTROL]
    if not order.key or order.dry_run:
        return _json(msgspec.to_builtins(await control.execute(order)))

    async def run() -> Answer:
        try:
            return Answer(200, msgspec.to_builtins(await control.execute(order)))
        except ControlError as error:
            document = document_of(error.status, error.code, error.detail, hint=error.hint, extra=error.extra)
            return Answer(error.status, document, is_final=error.was_done)

    answer, was_given_before = await request.app[ANSWERS].once(order.key, digest_of(order), run)
    response = _json(answer.document) if answer.status == 200 else answer_problem(answer.status, answer.document)
    if was_given_before:
        response.headers["Idempotency-Replayed"] = "true"
    return response


async def post_pause(request: web.Request) -> web.Response:
    order = await gate_order(request, "pause", by=request[CALLER].by)
    return _json(msgspec.to_builtins(await request.app[CONTROL].change_gate(order)))


async def post_resume(request: web.Request) -> web.Response:
    order = await gate_order(request, "resume", by=request[CALLER].by)
    return _json(msgspec.to_builtins(await request.app[CONTROL].change_gate(order)))


async def post_maintenance(request: web.Request) -> web.Response:
    order = await maintenance_order(request, by=request[CALLER].by)
    return _json(msgspec.to_builtins(await request.app[CONTROL].change_gate(order)))


async def post_upgrade(request: web.Request) -> web.Response:
    timeout_s = await upgrade_timeout(request)
    return _json(msgspec.to_builtins(await request.app[CONTROL].upgrade(request[CALLER].by, timeout_s)))


async def get_preflight(request: web.Request) -> web.Response:
    to = colour_of_query(request)
    verdicts = request.app[CONTROL].preflight(to)
    return _json(
        {
            "to": to.label,
            "ok": all(verdict.passed for verdict in verdicts),
            "failed": [verdict.as_dict() for verdict in verdicts if not verdict.passed],
            "verdicts": [verdict.as_dict() | {"passed": verdict.passed} for verdict in verdicts],
        }
    )


async def get_history(request: web.Request) -> web.Response:
    return _json({"history": request.app[CONTROL].history(limit_of_query(request))})


async def get_metrics(request: web.Request) -> web.Response:
    async with request.app[READING]:
        body = request.app[CONTROL].metrics().encode()
    return web.Response(body=body, headers={"Content-Type": METRICS_TYPE})


async def get_livez(_request: web.Request) -> web.Response:
    return _json({"ok": True})


async def get_readyz(request: web.Request) -> web.Response:
    reasons = request.app[CONTROL].not_ready()
    if reasons:
        return problem(503, "not_ready", "; ".join(reasons), extra={"ok": False, "reasons": reasons})
    return _json({"ok": True})


async def get_version(_request: web.Request) -> web.Response:
    return _json({"version": __version__})


ROUTES = (
    web.get("/status", get_status),
    web.post("/switch", post_switch),
    web.post("/rollback", post_rollback),
    web.post("/pause", post_pause),
    web.post("/resume", post_resume),
    web.post("/maintenance", post_maintenance),
    web.post("/upgrade", post_upgrade),
    web.get("/preflight", get_preflight),
    web.get("/history", get_history),
    web.get("/metrics", get_metrics),
    web.get("/livez", get_livez),
    web.get("/readyz", get_readyz),
    web.get("/version", get_version),
)


async def _while_somebody_listens(request: web.Request, work: Coroutine[Any, Any, None]) -> None:
    """A wait may be long, and its client leave: nobody is waited for in vain."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=LISTENING_S)
            if request.transport is None:
                raise HttpError(HTTPStatus.REQUEST_TIMEOUT, "nobody listens any more")
        task.result()
    finally:
        task.cancel()


def _json(document: Any) -> web.Response:
    return web.Response(body=orjson.dumps(document) + b"\n", content_type="application/json")
