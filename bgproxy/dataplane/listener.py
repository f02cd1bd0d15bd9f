"""Accepting on the sockets that the supervisor opened and keeps."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable

from bgproxy.dataplane.downstream import Downstream
from bgproxy.dataplane.plane import DataPlane
from bgproxy.dataplane.redirect import Redirector
from bgproxy.dataplane.tls import TlsTransport

BACKLOG = 4096


class Listener:
    """Every inherited socket of a worker. Closing stops accepting; the supervisor's copy of the socket lives on."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._servers: list[asyncio.Server] = []

    async def open(self, descriptors: Iterable[int], *, tls: bool = False) -> None:
        accepted = self._accepted_tls if tls else self._accepted
        for descriptor in descriptors:
            sock = socket.socket(fileno=descriptor)
            if sock.family == socket.AF_UNIX:
                server = await self._plane.loop.create_unix_server(accepted, sock=sock, backlog=BACKLOG)
            else:
                server = await self._plane.loop.create_server(accepted, sock=sock, backlog=BACKLOG)
            self._servers.append(server)

    def _accepted(self) -> Downstream:
        redirects = self._plane.settings.https.redirect_port
        return Redirector(self._plane) if redirects else Downstream(self._plane)

    def _accepted_tls(self) -> TlsTransport:
        return TlsTransport(self._plane)

    def close(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()
