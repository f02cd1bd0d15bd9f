"""What survives a kill -9: the live colour, its epoch, and how it came to be live.

One small file, replaced as a whole: a new file beside it, fsync, rename, fsync of the directory. Whatever moment the
process or the machine dies in, the file holds the old state or the new one. A file that is neither is never guessed
around: it may be the only record of which version serves.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import orjson

from bgproxy.controlplane.durable import TEMPORARY, replace_durably, sync_directory
from bgproxy.core.model import Colour
from bgproxy.errors import StateCorrupt, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FORMAT = 1
STATE_FILE = "state.json"
_MAX_BYTES = 1024 * 1024  # a state is under 1 KB; more is not one of ours

ColourName = Literal["blue", "green"]


class LastSwitch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The switch that led to this epoch, as it was decided: what came of it is known to the running process only."""

    at: str
    from_: ColourName = msgspec.field(name="from")
    to: ColourName
    kind: Literal["switch", "rollback"]
    by: str
    reason: str
    forced: bool


class State(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The durable truth. `previous` is what a rollback goes to, None before the first switch."""

    epoch: int
    live: ColourName
    previous: ColourName | None = None
    last_switch: LastSwitch | None = None

    @property
    def live_colour(self) -> Colour:
        return Colour.named(self.live)

    @property
    def previous_colour(self) -> Colour | None:
        return None if self.previous is None else Colour.named(self.previous)


def encode(state: State) -> bytes:
    """The exact bytes of the file: sorted keys, the checksum over everything else."""
    members: dict[str, Any] = {"format": FORMAT, **msgspec.to_builtins(state)}
    return orjson.dumps(members | {"checksum": _checksum(members)}, option=_JSON) + b"\n"


def decode(data: bytes) -> State:
    """The state in these bytes; ValueError says what is wrong with them."""
    if not data:
        raise ValueError("it is empty")
    try:
        members = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error}") from None
    if not isinstance(members, dict):
        raise ValueError("it is not a JSON object")
    written_as = members.pop("format", None)
    if type(written_as) is not int or written_as < 1:
        raise ValueError(f"its format is {written_as!r}, expected {FORMAT}")
    if written_as > FORMAT:
        raise ValueError(f"its format is {written_as}, made by a newer bgproxy; this one reads up to {FORMAT}")
    found = members.pop("checksum", None)
    if found != _checksum({"format": written_as, **members}):
        raise ValueError("its checksum does not match its contents")
    try:
        state = msgspec.convert(members, State)
    except msgspec.ValidationError as error:
        raise ValueError(f"a member is wrong: {error}") from None
    if state.epoch < 0:
        raise ValueError(f"its epoch is {state.epoch}, expected 0 or more")
    if encode(state) != data:
        raise ValueError("its bytes are not as bgproxy writes them")
    return state


_JSON = orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2


def _checksum(members: dict[str, Any]) -> str:
    return "sha256:" + hashlib.sha256(orjson.dumps(members, option=_JSON)).hexdigest()


class StateStore:
    """The state file of one directory. `system` stands in for the module `os`, so that tests can fail every call.

    All file work happens on one thread of its own: the loop never waits for a disk, and a name server that hangs the
    common thread pool does not hang a switch.
    """

    def __init__(self, directory: Path, *, system: Any = os) -> None:
        self.path = directory / STATE_FILE
        self._directory = directory
        self._os = system
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="bgproxy-state")

    def load(self) -> State | None:
        """The state, None where there never was one; StateCorrupt where there is no telling. Blocks: for the start."""
        self._discard(self._temporary)
        try:
            data = self._read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateCorrupt(
                f"{self.path}: the state cannot be read: {error.strerror}",
                hint="make it a regular file that this user can read",
            ) from None
        try:
            return decode(data)
        except ValueError as error:
            raise StateCorrupt(
                f"{self.path}: the state is not usable: {error}; {_glimpse(data)}",
                hint=f"move {self.path} away and set [switch] initial to the colour that is to serve, then start again",
            ) from None

    async def save(self, state: State) -> None:
        """Returns once the state is on disk; StoreUnavailable where it is not, then the old one still is."""
        await self.in_thread(lambda: self.save_now(state))

    async def in_thread(self, work: Callable[[], None]) -> None:
        """Other small file work of the control plane, after everything that was asked for before."""
        await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def save_now(self, state: State) -> None:
        before = self._bytes_on_disk()
        try:
            self._replace_with(encode(state))
        except OSError as error:
            raise self._unavailable(error, before) from error

    def close(self) -> None:
        self._thread.shutdown(wait=True)

    @property
    def _temporary(self) -> Path:
        return self.path.with_name(STATE_FILE + TEMPORARY)

    def _unavailable(self, error: OSError, before: bytes | None) -> StoreUnavailable:
        hint = "make room on the disk or repair its permissions, then repeat the command"
        sentence = f"{self.path}: the state could not be written: {error.strerror or error}"
        # The rename may have happened before the failure: then a restart would find what was refused here.
        if self._bytes_on_disk() == before or self._put_back(before):
            self._discard(self._temporary)
            return StoreUnavailable(f"{sentence}; nothing was changed", hint=hint)
        return StoreUnavailable(
            f"{sentence}; the live colour was not changed, but the file already names the new one: "
            "a restart would come up with it",
            hint=hint,
        )

    def _put_back(self, before: bytes | None) -> bool:
        try:
            if before is None:
                self._os.unlink(self.path)
                self._sync_directory()
            else:
                self._replace_with(before)
        except OSError:
            return False
        return True

    def _replace_with(self, data: bytes) -> None:
        replace_durably(self.path, data, system=self._os)

    def _sync_directory(self) -> None:
        sync_directory(self._directory, system=self._os)

    def _read(self) -> bytes:
        # Not blocking, so that a pipe in the place of the file is an error and not a start that hangs.
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(0, "it is not a regular file")
            return file.read(_MAX_BYTES)

    def _bytes_on_disk(self) -> bytes | None:
        try:
            return self._read()
        except OSError:
            return None

    def _discard(self, path: Path) -> None:
        try:
            self._os.unlink(path)
        except OSError:
            pass  # absent, or the open that follows says it better


def _glimpse(data: bytes) -> str:
    """What an operator may want to know before choosing the colour by hand."""
    live = re.search(rb'"live":\s*"(blue|green)"', data)
    epoch = re.search(rb'"epoch":\s*(\d{1,19})\b', data)
    seen = [f'live "{live[1].decode()}"'] if live else []
    seen += [f"epoch {epoch[1].decode()}"] if epoch else []
    return f"it seems to say {' and '.join(seen)}" if seen else "neither colour nor epoch can be made out in it"
