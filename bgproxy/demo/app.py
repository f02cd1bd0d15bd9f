"""One of the two small apps of the demo: a real HTTP server that says which version it is.

    python -m bgproxy.demo.app --colour blue --release 1.0 --port 0

Prints `listening HOST:PORT` once it serves. It ends when its standard input is closed, so it cannot outlive the demo,
not even one that was killed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import os
import signal
import sys
import threading

from aiohttp import WSMsgType, web

MAX_SLEEP_S = 300.0
TICK_S = 1.0


def make_app(colour: str, release: str) -> web.Application:
    """/ · /healthz · /slow?s= · /echo · /sse · /ws"""

    async def home(_request: web.Request) -> web.Response:
        return web.Response(text=f"hello from {colour}, version {release}\n")

    async def healthz(_request: web.Request) -> web.Response:
        document = {"ok": True, "colour": colour, "release": release}
        return web.json_response(document, headers={"X-Release": release})

    async def slow(request: web.Request) -> web.Response:
        try:
            sleep_s = float(request.query.get("s", "1"))
        except ValueError:
            sleep_s = math.nan
        if not 0 <= sleep_s <= MAX_SLEEP_S:
            raise web.HTTPBadRequest(text=f"s is expected to be a number of seconds up to {MAX_SLEEP_S:g}\n")
        await asyncio.sleep(sleep_s)
        return web.Response(text=f"{colour} {release} took {sleep_s:g}s\n")

    async def echo(request: web.Request) -> web.StreamResponse:
        """Streams the body back, whatever its size."""
        answer = web.StreamResponse(headers={"Content-Type": request.content_type, "X-App-Colour": colour})
        await answer.prepare(request)
        async for part in request.content.iter_any():
            await answer.write(part)
        await answer.write_eof()
        return answer

    async def sse(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await answer.prepare(request)
        with contextlib.suppress(ConnectionError):
            for number in range(sys.maxsize):
                await answer.write(f"id: {number}\ndata: {colour} {release}\n\n".encode())
                await asyncio.sleep(TICK_S)
        return answer

    async def ws(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str(f"hello from {colour}, version {release}")
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await socket.send_str(f"{colour}: {message.data}")
        return socket

    app = web.Application(client_max_size=0)
    app.add_routes(
        [
            web.get("/", home),
            web.get("/healthz", healthz),
            web.get("/slow", slow),
            web.route("*", "/echo", echo),
            web.get("/sse", sse),
            web.get("/ws", ws),
        ]
    )
    return app


async def serve(colour: str, release: str, port: int) -> None:
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, over.set)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the demo alone decides when its apps end
    threading.Thread(target=_end_with_stdin, args=(loop, over), daemon=True).start()
    runner = web.AppRunner(make_app(colour, release), access_log=None, shutdown_timeout=1.0, keepalive_timeout=75.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    host, chosen = runner.addresses[0][:2]
    try:
        os.write(1, f"listening {host}:{chosen}\n".encode())
    except BrokenPipeError:  # who started this app has left already
        over.set()
    await over.wait()
    await runner.cleanup()


def _end_with_stdin(loop: asyncio.AbstractEventLoop, over: asyncio.Event) -> None:
    while os.read(0, 4096):
        pass
    with contextlib.suppress(RuntimeError):  # the loop is closed: it is over already
        loop.call_soon_threadsafe(over.set)


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m bgproxy.demo.app")
    options.add_argument("--colour", required=True)
    options.add_argument("--release", required=True)
    options.add_argument("--port", type=int, default=0)
    told = options.parse_args()
    asyncio.run(serve(told.colour, told.release, told.port))


if __name__ == "__main__":
    main()
