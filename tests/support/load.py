"""Keep-alive clients at full speed on one loop, with a switcher on the same clock."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from typing import TYPE_CHECKING, Any

import uvloop

from tests.support.house import PATIENCE_S, ROOT, clean_environment
from tests.support.ledger import Answered, Lost, Moved

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Coroutine

REQUEST = b"GET /load HTTP/1.1\r\nHost: app.example\r\n\r\n"
_HEAD = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r]*\r\n")
_LENGTH = re.compile(rb"\r\nContent-Length: (\d+)\r\n", re.IGNORECASE)
_STAMP = re.compile(rb"\r\nX-BG-Colour: (\w+)\r\nX-BG-Epoch: (\d+)\r\n")

now = time.monotonic


class Connection(asyncio.Protocol):
    """Asks, and asks again as soon as it was answered."""

    transport: asyncio.Transport

    def __init__(self, load: Load, number: int) -> None:
        self._load, self.number = load, number
        self._received = b""
        self.started = 0.0
        self.waiting = False
        self.ends_here = False
        self.left = load.asks
        self.port = 0
        self.killed_worker = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.port = transport.get_extra_info("sockname")[1]
        self._load.connections.add(self)
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.connections.discard(self)
        if self.waiting:
            how = f"{type(exc).__name__}: {exc}" if exc else "the connection was closed"
            amount = f"after {len(self._received)} bytes of the answer" if self._received else "before any answer"
            self._load.losses.append(Lost(now(), self.number, f"{how} {amount}", self.killed_worker))
        self._load.gone()

    def data_received(self, data: bytes) -> None:
        data = self._received = self._received + data if self._received else data
        end = data.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        head = data[:end]
        status, length, stamp = _HEAD.match(head), _LENGTH.search(head), _STAMP.search(head)
        if status is None or length is None or status[1] != b"200" or stamp is None:
            self._give_up(f"the answer {head!r}")
            return
        missing = end + int(length[1]) - len(data)
        if missing > 0:
            return
        if missing < 0 or not self.waiting:
            self._give_up(f"bytes nobody asked for: {data!r}")
            return
        self._load.answers.append(
            Answered(self.started, now(), self.number, data[end:].decode(), stamp[1].decode(), int(stamp[2]))
        )
        self._received, self.waiting = b"", False
        self.left -= 1
        self.ends_here = self.left == 0 or b"\r\nConnection: close\r\n" in head
        self._ask()

    def _ask(self) -> None:
        if self._load.over or self.ends_here:
            self.transport.close()
            return
        self.waiting = True
        self.started = now()
        self.transport.write(REQUEST)

    def _give_up(self, what: str) -> None:
        self._load.losses.append(Lost(now(), self.number, what))
        self.waiting = False
        self.transport.abort()


class Load:
    """`clients` connections to one address; one that ends is replaced until the load is over. Each connection `asks` so
    many times at most; 0 is as often as it may. With `tls`, they speak it."""

    def __init__(self, port: int, clients: int = 64, *, asks: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self._port, self._clients, self._tls = port, clients, tls
        self.asks = asks
        self.answers: list[Answered] = []
        self.losses: list[Lost] = []
        self.connections: set[Connection] = set()
        self.over = False
        self.reconnects = True
        self._opened = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def run(self, work: Callable[[], Coroutine[None, None, None]]) -> None:
        """`work` on a loop of its own; whatever comes of it, no client goes on afterwards."""

        async def to_the_end() -> None:
            self.over = False
            try:
                await work()
            finally:
                self.over = True
                for connection in tuple(self.connections):
                    connection.transport.abort()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(to_the_end())

    async def start(self) -> None:
        for _ in range(self._clients):
            self._open()
        await self.until(lambda: len(self.answers) >= self._clients, "an answer per client")

    def gone(self) -> None:
        if not self.over and self.reconnects:
            self._open()

    def worker_is_killed(self, pid: int, ports: set[int]) -> int:
        """From now on these connections may break; the number of requests that are in flight on them."""
        touched = [connection for connection in self.connections if connection.port in ports]
        for connection in touched:
            connection.killed_worker = pid
        return sum(connection.waiting for connection in touched)

    async def finish(self) -> None:
        self.over = True
        await self.until(lambda: not self.connections and not self._tasks, "the last answers")

    async def until(self, condition: Callable[[], object], what: str) -> None:
        deadline = now() + PATIENCE_S
        while not condition():
            assert now() < deadline, f"{what} did not come within {PATIENCE_S:g} s; losses: {self.losses[:5]}"
            await asyncio.sleep(0.002)

    async def more(self, answers: int) -> None:
        wanted = len(self.answers) + answers
        await self.until(lambda: len(self.answers) >= wanted, f"{answers} more answers")

    def _open(self) -> None:
        self._opened += 1
        task = asyncio.get_running_loop().create_task(self._connect(self._opened))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(
                lambda: Connection(self, number),
                "127.0.0.1",
                self._port,
                ssl=self._tls,
                server_hostname="app.example" if self._tls else None,
            )
        except OSError as error:
            if self.reconnects:
                self.losses.append(Lost(now(), number, f"a new connection was refused: {error}"))


class Hand:
    """The operator's: one kept-alive connection to the admin API, or the command line. Remembers every move."""

    def __init__(self, admin: str, live: str = "blue") -> None:
        self._admin = admin
        self.moves = [Moved(0.0, 0.0, 0, live)]
        self.slowest_s = 0.0
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def connect(self) -> None:
        host, _, port = self._admin.rpartition(":")
        self._reader, self._writer = await asyncio.open_connection(host, int(port))

    async def disconnect(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    @property
    def idle(self) -> str:
        return "green" if self.moves[-1].colour == "blue" else "blue"

    async def switch(self) -> None:
        await self._move("POST", "/switch", {"to": self.idle})

    async def rollback(self) -> None:
        await self._move("POST", "/rollback", {})

    async def switch_by_command(self) -> None:
        await self._command("switch", self.idle)

    async def rollback_by_command(self) -> None:
        await self._command("rollback")

    async def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        text = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._admin}\r\nContent-Type: application/json\r\n"
        self._writer.write(head.encode() + b"Content-Length: %d\r\n\r\n" % len(text) + text)
        async with asyncio.timeout(PATIENCE_S):
            answer = await self._reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(answer)
            assert length is not None, answer
            document = json.loads(await self._reader.readexactly(int(length[1])))
        return int(answer.split(b" ", 2)[1]), document

    async def _move(self, method: str, path: str, body: dict[str, Any]) -> None:
        called = now()
        status, document = await self.ask(method, path, body)
        assert status == 200, document
        self._note(called, document)

    async def _command(self, *words: str) -> None:
        called = now()
        command = (sys.executable, "-m", "bgproxy", *words, "--admin", f"http://{self._admin}", "-o", "json")
        process = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, env=clean_environment(), stdout=asyncio.subprocess.PIPE
        )
        printed, _ = await process.communicate()
        assert process.returncode == 0, printed
        self._note(called, json.loads(printed))

    def _note(self, called: float, document: dict[str, Any]) -> None:
        assert document["changed"] is True, document
        self.moves.append(Moved(called, now(), document["epoch"], document["to"]))
        self.slowest_s = max(self.slowest_s, now() - called)
