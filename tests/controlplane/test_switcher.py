from __future__ import annotations

import asyncio
import errno
import signal
import subprocess
import sys

import msgspec
import pytest

from bgproxy.controlplane.operation import Operation
from bgproxy.controlplane.orders import SwitchOrder
from bgproxy.controlplane.orphans import Orphans, Record, describe, write_record
from bgproxy.controlplane.worker_process import WorkerProcess
from bgproxy.core.journal import LastSwitch, State
from bgproxy.core.model import BLUE, GREEN, Colour
from bgproxy.errors import (
    BadRequest,
    DrainTimedOut,
    FenceTimedOut,
    NothingToRollBackTo,
    StaleEpoch,
    StoreUnavailable,
    SwitchInProgress,
    SwitchRefused,
    WorkersDidNotAcknowledge,
)
from bgproxy.shm import worker_slot
from bgproxy.shm.live_pointer import Live
from tests.support.bench import Bench
from tests.support.proxies import PATIENCE_S, eventually


def order_of(bench: Bench) -> list[str]:
    return [name for name, _ in bench.emit.events if name in {"durable", "stored", "acknowledged"}]


async def test_a_switch_is_durable_then_live_then_seen_by_every_worker_then_answered(bench, monkeypatch):
    intend, publish, live = bench.journal.intend, bench.workers.publish, bench.segment.live.load

    async def intended(intent, **options):
        assert live() == Live(0, BLUE)
        await intend(intent, **options)
        bench.emit("durable")

    async def told(timeout_s, **more):
        assert live() == Live(1, GREEN)
        assert bench.on_disk().epoch == 1
        bench.emit("stored")
        silent = await publish(timeout_s, **more)
        assert bench.workers.epochs() == [1, 1]
        bench.emit("acknowledged")
        return silent

    monkeypatch.setattr(bench.journal, "intend", intended)
    monkeypatch.setattr(bench.workers, "publish", told)
    report = await bench.switch(by="ci", reason="1.3")
    assert order_of(bench) == ["durable", "stored", "acknowledged"]
    assert (report.changed, report.from_, report.to, report.epoch) == (True, "blue", "green", 1)
    assert (report.by, report.reason, report.undo) == ("ci", "1.3", "bgproxy rollback")
    assert report.durable_s > 0
    assert report.acked_s > 0
    assert report.drain_s is None
    assert (await bench.ask())[:2] == (1, "green")


async def test_what_is_on_disk_is_the_switch_with_its_author(bench):
    await bench.switch(by="ci", reason="1.3")
    state = bench.on_disk()
    assert (state.epoch, state.live_colour, state.previous_colour) == (1, GREEN, BLUE)
    assert msgspec.structs.replace(state.last_switch, at="", acked_s=None, drain_s=None, result=None) == LastSwitch(
        at="", from_="blue", to="green", kind="switch", by="ci", reason="1.3", forced=False
    )


async def test_a_rollback_goes_to_the_previous_colour_and_can_be_rolled_back_itself(bench):
    await bench.switch()
    there = await bench.rollback()
    assert (there.kind, there.from_, there.to, there.epoch) == ("rollback", "green", "blue", 2)
    back = await bench.rollback()
    assert (back.to, back.epoch) == ("green", 3)
    assert bench.switcher.previous is BLUE


async def test_without_a_switch_there_is_nothing_to_roll_back_to(bench):
    with pytest.raises(NothingToRollBackTo, match="nothing was changed"):
        await bench.rollback()


async def test_the_colour_before_a_restart_can_be_rolled_back_to(make):
    last = LastSwitch(
        at="2026-01-31T12:00:00Z", from_="blue", to="green", kind="switch", by="", reason="", forced=False
    )
    bench = await make(state=State(epoch=8, live="green", previous="blue", last_switch=last))
    assert bench.switcher.last_switch["result"] == "decided"
    assert bench.switcher.last_switch["epoch"] == 8
    assert (await bench.rollback()).epoch == 9


@pytest.mark.parametrize("options", [{}, {"force": True}, {"dry_run": True}])
async def test_a_pool_of_another_release_is_refused_even_by_force(bench, options):
    bench.prober.releases = {GREEN: "1.9"}
    with pytest.raises(SwitchRefused, match=r"its release is 1\.9") as caught:
        await bench.switch(expect_release="2.0", **options)
    assert caught.value.extra["failed"][0]["gate"] == "expected_release"
    assert bench.segment.live.load() == Live(0, BLUE)
    assert (await bench.switch(expect_release="1.9")).changed
    with pytest.raises(SwitchRefused):
        await bench.switch(GREEN, expect_release="2.0")


