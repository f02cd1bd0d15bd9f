"""Names to addresses, with a resolver and a clock in the test's hands."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from bgproxy.dataplane.resolver import Resolver

FIRST = [(socket.AF_INET, ("10.0.0.1", 80))]
SECOND = [(socket.AF_INET, ("10.0.0.2", 80)), (socket.AF_INET6, ("fd00::2", 80, 0, 0))]


class FakeLoop:
    def __init__(self) -> None:
        self.now = 1000.0
        self.asked: list[tuple[str, int]] = []
        self.answer: list[Any] | Exception = FIRST

    def time(self) -> float:
        return self.now

    async def getaddrinfo(self, host: str, port: int, *, type: int) -> list[Any]:
        assert type == socket.SOCK_STREAM
        self.asked.append((host, port))
        if isinstance(self.answer, Exception):
            raise self.answer
        return [(family, type, 6, "", address) for family, address in self.answer]


@pytest.fixture
def loop() -> FakeLoop:
    return FakeLoop()


@pytest.fixture
def resolver(loop: FakeLoop) -> Resolver:
    return Resolver(loop, refresh_s=10.0)  # type: ignore[arg-type]


async def test_an_address_is_not_asked_about(loop: FakeLoop, resolver: Resolver) -> None:
    assert await resolver.resolve("127.0.0.1", 80) == [(socket.AF_INET, ("127.0.0.1", 80))]
    assert await resolver.resolve("::1", 80) == [(socket.AF_INET6, ("::1", 80, 0, 0))]
    assert loop.asked == []


async def test_an_answer_is_kept_for_the_refresh_time(loop: FakeLoop, resolver: Resolver) -> None:
    assert await resolver.resolve("app", 80) == FIRST
    loop.answer = SECOND
    loop.now += 9.9
    assert await resolver.resolve("app", 80) == FIRST
    loop.now += 0.1
    assert await resolver.resolve("app", 80) == SECOND
    assert loop.asked == [("app", 80)] * 2


async def test_names_and_ports_are_kept_apart(loop: FakeLoop, resolver: Resolver) -> None:
    await resolver.resolve("app", 80)
    await resolver.resolve("app", 81)
    await resolver.resolve("other", 80)
    assert loop.asked == [("app", 80), ("app", 81), ("other", 80)]


async def test_a_name_that_is_lost_keeps_its_last_addresses(loop: FakeLoop, resolver: Resolver) -> None:
    await resolver.resolve("app", 80)
    loop.answer = socket.gaierror(socket.EAI_AGAIN, "try again")
    loop.now += 11
    assert await resolver.resolve("app", 80) == FIRST
    loop.answer = SECOND
    loop.now += 11
    assert await resolver.resolve("app", 80) == SECOND


async def test_a_name_that_never_had_an_address_is_an_error(loop: FakeLoop, resolver: Resolver) -> None:
    loop.answer = socket.gaierror(socket.EAI_NONAME, "no such name")
    with pytest.raises(OSError, match="no such name"):
        await resolver.resolve("nowhere", 80)
    loop.answer = FIRST
    assert await resolver.resolve("nowhere", 80) == FIRST, "the failure is not remembered"


async def test_what_cannot_be_a_name_is_an_error_like_any_other(loop: FakeLoop, resolver: Resolver) -> None:
    loop.answer = UnicodeError("label empty or too long")
    with pytest.raises(OSError, match=r"a\.\.b is not a host name"):
        await resolver.resolve("a..b", 80)
