"""A client that says exactly what it is told to, in the pieces it is told to."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from tests.support.raw_http import PATIENCE_S, Message, Wire, request

if TYPE_CHECKING:
    from bgproxy.core.model import Address


class RawClient(Wire):
    """One connection to the proxy."""

    def __init__(self, address: Address, *, receive_buffer: int = 0) -> None:
        if address.is_unix:
            sock = socket.socket(socket.AF_UNIX)
        else:
            sock = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(PATIENCE_S)
        try:
            sock.connect(address.path or (address.host, address.port))
        except OSError:
            sock.close()
            raise
        super().__init__(sock)

    def ask(self, method: str = "GET", target: str = "/", *fields: str, body: bytes = b"") -> Message:
        """One request, and its final response."""
        self.send(request(method, target, *fields, body=body))
        return self.answer(method)

    def answer(self, method: str = "GET") -> Message:
        """The next response, whichever status it has."""
        return self.message(is_response=True, request_method=method)
