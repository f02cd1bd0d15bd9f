"""An upstream as a process of its own that takes its time, as it is told: /r/NUMBER/MILLISECONDS, with any body.

    python -m tests.support.latency_app --name blue --listen 127.0.0.1:0

Answers its name; prints `listening ADDRESS` once it serves; ends when its standard input is closed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import threading

import uvloop

from tests.support.colour_app import _answer, _end_with_stdin

_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: chunked", re.IGNORECASE)


async def answer(name: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if length := _LENGTH.search(head):
                await reader.readexactly(int(length[1]))
            elif _CHUNKED.search(head):
                while size := int(await reader.readuntil(b"\r\n"), 16):
                    await reader.readexactly(size + 2)
                await reader.readexactly(2)
            method, target, _ = head.split(b" ", 2)
            if target.startswith(b"/r/"):
                await asyncio.sleep(int(target.rpartition(b"/")[2]) / 1e3)
            said = _answer(name)
            writer.write(said.removesuffix(name) if method == b"HEAD" else said)
    writer.close()


async def serve(name: str, listen: str) -> None:
    over = asyncio.Event()
    threading.Thread(target=_end_with_stdin, args=(asyncio.get_running_loop(), over), daemon=True).start()
    host, _, port = listen.rpartition(":")
    server = await asyncio.start_server(lambda r, w: answer(name.encode(), r, w), host, int(port))
    os.write(1, f"listening {host}:{server.sockets[0].getsockname()[1]}\n".encode())
    await over.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--listen", default="127.0.0.1:0")
    options = parser.parse_args()
    uvloop.run(serve(options.name, options.listen))
