"""Every way in which the proxy itself answers, over a real connection, in every form that a client may ask for."""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, TypeAlias

import pytest

from bgproxy.core.settings import HeaderSettings, WorkerSettings
from bgproxy.shm import worker_slot as slot
from tests.support.plane import eventually, settings
from tests.support.raw_http import request, response
from tests.support.raw_upstream import answering, silent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.support.plane import Plane
    from tests.support.raw_client import RawClient
    from tests.support.raw_http import Message
    from tests.support.raw_upstream import Conversation

ACCEPT = {"html": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8", "json": "application/json", "txt": "*/*"}
TYPE = {"html": "text/html; charset=utf-8", "json": "application/problem+json", "txt": "text/plain; charset=utf-8"}
FIELDS = {kind: f"Accept: {accept}" for kind, accept in ACCEPT.items()}
SMALL = {"head_bytes": 1024, "header_count": 10, "target_bytes": 200, "body_bytes": 10}

# Sends one request per form, each on a connection of its own; the answers come in the same order.
Scene: TypeAlias = "Callable[[Plane], list[RawClient]]"


def check(answer: Message, kind: str, status: int, reason: str) -> None:
    """Nothing is blank, and nothing is said that is nobody's business."""
    assert (answer.status, answer.one("X-BG-Reason")) == (status, reason)
    assert answer.one("Content-Type") == TYPE[kind]
    assert answer.one("Content-Length") == str(len(answer.body))
    assert answer.one("Cache-Control") == "no-store"
    assert answer.one("X-Content-Type-Options") == "nosniff"
    assert answer.one("Content-Security-Policy").startswith("default-src 'none'")
    assert (answer.one("Retry-After") == "1") is (status == 503)
    text = answer.body.decode()
    request_id = answer.one("X-Request-ID")
    assert len(request_id) > 16
    assert request_id in text
    assert str(status) in text
    assert "127.0.0.1" not in text
    assert "Traceback" not in text
    if kind == "json":
        assert json.loads(text)["code"] == reason
    elif kind == "html":
        assert f"<h1>{status} " in text


def check_all(clients: Sequence[RawClient], status: int, reason: str, kinds: Sequence[str] = tuple(ACCEPT)) -> None:
    answers = [client.answer() for client in clients]
    for answer, kind in zip(answers, kinds, strict=True):
        check(answer, kind, status, reason)
    ids = {answer.one("X-Request-ID") for answer in answers}
    assert len(ids) == len(answers), "each has its own id"


def each(plane: Plane, data: Callable[[str], bytes]) -> list[RawClient]:
    """One client per form; `data` makes what it sends from its Accept line."""
    clients = [plane.client() for _ in FIELDS]
    for client, line in zip(clients, FIELDS.values(), strict=True):
        client.send(data(line))
    return clients


def asking(plane: Plane, method: str = "GET", *fields: str, target: str = "/", body: bytes = b"") -> list[RawClient]:
    return each(plane, lambda line: request(method, target, line, *fields, body=body))


# --- the upstream side ------------------------------------------------------------------------------------------------


def nobody_is_healthy(plane: Plane) -> list[RawClient]:
    plane.configure(blue=[])
    return asking(plane)


def connect_is_refused(plane: Plane) -> list[RawClient]:
    plane.blue.close()
    return asking(plane)


def connect_fails(plane: Plane) -> list[RawClient]:
    plane.configure(blue=["unix:/nonexistent/app.sock"])
    return asking(plane)


def nothing_is_said(plane: Plane) -> list[RawClient]:
    def hangs_up(conversation: Conversation) -> None:
        conversation.request()

    plane.blue.script = hangs_up
    return asking(plane)


def nonsense_is_said(plane: Plane) -> list[RawClient]:
    plane.blue.script = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx")
    return asking(plane)


def no_answer_comes(plane: Plane) -> list[RawClient]:
    plane.configure(settings(upstream={"response_timeout": 0.2}))
    plane.blue.script = silent
    return asking(plane, "POST", body=b"x")


@pytest.mark.says("What the proxy itself answers is never blank")
@pytest.mark.says("Every answer of bgproxy itself")
@pytest.mark.parametrize(
    ("scene", "status", "reason"),
    [
        (nobody_is_healthy, 503, "no_healthy_upstream"),
        (connect_is_refused, 502, "connect_refused"),
        (connect_fails, 502, "connect_failed"),
        (nothing_is_said, 502, "closed_before_response"),
        (nonsense_is_said, 502, "bad_response"),
        (no_answer_comes, 504, "response_timeout"),
    ],
)
def test_an_upstream_that_fails_is_explained(plane: Plane, scene: Scene, status: int, reason: str) -> None:
    check_all(scene(plane), status, reason)


def test_a_connect_that_takes_too_long_is_explained(plane: Plane) -> None:
    with socket.socket() as full, ExitStack() as waiting:
        full.bind(("127.0.0.1", 0))
        full.listen(0)  # a full queue drops every further SYN
        for _ in range(4):
            filler = waiting.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        address = f"127.0.0.1:{full.getsockname()[1]}"
        plane.configure(settings(upstream={"connect_timeout": 0.2}), blue=[address])
        check_all(asking(plane), 504, "connect_timeout")


def test_a_full_queue_and_a_long_wait_are_explained(plane: Plane) -> None:
    plane.blue.script = silent
    plane.configure(settings(upstream={"max_connections": 1, "max_waiting": 3, "connect_timeout": 0.4}))
    first = plane.client()
    first.send(request())
    eventually(lambda: plane.blue.conversations, "the first on its connection")
    waiting = asking(plane)
    eventually(lambda: plane.cells[slot.WAITING] == 3, "three waiting")
    check_all(asking(plane), 503, "queue_full")
    check_all(waiting, 503, "queue_timeout")


# --- the client's side ------------------------------------------------------------------------------------------------


@pytest.mark.says("What the proxy itself answers is never blank")
@pytest.mark.says("Every answer of bgproxy itself")
@pytest.mark.says("It carries the request id")
@pytest.mark.parametrize(
    ("head", "status", "reason"),
    [
        ("GET / HTTP/1.1|@", 400, "bad_request"),
        ("GET /|@|Host: a", 400, "bad_request"),
        ("TRACE / HTTP/1.1|@|Host: a", 405, "unsupported"),
        ("GET / HTTP/1.1|Expect: patience|@|Host: a", 417, "unsupported"),
        ("CONNECT a:1 HTTP/1.1|@|Host: a:1", 501, "unsupported"),
        ("BREW / HTTP/1.1|@|Host: a", 501, "unsupported"),
        ("GET / HTTP/2.0|@|Host: a", 505, "unsupported"),
        ("GET /" + "t" * 250 + " HTTP/1.1|@|Host: a", 414, "target_too_long"),
        ("GET / HTTP/1.1|@|Host: a|Cookie: " + "c" * 1100, 431, "head_too_large"),
        ("GET / HTTP/1.1|@|Host: a" + "|X: 1" * 11, 431, "too_many_fields"),
        ("POST / HTTP/1.1|@|Host: a|Content-Length: 11", 413, "body_too_large"),
    ],
)
def test_a_refused_request_is_explained(plane: Plane, head: str, status: int, reason: str) -> None:
    plane.configure(settings(limits=SMALL))
    clients = each(plane, lambda line: head.replace("|", "\r\n").replace("@", line).encode() + b"\r\n\r\n")
    check_all(clients, status, reason)
    assert all(client.is_ended() for client in clients)


def test_a_head_that_never_ends_is_explained_as_far_as_it_was_read(plane: Plane) -> None:
    plane.configure(settings(limits=SMALL, timeouts={"header": 0.2}))
    endless = each(plane, lambda line: f"GET / HTTP/1.1\r\n{line}\r\nCookie: {'c' * 1100}".encode())
    check_all(endless, 431, "head_too_large")
    late = each(plane, lambda line: f"GET / HTTP/1.1\r\n{line}\r\nHost: a\r\n".encode())
    check_all(late, 408, "header_timeout")
    hopeless = each(plane, lambda line: f"GET / HTTP/1.1\r\n{line}\r\nHost: a\n".encode())
    check_all(hopeless, 400, "bad_request")
    beyond = each(plane, lambda line: f"GET / HTTP/1.1\r\nCookie: {'c' * 1100}\r\n{line}\r\nX".encode())
    check_all(beyond, 431, "head_too_large", ["txt"] * 3)
    no_line = each(plane, lambda _: b"GET /" + b"t" * 300)
    check_all(no_line, 414, "target_too_long", ["txt"] * 3)


def test_an_upload_that_fails_is_explained(plane: Plane) -> None:
    plane.configure(settings(limits=SMALL, timeouts={"body_idle": 0.2}))
    chunked = "Transfer-Encoding: chunked"
    large = each(plane, lambda line: request("POST", "/", line, chunked) + b"b\r\nxxxxxxxxxxx\r\n")
    check_all(large, 413, "body_too_large")
    broken = each(plane, lambda line: request("POST", "/", line, chunked) + b"0xb\r\n")
    check_all(broken, 400, "bad_request")
    late = each(plane, lambda line: request("POST", "/", line, "Content-Length: 9") + b"half")
    check_all(late, 408, "body_timeout")


def test_one_connection_too_many_is_told_in_text(plane: Plane) -> None:
    plane.blue.script = silent
    plane.configure(settings(limits={"connections": 1}))
    first = plane.client()
    first.send(request())
    eventually(lambda: plane.cells[slot.IN_FLIGHT] == 1, "the one that is busy")
    answer = plane.client().answer()
    check(answer, "txt", 503, "connections")
    assert answer.all("Vary") == []
    first.close()
    eventually(plane.is_idle, "its end")


# --- details ----------------------------------------------------------------------------------------------------------


@pytest.mark.says("It carries the request id")
def test_the_id_in_the_answer_is_the_one_that_the_upstream_got(plane: Plane) -> None:
    plane.configure(settings(headers=HeaderSettings(request_id="X-Trace")))
    plane.blue.script = answering(b"nonsense\r\n\r\n")
    answer = plane.client().ask("GET", "/", FIELDS["json"])
    (asked,) = plane.blue.requests
    assert asked.one("X-Trace") == answer.one("X-Trace") == json.loads(answer.body)["request_id"]
    assert answer.all("X-Request-ID") == []


def test_an_id_from_a_trusted_proxy_is_kept_even_where_the_request_is_refused(plane: Plane) -> None:
    plane.configure(settings(trusted_proxies=("127.0.0.0/8",), limits=SMALL), blue=[])
    for body in (b"", b"x" * 11):
        answer = plane.client().ask("POST", "/", "X-Request-ID: from-outside", body=body)
        assert answer.one("X-Request-ID") == "from-outside"
        assert b"(request from-outside)" in answer.body


@pytest.mark.says("Every form is `no-store`")
@pytest.mark.parametrize("line", ["HEAD / HTTP/1.1", "HEAD / HTTP/2.0", "HEAD /#a HTTP/1.1"])
def test_head_gets_the_same_fields_and_no_body(plane: Plane, line: str) -> None:
    plane.configure(blue=[])
    answers = []
    for method in ("HEAD", "GET"):
        client = plane.client()
        client.send(
            f"{line.replace('HEAD', method)}\r\nHost: a\r\n{FIELDS['html']}\r\nConnection: close\r\n\r\n".encode()
        )
        answers.append(client.answer(method))
        assert client.is_ended()
    changing = {"date", "x-request-id"}
    head, get = ([field for field in answer.fields if field[0] not in changing] for answer in answers)
    assert head == get
    assert (answers[0].body, len(answers[1].body) > 500) == (b"", True)


@pytest.mark.says("The form follows `Accept`")
def test_accept_is_found_wherever_a_request_is_read_to(plane: Plane) -> None:
    plane.configure(blue=[])
    plain = f"GET / HTTP/1.1\r\nHost: a\r\n{FIELDS['html']}\r\n\r\n".encode()
    client = plane.client()
    for head in (plain, plain, plain.replace(b"Host: a\r\n", b"").replace(b"\r\n\r\n", b"\r\nhost: a\r\n\r\n")):
        client.send(head)
        check(client.answer(), "html", 503, "no_healthy_upstream")
    judged = plain.replace(b"\r\n\r\n", b"\r\nTE: trailers\r\nConnection: TE\r\n\r\n")
    client.send(judged)
    check(client.answer(), "html", 503, "no_healthy_upstream")
    client.send(judged.replace(b"Connection: TE", b"Connection: TE, Accept"))
    check(client.answer(), "txt", 503, "no_healthy_upstream")


@pytest.mark.says("`[server] error_pages` is a directory")
def test_own_pages_are_served_until_the_next_configuration(plane: Plane) -> None:
    own = WorkerSettings(error_pages={"503.html": "<p>Zurück um acht. {{request_id}}</p>", "error.txt": "{{reason}}"})
    plane.configure(own, blue=[])
    answer = plane.client().ask("GET", "/", FIELDS["html"])
    assert answer.body.decode() == f"<p>Zurück um acht. {answer.one('X-Request-ID')}</p>"
    assert "style-src 'unsafe-inline'" in answer.one("Content-Security-Policy")
    assert plane.client().ask().body == b"no_healthy_upstream"
    check(plane.client().ask("GET", "/", FIELDS["json"]), "json", 503, "no_healthy_upstream")
    plane.configure(blue=[])
    check(plane.client().ask("GET", "/", FIELDS["html"]), "html", 503, "no_healthy_upstream")


@pytest.mark.says("What an application answers")
def test_what_an_application_answers_is_never_replaced(plane: Plane) -> None:
    plane.configure(WorkerSettings(error_pages={"error.html": "own"}))
    plane.blue.script = answering(response(502, b"", "X-App: yes"))
    answer = plane.client().ask("GET", "/", FIELDS["html"])
    assert (answer.body, answer.one("X-App"), answer.all("X-BG-Reason")) == (b"", "yes", [])
