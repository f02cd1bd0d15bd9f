"""Where the admin API listens: one TCP address and one unix socket that only its owner and group may use."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bgproxy.core.model import Address, parse_address
from bgproxy.errors import StartupError
from bgproxy.shm.bequest import Bequest, Heirloom

if TYPE_CHECKING:
    from bgproxy.controlplane.inherited import Inherited

BACKLOG = 128
SOCKET_MODE = 0o660
DIRECTORY_MODE = 0o700


class Doors(msgspec.Struct, frozen=True):
    """Where it listens. `address` as it is bound; `path` only where the file there is ours to remove."""

    sockets: tuple[socket.socket, ...] = ()
    address: Address | None = None
    path: Path | None = None
    bequest: Bequest = Bequest()

    @classmethod
    def open(cls, listen: Address | None, path: Path | None, inherited: Inherited | None = None) -> Doors:
        """StartupError names the address that cannot be had; then nothing is left open."""
        found: list[tuple[socket.socket, str]] = []
        is_ours = True
        try:
            if listen is not None:
                taken = inherited.take("admin", listen) if inherited else None
                sock = taken.sockets[0] if taken else open_tcp(listen)
                found.append((sock, taken.name if taken else str(Address(listen.host, sock.getsockname()[1]))))
            if path is not None:
                taken = inherited.take("admin", Address(path=str(path))) if inherited else None
                is_ours = taken is None or taken.is_ours
                found.append((taken.sockets[0] if taken and path.exists() else open_unix(path), f"unix:{path}"))
        except BaseException:
            for sock, _ in found:
                sock.close()
            raise
        return cls(
            tuple(sock for sock, _ in found),
            parse_address(found[0][1]) if listen is not None else None,
            path if is_ours else None,
            Bequest(
                tuple(
                    Heirloom("admin", name, (sock.fileno(),), is_ours or not name.startswith("unix:"))
                    for sock, name in found
                )
            ),
        )

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()


def open_tcp(address: Address) -> socket.socket:
    """StartupError names the address and what is in the way."""
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, target = found[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise StartupError(f"the admin API cannot listen on {address}: {error.strerror or error}") from None
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(target)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        hint = ""
        if error.errno == errno.EADDRINUSE:
            hint = "stop what listens there, or choose another address with --admin HOST:PORT ([admin] listen)"
        raise StartupError(f"the admin API cannot listen on {address}: {_lower(error)}", hint=hint) from None
    listening.setblocking(False)
    return listening


def open_unix(path: Path) -> socket.socket:
    """A stale socket file is replaced only if nobody answers on it; anything else at the path is left alone."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        _remove_stale(path)
        listening.bind(str(path))
        # Before listen: until then nobody can connect, so there is no moment with looser permissions.
        path.chmod(SOCKET_MODE)
        listening.listen(BACKLOG)
    except StartupError:
        listening.close()
        raise
    except OSError as error:
        listening.close()
        raise StartupError(f"the admin API cannot listen on unix:{path}: {_lower(error)}") from None
    listening.setblocking(False)
    return listening


def remove_unix(path: Path, inode: int) -> None:
    """Remove our own socket file; one that a successor has put there stays."""
    with contextlib.suppress(FileNotFoundError):
        if path.lstat().st_ino == inode:
            path.unlink()


def _remove_stale(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise StartupError(
            f"the admin API cannot listen on unix:{path}: there is a file that is not a socket",
            hint="move it away, or choose another path with [admin] socket",
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as attempt:
        attempt.settimeout(1.0)
        try:
            attempt.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
    raise StartupError(
        f"the admin API cannot listen on unix:{path}: another process answers there",
        hint="stop the other bgproxy, or give this one its own --state-dir",
    )


def _lower(error: OSError) -> str:
    return os.strerror(error.errno).lower() if error.errno else str(error)
