"""Listening sockets that somebody else has opened: a predecessor, its workers, or systemd. Found by their address."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import msgspec

from bgproxy.core.model import Address, parse_address
from bgproxy.shm.bequest import Bequest

if TYPE_CHECKING:
    from bgproxy.shm.bequest import Heirloom, Role


class Taken(msgspec.Struct, frozen=True):
    """What there was for an address, `name` with the port that 0 became. A path that is not ours stays when we go."""

    sockets: list[socket.socket]
    name: str
    is_ours: bool


class Inherited:
    """Each can be taken once; `close` closes what nobody took."""

    def __init__(self, *bequests: Bequest) -> None:
        self._found: list[tuple[Heirloom, list[socket.socket]]] = []
        self._known: set[int] = set()  # inodes: the same socket may come twice, from systemd and from workers
        for bequest in bequests:
            for heirloom in bequest.heirlooms:
                if sockets := list(filter(None, map(self._adopt, heirloom.fds))):
                    self._found.append((heirloom, sockets))

    def _adopt(self, fd: int) -> socket.socket | None:
        inode = os.fstat(fd).st_ino
        if inode in self._known:
            os.close(fd)
            return None
        self._known.add(inode)
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        return sock

    @property
    def names(self) -> list[str]:
        """What nobody has taken yet."""
        return [heirloom.address for heirloom, _ in self._found]

    @property
    def unwanted(self) -> list[str]:
        """Of those that an operator passes, what nobody has taken."""
        return [heirloom.address for heirloom, _ in self._found if heirloom.role == ""]

    def take(self, role: Role, address: Address) -> Taken | None:
        """A socket is just a socket: one that was plain may become one for TLS. Only port 0 goes by its role."""
        for number, (heirloom, sockets) in enumerate(self._found):
            if _is_for(heirloom, sockets, role, address):
                del self._found[number]
                return Taken(sockets, heirloom.address, heirloom.is_ours)
        return None

    def close(self) -> None:
        for _, sockets in self._found:
            for sock in sockets:
                sock.close()
        self._found.clear()


def _is_for(heirloom: Heirloom, sockets: list[socket.socket], role: Role, address: Address) -> bool:
    if heirloom.address == str(address):
        return True
    if address.is_unix or heirloom.address.startswith("unix:"):
        return False
    if address.port == 0:
        return heirloom.role == role and parse_address(heirloom.address).host == address.host
    return heirloom.role == "" and all(sock.getsockname()[:2] in _places(address) for sock in sockets)


def _places(address: Address) -> set[tuple[str, int]]:
    """systemd knows numbers only: what a name stands for."""
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        return set()
    return {(str(sockaddr[0]), int(sockaddr[1])) for *_, sockaddr in found}
