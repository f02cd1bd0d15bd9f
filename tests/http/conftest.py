"""One worker process for all of these tests, and one recording upstream for each."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

import pytest

from bgproxy.core.model import Pool
from bgproxy.core.settings import WorkerSettings
from tests.support.plane import Plane, WorkerProcess, eventually
from tests.support.through import Through

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


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


@pytest.fixture
def stopped() -> Callable[[int], contextlib.AbstractContextManager[None]]:
    """A process sleeps in the meantime, and finds everything that has happened at once."""

    @contextlib.contextmanager
    def asleep(pid: int) -> Iterator[None]:
        os.kill(pid, signal.SIGSTOP)
        eventually(lambda: _state_of(pid) == "T", "the worker to sleep")
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    return asleep


def _state_of(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0]
