"""Normal traffic at a fixed rate, whatever the proxy does: an open loop, so that no stall hides the next one.

python benchmarks/paced.py PORT RATE SECONDS

Most requests go over keep-alive connections, one in twenty over a new one. Prints one JSON object: sent, errors
(what went wrong, with how often), p99_ms from when a request was due to the end of its answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections import Counter

import uvloop

NEW_EVERY = 20  # one request in so many comes on a connection of its own
PATIENCE_S = 10.0
KEPT = b"GET /normal HTTP/1.1\r\nHost: bench.example\r\n\r\n"
CLOSED = b"GET /normal HTTP/1.1\r\nHost: bench.example\r\nConnection: close\r\n\r\n"

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Traffic:
    def __init__(self, port: int) -> None:
        self.port = port
        self.kept: list[Connection] = []  # free at this moment: as many as are in use at once, as with many users
        self.errors: Counter[str] = Counter()
        self.durations: list[float] = []

    async def ask(self, due: float, *, new: bool) -> None:
        """One request, timed from when it was due."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                await (self._on_new() if new else self._on_kept())
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            self.errors[f"{type(error).__name__}: {error}"[:100]] += 1
        self.durations.append(time.perf_counter() - due)

    async def _on_new(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            await _exchange(reader, writer, CLOSED)
        finally:
            await _close(writer)

    async def close(self) -> None:
        while self.kept:
            await _close(self.kept.pop()[1])

    async def _on_kept(self) -> None:
        connection = self.kept.pop() if self.kept else await asyncio.open_connection("127.0.0.1", self.port)
        keep = False
        try:
            keep = await _exchange(*connection, KEPT)
        finally:
            if keep:
                self.kept.append(connection)
            else:
                await _close(connection[1])


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bool:
    """True where the connection may be used again; ValueError for any other answer than the right one."""
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if not head.startswith(b"http/1.1 200 "):
        status, _, fields = head.partition(b"\r\n")
        reason = fields.partition(b"x-bg-reason: ")[2].partition(b"\r\n")[0]
        raise ValueError(f"{status.decode()} {reason.decode()}".strip())
    body = await reader.readexactly(2)
    if body != b"ok":
        raise ValueError(f"an answer to somebody else: {body!r}")
    return b"\r\nconnection: close\r\n" not in head


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def run(port: int, rate: float, seconds: float) -> dict[str, object]:
    traffic, count = Traffic(port), round(rate * seconds)
    began = time.perf_counter()
    async with asyncio.TaskGroup() as running:
        for number in range(count):
            due = began + number / rate
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            running.create_task(traffic.ask(due, new=number % NEW_EVERY == 0))
    await traffic.close()
    durations = sorted(traffic.durations)
    return {
        "sent": count,
        "seconds": time.perf_counter() - began,
        "errors": dict(traffic.errors),
        "p99_ms": durations[int(len(durations) * 0.99)] * 1000,
    }


if __name__ == "__main__":
    print(json.dumps(uvloop.run(run(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])))))
