from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.house import App, Proxy


@pytest.fixture(scope="session")
def parked() -> Iterator[dict[str, App]]:
    """Apps that no test uses just now, by name: a process that is there need not be started."""
    apps: dict[str, App] = {}
    yield apps
    for each in apps.values():
        each.end()


@pytest.fixture
def app(parked: dict[str, App]) -> Iterator[Callable[..., App]]:
    """An app that nobody has asked anything yet; none keeps what a test has told it."""
    with contextlib.ExitStack() as stack:

        def park(used: App) -> None:
            if used.running and used.name not in parked:
                used.told("afresh")
                parked[used.name] = used
            else:
                used.end()

        def start(name: str, listen: str = "") -> App:
            if not listen and name in parked:
                found = parked.pop(name)
            else:
                found = App(name, listen or "127.0.0.1:0")
            stack.callback(found.end if listen else lambda: park(found))
            return found

        yield start


@pytest.fixture
def blue(app: Callable[..., App]) -> App:
    return app("blue")


@pytest.fixture
def green(app: Callable[..., App]) -> App:
    return app("green")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Proxy]]:
    """Starts a proxy in front of these apps with two workers on free ports; none outlives the test."""
    with contextlib.ExitStack() as stack:

        def proxy(blue: App, green: App, *flags: str, workers: int = 2, **options: Any) -> Proxy:
            given = ("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--workers", str(workers))
            started = Proxy(tmp_path, (*given, "--blue", blue.address, "--green", green.address, *flags), **options)
            stack.callback(started.clean_up)
            return started.until_ready()

        yield proxy


@pytest.fixture
def proxy(start: Callable[..., Proxy], blue: App, green: App) -> Proxy:
    """The plain house: two workers, one app per colour."""
    return start(blue, green)
