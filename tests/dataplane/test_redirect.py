"""Plain requests where everything else is https."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bgproxy.core.model import Pool
from bgproxy.core.settings import HttpsSettings, WorkerSettings
from bgproxy.shm import worker_slot as slot
from tests.support.certificates import client_context, material, pair
from tests.support.plane import Plane, WorkerProcess, settings

if TYPE_CHECKING:
    from collections.abc import Iterator

REDIRECTING = settings(https=HttpsSettings(redirect_port=443), limits={"head_bytes": 1024})


@pytest.fixture(scope="module")
def worker() -> Iterator[WorkerProcess]:
    started = WorkerProcess(material=material(pair("app.example", "*.app.example", "192.0.2.1", "2001:db8::1")))
    started.start((Pool(()), Pool(())), WorkerSettings())
    yield started
    complaints = started.end()
    assert not complaints, complaints


@pytest.fixture
def plane(worker: WorkerProcess) -> Iterator[Plane]:
    made = Plane(worker)
    made.configure(REDIRECTING)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("line", "host", "location"),
    [
        ("GET /a?b=c HTTP/1.1", "app.example", "https://app.example/a?b=c"),
        ("GET / HTTP/1.1", "APP.Example:80", "https://app.example/"),
        ("GET / HTTP/1.0", "www.app.example", "https://www.app.example/"),
        ("GET //evil.example/ HTTP/1.1", "app.example", "https://app.example//evil.example/"),
        ("GET http://app.example:80/x HTTP/1.1", "app.example:80", "https://app.example/x"),
        ("OPTIONS * HTTP/1.1", "app.example", "https://app.example/"),
        ("GET / HTTP/1.1", "192.0.2.1:8080", "https://192.0.2.1/"),
        ("GET / HTTP/1.1", "[2001:db8:0::1]:80", "https://[2001:db8:0::1]/"),
    ],
)
def test_a_request_is_sent_to_the_same_place_by_https(plane: Plane, line: str, host: str, location: str) -> None:
    client = plane.client()
    client.send(f"{line}\r\nHost: {host}\r\n\r\n".encode())
    answer = client.answer(line.split(" ")[0])
    assert answer.status == 308
    assert answer.one("Location") == location
    assert answer.one("Connection") == "close"
    assert client.is_ended()
    assert plane.blue.requests == []
    assert plane.counted(slot.REDIRECTS) == 1


@pytest.mark.says("with `[tls] redirect_http`")
@pytest.mark.parametrize("host", ["evil.example", "x.y.app.example", "192.0.2.2", "app.example.evil.example"])
def test_nobody_is_sent_to_a_name_that_no_certificate_covers(plane: Plane, host: str) -> None:
    client = plane.client()
    client.send(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    answer = client.answer()
    assert answer.status == 421
    assert answer.one("Location") == ""
    assert host not in answer.body.decode()
    assert plane.rejected("no_certificate") == 1


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        (b"GET /\xe9 HTTP/1.1\r\nHost: app.example\r\n\r\n", 400),
        (b"GET /\x0bX HTTP/1.1\r\nHost: app.example\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET / HTTP/1.1\r\nHost: app.example\r\nX: " + b"x" * 2000, 431),
    ],
)
def test_what_is_refused_elsewhere_is_refused_here(plane: Plane, sent: bytes, status: int) -> None:
    client = plane.client()
    client.send(sent)
    assert client.answer().status == status
    assert client.is_ended()


def test_a_body_is_not_waited_for_and_a_head_may_come_in_pieces(plane: Plane) -> None:
    client = plane.client()
    client.send(b"\r\nPOST / HT", b"TP/1.1\r\nHost: app.example\r\nContent-Len", b"gth: 100000\r\n\r\n" + bytes(1000))
    answer = client.answer("POST")
    assert (answer.status, answer.body[:3]) == (308, b"308")


def test_a_head_request_gets_no_body(plane: Plane) -> None:
    client = plane.client()
    client.send(b"HEAD / HTTP/1.1\r\nHost: app.example\r\n\r\n")
    assert client.answer("HEAD").status == 308
    assert client.rest() == b""


def test_the_port_is_said_where_it_is_not_that_of_https(plane: Plane) -> None:
    plane.configure(settings(https=HttpsSettings(redirect_port=8443)))
    client = plane.client()
    client.send(b"GET / HTTP/1.1\r\nHost: app.example:8080\r\n\r\n")
    assert client.answer().one("Location") == "https://app.example:8443/"


def test_over_tls_the_same_worker_serves(plane: Plane) -> None:
    assert plane.tls_client(client_context()).ask().body == b"hello"
