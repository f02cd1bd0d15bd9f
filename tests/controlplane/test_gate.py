from __future__ import annotations

import asyncio
import errno

import pytest

from bgproxy.controlplane.worker_process import WorkerProcess
from bgproxy.core.model import BLUE, GREEN
from bgproxy.errors import DrainTimedOut, GateConflict, StaleEpoch, SwitchInProgress, WorkersDidNotAcknowledge
from bgproxy.shm.live_pointer import Hold, Live
from tests.support.proxies import eventually


async def test_a_pause_holds_until_it_is_resumed(bench):
    paused = await bench.change_gate("pause", by="ops", reason="migration")
    assert bench.segment.live.load() == Live(0, BLUE, Hold.ALL)
    assert (paused.changed, paused.state, paused.live, paused.undo) == (True, "paused", "blue", "bgproxy resume")
    assert bench.switcher.state == "paused"
    assert bench.emit.of("gate_changed")[0] == {"kind": "pause", "state": "paused", "by": "ops", "reason": "migration"}
    again = await bench.change_gate("pause")
    assert (again.changed, again.state) == (False, "paused")
    resumed = await bench.change_gate("resume")
    assert (resumed.changed, resumed.state) == (True, "open")
    assert bench.segment.live.load() == Live(0, BLUE)
    assert (await bench.change_gate("resume")).changed is False


async def test_a_pause_can_wait_for_what_is_in_flight(bench):
    bench.busy_with(BLUE, 1)
    pausing = asyncio.create_task(bench.change_gate("pause", wait="drained"))
    await eventually(lambda: bench.switcher.state == "paused", "the pause")
    bench.busy_with(BLUE, 0)
    report = await pausing
    assert report.drain_s is not None
    assert report.in_flight == 0


async def test_a_pause_that_does_not_drain_says_so_and_stays(bench):
    bench.busy_with(BLUE, 2)
    with pytest.raises(DrainTimedOut, match=r"pause is in force, but after 0\.\d s 2 requests still run on blue"):
        await bench.change_gate("pause", wait="drained", timeout_s=0.02)
    assert bench.switcher.state == "paused"


async def test_a_pause_waits_for_what_a_switch_left_behind_too(bench):
    bench.busy_with(BLUE, 1)
    await bench.switch()
    with pytest.raises(DrainTimedOut, match=r"pause is in force, but .* 1 requests still run on blue") as caught:
        await bench.change_gate("pause", wait="drained", timeout_s=0.02)
    assert caught.value.extra["remaining"] == {"requests": 1}
    assert (await bench.change_gate("pause")).in_flight == 1
    bench.busy_with(BLUE, 0)
    assert (await bench.change_gate("pause", wait="drained")).in_flight == 0


async def test_a_pause_that_somebody_ends_is_not_taken_for_drained(bench):
    bench.busy_with(BLUE, 1)
    pausing = asyncio.create_task(bench.change_gate("pause", wait="drained"))
    await eventually(lambda: bench.switcher.state == "paused", "the pause")
    await bench.change_gate("resume")
    with pytest.raises(StaleEpoch, match="pause was done, but the state is 'open' by now") as caught:
        await pausing
    assert caught.value.extra == {"epoch": 0, "live": "blue", "state": "open"}


async def test_a_switch_during_a_pause_does_not_end_its_wait(bench):
    bench.busy_with(BLUE, 1)
    pausing = asyncio.create_task(bench.change_gate("pause", wait="drained"))
    await eventually(lambda: bench.switcher.state == "paused", "the pause")
    await bench.switch()
    bench.busy_with(BLUE, 0)
    assert (await pausing).in_flight == 0


@pytest.mark.parametrize("mode", ["instant", "fence"])
@pytest.mark.parametrize(("kind", "hold"), [("pause", Hold.ALL), ("maintenance on", Hold.MAINTENANCE)])
async def test_a_switch_leaves_a_pause_and_maintenance_as_they_are(bench, kind, hold, mode):
    await bench.change_gate(kind)
    await bench.switch(mode=mode)
    assert bench.segment.live.load() == Live(1, GREEN, hold)


async def test_a_fence_that_is_taken_back_does_not_end_maintenance(bench):
    await bench.change_gate("maintenance on")
    bench.busy_with(BLUE, 1)
    with pytest.raises(Exception, match="was taken back"):
        await bench.fence(fence_timeout_s=0.02)
    assert bench.segment.live.load() == Live(0, BLUE, Hold.MAINTENANCE)
    assert bench.switcher.state == "maintenance"


@pytest.mark.parametrize(
    ("first", "second", "end"),
    [("pause", "maintenance on", "resume"), ("maintenance on", "pause", "maintenance off")],
)
async def test_each_is_ended_by_its_own_word(bench, first, second, end):
    await bench.change_gate(first)
    with pytest.raises(GateConflict, match="nothing was changed") as caught:
        await bench.change_gate(second)
    assert end in caught.value.hint
    other_end = "resume" if end == "maintenance off" else "maintenance off"
    assert (await bench.change_gate(other_end)).changed is False
    assert (await bench.change_gate(end)).state == "open"


async def test_a_silent_worker_is_replaced_and_named(make):
    bench = await make(modes={"w1": "silent"}, ack_timeout_s=0.2)
    report = await bench.change_gate("pause")
    assert [(each.worker, each.reason) for each in report.replaced_workers] == [(1, "did not acknowledge: pause")]


async def test_a_worker_that_cannot_be_killed_is_told_truthfully(make, monkeypatch):
    bench = await make(modes={"w1": "silent"}, ack_timeout_s=0.2)
    monkeypatch.setattr("bgproxy.controlplane.workers.DEATH_BOUND_S", 0.1)
    monkeypatch.setattr(WorkerProcess, "kill", lambda self: None)
    with pytest.raises(WorkersDidNotAcknowledge, match=r"maintenance on is in force, but worker 1 \(pid \d+\)"):
        await bench.change_gate("maintenance on")
    monkeypatch.undo()
    assert bench.switcher.state == "maintenance"


async def test_while_a_switch_runs_the_gate_is_its_own(bench):
    bench.busy_with(BLUE, 1)
    switching = asyncio.create_task(bench.fence(by="ci"))
    await eventually(lambda: bench.switcher.state == "holding", "the fence")
    with pytest.raises(SwitchInProgress, match="a switch to green by ci is running"):
        await bench.change_gate("resume")
    bench.busy_with(BLUE, 0)
    await switching


async def test_maintenance_is_in_the_journal_and_a_pause_is_not(bench):
    assert (await bench.change_gate("maintenance on", by="ops", reason="database")).durable
    assert (bench.on_disk().maintenance.by, bench.on_disk().maintenance.reason) == ("ops", "database")
    await bench.change_gate("maintenance off")
    assert bench.on_disk().maintenance is None
    await bench.change_gate("pause")
    assert [entry.kind for entry in bench.on_disk().history] == ["maintenance on", "maintenance off"]


async def test_maintenance_does_not_need_a_disk(bench):
    bench.system.failing = {"fsync": errno.EIO}
    report = await bench.change_gate("maintenance on")
    assert (report.state, report.durable) == ("maintenance", False)
    assert bench.emit.of("gate_not_durable")
    bench.system.failing = {}
    await eventually(lambda: bench.journal.durable, "the return of the disk")
    assert bench.on_disk().maintenance is not None