async def test_a_colour_that_is_live_already_is_a_success_without_a_change(bench):
    report = await bench.switch(BLUE)
    assert (report.changed, report.epoch, report.undo) == (False, 0, "")
    assert "blue is live already" in report.detail
    assert bench.on_disk() == State(epoch=0, live="blue")


async def test_a_present_epoch_passes_and_a_stale_one_changes_nothing(bench):
    await bench.switch(if_epoch=0)
    with pytest.raises(StaleEpoch, match=r"the epoch is 1 \(green is live\) and not 0; nothing was changed") as caught:
        await bench.switch(BLUE, if_epoch=0)
    assert caught.value.extra == {"epoch": 1, "live": "green"}
    assert bench.segment.live.load() == Live(1, GREEN)


@pytest.mark.parametrize("order", [SwitchOrder(kind="switch"), SwitchOrder(kind="rollback", to=GREEN)])
async def test_an_order_that_contradicts_itself_is_a_bad_request(bench, order):
    await bench.switch()
    with pytest.raises(BadRequest):
        await bench.switcher.execute(order)


# --- gates -----------------------------------------------------------------------------------------------------------


async def test_an_unhealthy_pool_is_refused_with_every_reason_and_nothing_changes(bench):
    bench.prober.down.add(GREEN)
    with pytest.raises(SwitchRefused, match=r"connection refused, 3 times in a row.*nothing was changed") as caught:
        await bench.switch()
    assert [each["gate"] for each in caught.value.extra["failed"]] == ["pool_healthy", "upstream_healthy"]
    assert bench.segment.live.load() == Live(0, BLUE)
    assert bench.on_disk() == State(epoch=0, live="blue")
    assert bench.switcher.state == "steady"


async def test_force_goes_on_and_records_what_was_overridden(bench):
    bench.prober.down.add(GREEN)
    report = await bench.switch(force=True)
    assert report.forced
    assert [each["gate"] for each in report.overridden] == ["pool_healthy", "upstream_healthy"]
    assert bench.prober.announced == [(GREEN, True)]
    assert bench.on_disk().last_switch.forced


async def test_force_that_was_not_needed_is_not_recorded_as_forced(bench):
    report = await bench.switch(force=True)
    assert (report.forced, report.overridden) == (False, ())


async def test_a_dry_run_says_what_would_happen_and_changes_nothing(bench):
    report = await bench.switch(dry_run=True)
    assert (report.dry_run, report.changed, report.to, report.epoch) == (True, False, "green", 0)
    bench.prober.down.add(GREEN)
    with pytest.raises(SwitchRefused):
        await bench.switch(dry_run=True)
    forced = await bench.switch(dry_run=True, force=True)
    assert len(forced.overridden) == 2
    assert bench.segment.live.load() == Live(0, BLUE)
    assert bench.on_disk() == State(epoch=0, live="blue")


async def test_a_worker_that_is_just_being_replaced_delays_a_switch_instead_of_refusing_it(bench):
    victim = bench.workers.living()[0]
    victim.kill()
    await eventually(lambda: bench.workers.ready < 2, "its death")
    assert (await bench.switch()).changed
    assert bench.workers.epochs() == [1, 1]


async def test_a_worker_that_stays_away_refuses_the_switch_and_not_the_rollback(make):
    bench = await make(ack_timeout_s=0.3)
    await bench.switch()
    bench.modes(w0="never-ready", w1="")
    (victim,) = [each for each in bench.workers.living() if each.number == 0]
    victim.kill()
    await eventually(lambda: bench.workers.ready < 2, "its death")
    with pytest.raises(SwitchRefused, match="worker 0"):
        await bench.switch(BLUE)
    assert (await bench.rollback()).to == "blue"


# --- the journal -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["instant", "fence", "fence-writes"])
@pytest.mark.parametrize("call", ["write", "fsync"])
async def test_a_disk_that_takes_nothing_changes_nothing_and_a_retry_works(bench, call, mode):
    bench.system.failing = {call: errno.ENOSPC}
    with pytest.raises(StoreUnavailable, match="No space left on device; nothing was changed") as caught:
        await bench.switch(mode=mode)
    assert caught.value.was_done is False
    assert bench.segment.live.load() == Live(0, BLUE)
    assert bench.workers.epochs() == [0, 0]
    assert bench.prober.announced == []
    assert bench.switcher.previous is None
    bench.system.failing = {}
    assert (await bench.switch(mode=mode)).epoch == 1
    assert bench.on_disk().epoch == 1


