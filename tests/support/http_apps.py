"""Small servers on loopback for tests: an aiohttp app, or a script of raw bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from bgproxy.core.model import Address


@asynccontextmanager
async def http_app(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]], host: str = "127.0.0.1"
) -> AsyncIterator[Address]:
    """Every path goes to `handler`; yields the address."""
    runner = web.ServerRunner(web.Server(handler))
    await runner.setup()
    try:
        await web.TCPSite(runner, host, 0).start()
        yield Address(host=host, port=runner.addresses[0][1])
    finally:
        await runner.cleanup()


@asynccontextmanager
async def raw_server(answer: bytes | None, path: Path | None = None) -> AsyncIterator[Address]:
    """Reads a request head, writes `answer` and closes; None never answers."""
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            if answer is None:
                await over.wait()
            else:
                writer.write(answer)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    if path is not None:
        server = await asyncio.start_unix_server(serve, path)
        address = Address(path=str(path))
    else:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = Address(host="127.0.0.1", port=server.sockets[0].getsockname()[1])
    try:
        yield address
    finally:
        over.set()
        server.close()
        await server.wait_closed()


async def eventually(condition: Callable[[], bool], *, within_s: float = 10.0) -> None:
    """Polls a condition; TimeoutError when it does not come true in time."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - most of what tests wait for sets no event
            await asyncio.sleep(0.005)
