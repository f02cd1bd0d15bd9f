"""Names to addresses, asked again while connections are made, so that a moved upstream is found without a restart."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import Any, TypeAlias

SocketAddress: TypeAlias = tuple[socket.AddressFamily, tuple[Any, ...]]


class Resolver:
    """Answers are kept for `refresh_s`. A name that can no longer be resolved keeps its last addresses."""

    def __init__(self, loop: asyncio.AbstractEventLoop, refresh_s: float = 0.0) -> None:
        self._loop = loop
        self.refresh_s = refresh_s
        self._known: dict[tuple[str, int], tuple[float, list[SocketAddress]]] = {}

    async def resolve(self, host: str, port: int) -> list[SocketAddress]:
        """Addresses in the resolver's order. OSError where a name never had one."""
        literal = _literal(host, port)
        if literal:
            return [literal]
        fresh_until, addresses = self._known.get((host, port), (0.0, []))
        if self._loop.time() < fresh_until:
            return addresses
        try:
            answers = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            addresses = [(family, sockaddr) for family, _, _, _, sockaddr in answers]
        except UnicodeError as error:  # a label that is empty or over 63 bytes
            raise OSError(f"{host} is not a host name") from error
        except OSError:
            if not addresses:
                raise
        self._known[host, port] = (self._loop.time() + self.refresh_s, addresses)
        return addresses


def _literal(host: str, port: int) -> SocketAddress | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if address.version == 6:
        return socket.AF_INET6, (host, port, 0, 0)
    return socket.AF_INET, (host, port)
