"""How long an operator is willing to wait: until the first signal, and after it until the second."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from contextlib import AsyncExitStack

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(Exception):
    """A signal came before everything was started."""


class Patience:
    """The first signal asks for an orderly end, the second for the end. SIGHUP asks for a reload, which may come before
    there is anything to reload; with `hang_up_ends` it ends like the others: so where the terminal is all there is."""

    def __init__(self, stack: AsyncExitStack, *, hang_up_ends: bool = False) -> None:
        self.asked_to_stop = asyncio.Event()
        self.asked_to_reload = asyncio.Event()
        self.lost = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self.signal)
        loop.add_signal_handler(signal.SIGHUP, self.signal if hang_up_ends else self.asked_to_reload.set)
        for number in (*_SIGNALS, signal.SIGHUP):
            stack.callback(loop.remove_signal_handler, number)
        # An upgrade that is ordered too early is no reason to end.
        loop.add_signal_handler(signal.SIGUSR2, lambda: None)
        stack.callback(loop.remove_signal_handler, signal.SIGUSR2)

    def signal(self) -> None:
        if self.asked_to_stop.is_set():
            self.lost.set()
        self.asked_to_stop.set()

    async def wait_for(self, work: Coroutine[Any, Any, bool]) -> bool:
        """The result of `work`; Interrupted where a signal comes first."""
        task = asyncio.ensure_future(work)
        stopped = asyncio.ensure_future(self.asked_to_stop.wait())
        await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not task.done():
            task.cancel()
            raise Interrupted
        return task.result()
