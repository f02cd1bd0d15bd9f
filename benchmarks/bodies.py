"""Large bodies between a fast and a slow side: the upstream that serves them and the clients that move them.

Every transfer returns the digest of what arrived at the far end, so that a damaged body cannot pass as a light one.
"""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import proxies
import rig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIB = 1024 * 1024
# The slow side takes bursts of 2 MiB at 45 MiB/s, and every 128 MiB it takes nothing at all for a second.
BURST, BURST_PAUSE_S = 2 * MIB, 2 / 45
STALL_EVERY, STALL_S = 128 * MIB, 1.0
PIECE = bytes(range(256)) * 256  # 64 KiB


class Pace:
    """Makes its caller slow: bursts with pauses between them, and now and then a stall."""

    def __init__(self) -> None:
        self._taken = 0
        self._next_pause, self._next_stall = BURST, STALL_EVERY

    def took(self, count: int) -> None:
        self._taken += count
        if self._taken >= self._next_pause:
            self._next_pause += BURST
            time.sleep(BURST_PAUSE_S)
        if self._taken >= self._next_stall:
            self._next_stall += STALL_EVERY
            time.sleep(STALL_S)


def expected_digest(size: int) -> str:
    digest = hashlib.sha256()
    for _ in range(size // len(PIECE)):
        digest.update(PIECE)
    return digest.hexdigest()


def slow_digest(read: Callable[[int], bytes], size: int) -> str:
    """Read `size` bytes slowly; what came, as a digest."""
    digest, pace, left = hashlib.sha256(), Pace(), size
    while left:
        received = read(min(left, 256 * 1024))
        if not received:
            break
        digest.update(received)
        pace.took(len(received))
        left -= len(received)
    return digest.hexdigest()


class _Bodies(BaseHTTPRequestHandler):
    """GET /body/N sends N bytes as fast as they are taken; POST takes slowly and answers with the digest."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        size = int(self.path.rpartition("/")[2]) if self.path.startswith("/body/") else 0
        self._head(size)
        for _ in range(size // len(PIECE)):
            self.wfile.write(PIECE)

    def do_POST(self) -> None:
        answer = slow_digest(self.rfile.read1, int(self.headers["Content-Length"])).encode()
        self._head(len(answer))
        self.wfile.write(answer)

    def _head(self, length: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextmanager
def served() -> Iterator[proxies.Target]:
    """The upstream of the large bodies, under two addresses."""
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), _Bodies) for _ in range(2)]
    for server in servers:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        blue, green = (int(server.server_address[1]) for server in servers)
        yield proxies.Target(blue, green)
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


def upload(port: int, size: int) -> str:
    """A fast client, a slow upstream; the digest of what the upstream received."""
    with socket.create_connection(("127.0.0.1", port), timeout=90) as connection:
        connection.sendall(f"POST /upload HTTP/1.1\r\nHost: bench.example\r\nContent-Length: {size}\r\n\r\n".encode())
        for _ in range(size // len(PIECE)):
            connection.sendall(PIECE)
        with connection.makefile("rb") as answer:
            return answer.read(_body_length(answer.readline)).decode()


def download(port: int, size: int) -> str:
    """A fast upstream, a slow client; the digest of what the client received."""
    with socket.create_connection(("127.0.0.1", port), timeout=90) as connection:
        connection.sendall(f"GET /body/{size} HTTP/1.1\r\nHost: bench.example\r\n\r\n".encode())
        with connection.makefile("rb") as answer:
            return slow_digest(answer.read1, _body_length(answer.readline))


def _body_length(readline: Callable[[], bytes]) -> int:
    """Read a response head; its Content-Length. RigError for anything but 200."""
    status = readline()
    if b" 200 " not in status:
        raise rig.RigError(f"expected 200, the answer was {status!r}")
    length = 0
    while (line := readline()) not in (b"\r\n", b""):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return length
