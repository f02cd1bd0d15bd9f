from __future__ import annotations

import errno

import pytest

from bgproxy.controlplane.journal import Journal
from bgproxy.controlplane.pool_record import ChangedPool, KeptPools, Note, PoolRecord, recorded
from bgproxy.core.journal import State
from bgproxy.core.model import BLUE, GREEN
from bgproxy.errors import StateCorrupt, StoreUnavailable
from tests.support.faulty_os import MoodyOs

CHANGED = ChangedPool(
    upstreams=({"address": "127.0.0.1:1", "weight": 2},), release="2", configured="f", at="t", by="b", reason="r"
)
RECORD = PoolRecord().with_pool(GREEN, CHANGED).with_drained(BLUE, ("a", "b"))
NOTE = Note(what="green: 127.0.0.1:1=2", by="b", reason="r")
BEGIN = State(epoch=7, live="blue")


@pytest.fixture
async def journal(tmp_path):
    made = Journal(tmp_path, system=MoodyOs())
    await made.begin(BEGIN)
    yield made
    made._os.failing = {}
    made.close()


def found(tmp_path) -> State:
    again = Journal(tmp_path)
    state = again.load()
    again.close()
    return state


async def test_a_record_comes_back_as_it_was_written(journal, tmp_path):
    assert recorded(BEGIN) == PoolRecord()
    kept = KeptPools(journal)
    await kept.save_pools(RECORD, NOTE)
    assert recorded(found(tmp_path)) == RECORD
    assert (RECORD.changed(GREEN), RECORD.changed(BLUE)) == (CHANGED, None)
    assert (RECORD.drained(BLUE), RECORD.drained(GREEN)) == (("a", "b"), ())
    await kept.save_pools(PoolRecord(), NOTE)
    assert found(tmp_path).pools is None


async def test_it_is_in_the_history_with_what_who_and_why(journal):
    await KeptPools(journal).save_pools(RECORD, NOTE)
    (entry,) = journal.history()
    assert {key: entry[key] for key in ("kind", "epoch", "by", "reason", "detail")} == {
        "kind": "pools",
        "epoch": 7,
        "by": "b",
        "reason": "r",
        "detail": "green: 127.0.0.1:1=2",
    }


async def test_where_it_cannot_be_written_the_last_one_still_counts(journal, tmp_path):
    kept = KeptPools(journal)
    await kept.save_pools(RECORD, NOTE)
    journal._os.failing = {"fsync": errno.EIO}
    with pytest.raises(StoreUnavailable, match="nothing was changed"):
        await kept.save_pools(PoolRecord(), NOTE)
    journal._os.failing = {}
    assert recorded(found(tmp_path)) == RECORD


async def test_what_a_start_finds_by_itself_is_written_when_the_disk_takes_it(journal, tmp_path):
    await KeptPools(journal).save_pools(RECORD, NOTE)
    KeptPools(journal).note(PoolRecord(), NOTE)
    assert journal.durable, "a restart would find the same"
    assert await journal.is_settled()
    assert recorded(found(tmp_path)) == PoolRecord()


@pytest.mark.parametrize("document", [[], {"unknown": 1}, {"blue": {}}, "green"])
def test_what_is_not_a_record_is_an_error_and_not_guessed_around(document):
    with pytest.raises(StateCorrupt, match="cannot be read in the journal"):
        recorded(State(epoch=7, live="blue", pools=document))
