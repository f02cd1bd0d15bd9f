"""Who a client is: what upstreams are told about it, and what it is believed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from bgproxy.wire import client_certificate, forwarded
from bgproxy.wire.proxy_protocol import Introduction
from bgproxy.wire.request import RequestHead

if TYPE_CHECKING:
    from bgproxy.dataplane.plane import DataPlane


class Peer:
    """One per client connection. A client keeps to one host, so the lines for `usual_host` are kept as `usual_lines`;
    both are public for the hot path, which needs nothing else of a peer that is not trusted.

    A trusted proxy may have introduced the client (PROXY protocol): then `address` is the client's and it is the
    client who is trusted or not, because what the connection carries are the client's own words.
    """

    __slots__ = (
        "_asked",
        "_certificate_line",
        "_plane",
        "_transport",
        "address",
        "is_trusted",
        "proto",
        "usual_host",
        "usual_lines",
    )

    def __init__(
        self, plane: DataPlane, transport: asyncio.BaseTransport, introduction: Introduction | None = None
    ) -> None:
        self._plane = plane
        self._transport = transport
        self._asked = introduction.destination if introduction else b""
        self.address = forwarded.address_of(transport.get_extra_info("peername"))
        if introduction is None or introduction.is_local:
            self.is_trusted = plane.is_trusted(self.address)
        elif introduction.source:
            self.address = introduction.source
            self.is_trusted = plane.is_trusted(self.address)
        else:
            self.is_trusted = False  # somebody's connection, but nobody says whose
        self.proto = b"http" if transport.get_extra_info("ssl_object") is None else b"https"
        self._certificate_line = client_certificate.line(transport.get_extra_info("peercert"))
        self.usual_host: bytes | None = None
        self.usual_lines = b""

    def forwarding(self, request: RequestHead) -> bytes:
        """Whole lines about where this request comes from, with its Host."""
        host = request.host or self._own_address()
        if request.found is not None and self.is_trusted:
            return forwarded.lines_behind_proxy(self.address, self.proto, host, request.found) + self._certificate_line
        lines = forwarded.lines(self.address, self.proto, host) + self._certificate_line
        self.usual_host, self.usual_lines = request.host, lines
        return self.usual_lines

    def request_id_line(self, request: RequestHead) -> bytes:
        """The id that a trusted proxy gave, or a new one."""
        if self.is_trusted and request.given_id:
            return self._plane.request_id_line(request.given_id)
        return self._plane.new_request_id_line()

    def may_ask_for(self, scheme: bytes) -> bool:
        """RFC 9110 7.4: for an https resource only over TLS, or through a trusted proxy that had it so."""
        return scheme != b"https" or self.proto == b"https" or self.is_trusted

    def _own_address(self) -> bytes:
        """For the Host of an HTTP/1.0 request without one: the address that the client used."""
        if self._asked:
            return self._asked
        name = self._transport.get_extra_info("sockname")
        if not isinstance(name, tuple):
            return b"localhost"
        host = f"[{name[0]}]" if ":" in name[0] else name[0]
        return f"{host}:{name[1]}".encode()
