"""An aiohttp app that streams in lock-step: it sends a token only once the client has acknowledged the last one.

    python -m tests.support.stream_app --name blue --listen 127.0.0.1:0

Starts and ends like colour_app. `GET /tokens/{framing}?stream=NAME` sends tokens, the first at once, each later one
after a `POST /acknowledge?stream=NAME`; `POST /echo` sends back each piece of its body as it comes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections import defaultdict

from aiohttp import web

TOKENS = [b"token %d;" % number for number in range(20)]


class StreamApp:
    def __init__(self) -> None:
        self._acknowledged: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(0))

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/healthz", self.fine),
            web.get("/tokens/{framing}", self.tokens),
            web.post("/acknowledge", self.acknowledge),
            web.post("/echo", self.echo),
        ]

    async def fine(self, request: web.Request) -> web.Response:
        return web.Response(text="fine")

    async def acknowledge(self, request: web.Request) -> web.Response:
        self._acknowledged[request.query["stream"]].release()
        return web.Response(text="thanks")

    async def tokens(self, request: web.Request) -> web.StreamResponse:
        framing, answer = request.match_info["framing"], web.StreamResponse()
        if framing == "close":
            return await self.tokens_until_close(request, answer)
        if framing == "length":
            answer.content_length = sum(map(len, TOKENS))
        else:
            answer.enable_chunked_encoding()
        if framing == "events":
            answer.content_type = "text/event-stream"
        await answer.prepare(request)
        for token in TOKENS:
            await answer.write(_event(token) if framing == "events" else token)
            if token is not TOKENS[-1]:  # with the last byte the proxy may use this connection for the next request
                await self._acknowledged[request.query["stream"]].acquire()
        return answer

    async def tokens_until_close(self, request: web.Request, answer: web.StreamResponse) -> web.StreamResponse:
        """Past aiohttp, which would rather send chunks."""
        transport = request.transport
        assert transport is not None
        transport.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        for token in TOKENS:
            transport.write(token)
            if token is not TOKENS[-1]:
                await self._acknowledged[request.query["stream"]].acquire()
        transport.close()
        return answer

    async def echo(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        answer.enable_chunked_encoding()
        await answer.prepare(request)
        await answer.write(b"go")  # before there is any body
        async for piece in request.content.iter_any():
            await answer.write(piece)
        return answer


def _event(token: bytes) -> bytes:
    """Every other one behind a heartbeat."""
    return (b": still there\n\n" if token[-2] % 2 else b"") + b"data: " + token + b"\n\n"


async def run(listen: str) -> None:
    app = web.Application(client_max_size=0)
    app.add_routes(StreamApp().routes())
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    host, _, port = listen.rpartition(":")
    site = web.TCPSite(runner, host, int(port))
    await site.start()
    os.write(1, f"listening {host}:{runner.addresses[0][1]}\n".encode())
    while await asyncio.to_thread(os.read, 0, 4096):
        pass
    await runner.cleanup()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--listen", default="127.0.0.1:0")
    asyncio.run(run(parser.parse_args().listen))
