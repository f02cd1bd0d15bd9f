"""A connection of the admin API: what is not HTTP at all gets a problem document too, and no traceback in the log."""

from __future__ import annotations

from typing import Any

import structlog
from aiohttp import web

from bgproxy.controlplane.admin.problems import harden, problem

log: Any = structlog.get_logger("bgproxy.admin")


class Connection(web.RequestHandler):
    """aiohttp's own, but for the answer to what its parser refuses."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if status < 500:
            # Not its text: that may quote a header field, and a field may hold a token.
            log.info("admin_request_refused", peer=request.remote, status=status, error=type(exc).__name__)
        else:
            log.error("admin_answer_failed", peer=request.remote, status=status, error=repr(exc))
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun already, so the connection can only be closed")
        if status < 500:
            answer = problem(status, "bad_request", "what arrived is not a valid HTTP/1.1 request")
        else:
            answer = problem(status, "internal", "the request could not be completed because of a fault in bgproxy")
        answer.force_close()
        harden(answer)
        return answer
