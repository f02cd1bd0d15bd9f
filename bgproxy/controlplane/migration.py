"""Format 1: `state.json`, one object that was replaced as a whole. Read once, to begin a journal with.

`state.json.migrated` stays: to look at, and for an older bgproxy that is to run again (docs/operations.md).
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import orjson

from bgproxy.controlplane.journal_file import read_file
from bgproxy.core.journal import Entry, LastSwitch, State
from bgproxy.errors import StateCorrupt

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = 1
STATE_FILE = "state.json"
MIGRATED = ".migrated"

ColourName = Literal["blue", "green"]
_JSON = orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2


class LastSwitchOfFormat1(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    at: str
    from_: ColourName = msgspec.field(name="from")
    to: ColourName
    kind: Literal["switch", "rollback"]
    by: str
    reason: str
    forced: bool


class StateOfFormat1(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    epoch: int
    live: ColourName
    previous: ColourName | None = None
    last_switch: LastSwitchOfFormat1 | None = None


def find(directory: Path, system: Any = os) -> State | None:
    """What is to be migrated, None where there is nothing; StateCorrupt where there is no telling."""
    path = directory / STATE_FILE
    try:
        data = read_file(path, system)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateCorrupt(
            f"{path}: the state cannot be read: {error.strerror}",
            hint="make it a regular file that this user can read",
        ) from None
    try:
        return as_of_today(decode(data))
    except ValueError as error:
        raise StateCorrupt(
            f"{path}: the state is not usable: {error}",
            hint=f"move {path} away and set [switch] initial to the colour that is to serve, then start again",
        ) from None


def check_beside(directory: Path, state: State, system: Any = os) -> bool:
    """Beside a journal that says `state`: is there a state.json left to put away? StateCorrupt where it is ahead."""
    try:
        old = find(directory, system)
    except StateCorrupt:
        return False  # the journal is good, and it is what counts
    if old is not None and old.epoch > state.epoch:
        raise StateCorrupt(
            f"{directory / STATE_FILE} says epoch {old.epoch} ({old.live} live), the journal beside it epoch "
            f"{state.epoch} ({state.live} live): an older bgproxy has run here since",
            hint=f"move the one away that is not to count: {directory / STATE_FILE}, or {directory}/journal*.jsonl",
        )
    return old is not None


def put_away(directory: Path, system: Any = os) -> None:
    """Once the journal is durable; repeated at the next start where it did not come to it."""
    system.replace(directory / STATE_FILE, directory / (STATE_FILE + MIGRATED))


def decode(data: bytes) -> StateOfFormat1:
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
    if type(written_as) is not int or written_as != FORMAT:
        raise ValueError(f"its format is {written_as!r}, expected {FORMAT}")
    found = members.pop("checksum", None)
    if found != checksum({"format": written_as, **members}):
        raise ValueError("its checksum does not match its contents")
    try:
        state = msgspec.convert(members, StateOfFormat1)
    except msgspec.ValidationError as error:
        raise ValueError(f"a member is wrong: {error}") from None
    if state.epoch < 0:
        raise ValueError(f"its epoch is {state.epoch}, expected 0 or more")
    return state


def as_of_today(old: StateOfFormat1) -> State:
    if old.last_switch is None:
        return State(epoch=old.epoch, live=old.live, previous=old.previous)
    last = LastSwitch(**msgspec.structs.asdict(old.last_switch))
    entry = Entry(epoch=old.epoch, **msgspec.structs.asdict(old.last_switch))
    return State(epoch=old.epoch, live=old.live, previous=old.previous, last_switch=last, history=(entry,))


def checksum(members: dict[str, Any]) -> str:
    """Over everything but itself."""
    return "sha256:" + hashlib.sha256(orjson.dumps(members, option=_JSON)).hexdigest()
