"""How the listening sockets outlive a supervisor that was killed: its workers keep them for whoever comes next.

Every worker inherits one socket that nobody answers while its supervisor lives. It is bound in the state directory, so
that only the user of the proxy gets there.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from bgproxy.shm import bequest

if TYPE_CHECKING:
    from pathlib import Path

    from bgproxy.controlplane.events import Emit
    from bgproxy.shm.bequest import Bequest

TAKEOVER_SOCKET = "takeover.sock"
BACKLOG = 16
ANSWER_BOUND_S = 1.0
ATTEMPTS = 3  # a worker may leave while it is asked


class Takeover:
    """The socket that the next supervisor will ask. Until `publish`, that of the one before is still there to ask."""

    def __init__(self, directory: Path) -> None:
        """OSError where the directory takes no socket."""
        self._directory = directory
        self._temporary = f".{TAKEOVER_SOCKET}.{os.getpid()}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        self._inode = 0
        with _Directory(directory) as place:
            self._socket.bind(f"{place}/{self._temporary}")
        (directory / self._temporary).chmod(0o600)
        self._inode = (directory / self._temporary).lstat().st_ino
        self._socket.listen(BACKLOG)

    @property
    def fd(self) -> int:
        return self._socket.fileno()

    def publish(self) -> None:
        os.replace(self._directory / self._temporary, self._directory / TAKEOVER_SOCKET)

    def close(self) -> None:
        """Remove it, unless a successor has put its own there. Workers of ours that live on are found by it still."""
        self._socket.close()
        for name in (self._temporary, TAKEOVER_SOCKET):
            path = self._directory / name
            try:
                if path.lstat().st_ino == self._inode:
                    path.unlink()
            except OSError:
                pass


def inherit(directory: Path, *, emit: Emit) -> list[Bequest]:
    """The listening sockets of workers that outlived their supervisor; none where nobody can hand them over. Blocks
    for some seconds at most, for the start."""
    why = ""
    for _ in range(ATTEMPTS):
        try:
            return [_ask(directory)]
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            why = str(error)
    emit("sockets_not_inherited", error=why)
    return []


def _ask(directory: Path) -> Bequest:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as asking:
        asking.settimeout(ANSWER_BOUND_S)
        with _Directory(directory) as place:
            asking.connect(f"{place}/{TAKEOVER_SOCKET}")
        return bequest.receive(asking)


class _Directory:
    """Its short name: 108 bytes are all that the address of a unix socket has room for."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> str:
        self._fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._fd}"

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
