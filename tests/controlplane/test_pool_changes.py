from __future__ import annotations

import asyncio
import errno

import pytest

from bgproxy.controlplane.pool_orders import DrainOrder, SetOrder
from bgproxy.core.model import BLUE, GREEN
from bgproxy.errors import (
    BadRequest,
    DrainTimedOut,
    PoolRefused,
    StaleEpoch,
    StoreUnavailable,
    SwitchInProgress,
    UnknownUpstream,
    UpstreamNotUp,
)
from bgproxy.shm import worker_slot
from tests.support.pool_bench import PoolBench
from tests.support.proxies import eventually


@pytest.fixture
async def bench(tmp_path, monkeypatch):
    made = PoolBench(tmp_path, monkeypatch)
    await made.start()
    yield made
    await made.close()


def setting(colour, *ports, **more) -> SetOrder:
    return SetOrder(colour=colour, upstreams=[f"127.0.0.1:{port}" for port in ports], by="me", **more)


def aside(port, colour=BLUE, **more) -> DrainOrder:
    return DrainOrder(colour=colour, upstream=f"127.0.0.1:{port}", by="me", **more)


# --- other upstreams --------------------------------------------------------------------------------------------------


async def test_an_idle_pool_is_set_and_every_worker_has_it_before_the_answer(bench):
    bench.found |= {4: "", 5: "connection refused"}
    report = await bench.changes.set(setting(GREEN, 4, 5, release="2", reason="why"))
    assert {view.table_version for view in bench.workers.views()} == {2}
    assert (report.changed, report.table_version, report.source, report.release) == (True, 2, "run time", "2")
    assert (report.added, report.removed) == (("127.0.0.1:4", "127.0.0.1:5"), ("127.0.0.1:3",))
    assert [(each["up"], each["takes_traffic"]) for each in report.upstreams] == [(True, True), (False, False)]
    assert "connection refused" in report.upstreams[1]["why_not"]
    (event,) = bench.emit.of("pool_changed")
    assert (event["by"], event["reason"], event["version"]) == ("me", "why", 2)
    record = bench.record().green
    assert (record.upstreams[0], record.by) == ({"address": "127.0.0.1:4", "weight": 1}, "me")
    (entry,) = bench.journal.history()
    assert (entry["kind"], entry["by"], entry["reason"]) == ("pools", "me", "why")
    assert entry["detail"] == "green: 127.0.0.1:4, 127.0.0.1:5, release 2"
    again = await bench.changes.set(setting(GREEN, 4, 5, release="2"))
    assert (again.changed, again.table_version) == (False, 2)
    weighted = await bench.changes.set(
        SetOrder(colour=GREEN, upstreams=[{"address": "127.0.0.1:4", "weight": 2}, "127.0.0.1:5"])
    )
    assert (weighted.changed, weighted.added, weighted.release) == (True, (), "2")


async def test_an_upstream_that_never_answers_is_waited_for_no_longer_than_was_said(bench):
    report = await bench.changes.set(setting(GREEN, 4, timeout_s=0.05))
    assert report.upstreams[0]["up"] is None
    assert report.upstreams[0]["why_not"] == "never checked yet"


async def test_the_live_pool_is_changed_only_where_that_is_allowed_and_one_is_healthy(bench):
    bench.found |= {4: "down", 5: ""}
    with pytest.raises(PoolRefused, match="blue is live"):
        await bench.changes.set(setting(BLUE, 5))
    with pytest.raises(PoolRefused, match="none of its upstreams would be healthy") as refused:
        await bench.changes.set(setting(BLUE, 4, allow_live=True))
    assert refused.value.extra["failed"][0]["target"] == "blue/127.0.0.1:4"
    assert bench.is_untouched()
    assert len(bench.emit.of("pool_change_refused")) == 1
    report = await bench.changes.set(setting(BLUE, 4, 5, allow_live=True))
    assert report.changed
    assert bench.segment.health.routable(BLUE)[:4] == [False, False, False, True]


@pytest.mark.parametrize(
    "order",
    [
        SetOrder(colour=GREEN, upstreams=[]),
        SetOrder(colour=GREEN, upstreams=["nonsense"]),
        SetOrder(colour=GREEN, upstreams=["127.0.0.1:4", "127.0.0.1:4"]),
    ],
)
async def test_what_cannot_be_a_pool_is_refused_in_the_words_of_the_configuration(bench, order):
    with pytest.raises(BadRequest, match="upstreams"):
        await bench.changes.set(order)
    assert bench.is_untouched()


async def test_a_pool_too_small_for_its_gate_is_refused(bench):
    bench.file.write_text(bench.file.read_text().replace("[pools.green]", "min_healthy = 2\n[pools.green]"))
    bench.tables.config = bench.read()
    with pytest.raises(BadRequest, match="2 healthy upstreams are needed, but these are 1"):
        await bench.changes.set(setting(BLUE, 1, allow_live=True))


async def test_what_cannot_be_written_down_is_not_done(bench):
    bench.found[4] = ""
    bench.system.failing = {"write": errno.ENOSPC}
    with pytest.raises(StoreUnavailable, match="No space left on device; nothing was changed"):
        await bench.changes.set(setting(GREEN, 4))
    assert bench.is_untouched()
    bench.system.failing = {}
    assert (await bench.changes.set(setting(GREEN, 4))).changed


async def test_an_epoch_that_is_over_is_no_ground_to_stand_on(bench):
    bench.found[4] = ""
    bench.segment.live.store(3, BLUE)
    for order in (setting(GREEN, 4, if_epoch=2), setting(GREEN, 4, if_epoch=4)):
        with pytest.raises(StaleEpoch, match="the epoch is 3"):
            await bench.changes.set(order)
    with pytest.raises(StaleEpoch):
        await bench.changes.drain(aside(1, if_epoch=2))
    assert bench.is_untouched()
    assert (await bench.changes.set(setting(GREEN, 4, if_epoch=3))).changed


