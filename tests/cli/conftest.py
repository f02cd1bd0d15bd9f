from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from bgproxy.cli.main import main
from tests.support.admin import Admin, FakeControl, admin_api


class Outcome(msgspec.Struct, frozen=True):
    """What a command left behind."""

    exit_code: int
    out: str
    err: str


Run = Callable[..., Awaitable[Outcome]]


@pytest.fixture(autouse=True)
def no_configuration_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("BGPROXY_ADMIN", "BGPROXY_TOKEN_FILE", "BGPROXY_STATE__DIR", "STATE_DIRECTORY", "BGPROXY_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in a thread, so that the servers of the test can answer it."""

    async def command(*arguments: str) -> Outcome:
        exit_code = await asyncio.to_thread(main, list(arguments))
        captured = capsys.readouterr()
        return Outcome(exit_code, captured.out, captured.err)

    return command


@pytest.fixture
def control() -> FakeControl:
    return FakeControl()


@pytest.fixture
async def api(control: FakeControl, tmp_path: Path) -> AsyncIterator[Admin]:
    async with admin_api(control, tmp_path) as running:
        yield running
