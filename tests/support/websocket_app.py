"""A WebSocket echo server as a process of its own, with everything switched on that the Autobahn cases ask for.

    python -m tests.support.websocket_app --name blue --listen 127.0.0.1:0

Starts and ends like colour_app.
"""

from __future__ import annotations

import argparse
import asyncio
import http
import logging
import os

# The cases send 4 MiB in frames of 64 bytes; read when websockets is imported.
os.environ["WEBSOCKETS_MAX_FRAGMENTS"] = "70000"

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response


async def echo(connection: ServerConnection) -> None:
    try:
        async for message in connection:
            await connection.send(message)
    except ConnectionClosed:  # most cases break something on purpose
        pass


def answer_probe(connection: ServerConnection, request: Request) -> Response | None:
    return connection.respond(http.HTTPStatus.OK, "fine") if request.path == "/healthz" else None


async def run(listen: str) -> None:
    logging.disable(logging.CRITICAL)
    host, _, port = listen.rpartition(":")
    async with serve(
        echo,
        host,
        int(port),
        process_request=answer_probe,
        compression="deflate",
        max_size=None,
        ping_interval=None,  # a ping of ours would be an event that no case expects
    ) as server:
        address = next(iter(server.sockets)).getsockname()
        os.write(1, f"listening {host}:{address[1]}\n".encode())
        while await asyncio.to_thread(os.read, 0, 4096):
            pass


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--listen", default="127.0.0.1:0")
    asyncio.run(run(parser.parse_args().listen))
