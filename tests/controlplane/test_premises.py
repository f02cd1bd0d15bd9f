from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from types import SimpleNamespace

import pytest

from bgproxy.controlplane.orphans import Record, describe, write_record
from bgproxy.controlplane.premises import enter
from bgproxy.controlplane.state_lock import StateLock
from bgproxy.errors import StartupError
from bgproxy.shm.bequest import Bequest
from tests.support.beginning import config
from tests.support.proxies import Recorder


async def test_what_is_found_is_let_go_again(tmp_path):
    here = config(tmp_path)
    async with AsyncExitStack() as stack:
        premises = await enter(here, stack, None, emit=Recorder())
        assert (premises.state.epoch, premises.state.live, premises.are_others_serving) == (0, "blue", False)
        with pytest.raises(StartupError, match="another bgproxy"):
            await enter(here, stack, None, emit=Recorder())
    StateLock.acquire(here.state.dir).release()


async def test_workers_that_outlived_their_supervisor_serve_meanwhile(tmp_path):
    here = config(tmp_path)
    here.state.dir.mkdir(0o700)
    process = await asyncio.create_subprocess_exec("/bin/sleep", "600")
    try:
        recorded = describe(process.pid, ("/bin/sleep", "600"))
        assert recorded is not None
        write_record(here.state.dir, Record((recorded,), ("127.0.0.1:1",)))
        async with AsyncExitStack() as stack:
            premises = await enter(here, stack, None, emit=Recorder())
            assert premises.are_others_serving
            assert premises.orphans.pids() == (process.pid,)
    finally:
        process.kill()
        await process.wait()


async def test_beside_a_predecessor_the_journal_is_looked_at_and_not_touched(tmp_path):
    here = config(tmp_path)
    async with AsyncExitStack() as stack:
        old = await enter(here, stack, None, emit=Recorder())
        path = here.state.dir / "journal.jsonl"
        torn = path.read_bytes() + b"a record that is being written"
        path.write_bytes(torn)
        predecessor = SimpleNamespace(hello=SimpleNamespace(lock_fd=old.lock.fd), bequest=Bequest())
        async with AsyncExitStack() as inner:
            new = await enter(here, inner, predecessor, emit=Recorder())  # type: ignore[arg-type]
            assert (new.has_predecessor, new.are_others_serving, new.state) == (True, True, old.state)
            assert path.read_bytes() == torn
            inner.pop_all()  # the lock is one descriptor here, and not two as between processes
            new.journal.close()
