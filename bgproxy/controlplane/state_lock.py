"""The state directory: for its owner alone, and for one supervisor at a time. Two would each believe in a live word of
their own.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from typing import TYPE_CHECKING

from bgproxy.errors import StartupError

if TYPE_CHECKING:
    from pathlib import Path

LOCK_FILE = "lock"


class StateLock:
    """Held until `release` or the end of the process, however it ends. Not inherited by workers."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def acquire(cls, directory: Path) -> StateLock:
        """StartupError names the process that holds the directory."""
        path = directory / LOCK_FILE
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise StartupError(f"{path}: the lock cannot be opened: {error.strerror}") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(fd, 32).decode(errors="replace").strip()
            os.close(fd)
            pid = holder if holder.isdigit() else "unknown"
            raise StartupError(
                f"another bgproxy (pid {pid}) uses the state directory {directory}",
                hint="stop it first, or give this one a directory of its own with --state-dir",
            ) from None
        lock = cls(fd)
        lock.sign()
        return lock

    @classmethod
    def adopt(cls, fd: int, directory: Path) -> StateLock:
        """One that a predecessor holds and has handed over: the lock belongs to the open file, not to the process.
        StartupError where it is that of another directory."""
        path = directory / LOCK_FILE
        if not path.exists() or not os.path.samestat(os.fstat(fd), path.stat()):
            raise StartupError(
                f"the state directory {directory} is not that of the running program",
                hint="an upgrade keeps the state directory; to change it, stop the proxy and start it again",
            )
        return cls(fd)

    @property
    def fd(self) -> int:
        return self._fd

    def sign(self) -> None:
        """Write down whose it is: a name for a sentence, so a disk that does not take it is no matter."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0))

    def release(self) -> None:
        """The file stays: removing it would let two processes lock two different files of this name."""
        os.close(self._fd)


def prepare_directory(directory: Path) -> None:
    """Make the state directory (0700); StartupError where it cannot be used or where others could write into it."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.stat()
    except OSError as error:
        raise StartupError(
            f"the state directory {directory} cannot be made: {error.strerror}",
            hint="choose another with [state] dir or --state-dir",
        ) from None
    if found.st_mode & 0o022:
        raise StartupError(
            f"the state directory {directory} can be written by other users (mode {stat.S_IMODE(found.st_mode):04o}), "
            "who could choose the live colour",
            hint=f"run: chmod go-w {directory}",
        )
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        raise StartupError(
            f"the state directory {directory} cannot be written by this user",
            hint="choose another with [state] dir or --state-dir",
        )
