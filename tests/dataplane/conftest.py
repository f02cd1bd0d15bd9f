"""One worker process for all of these tests: each test configures it anew, with upstreams of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bgproxy.core.model import Pool
from bgproxy.core.settings import WorkerSettings
from tests.support.plane import Plane, WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    started = WorkerProcess(unix_path=str(tmp_path_factory.mktemp("plane") / "bgproxy.sock"))
    started.start((Pool(()), Pool(())), WorkerSettings())
    yield started
    complaints = started.end()
    assert not complaints, complaints


@pytest.fixture
def plane(worker: WorkerProcess) -> Iterator[Plane]:
    made = Plane(worker)
    yield made
    made.close()
