"""Accepting on the sockets that the supervisor opened and keeps."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable

from bgproxy.dataplane.arrival import Acceptor
from bgproxy.dataplane.downstream import Downstream
from bgproxy.dataplane.plane import DataPlane
from bgproxy.dataplane.redirect import Redirector
from bgproxy.dataplane.tls import TlsTransport
from bgproxy.wire.proxy_protocol import Introduction

BACKLOG = 4096


class Listener:
    """Every inherited socket of a worker. Closing stops accepting; the supervisor's copy of the socket lives on."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._servers: list[asyncio.Server | Acceptor] = []

    async def open(self, descriptors: Iterable[int], *, tls: bool = False) -> None:
        accepted = self._accepted_tls if tls else self._accepted
        for descriptor in descriptors:
            sock = socket.socket(fileno=descriptor)
            server: asyncio.Server | Acceptor
            if self._plane.settings.proxy_protocol:
                sock.listen(BACKLOG)  # as asyncio's servers do: some sockets come to us bound and no more
                server = Acceptor(self._plane, sock, accepted)
            elif sock.family == socket.AF_UNIX:
                server = await self._plane.loop.create_unix_server(accepted, sock=sock, backlog=BACKLOG)
            else:
                server = await self._plane.loop.create_server(accepted, sock=sock, backlog=BACKLOG)
            self._servers.append(server)

    def _accepted(self, introduction: Introduction | None = None) -> Downstream:
        redirects = self._plane.settings.https.redirect_port
        return Redirector(self._plane, introduction) if redirects else Downstream(self._plane, introduction)

    def _accepted_tls(self, introduction: Introduction | None = None) -> TlsTransport:
        return TlsTransport(self._plane, introduction)

    def close(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()
