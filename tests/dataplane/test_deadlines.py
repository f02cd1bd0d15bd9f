"""The coarse timer, turned by hand and, once, by its loop."""

from __future__ import annotations

import asyncio

import pytest

from bgproxy.dataplane.deadlines import TICKS_PER_ROUND, Deadlines


class Timed:
    def __init__(self, deadline: int = 0) -> None:
        self.deadline = deadline
        self.asked: list[int] = []

    def on_deadline(self, now: int) -> None:
        assert self.deadline == 0
        self.asked.append(now)


class FakeHandle:
    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeLoop:
    """Keeps the one call that is due next; `run` makes it, late by so many seconds."""

    def __init__(self) -> None:
        self.now = 50.0
        self.handle = FakeHandle()

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: object) -> FakeHandle:
        self.due, self.callback = when, callback
        return self.handle

    def run(self, late_s: float = 0.0) -> None:
        self.now = self.due + late_s
        self.callback()  # type: ignore[operator]


@pytest.fixture
def loop() -> FakeLoop:
    return FakeLoop()


@pytest.fixture
def deadlines(loop: FakeLoop) -> Deadlines:
    return Deadlines(loop)  # type: ignore[arg-type]


def a_round(deadlines: Deadlines, now: int) -> None:
    for _ in range(TICKS_PER_ROUND):
        deadlines.turn(now)


def test_a_deadline_fires_once_within_a_round_and_never_early(deadlines: Deadlines) -> None:
    timed = Timed(deadline=100)
    deadlines.watch(timed)
    a_round(deadlines, 99)
    assert timed.asked == []
    a_round(deadlines, 100)
    assert timed.asked == [100]
    a_round(deadlines, 101)
    assert timed.asked == [100]


def test_zero_means_never(deadlines: Deadlines) -> None:
    timed = Timed(deadline=0)
    deadlines.watch(timed)
    a_round(deadlines, 10**18)
    assert timed.asked == []


def test_whoever_is_forgotten_is_not_asked(deadlines: Deadlines) -> None:
    kept, forgotten = Timed(deadline=5), Timed(deadline=5)
    deadlines.watch(kept)
    deadlines.watch(forgotten)
    deadlines.forget(forgotten)
    deadlines.forget(Timed())
    a_round(deadlines, 6)
    assert (len(kept.asked), forgotten.asked) == (1, [])


def test_one_tick_looks_at_an_eighth(deadlines: Deadlines) -> None:
    crowd = [Timed(deadline=1) for _ in range(8 * TICKS_PER_ROUND)]
    for timed in crowd:
        deadlines.watch(timed)
    for tick in range(1, TICKS_PER_ROUND + 1):
        deadlines.turn(2)
        assert sum(len(timed.asked) for timed in crowd) == 8 * tick


def test_a_deadline_may_set_the_next_and_forget_another(deadlines: Deadlines) -> None:
    class Again(Timed):
        def on_deadline(self, now: int) -> None:
            super().on_deadline(now)
            self.deadline = now + 10
            deadlines.forget(self)
            deadlines.watch(self)

    timed = Again(deadline=5)
    deadlines.watch(timed)
    a_round(deadlines, 5)
    a_round(deadlines, 14)
    a_round(deadlines, 15)
    assert timed.asked == [5, 15]


def test_the_loop_turns_it_and_lateness_is_measured(loop: FakeLoop, deadlines: Deadlines) -> None:
    ticks = []
    deadlines.on_tick = lambda: ticks.append(deadlines.lag_ns)
    deadlines.start()
    before = deadlines.now
    loop.run()
    loop.run(late_s=0.5)
    assert ticks == [0, 500_000_000]
    assert deadlines.now >= before
    deadlines.stop()
    assert loop.handle.cancelled


def test_stopping_what_never_started_is_nothing(deadlines: Deadlines) -> None:
    deadlines.stop()


async def test_a_real_loop_reaches_every_bucket() -> None:
    deadlines = Deadlines(asyncio.get_running_loop())
    fired = asyncio.Event()

    class Waiting(Timed):
        def on_deadline(self, now: int) -> None:
            fired.set()

    deadlines.watch(Waiting(deadline=1))
    deadlines.start()
    await asyncio.wait_for(fired.wait(), timeout=10)
    deadlines.stop()
