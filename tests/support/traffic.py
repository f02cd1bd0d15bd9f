"""Clients that ask at random, and an operator who switches at random: what was answered, by whom, and when."""

from __future__ import annotations

import asyncio
import contextlib
import time
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

import uvloop

from tests.support.house import PATIENCE_S
from tests.support.load import Hand

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

METHODS = ("GET", "GET", "GET", "HEAD", "POST", "POST", "PUT", "DELETE")
MODES = ("instant", "fence", "fence", "fence-writes")


class Answer(NamedTuple):
    """`path` is asked once only; `colour` is what the app calls itself, None where it said nothing (HEAD)."""

    path: str
    colour: str | None
    at: float


class Traffic:
    """`clients` ask, wait for the answer, and ask again, on the same connection as long as it lasts. Upstreams take up
    to `slowest_ms`."""

    def __init__(self, port: int, seed: int, *, clients: int = 12, slowest_ms: int = 60) -> None:
        self._port, self._clients, self._slowest_ms = port, clients, slowest_ms
        self._random = Random(seed)
        self._number = 0
        self._over = False
        self.answers: list[Answer] = []
        self.refused: list[int] = []
        self.broken = 0  # connections that ended before the answer

    def run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """`work` beside the clients; they end after it."""

        async def everything() -> None:
            async with asyncio.TaskGroup() as group, asyncio.timeout(10 * PATIENCE_S):
                for _ in range(self._clients):
                    group.create_task(self._client())
                try:
                    await work()
                finally:
                    self._over = True

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(everything())

    async def more(self, answers: int) -> None:
        wanted, deadline = len(self.answers) + answers, time.monotonic() + PATIENCE_S
        while len(self.answers) < wanted:
            assert time.monotonic() < deadline, f"{answers} more answers did not come within {PATIENCE_S:g} s"
            await asyncio.sleep(0.002)

    async def _client(self) -> None:
        while not self._over:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                try:
                    while not self._over and await self._ask(reader, writer):
                        pass
                except (asyncio.IncompleteReadError, ConnectionError):
                    self.broken += 1
                finally:
                    writer.close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """False where the connection is over."""
        random = self._random
        self._number += 1
        method, path = random.choice(METHODS), f"/r/{self._number}/{random.randint(0, self._slowest_ms)}"
        head = f"{method} {path} HTTP/1.1\r\nHost: app.example\r\n"
        body = b""
        if method in ("POST", "PUT"):
            body = b"x" * random.choice((0, 1, 900, 70_000))
            head += f"Content-Length: {len(body)}\r\n"
        if random.random() < 0.1:
            head += "Connection: close\r\n"
        writer.write(head.encode() + b"\r\n" + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        status, fields = int(answer[9:12]), answer.lower()
        length = int(fields.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        said = b"" if method == "HEAD" else await reader.readexactly(length)
        if status == 200:
            self.answers.append(Answer(path, said.decode() or None, time.monotonic()))
        else:
            self.refused.append(status)
        return b"\r\nconnection: close" not in fields


class Operator:
    """Orders at random, and remembers what was done. Every answer is taken: whether an order was carried out is for the
    journal to say."""

    def __init__(self, admin: str, seed: int) -> None:
        self._hand, self._random = Hand(admin), Random(seed)
        self.done: list[dict[str, Any]] = []
        self.refused: list[dict[str, Any]] = []

    async def __aenter__(self) -> Operator:
        await self._hand.connect()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._hand.disconnect()

    async def move(self, **more: Any) -> None:
        """A switch to the other colour, or a rollback, in a mode of its own choice."""
        mode = self._random.choice(MODES)
        _, status = await self._hand.ask("GET", "/status")
        kind = "rollback" if self.done and self._random.random() < 0.3 else "switch"
        body = {"mode": mode, **more}
        if kind == "switch":
            body["to"] = "green" if status["live"] == "blue" else "blue"
        code, document = await self._hand.ask("POST", f"/{kind}", body)
        if code == 200 and document["changed"]:
            self.done.append(document)
        else:
            self.refused.append(document)

    async def worker(self) -> int:
        """Somebody's pid, if there is one just now; else 0."""
        _, status = await self._hand.ask("GET", "/status")
        return self._random.choice(status["workers"]["pids"]) or 0
