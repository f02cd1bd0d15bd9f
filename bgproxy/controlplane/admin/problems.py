"""Every error of the admin API as an RFC 9457 problem document, and the headers every answer carries.

No traceback leaves the process: what went wrong unexpectedly is logged under an id that the answer names.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, ClassVar

import orjson
import structlog
from aiohttp import web

from bgproxy.errors import ControlError

log: Any = structlog.get_logger("bgproxy.admin")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class HttpError(ControlError):
    """A refusal of HTTP itself; `headers` go into the answer."""

    code: ClassVar[str] = "http"

    def __init__(
        self, http_status: HTTPStatus, detail: str, *, hint: str = "", headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(detail, hint=hint)
        self.http_status = http_status
        self.headers = headers or {}


def problem(
    status: int, code: str, detail: str, *, hint: str = "", extra: dict[str, Any] | None = None
) -> web.Response:
    return answer_problem(status, document_of(status, code, detail, hint=hint, extra=extra))


def answer_problem(status: int, document: dict[str, Any]) -> web.Response:
    body = orjson.dumps(document, default=str) + b"\n"
    return web.Response(status=status, body=body, content_type="application/problem+json")


def document_of(
    status: int, code: str, detail: str, *, hint: str = "", extra: dict[str, Any] | None = None
) -> dict[str, Any]:
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
    }
    if hint:
        document["hint"] = hint
    return document | (extra or {})


@web.middleware
async def as_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns everything a handler can raise into a problem document."""
    try:
        return await handler(request)
    except HttpError as error:
        answer = problem(
            error.http_status, error.http_status.name.lower(), error.detail, hint=error.hint, extra=error.extra
        )
        answer.headers.update(error.headers)
        return answer
    except ControlError as error:
        return problem(error.status, error.code, error.detail, hint=error.hint, extra=error.extra)
    except web.HTTPException as error:
        return _of_the_framework(request, error)
    except Exception:
        incident = secrets.token_hex(6)
        log.exception("admin_handler_failed", method=request.method, path=request.path, incident=incident)
        return problem(
            500,
            "internal",
            "the request could not be completed because of a fault in bgproxy",
            hint=f"look for incident {incident} in the log; `bgproxy status` tells what is live",
        )


def _of_the_framework(request: web.Request, error: web.HTTPException) -> web.Response:
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        answer = problem(405, "method_not_allowed", f"{request.method} is not possible here; allowed: {allowed}")
        answer.headers["Allow"] = allowed
        return answer
    if isinstance(error, web.HTTPNotFound):
        return problem(404, "not_found", f"there is nothing at {request.path!r}", hint="GET /status shows everything")
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return problem(413, "content_too_large", "the body is larger than 64 KiB; no request needs that much")
    return problem(error.status, HTTPStatus(error.status).name.lower(), error.reason)


def harden(answer: web.StreamResponse) -> None:
    """Nothing is cached, sniffed or framed, and nobody is told which software in which version answers."""
    answer.headers["Cache-Control"] = "no-store"
    answer.headers["X-Content-Type-Options"] = "nosniff"
    answer.headers["Content-Security-Policy"] = "default-src 'none'; frame-ancestors 'none'"
    answer.headers["Server"] = "bgproxy"


async def harden_every_answer(_request: web.Request, answer: web.StreamResponse) -> None:
    harden(answer)
