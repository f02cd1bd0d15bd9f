"""Who serves, and who decides about it; tests/test_supervisor.py has the whole of it with workers."""

from __future__ import annotations

from contextlib import AsyncExitStack

from bgproxy.controlplane.crew import muster
from bgproxy.controlplane.openings import open_up
from bgproxy.controlplane.outlook import look_out
from bgproxy.controlplane.premises import enter
from tests.support.beginning import config
from tests.support.proxies import Recorder


async def test_nobody_is_started_and_everybody_will_be_recorded(tmp_path):
    here, emit = config(tmp_path), Recorder()
    async with AsyncExitStack() as stack:
        premises = await enter(here, stack, None, emit=emit)
        outlook = await look_out(here, premises.state, stack, emit=emit)
        openings = open_up(here, premises, stack, workers_outlive=False, emit=emit)
        crew = muster(here, premises, outlook, openings, command=("/bin/false",), emit=emit)
        assert (crew.workers.configured, crew.workers.living()) == (2, [])
        assert outlook.certificates.tell == crew.workers.certify
        assert premises.orphans.changed == crew.records.write
        await crew.records.record()
        assert (here.state.dir / "workers.json").exists()
