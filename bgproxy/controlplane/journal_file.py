"""The journal's file: appended to, synced, repaired, begun anew when it has grown. Everything here blocks.

What is on disk is a chain of whole lines at every moment that counts: an append that fails is taken back before
anything else is written, a new file has its content before it has its name, and a name is durable before anybody relies
on it.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from typing import TYPE_CHECKING, Any

from bgproxy.core import replay
from bgproxy.core.journal import FILE, FORMAT, AnyRecord, Broken, Link, Reading, Snapshot, State, read, seal
from bgproxy.errors import StateCorrupt

if TYPE_CHECKING:
    from pathlib import Path

TORN_FILE = "journal.torn"
PROBE_FILE = "journal.probe"
ARCHIVES = 8
COMPACT_BYTES = 1024 * 1024  # beyond the snapshot at its beginning
COMPACT_RECORDS = 5000
MAX_BYTES = 256 * 1024 * 1024  # more is not one of ours
_NEW = ".new"
_ARCHIVE = re.compile(r"journal-(\d+)(?:-(\d+))?\.jsonl")
_COLOUR = re.compile(rb'"(?:live|to)": ?"(blue|green)"')
_EPOCH = re.compile(rb'"epoch": ?(\d{1,19})\b')
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class JournalFile:
    """One directory's journal. `now` is what the records on disk amount to; the counts are of the present file.

    `system` stands in for the module `os`, so that tests can fail every call and keep a disk in memory."""

    def __init__(self, directory: Path, *, system: Any = os) -> None:
        self.path = directory / FILE
        self.now = replay.Replayed(State(epoch=0, live="blue"))
        self.records = self.bytes = 0
        self.seq_of_last = 0
        self._directory, self._os = directory, system
        self._link = Link()
        self._fd: int | None = None
        self._first_seq = self._snapshot_bytes = 0
        self._tail_in_doubt = self._name_in_doubt = False

    # --- reading ---

    def look(self) -> replay.Replayed | None:
        """What the records on disk amount to now, whoever writes them; nothing is changed. As `load` otherwise."""
        found = self._read()
        return None if found is None else found[2]

    def load(self) -> bytes | None:
        """Fill `now`; the torn tail that was cut, b"" for none. None where there is no journal, StateCorrupt where
        there is no telling. That the disk cannot be written is no reason not to read it: `repair` comes later then."""
        for name in (FILE + _NEW, PROBE_FILE):
            self._discard(self._directory / name)
        read_now = self._read()
        if read_now is None:
            return None
        data, found, self.now = read_now
        self._link, self.bytes, self.records = found.link, found.end, len(found.records)
        self.seq_of_last, self._first_seq = found.link.seq, found.records[0].seq
        self._snapshot_bytes = data.index(b"\n") + 1
        # What a killed process wrote may be in memory only, and its name too.
        self._tail_in_doubt = self._name_in_doubt = True
        try:
            if found.torn:
                self._keep(found.torn)
            self.repair()
        except OSError:
            pass  # the next append begins with it
        return found.torn

    def _read(self) -> tuple[bytes, Reading, replay.Replayed] | None:
        try:
            data = read_file(self.path, self._os)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateCorrupt(
                f"{self.path}: the journal cannot be read: {error.strerror}",
                hint="make it a regular file that this user can read",
            ) from None
        try:
            found = read(data)
        except Broken as broken:
            raise _corrupt(self.path, data, broken) from None
        try:
            return data, found, replay.replay(found.records)
        except ValueError as error:
            raise StateCorrupt(
                f"{self.path}: the journal contradicts itself: {error}", hint=_remedy(self.path)
            ) from None

    def reload(self) -> None:
        """After another process wrote here, perhaps to another file of that name. OSError, StateCorrupt: it stays
        unusable, because what is written to it would not follow."""
        self.close()
        self.bytes = -1
        if self.load() is None:
            raise FileNotFoundError(errno.ENOENT, "the file is gone")

    # --- writing: OSError means that it is not on disk ---

    def begin(self, state: State, at: str) -> None:
        """The first file of a chain."""
        self._link = Link()
        try:
            self._start_file(Snapshot(format=FORMAT, state=state, at=at))
        except OSError:
            self._discard(self.path)
            raise
        self.now = replay.Replayed(state)

    def append(self, record: AnyRecord) -> None:
        """ValueError where it contradicts what is there; then nothing was written."""
        self.repair()
        self._check_place()
        now = replay.apply(self.now, record)
        line, link = seal(record, self._link)
        assert self._fd is not None
        self._tail_in_doubt = True
        try:
            self._write(self._fd, line)
            self._os.fsync(self._fd)
        except OSError:
            try:
                self.repair()
            except OSError:
                pass  # the next append begins with it
            raise
        self._tail_in_doubt = False
        self.now, self._link, self.seq_of_last = now, link, link.seq
        self.bytes += len(line)
        self.records += 1

    @property
    def in_doubt(self) -> bool:
        """A restart now might find a record that was reported as not written."""
        return self._tail_in_doubt

    def repair(self) -> None:
        """Nothing behind the last good line, and that on disk."""
        if self._fd is None:
            self._fd = self._os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
        if self._tail_in_doubt:
            self._os.ftruncate(self._fd, self.bytes)
            self._os.fsync(self._fd)
            self._tail_in_doubt = False
        if self._name_in_doubt:
            self._sync_directory()
            self._name_in_doubt = False

    def probe(self) -> None:
        """Does the disk take a page again? Asked beside the journal, so that a failure leaves nothing in it."""
        path = self._directory / PROBE_FILE
        fd = self._os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            self._write(fd, bytes(4096))
            self._os.fsync(fd)
        finally:
            self._os.close(fd)
            self._discard(path)

    @property
    def has_grown(self) -> bool:
        grown = self.records > COMPACT_RECORDS or self.bytes - self._snapshot_bytes > COMPACT_BYTES
        return grown and self.now.open is None

    def compact(self, at: str) -> str:
        """A new file that begins with a snapshot and carries the chain on; the name under which the old one is kept."""
        self.repair()
        self._check_place()
        kept = self._archive_name()
        self._start_file(Snapshot(format=FORMAT, state=self.now.state, at=at), kept)
        for path in archives(self._directory, self._os)[:-ARCHIVES]:
            self._discard(path)
        return kept

    def close(self) -> None:
        if self._fd is not None:
            self._os.close(self._fd)
            self._fd = None

    # --- how ---

    def _start_file(self, snapshot: Snapshot, keep_as: str = "") -> None:
        line, link = seal(snapshot, self._link)
        new = self._directory / (FILE + _NEW)
        self._discard(new)
        fd = self._os.open(new, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            self._write(fd, line)
            self._os.fsync(fd)
            if keep_as:
                self._keep_old(keep_as)
            self._os.replace(new, self.path)
        except OSError:
            if not self._is_in_place(fd):
                self._os.close(fd)
                self._discard(new)
                raise
        # From here on the new file is the journal, durable by name or not.
        self.close()
        self._fd, self._link, self._tail_in_doubt, self._name_in_doubt = fd, link, False, True
        self.bytes = self._snapshot_bytes = len(line)
        self.records, self._first_seq, self.seq_of_last = 1, link.seq, link.seq
        self.repair()

    def _keep_old(self, name: str) -> None:
        """A second name, so that there is a journal at every moment."""
        try:
            self._os.link(self.path, self._directory / name)
        except FileExistsError:
            pass  # a compaction that was interrupted behind this point
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
        self._sync_directory()

    def _archive_name(self) -> str:
        """One that is free, or this file's own already: another chain's may stand where a journal was moved away."""
        assert self._fd is not None
        own, number = self._os.fstat(self._fd).st_ino, 1
        while True:
            name = f"journal-{self._first_seq:09d}{f'-{number}' if number > 1 else ''}.jsonl"
            try:
                if self._os.stat(self._directory / name).st_ino == own:
                    return name
            except FileNotFoundError:
                return name
            number += 1

    def _check_place(self) -> None:
        """What is written to a file that was moved away is lost at the next start."""
        assert self._fd is not None
        if not self._is_in_place(self._fd):
            raise OSError(errno.ESTALE, "the file was moved, removed or replaced by somebody else")
        if self._os.fstat(self._fd).st_size != self.bytes:
            raise OSError(errno.ESTALE, "the file was changed by somebody else")

    def _is_in_place(self, fd: int) -> bool:
        own = self._os.fstat(fd)
        try:
            there = self._os.stat(self.path)
        except FileNotFoundError:
            return False
        return bool((own.st_dev, own.st_ino) == (there.st_dev, there.st_ino))

    def _write(self, fd: int, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._os.write(fd, rest) :]

    def _keep(self, torn: bytes) -> None:
        path = self._directory / TORN_FILE
        fd = self._os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            self._write(fd, torn)
        finally:
            self._os.close(fd)

    def _sync_directory(self) -> None:
        fd = self._os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._os.fsync(fd)
        finally:
            self._os.close(fd)

    def _discard(self, path: Path) -> None:
        try:
            self._os.unlink(path)
        except OSError:
            pass  # absent, or the open that follows says it better


def read_file(path: Path, system: Any = os) -> bytes:
    """A regular file of a sane size; OSError otherwise."""
    # Not blocking, so that a pipe in the place of the file is an error and not a start that hangs.
    fd = system.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        found = system.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(0, "it is not a regular file")
        if found.st_size > MAX_BYTES:
            raise OSError(errno.EFBIG, f"it has more than {MAX_BYTES} bytes")
        parts = []
        while part := system.read(fd, 1024 * 1024):
            parts.append(part)
        return b"".join(parts)
    finally:
        system.close(fd)


def archives(directory: Path, system: Any = os) -> list[Path]:
    """The files that were the journal before, oldest first."""
    found = [
        (int(match[1]), int(match[2] or 1), match[0])
        for match in map(_ARCHIVE.fullmatch, system.listdir(directory))
        if match
    ]
    return [directory / name for _, _, name in sorted(found)]


def _corrupt(path: Path, data: bytes, broken: Broken) -> StateCorrupt:
    return StateCorrupt(
        f"{path}: the journal is not usable: line {broken.line}: {broken.why}; {_glimpse(data, broken)}",
        hint=_remedy(path),
    )


def _remedy(path: Path) -> str:
    return (
        f"restore {path} from a backup, or give it up: "
        f"mv {path} {path}.damaged, set [switch] initial to the colour that is to serve, and start again"
    )


def _glimpse(data: bytes, broken: Broken) -> str:
    """What an operator may want to know before choosing the colour by hand."""
    if broken.good:
        state = replay.settled(broken.good).state
        before = f'the lines before it say live "{state.live}", epoch {state.epoch}'
    else:
        before = "no line before it can be read"
    rest = b"\n".join(data.split(b"\n")[broken.line - 1 :])
    colours, epochs = _COLOUR.findall(rest), _EPOCH.findall(rest)
    seen = [f'live "{colours[-1].decode()}"'] if colours else []
    seen += [f"epoch {epochs[-1].decode()}"] if epochs else []
    return f"{before}; from it on, {' and '.join(seen) or 'neither colour nor epoch'} can be made out last"
