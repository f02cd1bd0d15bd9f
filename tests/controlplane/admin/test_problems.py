"""Errors of HTTP itself and faults of ours, as problem documents; and the headers of every answer."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs


async def test_an_unknown_path_is_a_problem(api):
    reply = await api.ask("GET", "/nowhere")
    assert (reply.status, reply.document["code"]) == (404, "not_found")
    assert reply.headers["Content-Type"] == "application/problem+json"


async def test_a_wrong_method_names_the_right_ones(api, control):
    reply = await api.ask("GET", "/switch")
    assert (reply.status, reply.headers["Allow"], reply.document["code"]) == (405, "POST", "method_not_allowed")
    assert (await api.ask("POST", "/status")).headers["Allow"] == "GET, HEAD"
    assert (await api.ask("OPTIONS", "/status")).status == 405
    assert control.orders == []


async def test_a_body_over_the_limit_is_413(api, control):
    reply = await api.ask("POST", "/switch", json={"to": "green", "reason": "x" * 70_000})
    assert (reply.status, reply.document["code"]) == (413, "content_too_large")
    assert control.orders == []


async def test_a_fault_of_ours_shows_no_traceback_and_is_logged_under_an_id(api, control):
    control.fault = RuntimeError("secret detail")
    with capture_logs() as logs:
        reply = await api.ask("GET", "/status")
    assert (reply.status, reply.document["code"]) == (500, "internal")
    assert b"secret detail" not in reply.body
    assert b"Traceback" not in reply.body
    assert logs[0]["event"] == "admin_handler_failed"
    assert logs[0]["incident"] in reply.document["hint"]


@pytest.mark.parametrize("path", ["/status", "/nowhere", "/switch", "/metrics"])
async def test_nothing_is_cached_or_sniffed_and_no_version_is_told(api, path):
    headers = (await api.ask("GET", path)).headers
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Server"] == "bgproxy"
    assert "Access-Control-Allow-Origin" not in headers
