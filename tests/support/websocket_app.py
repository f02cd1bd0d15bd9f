"""A WebSocket echo server as a process of its own, with everything that the Autobahn cases ask for.

    python -m tests.support.websocket_app --name blue --listen 127.0.0.1:0

Starts and ends like colour_app. It answers each frame before it looks at the next, however the bytes came: with the
library's own connections a message in front of a broken frame is answered or not, depending on how both were cut into
packets, and a case would end in either way.
"""

from __future__ import annotations

import argparse
import asyncio
import http
import os

from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

SMALL = 512  # bytes in which more than one frame is looked for


class Echo(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self) -> None:
        self._protocol = ServerProtocol(extensions=[ServerPerMessageDeflateFactory()], max_size=None)
        self._message: list[bytes] = []
        self._is_text = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        pieces = [data[i : i + 1] for i in range(len(data))] if len(data) <= SMALL else [data]
        for piece in pieces:
            self._protocol.receive_data(piece)
            for event in self._protocol.events_received():
                if isinstance(event, Request):
                    self._open(event)
                elif isinstance(event, Frame):
                    self._read(event)
        self._send()

    def eof_received(self) -> None:
        self._protocol.receive_eof()
        self._send()

    def _open(self, request: Request) -> None:
        protocol = self._protocol
        is_probe = request.path == "/healthz"
        protocol.send_response(protocol.reject(http.HTTPStatus.OK, "fine") if is_probe else protocol.accept(request))

    def _read(self, frame: Frame) -> None:
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT) or self._protocol.state is not State.OPEN:
            return
        if frame.opcode is not Opcode.CONT:
            self._is_text = frame.opcode is Opcode.TEXT
        self._message.append(bytes(frame.data))
        if frame.fin:
            message, self._message = b"".join(self._message), []
            self._answer(message)

    def _answer(self, message: bytes) -> None:
        try:
            if self._is_text:
                message.decode()
                self._protocol.send_text(message)
            else:
                self._protocol.send_binary(message)
        except UnicodeDecodeError:
            self._protocol.fail(CloseCode.INVALID_DATA)
        except ConnectionClosed:  # most cases break something on purpose
            pass

    def _send(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self.transport.write(data)
            else:
                self.transport.close()  # the protocol's end of sending, and the reason to look no further


async def run(listen: str) -> None:
    host, _, port = listen.rpartition(":")
    server = await asyncio.get_running_loop().create_server(Echo, host, int(port))
    os.write(1, f"listening {host}:{server.sockets[0].getsockname()[1]}\n".encode())
    while await asyncio.to_thread(os.read, 0, 4096):
        pass


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--listen", default="127.0.0.1:0")
    asyncio.run(run(parser.parse_args().listen))
