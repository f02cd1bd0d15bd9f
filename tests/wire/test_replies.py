from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import h11
import pytest

from bgproxy.core import failure as failures
from bgproxy.core.error_pages import STATUSES
from bgproxy.shm.worker_slot import REJECTIONS
from bgproxy.wire import request as module
from bgproxy.wire.replies import Replies, redirection
from tests.support.heads import request

DATE = b"Sun, 22 Nov 2026 12:00:00 GMT"
ID = b"\r\nX-Request-ID: id-1"
PLAIN = request()
ACCEPT = {"html": "text/html,*/*;q=0.8", "json": "application/json", "txt": "*/*"}
TYPE = {
    "html": b"text/html; charset=utf-8",
    "json": b"application/problem+json",
    "txt": b"text/plain; charset=utf-8",
}
PACKAGE = Path(__file__).parents[2] / "bgproxy"


def reply(
    status: int = 502,
    reason: str = "bad_response",
    detail: str = "why",
    *,
    asked: bytes = PLAIN,
    request_id_line: bytes = ID,
    close: bool = False,
    pages: dict[str, str] | None = None,
) -> bytes:
    return Replies(pages).reply(
        status, reason, detail, asked=asked, date=DATE, request_id_line=request_id_line, close=close
    )


def parsed(raw: bytes, method: str = "GET") -> tuple[int, dict[bytes, bytes], bytes, bool]:
    """(status, fields, body, whether the connection stays) as an independent client sees them."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(raw)
    head = client.next_event()
    assert isinstance(head, h11.Response)
    fields = dict(head.headers)
    assert len(fields) == len(head.headers), "no field comes twice"
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    return head.status_code, fields, body, client.their_state is h11.DONE


# --- every answer there is --------------------------------------------------------------------------------------------


def refusals() -> Iterator[tuple[int, str]]:
    """(status, reason) of every place in the program where a request is refused, from its source."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name not in ("Refusal", "client_failed"):
                continue
            status, reason = node.args[:2]
            assert isinstance(reason, ast.Constant), f"{path}:{node.lineno}: this test reads reasons from the source"
            if isinstance(status, ast.Constant):
                yield status.value, reason.value
            else:
                assert ast.unparse(status) == "_REFUSED_METHODS[method]", f"{path}:{node.lineno}: so with statuses"
                yield from ((each, reason.value) for each in module._REFUSED_METHODS.values())


REFUSALS = sorted(set(refusals()))
FAILURES = [(failure.status, failure.reason) for failure in failures.ALL if failure is not failures.CLIENT_GONE]


def test_every_refusal_is_counted_and_every_status_has_its_page():
    unanswered = {
        "write_timeout",
        "proxy_protocol",
        "tls_handshake",
        "tls_timeout",
        "hold_abandoned",
    }  # nobody is left to read it, or speaks HTTP
    assert {reason for _, reason in REFUSALS} == set(REJECTIONS) - unanswered
    statuses = {status for status, _ in REFUSALS + FAILURES} - {200}  # as far as Max-Forwards went: no error
    assert statuses == set(STATUSES), "core.error_pages.STATUSES lists them"


@pytest.mark.says("`{{status}}`")
@pytest.mark.says("`{{sentence}}`")
@pytest.mark.says("`{{detail}}`")
@pytest.mark.says("Every form is `no-store`")
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("kind", ACCEPT)
@pytest.mark.parametrize(("status", "reason"), REFUSALS + FAILURES)
def test_every_answer_is_whole_and_says_what_and_why_in_the_form_that_was_asked_for(status, reason, kind, method):
    raw = reply(status, reason, asked=request(f"{method} / HTTP/1.1", f"Accept: {ACCEPT[kind]}"))
    code, fields, body, stays = parsed(raw, method)
    assert (code, stays) == (status, True)
    assert fields[b"content-type"] == TYPE[kind]
    assert fields[b"x-bg-reason"] == reason.encode()
    assert fields[b"x-request-id"] == b"id-1"
    assert fields[b"date"] == DATE
    assert fields[b"cache-control"] == b"no-store"
    assert fields[b"x-content-type-options"] == b"nosniff"
    assert fields[b"content-security-policy"].startswith(b"default-src 'none'; ")
    assert fields[b"vary"] == b"Accept"
    if method == "HEAD":
        assert body == b""
        assert int(fields[b"content-length"]) > 0
    else:
        assert int(fields[b"content-length"]) == len(body)
        for said in (str(status), reason if kind != "txt" else "why", "id-1"):
            assert said in body.decode()