@pytest.mark.parametrize("mode", ["instant", "fence"])
async def test_a_rollback_does_not_need_a_disk_and_is_written_when_it_returns(bench, mode):
    await bench.switch()
    await eventually(lambda: bench.switcher.last_switch["result"] == "drained", "the drain")
    bench.system.failing = {"write": errno.EROFS}
    report = await bench.rollback(mode=mode, by="ops", reason="3 a.m.", key="k")
    assert (report.to, report.epoch, report.durable) == ("blue", 2, False)
    assert report.detail.startswith("NOT ON DISK YET: Read-only file system; a restart before it is would not come up")
    assert bench.segment.live.load() == Live(2, BLUE)
    assert (bench.on_disk().epoch, bench.on_disk().live) == (1, "green")
    assert bench.emit.of("rollback_not_durable")[0]["epoch"] == 2
    with pytest.raises(StoreUnavailable):
        await bench.switch()
    assert [entry["epoch"] for entry in bench.journal.history()] == [2, 1], "what is not on disk is told all the same"

    bench.system.failing = {}
    await eventually(lambda: bench.emit.of("journal_recovered"), "the return of the disk")
    assert bench.journal.durable
    assert (bench.on_disk().epoch, bench.on_disk().live) == (2, "blue")
    late, on_time = bench.on_disk().history[::-1]
    assert (late.kind, late.by, late.reason, late.mode, late.late) == ("rollback", "ops", "3 a.m.", mode, True)
    assert (late.at, late.result, on_time.late) == (report.at, "acknowledged", False)
    assert (await bench.switch()).durable


async def test_a_fence_that_is_taken_back_is_in_the_journal_as_that(bench):
    bench.busy_with(BLUE, 3)
    with pytest.raises(FenceTimedOut):
        await bench.fence(fence_timeout_s=0.05)
    await eventually(lambda: bench.journal.health["pending"] == 0, "its outcome")
    (entry,) = bench.on_disk().history
    assert (entry.result, entry.mode) == ("aborted", "fence")
    assert "3 requests still ran on blue" in entry.detail
    assert bench.on_disk().epoch == 0


async def test_a_fault_of_ours_before_the_cutover_is_not_completed_by_a_restart(bench, monkeypatch):
    async def broken(self):
        raise RuntimeError("bug")

    monkeypatch.setattr(Operation, "_choose_mode", broken)
    with pytest.raises(RuntimeError, match="bug"):
        await bench.switch()
    monkeypatch.undo()
    await eventually(lambda: bench.journal.health["pending"] == 0, "its outcome")
    assert (bench.on_disk().epoch, bench.on_disk().history[-1].result) == (0, "aborted")
    assert (await bench.switch()).epoch == 1


async def test_the_journal_says_what_came_of_it_and_how_long_it_took(bench):
    bench.busy_with(BLUE, 1)
    await bench.switch(reason="1.3")
    bench.busy_with(BLUE, 0)
    await eventually(lambda: bench.journal.state.history[-1].drain_s is not None, "the end of the drain")
    (entry,) = bench.on_disk().history
    assert (entry.result, entry.reason, entry.to) == ("acknowledged", "1.3", "green")
    assert entry.drain_s >= entry.acked_s > 0


# --- workers that do not answer --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["silent", "stops-on-publish"])
async def test_a_worker_that_does_not_acknowledge_is_replaced_and_named_in_a_successful_answer(make, mode):
    bench = await make(modes={"w1": mode}, ack_timeout_s=0.4)
    (victim,) = [each for each in bench.workers.living() if each.number == 1]
    bench.modes()
    report = await bench.switch()
    (replaced,) = report.replaced_workers
    assert (replaced.worker, replaced.pid) == (1, victim.pid)
    assert "did not acknowledge epoch 1 within 0.4 s" in replaced.reason
    assert victim.dead
    assert report.acked_s >= 0.4
    await eventually(lambda: bench.workers.ready == 2, "a replacement")
    assert bench.workers.epochs() == [1, 1]


