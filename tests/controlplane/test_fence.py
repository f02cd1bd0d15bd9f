from __future__ import annotations

import asyncio

import pytest

from bgproxy.controlplane import drain
from bgproxy.controlplane.drain import Remaining
from bgproxy.controlplane.fence import Fence
from bgproxy.controlplane.worker_process import WorkerProcess
from bgproxy.core.model import BLUE, GREEN
from bgproxy.errors import FenceTimedOut, StaleEpoch, StoreUnavailable, WorkersDidNotAcknowledge
from bgproxy.shm import worker_slot
from bgproxy.shm.live_pointer import Hold, Live
from tests.support.bench import Bench
from tests.support.proxies import PATIENCE_S, eventually


def live(bench: Bench) -> Live:
    return bench.segment.live.load()


async def test_a_fence_holds_until_the_old_colour_is_empty_and_releases_with_the_cutover(bench, monkeypatch):
    looks, remaining = 0, drain.remaining

    def look(*of):
        nonlocal looks
        looks += 1
        return remaining(*of)

    monkeypatch.setattr("bgproxy.controlplane.drain.remaining", look)
    bench.busy_with(BLUE, 2)
    switching = asyncio.create_task(bench.fence())
    await eventually(lambda: live(bench) == Live(0, BLUE, Hold.ALL), "the hold")
    await eventually(lambda: bench.switcher.state == "holding", "the state that says so")
    bench.segment.slots[1].cells[worker_slot.HELD_TOTAL] += 3
    bench.busy_with(BLUE, 1)
    seen = looks
    await eventually(lambda: looks > seen + 2, "further looks at what is left")
    assert live(bench) == Live(0, BLUE, Hold.ALL)
    bench.busy_with(BLUE, 0)
    report = await switching
    assert live(bench) == Live(1, GREEN)
    assert (report.changed, report.mode, report.epoch, report.cut) == (True, "fence", 1, 0)
    assert report.held_s > 0
    assert report.held == 3
    assert bench.emit.of("cut_over")[0]["mode"] == "fence"
    assert bench.switcher.state in {"steady", "draining"}


async def test_the_hold_is_acknowledged_by_every_worker_before_it_counts_as_one(make):
    """A worker that has not looked yet could still begin a request on the old colour."""
    bench = await make(modes={"w1": "silent"}, ack_timeout_s=0.3)
    bench.modes()
    await bench.fence()
    killed = bench.emit.of("worker_killed")
    assert killed[0]["reason"] == "did not hold its requests within 0.3 s"
    assert live(bench) == Live(1, GREEN)


async def test_a_worker_that_neither_holds_nor_dies_ends_the_fence_with_nothing_changed(make, monkeypatch):
    bench = await make(modes={"w1": "silent"}, ack_timeout_s=0.2)
    monkeypatch.setattr("bgproxy.controlplane.workers.DEATH_BOUND_S", 0.1)
    monkeypatch.setattr(WorkerProcess, "kill", lambda self: None)
    with pytest.raises(WorkersDidNotAcknowledge, match=r"blue is live: worker 1 \(pid \d+\) did not hold"):
        await bench.fence()
    monkeypatch.undo()
    assert live(bench) == Live(0, BLUE)
    assert (bench.on_disk().epoch, bench.on_disk().live) == (0, "blue")


async def test_a_fence_that_does_not_become_empty_is_taken_back(bench):
    bench.busy_with(BLUE, 3)
    with pytest.raises(FenceTimedOut, match=r"after 0.05 s 3 requests still ran on blue .* was taken back") as caught:
        await bench.fence(fence_timeout_s=0.05)
    assert caught.value.extra == {"live": "blue", "remaining": {"requests": 3}}
    assert live(bench) == Live(0, BLUE)
    assert (bench.on_disk().epoch, bench.on_disk().live) == (0, "blue")
    assert bench.switcher.last_switch is None
    assert bench.switcher.state == "steady"
    assert bench.emit.of("fence_taken_back")[0]["to"] == "green"
    bench.busy_with(BLUE, 0)
    assert (await bench.fence()).epoch == 1, "an epoch that nobody saw is used again"


async def test_a_fence_does_not_delay_the_end_of_the_proxy(bench):
    bench.busy_with(BLUE, 1)
    switching = asyncio.create_task(bench.fence(fence_policy="cut"))
    await eventually(lambda: live(bench).hold is Hold.ALL, "the hold")
    await bench.switcher.close()
    with pytest.raises(FenceTimedOut, match=r"1 requests still ran on blue when the proxy was told to end: .* is live"):
        await switching
    assert live(bench) == Live(0, BLUE)
    assert bench.on_disk().epoch == 0


async def held(bench: Bench, order) -> asyncio.Task:
    task = asyncio.create_task(order)
    await eventually(lambda: bench.switcher.state == "holding", "the hold")
    return task


@pytest.mark.parametrize("policy", ["abort", "cut"])
async def test_a_rollback_takes_a_fence_back_at_once(bench, policy):
    bench.busy_with(BLUE, 1)
    switching = await held(bench, bench.fence(fence_policy=policy))
    with pytest.raises(StaleEpoch):
        await bench.rollback(if_epoch=7)
    report = await bench.rollback(if_epoch=0)
    assert (report.changed, report.to, report.epoch) == (False, "blue", 0)
    assert report.detail == "the switch to green was taken back: blue is live"
    with pytest.raises(FenceTimedOut, match="still ran on blue when a rollback was ordered") as caught:
        await switching
    assert caught.value.hint == ""
    assert live(bench) == Live(0, BLUE)
    bench.busy_with(BLUE, 0)
    assert (await bench.fence()).changed, "the next one is not called off"


