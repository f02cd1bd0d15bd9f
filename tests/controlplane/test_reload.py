from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from bgproxy.config.certificates import Tls
from bgproxy.controlplane import reload as module
from bgproxy.controlplane.certificates import Certificates
from bgproxy.controlplane.pool_orders import SetOrder
from bgproxy.controlplane.reload import Reload
from bgproxy.core.model import BLUE, GREEN
from bgproxy.errors import ConfigurationRefused, NothingToReload, PoolRefused
from tests.support.pool_bench import PoolBench
from tests.support.proxies import eventually


class Bench(PoolBench):
    def __init__(self, directory, monkeypatch) -> None:
        super().__init__(directory, monkeypatch)
        monkeypatch.setattr(module, "probe_of", lambda config, table: self.probe)
        self.applied, self.told = [], []
        self.certificates = Certificates(Tls(), emit=self.emit)
        self.reload = self.reload_with(self.read)

    def reload_with(self, reread) -> Reload:
        reload = Reload(
            reread,
            self.tables,
            self.segment,
            self.certificates,
            emit=self.emit,
            notifier=SimpleNamespace(reloading=self.told.append, ready=self.told.append),  # type: ignore[arg-type]
            describe=lambda: "as it is",
        )
        reload.applied = self.applied.append
        return reload

    def replace(self, old: str, new: str) -> None:
        text = self.file.read_text()
        assert old in text
        self.file.write_text(text.replace(old, new))


@pytest.fixture
async def bench(tmp_path, monkeypatch):
    made = Bench(tmp_path, monkeypatch)
    await made.start()
    yield made
    await made.close()


async def test_all_of_it_is_in_use_before_the_answer(bench):
    bench.found[4] = ""
    bench.replace('["127.0.0.1:3"]', '["127.0.0.1:4"]')
    bench.file.write_text(bench.file.read_text() + "[upstream]\nretries = 3\n[server]\nworkers = 9\n")
    report = await bench.reload.execute("me")
    assert {view.table_version for view in bench.workers.views()} == {2}
    assert {each.key: each.new for each in report.changes} == {
        "upstream.retries": 3,
        "pools.green.upstreams": ["127.0.0.1:4"],
    }
    assert [each.key for each in report.needs_restart] == ["server.workers"]
    assert bench.workers._configure.settings.upstream.retries == 3
    assert bench.tables.config == bench.applied[-1]
    assert report.sha256 == bench.tables.config.source.sha256
    assert bench.reload.results == {"ok": 1, "refused": 0}
    (said,) = bench.emit.of("reloaded")
    assert "pools.green.upstreams: [127.0.0.1:3] → [127.0.0.1:4]" in said["changed"]
    assert len(bench.emit.of("reload_needs_restart")) == 1
    assert bench.told == ["reading the configuration again", "as it is"]


async def test_a_file_with_problems_changes_nothing(bench):
    bench.replace("rise = 1", "rise = 0\nfell = 2")
    with pytest.raises(ConfigurationRefused) as refused:
        await bench.reload.execute("me")
    assert len(refused.value.extra["problems"]) == 2
    assert bench.is_untouched()
    assert (bench.applied, bench.reload.results) == ([], {"ok": 0, "refused": 1})
    assert bench.told == ["reading the configuration again", "as it is"], "a service manager does not wait for ever"
    assert bench.emit.of("reload_refused")[0]["problems"] == refused.value.extra["problems"]


async def test_the_live_pool_of_a_file_needs_a_healthy_upstream_and_no_other_permission(bench):
    bench.found |= {4: "down", 5: ""}
    bench.replace('["127.0.0.1:1", "127.0.0.1:2"]', '["127.0.0.1:4"]')
    with pytest.raises(PoolRefused, match="none of its upstreams would be healthy"):
        await bench.reload.execute("me")
    assert bench.is_untouched()
    assert bench.applied == []
    bench.replace('"127.0.0.1:4"', '"127.0.0.1:5"')
    await bench.reload.execute("me")
    assert bench.ids(BLUE) == ["127.0.0.1:5"]


async def test_another_probe_that_nobody_live_passes_is_refused(bench, monkeypatch):
    async def by_path(address, settings):
        check = await bench.probe(address, settings)
        return type(check)(at="t", duration_s=0, error="answered 404" if settings.path == "/gone" else check.error)

    monkeypatch.setattr(module, "probe_of", lambda config, table: by_path)
    bench.replace("rise = 1", 'path = "/gone"\nrise = 1')
    with pytest.raises(ConfigurationRefused) as refused:
        await bench.reload.execute("me")
    assert len(refused.value.extra["problems"]) == 2
    bench.found |= {1: "down", 2: "down"}  # then it cannot make things worse
    assert (await bench.reload.execute("me")).changed


async def test_other_probes_are_used_at_once(bench):
    bench.replace('interval = "50ms"\nrise = 1\nfall = 1', 'interval = "60ms"\nrise = 1\nfall = 1000')
    await bench.reload.execute("me")
    bench.found[1] = "down"
    await eventually(
        lambda: bench.prober.views(BLUE)[0].consecutive >= 3 and bench.prober.views(BLUE)[0].error, "checks"
    )
    assert bench.prober.views(BLUE)[0].up is True


async def test_what_was_set_at_run_time_counts_until_the_file_of_that_pool_changes(bench):
    bench.found |= {4: "", 5: ""}
    await bench.changes.set(SetOrder(colour=GREEN, upstreams=["127.0.0.1:4"]))
    bench.replace("fall = 1", "fall = 2")
    await bench.reload.execute("me")
    assert bench.ids(GREEN) == ["127.0.0.1:4"]
    bench.replace('["127.0.0.1:3"]', '["127.0.0.1:5"]')
    await bench.reload.execute("me")
    assert bench.ids(GREEN) == ["127.0.0.1:5"]
    assert bench.tables.standing.sources == ("file", "file")
    assert bench.record().green is None
    assert [each["colour"] for each in bench.emit.of("pool_from_file")] == ["green"]


async def test_an_access_log_that_nobody_could_open_is_a_problem(bench):
    bench.file.write_text(bench.file.read_text() + f'[log]\naccess = "json"\naccess_file = "{bench.file}/log"\n')
    with pytest.raises(ConfigurationRefused) as refused:
        await bench.reload.execute("me")
    assert "access_file" in refused.value.extra["problems"][0]
    assert bench.is_untouched()


async def test_a_signal_reloads_and_survives_what_comes_of_it(bench):
    asked = asyncio.Event()
    following = asyncio.create_task(bench.reload.follow(asked))
    good = bench.file.read_text()
    bench.file.write_text("nonsense")
    asked.set()
    await eventually(lambda: bench.reload.results["refused"] == 1, "the refusal")
    bench.file.write_text(good)
    asked.set()
    await eventually(lambda: bench.reload.results["ok"] == 1, "the reload")
    following.cancel()
    faulty = bench.reload_with(lambda: 1 // 0)
    await faulty.on_signal()
    assert "ZeroDivisionError" in bench.emit.of("reload_refused")[-1]["problems"][0]
    await faulty.close()


async def test_without_a_file_there_is_nothing_to_reload_but_certificates_are_looked_at(bench, monkeypatch):
    looked = []
    monkeypatch.setattr(bench.certificates, "reload", lambda: looked.append(True))
    without = bench.reload_with(None)
    with pytest.raises(NothingToReload):
        await without.execute("me")
    assert looked == []
    await without.on_signal()
    assert looked == [True]
    assert bench.is_untouched()
