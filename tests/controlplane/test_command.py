from __future__ import annotations

from contextlib import AsyncExitStack
from types import SimpleNamespace

import msgspec
import pytest

from bgproxy.controlplane.command import Command, take_command
from bgproxy.controlplane.crew import muster
from bgproxy.controlplane.openings import open_up
from bgproxy.controlplane.outlook import look_out
from bgproxy.controlplane.premises import enter
from bgproxy.controlplane.upgrade import Program
from bgproxy.core.journal import Maintenance
from bgproxy.errors import UpgradeImpossible
from tests.support.beginning import config
from tests.support.proxies import Recorder


@pytest.fixture
async def decided(tmp_path):
    here, emit = config(tmp_path), Recorder()
    async with AsyncExitStack() as stack:
        premises = await enter(here, stack, None, emit=emit)
        state = msgspec.structs.replace(premises.state, maintenance=Maintenance(at="t"))
        outlook = await look_out(here, state, stack, emit=emit)
        openings = open_up(here, premises, stack, workers_outlive=False, emit=emit)
        crew = muster(here, premises, outlook, openings, command=("/bin/false",), emit=emit)
        yield (
            here,
            take_command(
                *(here, state, premises, outlook, openings, crew, stack),
                program=Program((), ""),
                notifier=SimpleNamespace(),  # type: ignore[arg-type]
                reread=None,
                handed_over=lambda: None,
                emit=emit,
            ),
        )


async def test_it_goes_on_with_what_the_journal_says(decided):
    _, command = decided
    assert command.gate.state == command.switcher.state == "maintenance"
    with pytest.raises(UpgradeImpossible, match="demo"):
        await command.upgrade.execute("me")


async def test_a_reload_reaches_all_of_them(decided):
    here, command = decided
    assert isinstance(command, Command)
    wanted = msgspec.structs.replace(
        here,
        switch=msgspec.structs.replace(here.switch, drain_timeout=7.0, ack_timeout=3.0),
        server=msgspec.structs.replace(
            here.server, timeouts=msgspec.structs.replace(here.server.timeouts, upgrade=99.0)
        ),
    )
    command.configure(wanted)
    assert (command.drains.timeout_s, command.upgrade.timeout_s) == (7.0, 99.0)
    assert command.switcher._tools.ack_timeout_s == 3.0
    command.look_at_pools()
    assert command.checklist.snapshot().live == command.tables._segment.live.load().colour
