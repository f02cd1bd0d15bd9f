"""Small files, replaced as a whole: whatever moment the machine dies in, they hold the old bytes or the new ones."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

TEMPORARY = ".new"


def replace_durably(path: Path, data: bytes, *, system: Any = os) -> None:
    """A new file beside it, fsync, rename, fsync of the directory. OSError where one of them fails: then the old file
    may or may not be there. `system` stands in for the module `os`, so that tests can fail every call."""
    temporary = path.with_name(path.name + TEMPORARY)
    with contextlib.suppress(OSError):  # absent, or the open that follows says it better
        system.unlink(temporary)
    fd = system.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[system.write(fd, rest) :]
        system.fsync(fd)
    finally:
        system.close(fd)
    system.replace(temporary, path)
    sync_directory(path.parent, system=system)


def sync_directory(directory: Path, *, system: Any = os) -> None:
    fd = system.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        system.fsync(fd)
    finally:
        system.close(fd)