async def test_a_rollback_of_a_fence_that_was_decided_already_is_one_like_any_other(bench, monkeypatch):
    decided, go = asyncio.Event(), asyncio.Event()
    decide = bench.journal.decide

    async def slowly(epoch, **options):
        decided.set()
        await go.wait()
        await decide(epoch, **options)

    monkeypatch.setattr(bench.journal, "decide", slowly)
    switching = asyncio.create_task(bench.fence())
    await decided.wait()
    both = [asyncio.create_task(bench.rollback(if_epoch=0)) for _ in range(2)]
    await asyncio.sleep(0)  # a turn of the loop, in which both call the fence off
    go.set()
    assert (await switching).epoch == 1
    told = await asyncio.gather(*both, return_exceptions=True)
    (report,) = [each for each in told if getattr(each, "changed", False)]
    assert (report.to, report.epoch) == ("blue", 2)
    assert live(bench) == Live(2, BLUE), "the other one did not go forth again"


async def test_a_rollback_overtakes_a_rollback_by_fence(bench):
    await bench.switch()
    bench.busy_with(GREEN, 1)
    slow = await held(bench, bench.rollback(mode="fence"))
    report = await bench.rollback()
    assert (report.changed, report.to, report.mode) == (True, "blue", "instant")
    with pytest.raises(FenceTimedOut):
        await slow
    assert live(bench) == Live(2, BLUE)


@pytest.mark.parametrize("action", ["close", "await_empty", "cut_the_rest"])
async def test_a_fault_of_ours_does_not_leave_everybody_held(bench, monkeypatch, action):
    async def broken(self):
        await self._gate.hold(self._hold, PATIENCE_S)
        raise RuntimeError("bug")

    bench.busy_with(BLUE, 1)
    monkeypatch.setattr(Fence, action, broken)
    with pytest.raises(RuntimeError, match="bug"):
        await bench.fence(fence_timeout_s=0.02, fence_policy="cut")
    monkeypatch.undo()
    assert live(bench) == Live(0, BLUE)
    await eventually(lambda: bench.journal.health["pending"] == 0, "its outcome")
    assert (bench.on_disk().epoch, bench.on_disk().history[-1].result) == (0, "aborted")


async def test_how_long_requests_were_held_is_told_of_the_last_switch(bench):
    report = await bench.fence()
    assert bench.switcher.last_switch["held_s"] == report.held_s > 0


async def test_what_is_left_is_cut_where_the_policy_says_so(bench):
    bench.busy_with(BLUE, 3)
    report = await bench.fence(fence_timeout_s=0.05, fence_policy="cut")
    assert (report.changed, report.cut) == (True, 3)
    assert live(bench) == Live(1, GREEN)
    assert not bench.emit.of("worker_killed")


async def test_a_worker_that_cannot_even_cut_is_replaced(make):
    bench = await make(modes={"w0": "ignores-cut"}, ack_timeout_s=0.3, fence_policy="cut", fence_timeout_s=0.05)
    bench.busy_with(BLUE, 1)
    assert (await bench.fence()).cut == 1
    (killed,) = bench.emit.of("worker_killed")
    assert (killed["worker"], killed["reason"]) == (0, "did not cut its requests for a fence")
    assert live(bench) == Live(1, GREEN)


async def test_a_fence_of_writes_waits_for_unsafe_requests_only(bench, monkeypatch):
    left = Remaining(requests=5, streams=0, writes=1)
    monkeypatch.setattr("bgproxy.controlplane.drain.remaining", lambda slots, colour: left)
    switching = asyncio.create_task(bench.fence(mode="fence-writes"))
    await eventually(lambda: live(bench) == Live(0, BLUE, Hold.WRITES), "the hold")
    left = Remaining(requests=5, streams=0, writes=0)
    assert (await switching).mode == "fence-writes"
    assert live(bench) == Live(1, GREEN)


async def fails(epoch, **options):
    raise StoreUnavailable("the disk is full; nothing was changed")


async def test_a_disk_that_fails_at_the_decision_takes_the_fence_back(bench, monkeypatch):
    monkeypatch.setattr(bench.journal, "decide", fails)
    with pytest.raises(StoreUnavailable):
        await bench.fence()
    monkeypatch.undo()
    assert live(bench) == Live(0, BLUE)
    assert bench.emit.of("fence_taken_back")
    assert (await bench.fence()).changed


async def test_a_worker_that_dies_while_it_holds_is_born_again_holding(make):
    bench = await make(ack_timeout_s=PATIENCE_S)
    bench.segment.slots[1].cells[worker_slot.IN_FLIGHT + BLUE] = 1
    switching = asyncio.create_task(bench.fence())
    await eventually(lambda: live(bench).hold is Hold.ALL, "the hold")
    bench.workers.living()[1].kill()  # what it had in flight is gone with it
    assert (await switching).changed
    assert live(bench) == Live(1, GREEN)
    assert await bench.workers.all_ready(PATIENCE_S)
    assert bench.workers.epochs() == [1, 1]
