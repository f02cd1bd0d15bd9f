"""TLS towards clients, through a real worker: every kind of end, every kind of beginning."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest

from bgproxy.core.model import Pool
from bgproxy.core.settings import WorkerSettings
from tests.support.certificates import client_context, material, pair
from tests.support.plane import Plane, WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def worker() -> Iterator[WorkerProcess]:
    started = WorkerProcess(material=material(pair("app.example", "*.app.example")))
    started.start((Pool(()), Pool(())), WorkerSettings())
    yield started
    complaints = started.end()
    assert not complaints, complaints


@pytest.fixture
def plane(worker: WorkerProcess) -> Iterator[Plane]:
    made = Plane(worker)
    yield made
    made.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_request_over_tls_is_forwarded_as_https(plane: Plane, version: ssl.TLSVersion) -> None:
    plane.configure()
    context = client_context(maximum_version=version)
    context.set_alpn_protocols(["h2", "http/1.1"])
    client = plane.tls_client(context)
    assert client.ask().body == b"hello"
    assert client.ask().body == b"hello"
    assert client.tls.version() == f"TLSv1.{version - ssl.TLSVersion.TLSv1}"
    assert client.tls.selected_alpn_protocol() == "http/1.1"
    for asked in plane.blue.requests:
        assert asked.one("X-Forwarded-Proto") == "https"
