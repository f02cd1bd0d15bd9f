from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack

import pytest

from bgproxy.controlplane.patience import Interrupted, Patience


@pytest.fixture
async def patience():
    async with AsyncExitStack() as stack:
        yield Patience(stack)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_first_signal_asks_and_the_second_insists(patience, number):
    os.kill(os.getpid(), number)
    await patience.asked_to_stop.wait()
    assert not patience.lost.is_set()
    os.kill(os.getpid(), number)
    await patience.lost.wait()


async def test_a_hang_up_asks_for_a_reload_and_ends_nothing(patience):
    os.kill(os.getpid(), signal.SIGHUP)
    await patience.asked_to_reload.wait()
    assert not patience.asked_to_stop.is_set()


async def test_a_hang_up_is_the_end_where_the_terminal_is_all_there_is():
    async with AsyncExitStack() as stack:
        patience = Patience(stack, hang_up_ends=True)
        os.kill(os.getpid(), signal.SIGHUP)
        await patience.asked_to_stop.wait()
        assert not patience.asked_to_reload.is_set()


async def test_work_that_ends_before_a_signal_has_its_result(patience):
    async def work() -> bool:
        return True

    assert await patience.wait_for(work())


async def test_a_signal_ends_the_waiting_and_the_work(patience):
    ended = asyncio.Event()

    async def work() -> bool:
        try:
            return await asyncio.Event().wait()
        finally:
            ended.set()

    waiting = asyncio.ensure_future(patience.wait_for(work()))
    await asyncio.sleep(0)  # a turn of the loop, in which the work begins
    patience.signal()
    with pytest.raises(Interrupted):
        await waiting
    await ended.wait()
