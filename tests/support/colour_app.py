"""An upstream as a process of its own: fast, says its name, and does what the test tells it.

    python -m tests.support.colour_app --name blue --listen 127.0.0.1:0

Prints `listening ADDRESS` once it serves; ends when its standard input is closed, so it cannot outlive the test.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import threading

import uvloop


class State:
    """What the test can change: `/app/sick`, `/app/mute` (no answer to probes), `/app/well`, `/app/release`;
    `/app/held` and `/app/served` ask; `/app/afresh` is as after the start."""

    def __init__(self, name: str) -> None:
        self.body = name.encode()
        self.health = b"well"
        self.served = 0  # requests that are neither probes nor words of the test
        self.held: dict[Connection, bytes] = {}  # with what is still to be sent on each

    def told(self, word: bytes) -> bytes:
        if word in (b"sick", b"mute", b"well"):
            self.health = word
        elif word == b"release":
            waiting, self.held = self.held, {}
            for connection, rest in waiting.items():
                connection.transport.write(rest)
        elif word == b"afresh":
            waiting, self.held = self.held, {}
            for connection in waiting:
                connection.transport.abort()
            self.health, self.served = b"well", 0
        elif word == b"served":
            return b"%d" % self.served
        return b"%d" % len(self.held)


class Connection(asyncio.Protocol):
    """Answers at once, but for /hold (not before the release) and /half (its second half then)."""

    transport: asyncio.Transport

    def __init__(self, state: State) -> None:
        self._state = state
        self._buffer = b""
        self._plain = _answer(state.body)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        self._state.held.pop(self, None)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head, self._buffer = self._buffer[:end], self._buffer[end + 4 :]
            self._serve(head.split(b" ", 2)[1])

    def _serve(self, target: bytes) -> None:
        state = self._state
        if target.startswith(b"/app/"):
            self.transport.write(_answer(state.told(target.removeprefix(b"/app/"))))
            return
        if target == b"/healthz":
            if state.health != b"mute":
                self.transport.write(_answer(b"fine") if state.health == b"well" else _answer(b"sick", b"500 Sick"))
            return
        state.served += 1
        if target == b"/hold":
            state.held[self] = self._plain
        elif target == b"/half":
            half = len(self._plain) - 2
            self.transport.write(self._plain[:half])
            state.held[self] = self._plain[half:]
        else:
            self.transport.write(self._plain)


def _answer(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


async def serve(name: str, listen: str) -> None:
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    threading.Thread(target=_end_with_stdin, args=(loop, over), daemon=True).start()
    state = State(name)
    if listen.startswith("unix:"):
        await loop.create_unix_server(lambda: Connection(state), listen.removeprefix("unix:"))
        address = listen
    else:
        host, _, port = listen.rpartition(":")
        server = await loop.create_server(lambda: Connection(state), host.strip("[]"), int(port))
        address = f"{host}:{server.sockets[0].getsockname()[1]}"
    os.write(1, f"listening {address}\n".encode())
    await over.wait()


def _end_with_stdin(loop: asyncio.AbstractEventLoop, over: asyncio.Event) -> None:
    while os.read(0, 4096):
        pass
    loop.call_soon_threadsafe(over.set)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--listen", default="127.0.0.1:0")
    options = parser.parse_args()
    uvloop.run(serve(options.name, options.listen))
