"""Clients of the admin API that all want to switch, and what they were told."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Any

import aiohttp

from tests.support.linearizability import Operation, Word

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

OTHER = {"blue": "green", "green": "blue"}


class Racers:
    """`history` holds every operation that was answered, and every change that may have happened unanswered."""

    def __init__(self, socket: Path, count: int) -> None:
        self.history: list[Operation] = []
        self.unexpected: list[object] = []
        self._socket, self._count = socket, count
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Racers:
        connector = aiohttp.UnixConnector(str(self._socket), limit=self._count)
        self._session = aiohttp.ClientSession(connector=connector)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()

    async def read(self) -> Word | None:
        called = time.monotonic()
        answer = await self._ask("GET", "/status", None)
        if answer is None:
            return None
        word = (answer[1]["epoch"], answer[1]["live"])
        self.history.append(Operation(called, time.monotonic(), word))
        return word

    async def change(self, expected: int, to: str, *, mode: str = "instant") -> bool:
        """Compare-and-set; True where this one did it."""
        called = time.monotonic()
        answer = await self._ask("POST", "/switch", {"to": to, "if_epoch": expected, "mode": mode})
        if answer is None:
            self.history.append(Operation(called, to=to, expected=expected))
            return False
        status, document = answer
        if status == 200:
            done = document["changed"]
            if not done and document["epoch"] != expected:
                self.unexpected.append(document)  # a success under another epoch than the one that was asked for
            self.history.append(
                Operation(called, time.monotonic(), (document["epoch"], document["to"]), to, expected, done)
            )
            return bool(done)
        if document["code"] == "stale_epoch":
            word = (document["epoch"], document["live"])
            self.history.append(Operation(called, time.monotonic(), word, to, expected))
        elif document["code"] not in {"switch_in_progress", "switch_refused"}:
            self.unexpected.append(document)
            self.history.append(Operation(called, to=to, expected=expected))
        return False

    async def race(self, expected: int, to: str, *, mode: str = "instant") -> int:
        """All at once; how many of them did it."""
        return sum(await asyncio.gather(*(self.change(expected, to, mode=mode) for _ in range(self._count))))

    async def wander(self, until: asyncio.Event, chance: random.Random) -> None:
        """One client that reads and switches on what it read, until it is told to stop."""
        while not until.is_set():
            word = await self.read()
            if word is None:
                await asyncio.sleep(0.01)  # nobody there just now: asked again
            elif chance.random() < 0.5:
                await self.change(word[0], OTHER[word[1]], mode=chance.choice(["instant", "fence"]))

    async def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None
    ) -> tuple[int, Mapping[str, Any]] | None:
        """Status and document; None where no answer came."""
        assert self._session is not None
        try:
            async with self._session.request(method, f"http://localhost{path}", json=body) as answer:
                return answer.status, await answer.json(content_type=None)
        except (aiohttp.ClientError, OSError, ValueError):
            return None
