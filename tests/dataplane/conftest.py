"""One worker process for all of these tests: each test configures it anew, with upstreams of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bgproxy.core.model import Pool
from bgproxy.core.settings import WorkerSettings
from tests.support.plane import Plane, WorkerProcess, settings

if TYPE_CHECKING:
    from collections.abc import Iterator


INTRODUCED = settings(proxy_protocol=True, trusted_proxies=("127.0.0.0/8", "::1/128", "unix"))


@pytest.fixture(scope="session")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    started = WorkerProcess(unix_path=str(tmp_path_factory.mktemp("plane") / "bgproxy.sock"))
    started.start((Pool(()), Pool(())), WorkerSettings())
    yield started
    complaints = started.end()
    assert not complaints, complaints


@pytest.fixture(scope="session")
def introduced_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    path = tmp_path_factory.mktemp("introduced") / "bgproxy.sock"
    started = WorkerProcess(unix_path=str(path), dual_stack=True)
    started.start((Pool(()), Pool(())), INTRODUCED)
    yield started
    complaints = started.end()
    assert not complaints, complaints


@pytest.fixture
def introduced(introduced_worker: WorkerProcess) -> Iterator[Plane]:
    """A worker whose connections begin with a PROXY header, from everybody here."""
    made = Plane(introduced_worker)
    made.configure(INTRODUCED)
    yield made
    made.close()


@pytest.fixture
def plane(worker: WorkerProcess) -> Iterator[Plane]:
    made = Plane(worker)
    yield made
    made.close()