async def test_a_worker_that_cannot_be_killed_is_told_truthfully(make, monkeypatch):
    bench = await make(modes={"w1": "silent"}, ack_timeout_s=0.2)
    monkeypatch.setattr("bgproxy.controlplane.workers.DEATH_BOUND_S", 0.1)
    monkeypatch.setattr(WorkerProcess, "kill", lambda self: None)
    with pytest.raises(
        WorkersDidNotAcknowledge, match=r"green is live \(epoch 1\), but worker 1 \(pid \d+\)"
    ) as caught:
        await bench.switch()
    monkeypatch.undo()
    assert (caught.value.extra["epoch"], caught.value.extra["live"]) == (1, "green")
    assert bench.segment.live.load() == Live(1, GREEN)
    assert bench.switcher.last_switch["result"] == "not_acknowledged"
    assert bench.switcher.state == "steady"


# --- one at a time, and the drain ------------------------------------------------------------------------------------


async def test_while_one_runs_another_is_refused_with_the_holder_named(make):
    bench = await make(modes={"w1": "silent"}, ack_timeout_s=0.5)
    first = asyncio.create_task(bench.switch(by="ci"))
    await eventually(lambda: bench.switcher.state == "switching", "the first switch")
    with pytest.raises(SwitchInProgress, match="a switch to green by ci is running since 20") as caught:
        await bench.switch(BLUE)
    assert caught.value.extra["holder"]["to"] == "green"
    assert (await first).changed
    assert await bench.workers.all_ready(PATIENCE_S), "the silent one was replaced"
    assert (await bench.switch(BLUE)).changed


async def test_a_client_that_goes_away_does_not_stop_half_a_switch(make):
    bench = await make(modes={"w1": "silent"}, ack_timeout_s=0.4)
    client = asyncio.create_task(bench.switch())
    await eventually(lambda: bench.segment.live.load().epoch == 1, "the cutover")
    client.cancel()
    with pytest.raises(asyncio.CancelledError):
        await client
    await eventually(lambda: bench.switcher.last_switch["result"] == "drained", "the end of the switch")
    assert len(bench.emit.of("switch_answer_unheard")) == 1
    assert len(bench.emit.of("cut_over")) == 1


async def test_waiting_for_the_drain_ends_when_the_old_colour_is_empty(bench):
    bench.busy_with(BLUE, 2)
    waiting = asyncio.create_task(bench.switch(wait="drained"))
    await eventually(lambda: bench.switcher.state == "draining", "the drain")
    assert not waiting.done()
    bench.busy_with(BLUE, 0)
    report = await waiting
    assert report.drain_s >= report.acked_s
    assert bench.switcher.last_switch["result"] == "drained"
    assert bench.switcher.last_switch["drain_s"] > 0
    assert bench.switcher.state == "steady"


async def test_a_rollback_cancels_a_drain_and_says_so(bench):
    bench.busy_with(BLUE, 2)
    await bench.switch()
    await bench.rollback()
    await eventually(lambda: bench.emit.of("drain_cancelled"), "the end of the first drain")
    assert bench.emit.of("drain_cancelled") == [{"colour": "blue", "epoch": 1, "requests": 2, "streams": 0}]
    assert bench.switcher.state == "steady"


async def test_what_becomes_of_streams_is_said_in_the_order_and_in_the_answer(bench, monkeypatch):
    told, publish = [], bench.workers.publish

    async def record(timeout_s, *, streams):
        told.append(streams)
        return await publish(timeout_s, streams=streams)

    monkeypatch.setattr(bench.workers, "publish", record)
    bench.segment.slots[0].cells[worker_slot.TUNNELS + BLUE] = 4
    report = await bench.switch(streams="keep")
    assert (report.streams, report.streams_left) == ("keep", 4)
    assert told == ["keep"]


async def test_a_drain_that_takes_too_long_says_what_remains_and_that_the_switch_is_done(bench):
    bench.busy_with(BLUE, 2)
    bench.segment.slots[1].cells[worker_slot.TUNNELS + BLUE] = 1
    with pytest.raises(
        DrainTimedOut, match=r"green is live \(epoch 1\), but after .* 2 requests still run on blue"
    ) as caught:
        await bench.switch(wait="drained", timeout_s=0.05)
    assert caught.value.extra["remaining"] == {"requests": 2, "streams": 1}
    assert bench.segment.live.load() == Live(1, GREEN)
    assert bench.switcher.last_switch["result"] == "drain_timed_out"
    with pytest.raises(DrainTimedOut):
        await bench.switch(wait="drained", timeout_s=0.0)
    bench.busy_with(BLUE, 0)
    assert (await bench.switch(wait="drained")).drain_s is not None


