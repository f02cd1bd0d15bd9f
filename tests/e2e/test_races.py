"""Many clients want to switch at once: exactly one does, and all of them are told one story."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.house import App, Proxy
from tests.support.linearizability import explain
from tests.support.racers import OTHER, Racers

RACERS = 200
START = (0, "blue")


def told_one_story(racers: Racers) -> None:
    assert racers.unexpected == []
    assert explain(racers.history, START) is not None, f"no order explains these {len(racers.history)} answers"


@pytest.mark.parametrize("mode", ["instant", "fence"])
def test_of_two_hundred_racing_clients_exactly_one_wins_each_epoch(proxy: Proxy, mode: str) -> None:
    async def run() -> None:
        async with Racers(Path(proxy.addresses["socket"]), RACERS) as racers:
            live = "blue"
            for epoch in range(3):
                live = OTHER[live]
                assert await racers.race(epoch, live, mode=mode) == 1
                assert await racers.read() == (epoch + 1, live)
            told_one_story(racers)

    asyncio.run(run())


def test_the_history_of_switches_is_linearizable_while_workers_and_the_supervisor_are_killed(
    start: Callable[..., Proxy], blue: App, green: App
) -> None:
    chaos(start(blue, green), supervisors=1, workers_between=2, clients=6, seed=1)


@pytest.mark.parametrize(
    "seed", [pytest.param(0, marks=pytest.mark.soak), *(pytest.param(n, marks=pytest.mark.long) for n in range(1, 5))]
)
def test_it_stays_linearizable_for_longer(start: Callable[..., Proxy], blue: App, green: App, seed: int) -> None:
    chaos(start(blue, green), supervisors=8, workers_between=4, clients=30, seed=seed)


def chaos(proxy: Proxy, *, supervisors: int, workers_between: int, clients: int, seed: int) -> None:
    chance = random.Random(seed)

    async def kill() -> None:
        for round_ in range(supervisors + 1):
            for _ in range(workers_between):
                await progress()
                pid = chance.choice([pid for pid in await asyncio.to_thread(lambda: proxy.worker_pids) if pid])
                os.kill(pid, signal.SIGKILL)
            await progress()
            if round_ < supervisors:
                proxy.process.kill()
                await asyncio.to_thread(proxy.process.wait)
                await asyncio.to_thread(proxy.start_again)

    async def progress() -> None:
        """Some switches further, so that every kill meets another moment."""
        before, more = done(), chance.randrange(1, 8)
        async with asyncio.timeout(60):
            while done() < before + more:  # noqa: ASYNC110  the racers are not ours to hook an event into
                await asyncio.sleep(0.005)

    def done() -> int:
        return sum(operation.done for operation in racers.history)

    racers = Racers(Path(proxy.addresses["socket"]), clients)

    async def run() -> None:
        stop = asyncio.Event()
        async with racers:
            wandering = [
                asyncio.create_task(racers.wander(stop, random.Random(f"{seed}/{number}"))) for number in range(clients)
            ]
            try:
                await kill()
            finally:
                stop.set()
                await asyncio.gather(*wandering)
        told_one_story(racers)

    asyncio.run(run())
