"""An upstream that answers with its colour: python benchmarks/colour.py COLOUR PORT

GET /control/slow?ms=N makes every later answer wait. Small and raw, so that the load is the proxy's.
"""

from __future__ import annotations

import asyncio
import re
import sys
from typing import cast

import uvloop

_SLOW = re.compile(rb"GET /control/slow\?ms=(\d+) ")


class Colour(asyncio.Protocol):
    """One connection. Pipelined or split heads do not occur: every client here sends one head at a time."""

    delay_s = 0.0

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        if told := _SLOW.match(data):
            Colour.delay_s = int(told[1]) / 1000
            self._transport.write(self._answer)
        elif Colour.delay_s:
            asyncio.get_running_loop().call_later(Colour.delay_s, self._transport.write, self._answer)
        else:
            self._transport.write(self._answer)


async def serve(colour: str, port: int) -> None:
    body = colour.encode()
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nX-Release: 1\r\n\r\n%b" % (len(body), body)
    server = await asyncio.get_running_loop().create_server(lambda: Colour(answer), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], int(sys.argv[2])))
