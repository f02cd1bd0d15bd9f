from __future__ import annotations

import resource
import subprocess
import sys
from typing import Any

import pytest

from bgproxy.controlplane.descriptors import make_the_most_of_descriptors
from bgproxy.core.descriptors import needed
from bgproxy.core.model import Pool, PoolTable
from bgproxy.core.settings import Limits, WorkerSettings

TABLE = PoolTable(1, Pool(()), Pool(()))


class FakeLimit:
    """RLIMIT_NOFILE of a process that may or may not raise it."""

    def __init__(self, soft: int, hard: int, *, refuses: bool = False) -> None:
        self.soft, self.hard, self.refuses = soft, hard, refuses

    def getrlimit(self, which: int) -> tuple[int, int]:
        assert which == resource.RLIMIT_NOFILE
        return self.soft, self.hard

    def setrlimit(self, which: int, limits: tuple[int, int]) -> None:
        if self.refuses:
            raise ValueError("not allowed to raise maximum limit")
        self.soft, self.hard = limits


def said(monkeypatch: pytest.MonkeyPatch, limit: FakeLimit, connections: int) -> list[tuple[str, dict[str, Any]]]:
    monkeypatch.setattr(resource, "getrlimit", limit.getrlimit)
    monkeypatch.setattr(resource, "setrlimit", limit.setrlimit)
    events: list[tuple[str, dict[str, Any]]] = []
    settings = WorkerSettings(limits=Limits(connections=connections))
    make_the_most_of_descriptors(settings, TABLE, emit=lambda event, **fields: events.append((event, fields)))
    return events


def test_the_soft_limit_becomes_the_hard_one(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = FakeLimit(1024, 100_000)
    assert said(monkeypatch, limit, 10_000) == []
    assert limit.soft == limit.hard == 100_000


def test_too_few_are_a_warning_that_says_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    ((event, fields),) = said(monkeypatch, FakeLimit(1024, 4096), 10_000)
    assert event == "descriptors_short"
    settings = WorkerSettings(limits=Limits(connections=10_000))
    assert fields.pop("needed") == needed(settings, TABLE)
    assert "LimitNOFILE" in fields.pop("hint")
    assert fields == {"limit": 4096, "client_connections": 4096 - 128, "configured": 10_000}


def test_without_a_limit_there_are_never_too_few(monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(monkeypatch, FakeLimit(1024, resource.RLIM_INFINITY), 1_000_000) == []


def test_a_limit_that_cannot_be_raised_is_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    ((_, fields),) = said(monkeypatch, FakeLimit(1024, resource.RLIM_INFINITY, refuses=True), 10_000)
    assert fields["limit"] == 1024


def test_it_is_the_process_s_own_limit_that_is_raised() -> None:
    code = """if True:
        import resource
        from bgproxy.controlplane.descriptors import make_the_most_of_descriptors
        from bgproxy.core.model import Pool, PoolTable
        from bgproxy.core.settings import WorkerSettings
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        make_the_most_of_descriptors(WorkerSettings(), PoolTable(1, Pool(()), Pool(())), emit=lambda *_, **__: None)
        print(resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