def test_head_gets_what_get_would_get_without_the_body():
    for accept in ACCEPT.values():
        whole = reply(asked=request("GET / HTTP/1.1", f"Accept: {accept}"))
        without = reply(asked=request("HEAD / HTTP/1.1", f"Accept: {accept}"))
        assert without == whole[: whole.index(b"\r\n\r\n") + 4]
    assert reply(asked=b"\r\n\r\n" + request("HEAD / HTTP/1.1")).endswith(b"\r\n\r\n")


def test_the_forms():
    assert parsed(reply())[2] == b"502 Bad Gateway: why (request id-1)\n"
    document = json.loads(parsed(reply(asked=request("GET / HTTP/1.1", "Accept: application/problem+json")))[2])
    assert document == {
        "type": "about:blank",
        "title": "Bad Gateway",
        "status": 502,
        "code": "bad_response",
        "detail": "why",
        "hint": "Wait a moment and try again. If it stays like this, tell whoever runs the site the request id.",
        "request_id": "id-1",
    }
    page = parsed(reply(asked=request("GET / HTTP/1.1", "Accept: text/html")))[2]
    assert b"<h1>502 Bad Gateway</h1>" in page
    assert b"<dd>why (bad_response)</dd>" in page


# --- its parts --------------------------------------------------------------------------------------------------------


def test_a_reply_says_when_the_connection_is_over():
    assert not parsed(reply(close=True))[3]


def test_to_a_client_that_had_not_said_anything_nothing_varies():
    assert b"\r\nVary" not in reply(503, "connections", asked=b"")
    assert b"\r\nVary" in reply(408, "header_timeout", asked=b"G")


@pytest.mark.says("Values are escaped")
@pytest.mark.says("`{{request_id}}`")
@pytest.mark.parametrize("kind", ACCEPT)
def test_what_a_trusted_proxy_gave_as_an_id_stays_text(kind):
    raw = b"<b>\"'&\\\xe9\x85"
    asked = request("GET / HTTP/1.1", f"Accept: {ACCEPT[kind]}")
    _, fields, body, _ = parsed(reply(asked=asked, request_id_line=b"\r\nX-Request-ID: " + raw))
    assert fields[b"x-request-id"] == raw
    shown = "<b>\"'&\\é\N{REPLACEMENT CHARACTER}"
    if kind == "json":
        assert json.loads(body)["request_id"] == shown
    elif kind == "txt":
        assert f"(request {shown})" in body.decode()
    else:
        assert "<code>&lt;b&gt;&quot;&#x27;&amp;\\é\N{REPLACEMENT CHARACTER}</code>" in body.decode()


def test_own_pages_are_used_with_their_policy():
    pages = {"5xx.html": "<p>Nous sommes désolés: {{status}}</p>"}
    asked = request("GET / HTTP/1.1", "Accept: text/html")
    _, fields, body, _ = parsed(reply(asked=asked, pages=pages))
    assert body.decode() == "<p>Nous sommes désolés: 502</p>"
    assert b"style-src 'unsafe-inline'" in fields[b"content-security-policy"]
    assert b"<h1>" in reply(400, "bad_request", asked=asked, pages=pages)
    assert reply(pages=pages).endswith(b"why (request id-1)\n")


def test_only_an_overload_says_when_to_come_again():
    assert b"\r\nRetry-After: 1\r\n" in reply(503)
    assert b"Retry-After" not in reply(502)


def test_only_a_refused_method_is_told_which_are_allowed():
    assert b"\r\nAllow: GET, HEAD," in reply(405)
    assert b"Allow" not in reply(400)


def test_a_detail_in_any_script_is_counted_in_bytes():
    assert parsed(reply(detail="sn☃w"))[2] == "502 Bad Gateway: sn☃w (request id-1)\n".encode()


@pytest.mark.parametrize("with_body", [True, False])
def test_a_redirection_is_whole_and_ends_the_connection(with_body):
    answer = redirection(308, b"https://a.example/", date=b"today", with_body=with_body)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 308 Permanent Redirect\r\n")
    assert b"\r\nLocation: https://a.example/\r\n" in head
    assert head.endswith(b"\r\nConnection: close")
    whole = b"308 Permanent Redirect: https://a.example/\n"
    assert body == (whole if with_body else b"")
    assert b"\r\nContent-Length: %d\r\n" % len(whole) in head
