from __future__ import annotations

from contextlib import AsyncExitStack

import msgspec

from bgproxy.controlplane.journal import Journal
from bgproxy.controlplane.outlook import look_out, standing_hold
from bgproxy.controlplane.pool_record import ChangedPool, PoolRecord, recorded
from bgproxy.core.journal import Maintenance, State
from bgproxy.core.model import BLUE, GREEN
from bgproxy.shm.live_pointer import Hold, Live
from tests.support.beginning import config
from tests.support.proxies import Recorder


def test_maintenance_outlives_a_process():
    assert standing_hold(State(epoch=1, live="blue")) is Hold.OPEN
    assert standing_hold(State(epoch=1, live="blue", maintenance=Maintenance(at="t"))) is Hold.MAINTENANCE


async def test_the_word_is_that_of_the_journal_before_anybody_serves(tmp_path):
    async with AsyncExitStack() as stack:
        outlook = await look_out(config(tmp_path), State(epoch=7, live="green"), stack, emit=Recorder())
        assert outlook.segment.live.load() == Live(7, GREEN)
        assert await outlook.prober.all_checked(10), "checks run"


async def test_what_was_set_at_run_time_gives_way_to_another_configuration_and_that_is_written(tmp_path):
    changed = ChangedPool(
        upstreams=({"address": "127.0.0.1:9", "weight": 1},), release="", configured="other", at="t", by="", reason=""
    )
    pools = msgspec.to_builtins(PoolRecord().with_pool(BLUE, changed))
    state, emit = State(epoch=0, live="blue", pools=pools), Recorder()
    journal = Journal(tmp_path, emit=emit)
    await journal.begin(state)
    async with AsyncExitStack() as stack:
        outlook = await look_out(config(tmp_path), state, stack, emit=emit)
        assert [each["colour"] for each in emit.of("pool_from_file")] == ["blue"]
        assert [each.id for each in outlook.table.blue.upstreams] == ["127.0.0.1:1"]
        assert journal.state.pools == pools, "until it serves, that may be for another program to go on with"
        outlook.note_pools(journal, state)
        assert await journal.is_settled()
        assert recorded(journal.state) == PoolRecord()
        seq = journal.health["seq"]
        outlook.note_pools(journal, journal.state)
        assert await journal.is_settled()
        assert journal.health["seq"] == seq, "there is nothing more to write"
    journal.close()
