"""An upstream for real clients, as a process of its own: it says what it was sent, and streams, pauses and redirects.

    python -m tests.support.echo_app --name blue --listen 127.0.0.1:0

Prints `listening ADDRESS` once it serves; ends when its standard input is closed, so it cannot outlive the test.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import hashlib
import os
import random
import threading
from collections import defaultdict
from pathlib import Path

from aiohttp import WSMsgType, web

GZIPPED = gzip.compress(b"compressed by the application\n" * 1000, mtime=0)
LARGE = random.Random(7).randbytes(8 << 20)
LARGE_SHA256 = hashlib.sha256(LARGE).hexdigest()
PAGE = Path(__file__).with_name("browser_client.html")
SCRIPT = Path(__file__).with_name("exercise.mjs")


class EchoApp:
    """`/app/paused`, `/app/release`, `/app/done` and `/app/finish` are words of the test: see house.App."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._paused = 0
        self._released = asyncio.Event()
        self._done = 0
        self._finished = asyncio.Event()
        self._steps: defaultdict[str, asyncio.Queue[None]] = defaultdict(asyncio.Queue)
        self.web = web.Application(client_max_size=64 << 20, middlewares=[self._sign])
        self.web.router.add_get("/app/{word}", self._told)
        self.web.router.add_get("/healthz", self._healthy)
        self.web.router.add_route("*", "/echo", self._echo)
        self.web.router.add_get("/pause", self._pause)
        self.web.router.add_get("/gzip", self._gzip)
        self.web.router.add_get("/large", self._large)
        self.web.router.add_get("/stream", self._stream)
        self.web.router.add_route("*", "/step", self._step)
        self.web.router.add_get("/wait", self._wait)
        self.web.router.add_post("/done", self._page_is_done)
        self.web.router.add_get("/events", self._events)
        self.web.router.add_get("/ws", self._websocket)
        self.web.router.add_route("*", "/redirect/{status}", self._redirect)
        self.web.router.add_get("/login", self._login)
        self.web.router.add_get("/page", self._page)
        self.web.router.add_get("/exercise.mjs", self._script)

    @web.middleware
    async def _sign(self, request: web.Request, handler: object) -> web.StreamResponse:
        response: web.StreamResponse = await handler(request)  # type: ignore[operator]
        if not response.prepared:
            response.headers["X-App"] = self.name
        return response

    async def _told(self, request: web.Request) -> web.Response:
        word = request.match_info["word"]
        if word == "release":
            self._released.set()
            self._released = asyncio.Event()
        elif word == "finish":
            self._finished.set()
        return web.Response(text=str(self._done if word == "done" else self._paused))

    async def _healthy(self, _: web.Request) -> web.Response:
        return web.Response(text="fine")

    async def _echo(self, request: web.Request) -> web.Response:
        body = await request.read()
        return web.json_response(
            {
                "app": self.name,
                "method": request.method,
                "target": request.raw_path,
                "fields": [[name.lower(), value] for name, value in request.headers.items()],
                "cookies": dict(request.cookies),
                "length": len(body),
                "sha256": hashlib.sha256(body).hexdigest(),
            }
        )

    async def _pause(self, request: web.Request) -> web.Response:
        """Answers once the test says so: what comes before it and what comes behind it is certain then."""
        self._paused += 1
        try:
            await self._released.wait()
        finally:
            self._paused -= 1
        return await self._echo(request)

    async def _gzip(self, _: web.Request) -> web.Response:
        return web.Response(body=GZIPPED, headers={"Content-Encoding": "gzip", "Content-Type": "text/plain"})

    async def _large(self, _: web.Request) -> web.Response:
        return web.Response(body=LARGE, headers={"X-SHA256": LARGE_SHA256})

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        """Three pieces, the next one only once the client has asked for it at /step: whoever buffers waits for ever."""
        response = web.StreamResponse()
        await response.prepare(request)
        for number in range(3):
            await response.write(b"piece %d\n" % number)
            if number < 2:
                await self._steps[request.query["id"]].get()
        return response

    async def _step(self, request: web.Request) -> web.Response:
        self._steps[request.query["id"]].put_nowait(None)
        return web.Response(text="ok")

    async def _wait(self, _: web.Request) -> web.Response:
        """An image that keeps a page loading."""
        await self._finished.wait()
        return web.Response(status=404)

    async def _page_is_done(self, _: web.Request) -> web.Response:
        self._done += 1
        return web.Response(text="ok")

    async def _events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        await response.prepare(request)
        for number in range(3):
            await response.write(b"id: %d\ndata: event %d\n\n" % (number, number))
        await response.write(b"event: over\ndata: x\n\n")
        return response

    async def _websocket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=("echo",))
        await socket.prepare(request)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await socket.send_str(f"{self.name}: {message.data}")
            else:
                await socket.send_bytes(message.data)
        return socket

    async def _redirect(self, request: web.Request) -> web.Response:
        return web.Response(status=int(request.match_info["status"]), headers={"Location": "/echo?redirected"})

    async def _login(self, _: web.Request) -> web.Response:
        response = web.Response(status=302, headers={"Location": "/echo?in"})
        response.set_cookie("session", "s3cret", httponly=True)
        response.set_cookie("theme", "dark")
        return response

    async def _page(self, _: web.Request) -> web.Response:
        return web.Response(text=PAGE.read_text(), content_type="text/html")

    async def _script(self, _: web.Request) -> web.Response:
        return web.Response(text=SCRIPT.read_text(), content_type="text/javascript")


async def serve(name: str, listen: str) -> None:
    over = asyncio.Event()
    loop = asyncio.get_running_loop()

    def end_with_stdin() -> None:
        while os.read(0, 4096):
            pass
        loop.call_soon_threadsafe(over.set)

    threading.Thread(target=end_with_stdin, daemon=True).start()
    runner = web.AppRunner(EchoApp(name).web, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    host, _, port = listen.rpartition(":")
    await web.TCPSite(runner, host, int(port)).start()
    os.write(1, f"listening {host}:{runner.addresses[0][1]}\n".encode())
    await over.wait()
    await runner.cleanup()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--listen", default="127.0.0.1:0")
    options = parser.parse_args()
    asyncio.run(serve(options.name, options.listen))
