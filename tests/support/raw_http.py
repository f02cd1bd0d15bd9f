"""Just enough HTTP to read what came over a socket, message by message, without ever repairing anything."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

PATIENCE_S = 10.0


class Ended(Exception):
    """The peer closed (or reset) the connection before the message was complete; `so_far` is what had come."""

    def __init__(self, so_far: bytes) -> None:
        super().__init__(f"the connection ended after {so_far!r}")
        self.so_far = so_far


@dataclass
class Message:
    """`first` is the request or status line, `raw` every byte of it as it came; `fields` in order, names lower-case."""

    first: str
    fields: list[tuple[str, str]]
    body: bytes = b""
    trailers: list[tuple[str, str]] = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=list)
    raw: bytes = b""

    @property
    def status(self) -> int:
        return int(self.first.split(" ")[1])

    @property
    def method(self) -> str:
        return self.first.split(" ")[0]

    @property
    def target(self) -> str:
        return self.first.split(" ")[1]

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key == name.lower()]

    def one(self, name: str) -> str:
        """The only field of that name, "" where there is none."""
        values = self.all(name)
        assert len(values) <= 1, f"{name} came {len(values)} times: {values}"
        return values[0] if values else ""


class Wire:
    """A socket read by amounts: up to a marker, so many bytes, to the end, or one message."""

    def __init__(self, sock: socket.socket) -> None:
        self._begin_with(sock)

    def _begin_with(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(PATIENCE_S)
        self._unread = b""
        self._taken = b""

    # --- out ----------------------------------------------------------------------------------------------------------

    def send(self, *data: bytes) -> None:
        """Each piece in a segment of its own, as far as a socket can promise that."""
        for piece in data:
            self.sock.sendall(piece)

    def finish_sending(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.sock.close()

    # --- in -----------------------------------------------------------------------------------------------------------

    def take(self, count: int) -> bytes:
        while len(self._unread) < count:
            self._receive()
        return self._cut(count)

    def until(self, marker: bytes) -> bytes:
        while (end := self._unread.find(marker)) < 0:
            self._receive()
        return self._cut(end + len(marker))

    def rest(self) -> bytes:
        """Everything up to the peer's FIN; ConnectionResetError where it was a RST."""
        while data := self._recv(1 << 20):
            self._unread += data
        return self._cut(len(self._unread))

    def forget(self) -> None:
        """Keep nothing of what was taken so far: a message has not begun."""
        self._taken = b""

    def is_ended(self) -> bool:
        """Wait for the end of the connection, by FIN or RST, with nothing before it."""
        try:
            return self.rest() == b""
        except ConnectionResetError:
            return True

    def message(self, *, is_response: bool, request_method: str = "GET") -> Message:
        """The next message, with its body by its own framing."""
        self._taken = b""
        head = self.until(b"\r\n\r\n").decode("latin-1")
        first, *lines = head[:-4].split("\r\n")
        message = Message(first, [_field(line) for line in lines])
        self._read_body(message, is_response=is_response, request_method=request_method)
        message.raw = self._taken
        return message

    def _read_body(self, message: Message, *, is_response: bool, request_method: str) -> None:
        if is_response and (request_method == "HEAD" or message.status < 200 or message.status in (204, 304)):
            return
        if message.one("Transfer-Encoding"):
            assert message.one("Transfer-Encoding") == "chunked"
            self._read_chunks(message)
        elif message.one("Content-Length"):
            message.body = self.take(int(message.one("Content-Length")))
        elif is_response:
            message.body = self.rest()

    def _read_chunks(self, message: Message) -> None:
        while size := int(self.until(b"\r\n")[:-2], 16):
            message.chunks.append(self.take(size))
            assert self.take(2) == b"\r\n"
        message.body = b"".join(message.chunks)
        while (line := self.until(b"\r\n")) != b"\r\n":
            message.trailers.append(_field(line[:-2].decode("latin-1")))

    def _receive(self) -> None:
        data = self._recv(1 << 16)
        if not data:
            raise Ended(self._taken + self._unread)
        self._unread += data

    def _recv(self, size: int) -> bytes:
        return self.sock.recv(size)

    def _cut(self, count: int) -> bytes:
        data, self._unread = self._unread[:count], self._unread[count:]
        self._taken += data
        return data


def _field(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    assert colon, f"{line!r} is not a field"
    return name.lower(), value.strip(" \t")


def response(status: int = 200, body: bytes = b"", *fields: str, reason: str = "Fine") -> bytes:
    """A response with its Content-Length."""
    lines = [f"HTTP/1.1 {status} {reason}", f"Content-Length: {len(body)}", *fields]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chunked(*chunks: bytes, trailers: bytes = b"") -> bytes:
    """The body of these chunks."""
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n" + trailers + b"\r\n"


def request(method: str = "GET", target: str = "/", *fields: str, body: bytes = b"", version: str = "1.1") -> bytes:
    """A request; a body gets its Content-Length."""
    lines = [f"{method} {target} HTTP/{version}", "Host: app.example", *fields]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