async def test_a_pool_that_becomes_live_while_it_is_checked_is_not_changed(bench):
    setting_it = asyncio.create_task(bench.changes.set(setting(GREEN, 4)))
    await eventually(lambda: bench.prober._considered is not None, "the first probe")
    bench.segment.live.store(1, GREEN)
    bench.found[4] = ""
    with pytest.raises(PoolRefused, match="green is live"):
        await setting_it
    assert bench.is_untouched()


async def test_a_switch_that_is_running_is_waited_for(bench):
    bench.found[4] = ""
    bench.switching = True
    with pytest.raises(SwitchInProgress):
        await bench.changes.set(setting(GREEN, 4, timeout_s=0.1))
    assert bench.is_untouched()
    waiting = asyncio.create_task(bench.changes.set(setting(GREEN, 4)))
    await eventually(lambda: bench.prober._considered is not None, "the wait")
    assert bench.tables.table.version == 1
    bench.switching = False
    assert (await waiting).changed


# --- one upstream aside -----------------------------------------------------------------------------------------------


async def test_a_drained_upstream_is_told_to_every_worker_written_down_and_enabled_again(bench):
    report = await bench.changes.drain(aside(1, reason="restart"))
    assert {view.table_version for view in bench.workers.views()} == {2}
    assert (report.changed, report.drained, report.upstreams[0]["why_not"]) == (
        True,
        "127.0.0.1:1",
        "drained by operator",
    )
    assert bench.record().drained(BLUE) == ("127.0.0.1:1",)
    assert bench.segment.health.routable(BLUE)[:2] == [False, True]
    again = await bench.changes.drain(aside(1))
    assert (again.changed, again.table_version) == (False, 2)
    assert "already" in again.detail
    back = await bench.changes.drain(aside(1, enable=True, wait=True))
    assert (back.changed, back.enabled, back.upstreams[0]["takes_traffic"]) == (True, "127.0.0.1:1", True)
    assert bench.record().drained(BLUE) == ()
    assert [bench.emit.of(name)[0]["upstream"] for name in ("upstream_drained", "upstream_enabled")] == [
        "127.0.0.1:1"
    ] * 2


async def test_the_last_that_could_take_the_traffic_is_not_drained_but_by_force(bench):
    bench.found[2] = "down"
    await eventually(lambda: bench.prober.views(BLUE)[1].up is False, "its check")
    with pytest.raises(PoolRefused, match=r"without 127\.0\.0\.1:1 nobody could take its traffic"):
        await bench.changes.drain(aside(1))
    assert bench.is_untouched()
    assert (await bench.changes.drain(aside(3, GREEN))).changed, "nobody depends on the idle pool"
    assert (await bench.changes.drain(aside(1, force=True))).changed
    assert bench.segment.health.routable(BLUE)[:2] == [False, True], "against its checks, rather than nobody"


async def test_workers_of_an_earlier_supervisor_cannot_be_told(bench, monkeypatch):
    monkeypatch.setattr(bench.orphans, "pids", lambda: (4711,))
    with pytest.raises(PoolRefused, match=r"pid 4711"):
        await bench.changes.drain(aside(1))
    assert bench.is_untouched()


async def test_the_answer_waits_until_nothing_is_in_flight_there(bench):
    cells = bench.segment.slots[0].cells
    row = worker_slot.row_cell(BLUE, 0, worker_slot.ROW_IN_FLIGHT)
    cells[row] = 2
    with pytest.raises(DrainTimedOut, match="2 requests and streams") as late:
        await bench.changes.drain(aside(1, wait=True, timeout_s=0.05))
    assert late.value.extra["remaining"] == {"in_flight": 2}
    waiting = asyncio.create_task(bench.changes.drain(aside(1, wait=True)))
    await asyncio.sleep(0)  # a turn of the loop, in which it begins to wait
    cells[row] = 0
    report = await waiting
    assert (report.changed, report.drain_s is not None) == (False, True)


async def test_who_is_enabled_meanwhile_is_waited_for_no_longer(bench):
    bench.segment.slots[0].cells[worker_slot.row_cell(BLUE, 0, worker_slot.ROW_IN_FLIGHT)] = 1
    waiting = asyncio.create_task(bench.changes.drain(aside(1, wait=True)))
    await eventually(lambda: bench.emit.of("upstream_drained"), "the drain")
    await bench.changes.drain(aside(1, enable=True))
    with pytest.raises(PoolRefused, match="enabled or removed"):
        await waiting


async def test_who_does_not_come_up_in_time_is_named(bench):
    await bench.changes.drain(aside(1))
    bench.found[1] = "connection refused"
    with pytest.raises(UpstreamNotUp, match="connection refused"):
        await bench.changes.drain(aside(1, enable=True, wait=True, timeout_s=0.3))
    assert not bench.tables.table.blue.upstreams[0].drained


async def test_an_unknown_upstream_is_answered_with_those_there_are(bench):
    with pytest.raises(UnknownUpstream) as unknown:
        await bench.changes.drain(aside(9))
    assert unknown.value.hint == "it has 127.0.0.1:1, 127.0.0.1:2"


async def test_orders_come_one_after_the_other_and_the_client_may_leave(bench):
    bench.found |= {4: "", 5: ""}
    first = asyncio.create_task(bench.changes.set(setting(GREEN, 4)))
    second = asyncio.create_task(bench.changes.set(setting(GREEN, 5)))
    await asyncio.sleep(0)  # a turn of the loop, in which both begin
    first.cancel()
    assert (await second).table_version == 3
    assert bench.ids(GREEN) == ["127.0.0.1:5"]
