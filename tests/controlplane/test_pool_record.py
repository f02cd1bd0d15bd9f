from __future__ import annotations

import pytest

from bgproxy.controlplane.pool_record import ChangedPool, PoolFile, PoolRecord
from bgproxy.core.model import BLUE, GREEN
from bgproxy.errors import StateCorrupt, StoreUnavailable
from tests.support.faulty_os import FaultyOs

CHANGED = ChangedPool(
    upstreams=({"address": "127.0.0.1:1", "weight": 2},), release="2", configured="f", at="t", by="b", reason="r"
)
RECORD = PoolRecord().with_pool(GREEN, CHANGED).with_drained(BLUE, ("a", "b"))


async def test_a_record_comes_back_as_it_was_written(tmp_path):
    file = PoolFile(tmp_path)
    assert file.load_pools() == PoolRecord()
    await file.save_pools(RECORD)
    assert PoolFile(tmp_path).load_pools() == RECORD
    assert (RECORD.changed(GREEN), RECORD.changed(BLUE)) == (CHANGED, None)
    assert (RECORD.drained(BLUE), RECORD.drained(GREEN)) == (("a", "b"), ())


@pytest.mark.parametrize("text", ["", "{", '{"format": 2}', '{"unknown": 1}', '{"blue": {}}'])
async def test_a_damaged_record_is_an_error_and_not_guessed_around(tmp_path, text):
    file = PoolFile(tmp_path)
    file.path.write_text(text)
    with pytest.raises(StateCorrupt, match=r"pools\.json") as damaged:
        file.load_pools()
    assert "move it away" in damaged.value.hint


@pytest.mark.parametrize("at", range(1, 9))
async def test_where_it_cannot_be_written_the_last_one_still_is(tmp_path, at):
    await PoolFile(tmp_path).save_pools(RECORD)
    before = (tmp_path / "pools.json").read_bytes()
    with pytest.raises(StoreUnavailable, match=r"nothing was changed$"):
        await PoolFile(tmp_path, system=FaultyOs(at)).save_pools(PoolRecord())
    assert (tmp_path / "pools.json").read_bytes() == before


async def test_a_first_record_that_cannot_be_written_is_none(tmp_path):
    with pytest.raises(StoreUnavailable):
        await PoolFile(tmp_path, system=FaultyOs(7)).save_pools(RECORD)  # the fsync of the directory
    assert PoolFile(tmp_path).load_pools() == PoolRecord()


async def test_what_cannot_be_taken_back_is_told(tmp_path):
    await PoolFile(tmp_path).save_pools(RECORD)
    with pytest.raises(StoreUnavailable, match="a restart would do it"):
        await PoolFile(tmp_path, system=FaultyOs(7, once=False)).save_pools(PoolRecord())
