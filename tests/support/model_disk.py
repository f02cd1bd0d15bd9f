"""A disk in memory that remembers what a crash may forget: it stands in for the module `os`, one directory deep.

What was written is durable once its file was synced, what was named once the directory was synced. Until then a crash
of the machine may leave any part of it: of the names each by itself, of the bytes any beginning, or a length without
content. A kill of the process loses nothing that was written.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

Image = dict[str, bytes]  # name → content: a directory as somebody finds it
DIRECTORY = object()


class Inode:
    def __init__(self, number: int, content: bytes = b"") -> None:
        self.number, self.content, self.synced = number, content, content

    @property
    def remains(self) -> Iterator[bytes]:
        """Every content that a crash may leave."""
        yield self.content
        yield self.synced
        durable = len(self.synced) if self.content.startswith(self.synced) else 0
        for end in range(durable, len(self.content)):
            yield self.content[:end]
            yield self.content[:end] + bytes(len(self.content) - end)


class ModelDisk:
    """`boundary` is called before the first call and after every one that may change something."""

    def __init__(self, image: Image | None = None, boundary: Callable[[ModelDisk], None] = lambda _disk: None) -> None:
        self.calls: list[str] = []
        self._boundary = boundary
        self._numbers = itertools.count(1)
        self._names = {name: Inode(next(self._numbers), content) for name, content in (image or {}).items()}
        self._durable = dict(self._names)
        self._pending: list[tuple[str, Inode | None]] = []  # names that the directory on disk does not know yet
        self._open: dict[int, list[Any]] = {}  # descriptor → what, offset, flags

    # --- after a crash ---

    def killed(self) -> Image:
        """What is left when only the process has died."""
        return {name: inode.content for name, inode in self._names.items()}

    def crashed(self, *, torn: bool) -> Iterator[Image]:
        """What may be left when the machine dies; with `torn`, also with part of what the last write wrote."""
        for names in self._names_after_a_crash():
            yield {name: inode.content for name, inode in names.items()}
            yield {name: inode.synced for name, inode in names.items()}
            for name, inode in names.items() if torn else ():
                others = {other: each.content for other, each in names.items()}
                for content in inode.remains:
                    yield others | {name: content}

    def _names_after_a_crash(self) -> Iterator[dict[str, Inode]]:
        for kept in itertools.product((True, False), repeat=len(self._pending)):
            names = dict(self._durable)
            for (name, inode), is_kept in zip(self._pending, kept, strict=True):
                if is_kept and inode is None:
                    names.pop(name, None)
                elif is_kept and inode is not None:
                    names[name] = inode
            yield names

    # --- the module os ---

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        fd = 1000 + len(self.calls) + len(self._open)
        while fd in self._open:
            fd += 1
        if flags & os.O_DIRECTORY:
            self._open[fd] = [DIRECTORY, 0, flags]
            return fd
        inode = self._names.get(path.name)
        if inode is not None and flags & os.O_EXCL:
            raise FileExistsError(errno.EEXIST, "File exists")
        if inode is None:
            if not flags & os.O_CREAT:
                raise FileNotFoundError(errno.ENOENT, "No such file or directory")
            inode = Inode(next(self._numbers))
            self._name(path.name, inode)
        if flags & os.O_TRUNC:
            inode.content = b""
        self._open[fd] = [inode, 0, flags]
        self._done("open")
        return fd

    def close(self, fd: int) -> None:
        del self._open[fd]

    def read(self, fd: int, size: int) -> bytes:
        inode, offset, _ = self._open[fd]
        part = inode.content[offset : offset + size]
        self._open[fd][1] += len(part)
        return bytes(part)

    def write(self, fd: int, data: memoryview) -> int:
        inode, offset, flags = self._open[fd]
        at = len(inode.content) if flags & os.O_APPEND else offset
        inode.content = inode.content[:at] + bytes(data) + inode.content[at + len(data) :]
        self._open[fd][1] = at + len(data)
        self._done("write")
        return len(data)

    def ftruncate(self, fd: int, length: int) -> None:
        inode = self._open[fd][0]
        assert length <= len(inode.content)
        inode.content = inode.content[:length]
        self._done("ftruncate")

    def fsync(self, fd: int) -> None:
        inode = self._open[fd][0]
        if inode is DIRECTORY:
            self._durable, self._pending = dict(self._names), []
        else:
            inode.synced = inode.content
        self._done("fsync")

    def replace(self, old: Path, new: Path) -> None:
        if old.name not in self._names:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        inode = self._names[old.name]
        del self._names[old.name]
        self._names[new.name] = inode
        # One step for the directory, so it is kept or lost as one; that the old name goes too is of no interest here.
        self._pending.append((new.name, inode))
        self._done("replace")

    def link(self, old: Path, new: Path) -> None:
        if new.name in self._names:
            raise FileExistsError(errno.EEXIST, "File exists")
        self._name(new.name, self._names[old.name])
        self._done("link")

    def unlink(self, path: Path) -> None:
        if path.name not in self._names:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        del self._names[path.name]
        self._pending.append((path.name, None))
        self._done("unlink")

    def stat(self, path: Path) -> SimpleNamespace:
        if path.name not in self._names:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        return self._stat(self._names[path.name])

    def fstat(self, fd: int) -> SimpleNamespace:
        return self._stat(self._open[fd][0])

    def listdir(self, _path: Path) -> list[str]:
        return list(self._names)

    # --- how ---

    def _stat(self, inode: Inode) -> SimpleNamespace:
        return SimpleNamespace(st_ino=inode.number, st_dev=1, st_size=len(inode.content), st_mode=stat.S_IFREG | 0o600)

    def _name(self, name: str, inode: Inode) -> None:
        self._names[name] = inode
        self._pending.append((name, inode))

    def _done(self, call: str) -> None:
        self.calls.append(call)
        self._boundary(self)