async def test_a_rollback_does_not_wait_for_a_drain_and_the_one_who_waits_is_told(bench):
    bench.busy_with(BLUE, 2)
    waiting = asyncio.create_task(bench.switch(wait="drained"))
    await eventually(lambda: bench.switcher.state == "draining", "the drain")
    assert (await bench.rollback()).epoch == 2
    with pytest.raises(
        StaleEpoch, match=r"to green \(epoch 1\) was done, but epoch 2 \(blue\) came before blue was drained"
    ):
        await waiting
    assert bench.switcher.last_switch["epoch"] == 2


async def test_many_orders_at_once_are_done_one_by_one_or_refused(bench):
    answers = await asyncio.gather(
        *(bench.switch(Colour(n % 2), if_epoch=0) for n in range(10)), return_exceptions=True
    )
    changed = [each for each in answers if not isinstance(each, BaseException) and each.changed]
    assert len(changed) == 1
    assert bench.segment.live.load() == Live(1, GREEN)


async def test_epochs_go_up_by_one_however_often_it_is_switched(bench):
    for epoch in range(1, 41):
        report = await bench.switch(Colour(epoch % 2))
        assert report.epoch == epoch
        assert bench.workers.epochs() == [epoch, epoch]
    assert bench.on_disk().epoch == 40


async def test_after_the_end_of_the_proxy_nothing_is_begun(bench):
    await bench.switcher.close()
    with pytest.raises(SwitchInProgress, match="shutting down"):
        await bench.switch()


async def test_a_bug_in_an_operation_does_not_block_the_next_one(bench, monkeypatch):
    async def broken(self):
        raise RuntimeError("bug")

    monkeypatch.setattr(Operation, "_check_gates", broken)
    with pytest.raises(RuntimeError, match="bug"):
        await bench.switch()
    monkeypatch.undo()
    assert (await bench.switch()).changed


async def test_workers_of_an_earlier_supervisor_refuse_a_switch_and_are_killed_for_a_rollback(make, monkeypatch):
    bench = await make(ack_timeout_s=0.1)
    await bench.switch()
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    command = [sys.executable, "-c", stubborn]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as old:  # noqa: ASYNC220  back after exec
        assert old.stdout is not None
        assert old.stdout.readline() == "up\n"
        write_record(bench.directory, Record((describe(old.pid, old.args),)))
        monkeypatch.setattr(bench.orphans, "_orphans", Orphans.find(bench.directory, emit=bench.emit)._orphans)
        with pytest.raises(SwitchRefused, match=f"still running: pid {old.pid}"):
            await bench.switch(BLUE)
        with pytest.raises(SwitchRefused, match=f"still running: pid {old.pid}"):
            await bench.switch(GREEN)  # live already, but perhaps not for everybody
        move, alive_at_the_cutover = bench.gate.move, []

        def moved(epoch, to):
            alive_at_the_cutover.append(bench.orphans.pids())
            move(epoch, to)

        monkeypatch.setattr(bench.gate, "move", moved)
        report = await bench.rollback()
        assert alive_at_the_cutover == [()]
        assert report.detail == f"workers of an earlier supervisor had to be killed: pid {old.pid}"
        assert old.wait() == -signal.SIGKILL


async def test_who_holds_its_place_is_named_to_all_and_gives_way_to_a_rollback(bench):
    await bench.switch()
    given_way = []

    async def give_way() -> None:
        given_way.append(True)
        release()

    release = bench.switcher.hold_for("upgrade", "me", give_way=give_way)
    assert bench.switcher.state == "upgrading"
    with pytest.raises(SwitchInProgress, match="an upgrade by me is running") as refused:
        await bench.switch(BLUE)
    assert refused.value.extra["holder"]["kind"] == "upgrade"
    with pytest.raises(SwitchInProgress):
        bench.switcher.hold_for("upgrade", "you", give_way=give_way)
    await bench.rollback(dry_run=True)
    assert not given_way, "a rehearsal ends nothing"
    assert (await bench.rollback()).to == "blue"
    assert given_way == [True]
    assert bench.switcher.state != "upgrading"


async def test_what_cannot_give_way_any_more_is_in_the_way_of_a_rollback_too(bench):
    await bench.switch()

    async def too_late() -> None:
        pass

    release = bench.switcher.hold_for("upgrade", "me", give_way=too_late)
    with pytest.raises(SwitchInProgress):
        await bench.rollback()
    release()
    assert (await bench.rollback()).to == "blue"
