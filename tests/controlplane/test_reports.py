"""What is told after a reload; tests/e2e/test_reload.py and test_pools.py have the rest from outside."""

from __future__ import annotations

from contextlib import AsyncExitStack
from types import SimpleNamespace

import aiohttp
import msgspec

from bgproxy.controlplane.command import take_command
from bgproxy.controlplane.crew import muster
from bgproxy.controlplane.events import Events
from bgproxy.controlplane.openings import open_up
from bgproxy.controlplane.outlook import look_out
from bgproxy.controlplane.premises import enter
from bgproxy.controlplane.reports import open_admin
from bgproxy.controlplane.upgrade import Program
from tests.support.beginning import config


async def test_status_says_what_holds_now(tmp_path, monkeypatch):
    here, events = config(tmp_path), Events()
    emit = events.emit
    async with AsyncExitStack() as stack:
        premises = await enter(here, stack, None, emit=emit)
        outlook = await look_out(here, premises.state, stack, emit=emit)
        openings = open_up(here, premises, stack, workers_outlive=False, emit=emit)
        crew = muster(here, premises, outlook, openings, command=("/bin/false",), emit=emit)
        command = take_command(
            *(here, premises.state, premises, outlook, openings, crew, stack),
            program=Program((), ""),
            notifier=SimpleNamespace(),  # type: ignore[arg-type]
            reread=None,
            handed_over=lambda: None,
            emit=emit,
        )
        admin = await open_admin(here, premises.state, premises, outlook, openings, crew, command, stack, events=events)

        async def file_of_status() -> str:
            url = f"http://{admin.address}/status"
            async with aiohttp.ClientSession() as session, session.get(url) as response:
                return str((await response.json())["config"])

        before = await file_of_status()
        source = msgspec.structs.replace(here.source, sha256="f" * 64)
        command.tables.config = msgspec.structs.replace(here, source=source)
        command.tables.adopted()
        assert await file_of_status() != before
        assert "f" * 64 in await file_of_status()
