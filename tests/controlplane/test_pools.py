from __future__ import annotations

import pytest

from bgproxy.config import load
from bgproxy.controlplane.pool_record import ChangedPool, PoolRecord
from bgproxy.controlplane.pools import as_documents, fingerprint, first_table, needed_healthy, standing
from bgproxy.core.model import BLUE, GREEN
from bgproxy.errors import StateCorrupt


@pytest.fixture
def config(tmp_path):
    def make(green='["127.0.0.1:2", "127.0.0.1:3"]', more=""):
        file = tmp_path / "bgproxy.toml"
        file.write_text(
            f'[pools.blue]\nupstreams = ["127.0.0.1:1"]\n[pools.green]\nupstreams = {green}\n'
            f'min_healthy = "all"\nbalance = "round-robin"\n{more}'
        )
        return load(file, env={"BGPROXY_STATE__DIR": str(tmp_path)})

    return make


def changed(config, *addresses, release="2"):
    return ChangedPool(
        upstreams=tuple({"address": each} for each in addresses),
        release=release,
        configured=fingerprint(config.pools.green),
        at="t",
        by="b",
        reason="r",
    )


def ids(pool):
    return [each.id for each in pool.upstreams]


def test_without_a_record_the_pools_are_those_of_the_configuration(config):
    found = standing(config(), PoolRecord())
    assert found.sources == ("file", "file")
    assert found.min_healthy == (1, 2)
    assert first_table(found) == config().pools


def test_what_was_set_at_run_time_counts_with_the_rest_of_the_configuration(config):
    record = PoolRecord().with_pool(GREEN, changed(config(), "127.0.0.1:7", "127.0.0.1:8", "127.0.0.1:9"))
    found = standing(config(), record)
    green = found.pools[GREEN]
    assert (found.sources, found.min_healthy) == (("file", "run time"), (1, 3))
    assert (ids(green), green.release, green.balance) == (
        ["127.0.0.1:7", "127.0.0.1:8", "127.0.0.1:9"],
        "2",
        "round-robin",
    )
    assert [each.index for each in first_table(found).green.upstreams] == [0, 1, 2]
    assert (found.record, found.overtaken) == (record, ())


@pytest.mark.parametrize(
    "other", [{"green": '["127.0.0.1:2"]'}, {"more": 'release = "3"\n'}, {"green": '["127.0.0.1:3", "127.0.0.1:2"]'}]
)
def test_where_the_configuration_of_the_pool_has_changed_it_wins(config, other):
    record = PoolRecord().with_pool(GREEN, changed(config(), "127.0.0.1:7"))
    found = standing(config(**other), record)
    assert (found.sources, found.overtaken) == (("file", "file"), (GREEN,))
    assert found.record == PoolRecord()


def test_who_is_drained_stays_drained_for_as_long_as_the_pool_has_it(config):
    record = PoolRecord().with_drained(GREEN, ("127.0.0.1:2", "gone")).with_drained(BLUE, ("gone",))
    found = standing(config(), record)
    assert [each.drained for each in found.pools[GREEN].upstreams] == [True, False]
    assert (found.record.drained(GREEN), found.record.drained(BLUE)) == (("127.0.0.1:2",), ())


def test_a_record_that_is_no_pool_is_an_error(config):
    with pytest.raises(StateCorrupt, match="set at run time for green is not usable"):
        standing(config(), PoolRecord().with_pool(GREEN, changed(config(), "nonsense")))


def test_upstreams_are_written_down_so_that_they_come_back(config):
    tls = config(
        '["https://a:1", {address = "https://b:1", server_name = "c", weight = 3}]', "[upstream.tls]\nverify = false\n"
    )
    assert as_documents(tls.pools.green) == (
        {"address": "https://a:1", "weight": 1},
        {"address": "https://b:1", "weight": 3, "server_name": "c"},
    )


def test_how_many_must_be_healthy(config):
    assert (needed_healthy(config(), GREEN, 5), needed_healthy(config(), BLUE, 5)) == (5, 1)
