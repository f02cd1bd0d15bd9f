"""One worker process for all of these tests, and one recording upstream for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bgproxy.core.model import Pool
from bgproxy.core.settings import WorkerSettings
from tests.support.plane import Plane, WorkerProcess
from tests.support.through import Through

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def worker() -> Iterator[WorkerProcess]:
    started = WorkerProcess()
    started.start((Pool(()), Pool(())), WorkerSettings())
    yield started
    complaints = started.end()
    assert not complaints, complaints


@pytest.fixture
def plane(worker: WorkerProcess) -> Iterator[Plane]:
    made = Plane(worker)
    yield made
    made.close()


@pytest.fixture
def through(plane: Plane) -> Through:
    return Through(plane)
