"""Waiting until something that others bring about is so."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Bell:
    """Whoever changes something rings; whoever waits for something looks again."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()

    def ring(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def until(self, done: Callable[[], bool], timeout_s: float) -> bool:
        """True as soon as `done`, looked at now and after every ring; False where it was not in time."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while not done():
            waiter = loop.create_future()
            self._waiters.add(waiter)
            try:
                async with asyncio.timeout_at(deadline):
                    await waiter
            except TimeoutError:
                return done()
            finally:
                self._waiters.discard(waiter)
        return True
