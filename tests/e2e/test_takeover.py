"""A supervisor is killed and another takes over, under load: nobody who asks is to notice."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

import pytest

from tests.support.house import Proxy, eventually, state_of, stop
from tests.support.ledger import Moved, violations
from tests.support.load import Load

BEFORE = [Moved(0.0, 0.0, 0, "blue")]


async def until(condition: Callable[[], object], what: str) -> None:
    """`eventually`, and the clients go on meanwhile."""
    await asyncio.to_thread(eventually, condition, what)


def survive(proxy: Proxy, rounds: int, *, asks: int = 0) -> Load:
    """So many supervisors are killed, one after the other; the next is started under the same load."""
    load = Load(proxy.port, clients=32, asks=asks)

    async def work() -> None:
        await load.start()
        for _ in range(rounds):
            orphans = proxy.worker_pids
            proxy.process.kill()
            await asyncio.to_thread(proxy.process.wait)
            await load.more(500)
            await asyncio.to_thread(proxy.start_again)
            await until(lambda: all(state_of(pid) == "" for pid in orphans), "the end of the old workers")  # noqa: B023
            await load.more(500)
        await load.finish()

    load.run(work)
    print(f"{len(load.answers)} requests, {rounds} supervisors killed, {len(load.losses)} lost")
    return load


def assert_nobody_noticed(load: Load) -> None:
    assert load.losses[:5] == []
    assert violations(load.answers, BEFORE)[:5] == []


def test_no_request_fails_when_the_supervisor_is_killed_and_another_takes_over(proxy: Proxy) -> None:
    port = proxy.port
    assert_nobody_noticed(survive(proxy, 1, asks=3))
    assert proxy.port == port, "the very same sockets"
    assert not proxy.events("sockets_not_inherited")
    assert not proxy.events("orphans_killed")


@pytest.mark.soak
@pytest.mark.parametrize("asks", [0, 1, 7])
def test_no_request_fails_over_ten_takeovers(proxy: Proxy, asks: int) -> None:
    assert_nobody_noticed(survive(proxy, 10, asks=asks))


@pytest.mark.soak
def test_without_a_supervisor_the_workers_that_are_left_serve_for_one_that_hangs_or_dies(proxy: Proxy) -> None:
    hung, left = proxy.worker_pids
    port = proxy.port
    proxy.process.kill()
    proxy.process.wait()
    stop(hung)
    # Those that the kernel puts into its queue are taken by the other one.
    assert [proxy.colour() for _ in range(32)] == ["blue"] * 32
    proxy.start_again()
    assert proxy.port == port
    assert [proxy.colour() for _ in range(32)] == ["blue"] * 32
    eventually(lambda: state_of(left) == "", "the end of the old one")
    proxy.process.kill()
    proxy.process.wait()
    os.kill(hung, signal.SIGKILL)
    assert [proxy.colour() for _ in range(32)] == ["blue"] * 32
