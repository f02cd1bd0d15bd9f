from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.house import App, Proxy


@pytest.fixture
def app() -> Iterator[Callable[..., App]]:
    """Starts an app; all are ended after the test."""
    with contextlib.ExitStack() as stack:

        def start(name: str, listen: str = "127.0.0.1:0") -> App:
            started = App(name, listen)
            stack.callback(started.end)
            return started

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
