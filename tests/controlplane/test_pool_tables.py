from __future__ import annotations

import asyncio

import pytest

from bgproxy.config import load
from bgproxy.controlplane import pool_tables
from bgproxy.controlplane.pool_orders import SetOrder
from bgproxy.core.gates import TABLE_ACKNOWLEDGED, PoolView, Snapshot, evaluate
from bgproxy.core.model import BLUE, GREEN
from bgproxy.errors import SwitchInProgress, WorkersDidNotAcknowledge
from tests.support.pool_bench import PoolBench
from tests.support.proxies import eventually


@pytest.fixture
async def make(tmp_path, monkeypatch):
    made = []

    async def start(modes=None, **options) -> PoolBench:
        made.append(PoolBench(tmp_path, monkeypatch, **options))
        made[-1].modes(**(modes or {}))
        await made[-1].start()
        return made[-1]

    yield start
    for each in made:
        await each.close()


def setting(*ports) -> SetOrder:
    return SetOrder(colour=GREEN, upstreams=[f"127.0.0.1:{port}" for port in ports])


async def test_a_worker_that_does_not_take_a_table_is_killed_and_its_replacement_has_it(make):
    bench = await make({"w1": "takes-one-table"}, ack="300ms")
    bench.found[4] = ""
    bench.modes()
    report = await bench.changes.set(setting(4))
    assert report.table_version == 2
    (killed,) = bench.emit.of("worker_killed")
    assert (killed["worker"], killed["reason"]) == (1, "did not take pool table 2 within 0.3 s")
    await eventually(lambda: [view.table_version for view in bench.workers.views()] == [2, 2], "the replacement")


async def test_a_change_and_an_upgrade_refuse_each_other(make):
    bench = await make()
    changing = asyncio.create_task(bench.changes.set(setting(4)))
    second = asyncio.create_task(bench.changes.set(setting(4)))
    await eventually(lambda: bench.prober._considered is not None, "the wait for a verdict")
    with pytest.raises(SwitchInProgress, match="a pool change or a reload is running"):
        bench.tables.hold_for_upgrade()
    bench.found[4] = ""
    assert (await changing).changed
    await second
    release = bench.tables.hold_for_upgrade()
    with pytest.raises(SwitchInProgress, match="an upgrade is running"):
        await bench.changes.set(setting(3))
    assert bench.ids(GREEN) == ["127.0.0.1:4"]
    release()
    assert (await bench.changes.set(setting(3))).changed


async def test_who_waits_for_his_turn_does_not_get_it_once_an_upgrade_has_begun(make):
    bench = await make()
    entered, leave = asyncio.Event(), asyncio.Event()

    async def change() -> None:
        async with bench.tables.one_change():
            entered.set()
            await leave.wait()
        bench.tables.hold_for_upgrade()

    first = asyncio.create_task(change())
    await entered.wait()
    second = asyncio.create_task(change())
    await asyncio.sleep(0)  # a turn of the loop, in which the second begins to wait
    leave.set()
    await first
    with pytest.raises(SwitchInProgress):
        await second


async def test_one_that_cannot_be_killed_is_told_and_no_row_of_its_table_is_given_to_others(make, monkeypatch):
    bench = await make({"w1": "takes-one-table"}, ack="300ms")
    bench.found |= {4: "", 5: "", 6: ""}

    async def survives(worker, reason):
        return False

    with monkeypatch.context() as patched:
        patched.setattr(bench.workers, "kill_and_replace", survives)
        with pytest.raises(WorkersDidNotAcknowledge, match="pool table 2 is in use"):
            await bench.changes.set(setting(4))
        assert bench.ids(GREEN) == ["127.0.0.1:4"], "it is done all the same"
        with pytest.raises(WorkersDidNotAcknowledge):
            await bench.changes.set(setting(5))
    assert [each.index for each in bench.tables.table.green.upstreams] == [2], "0 is still that of 3 for a worker"
    await bench.changes.set(setting(6))
    await bench.changes.set(setting(4))
    assert [each.index for each in bench.tables.table.green.upstreams] == [0], "it is dead: all rows are free again"


async def test_a_switch_is_refused_from_the_announcement_on(make):
    bench = await make()
    bench.found[4] = ""
    refused: list[bool] = []
    save = bench.persisted.save_pools

    async def look_and_save(record, note):
        view = PoolView(0, ())
        now = Snapshot(
            live=BLUE,
            epoch=0,
            blue=view,
            green=view,
            table_version=bench.workers.table_version,
            workers=bench.workers.views(),
        )
        refused.append(not next(each for each in evaluate(now, GREEN) if each.gate == TABLE_ACKNOWLEDGED).passed)
        await save(record, note)

    bench.persisted.save_pools = look_and_save
    await bench.changes.set(setting(4))
    assert refused == [True]


async def test_whoever_wants_to_know_is_told_once_it_holds(make):
    bench = await make()
    bench.found[4] = ""
    told: list[int] = []
    bench.tables.adopted = lambda: told.append(bench.tables.table.version)
    await bench.changes.set(setting(4))
    assert told == [2]
    assert bench.tables.facts(GREEN)["changed"]["by"] == ""
    assert bench.tables.facts(BLUE) == {"source": "file", "table_version": 2, "changed": None}


def test_upstreams_over_tls_are_asked_over_tls(tmp_path):
    file = tmp_path / "bgproxy.toml"
    text = (
        '[pools.blue]\nupstreams = ["{}"]\n[pools.green]\nupstreams = ["127.0.0.1:2"]\n[upstream.tls]\nverify = false\n'
    )
    contexts = []
    for address in ("https://127.0.0.1:1", "127.0.0.1:1"):
        file.write_text(text.format(address))
        config = load(file, env={"BGPROXY_STATE__DIR": str(tmp_path)})
        contexts.append(pool_tables.probe_of(config, config.pools).keywords["tls"])
    assert contexts[0] is not None
    assert contexts[1] is None
