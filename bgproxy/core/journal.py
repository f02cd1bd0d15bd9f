"""The journal's form: one line per record, sealed by a CRC-32, chained to the line before it by its SHA-256.

    6b3f1c02 {"at":"2026-01-31T12:00:00.000Z","epoch":8,…,"prev":"9f86d0…","seq":17,"type":"intent"}

What a line says is a `Record`; what many of them amount to is decided in core/replay.py. `read` takes a whole file and
tells three things apart: what is good, a torn tail (the last line, broken, so it was never answered for), and `Broken`:
damage anywhere else, or a contradiction, which nobody may guess around.
"""

from __future__ import annotations

import hashlib
import re
from binascii import crc32
from typing import Any, Literal, TypeAlias

import msgspec

from bgproxy.core.model import Colour

FORMAT = 2  # 1 was state.json
FILE = "journal.jsonl"

ColourName: TypeAlias = Literal["blue", "green"]
Kind: TypeAlias = Literal["switch", "rollback"]
Mode: TypeAlias = Literal["instant", "fence", "fence-writes"]
Result: TypeAlias = Literal["acknowledged", "aborted", "refused", "unconfirmed", "recovered"]


# --- what there is to remember ----------------------------------------------------------------------------------------


class LastSwitch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The switch that led to this epoch. `result` is None where what came of it is not known. Times in seconds."""

    at: str
    from_: ColourName = msgspec.field(name="from")
    to: ColourName
    kind: Kind
    by: str
    reason: str
    forced: bool
    mode: Mode = "instant"
    result: Result | None = None
    held_s: float | None = None
    acked_s: float | None = None
    drain_s: float | None = None


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A line of the history. `kind` is switch, rollback, maintenance on, maintenance off or pools; `result` is None
    while it is not known. Times in seconds."""

    at: str
    kind: str
    epoch: int
    from_: ColourName | None = msgspec.field(name="from", default=None)
    to: ColourName | None = None
    mode: Mode | None = None
    by: str = ""
    reason: str = ""
    forced: bool = False
    result: Result | None = None
    held_s: float | None = None
    acked_s: float | None = None
    drain_s: float | None = None
    late: bool = False
    detail: str = ""


class StoredAnswer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The answer to an order with an Idempotency-Key; it counts until `until`."""

    at: str
    until: str
    request_hash: str
    status: int
    document: Any


class Maintenance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Since when, by whom and why the proxy answers 503 itself."""

    at: str
    by: str = ""
    reason: str = ""


class State(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The durable truth. `previous` is what a rollback goes to, None before the first switch; `pools` is what was
    changed at run time, None where the configuration counts; `history` is oldest first."""

    epoch: int
    live: ColourName
    previous: ColourName | None = None
    last_switch: LastSwitch | None = None
    maintenance: Maintenance | None = None
    pools: Any = None
    answers: dict[str, StoredAnswer] = {}
    history: tuple[Entry, ...] = ()

    @property
    def live_colour(self) -> Colour:
        return Colour.named(self.live)

    @property
    def previous_colour(self) -> Colour | None:
        return None if self.previous is None else Colour.named(self.previous)


# --- records ----------------------------------------------------------------------------------------------------------


class Record(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="type"
):
    """`at` is UTC with milliseconds: when it was decided, also where it is written `late`. `seq` and `prev` come with
    the seal."""

    seq: int = 0
    prev: str = ""
    at: str = ""
    late: bool = False


class Snapshot(Record, frozen=True, kw_only=True, tag="snapshot"):
    """The first line of every file: all that the lines before it amount to."""

    format: int
    state: State


class Intent(Record, frozen=True, kw_only=True, tag="intent"):
    epoch: int
    from_: ColourName = msgspec.field(name="from")
    to: ColourName
    kind: Kind
    mode: Mode = "instant"
    by: str = ""
    reason: str = ""
    forced: bool = False
    key: str = ""  # the Idempotency-Key of the order, the hash of what was ordered, and how long its answer counts
    request_hash: str = ""
    until: str = ""


class Decided(Record, frozen=True, kw_only=True, tag="decided"):
    """The old colour of a fence is empty: from here on it counts."""

    epoch: int


class Outcome(Record, frozen=True, kw_only=True, tag="outcome"):
    """What came of an intent. Times in seconds; `cut` counts the requests that a fence ended."""

    epoch: int
    result: Result
    held_s: float | None = None
    acked_s: float | None = None
    drain_s: float | None = None
    cut: int = 0
    detail: str = ""


class Answer(Record, frozen=True, kw_only=True, tag="answer"):
    key: str
    request_hash: str
    status: int
    document: Any
    until: str


class GateSet(Record, frozen=True, kw_only=True, tag="gate"):
    maintenance: bool
    by: str = ""
    reason: str = ""


class PoolsSet(Record, frozen=True, kw_only=True, tag="pools"):
    """`document` belongs to who wrote it; None goes back to the configuration. `detail` says what is different."""

    document: Any = None
    by: str = ""
    reason: str = ""
    detail: str = ""


AnyRecord: TypeAlias = Snapshot | Intent | Decided | Outcome | Answer | GateSet | PoolsSet


# --- lines ------------------------------------------------------------------------------------------------------------


class Link(msgspec.Struct, frozen=True):
    """Where a chain stands: the number of its last record, and the SHA-256 of that record's JSON."""

    seq: int = 0
    digest: str = hashlib.sha256().hexdigest()


def seal(record: AnyRecord, after: Link) -> tuple[bytes, Link]:
    """The line to append, and where the chain stands then."""
    numbered = msgspec.structs.replace(record, seq=after.seq + 1, prev=after.digest)
    body = msgspec.json.encode(numbered, order="sorted")
    return b"%08x %s\n" % (crc32(body), body), Link(after.seq + 1, hashlib.sha256(body).hexdigest())


class Broken(ValueError):
    """Line `line` (the first is 1) is the first that is not as it was written; `good` are the records before it."""

    def __init__(self, line: int, why: str, good: list[AnyRecord]) -> None:
        super().__init__(f"line {line}: {why}")
        self.line, self.why, self.good = line, why, good


class Reading(msgspec.Struct, frozen=True):
    """`end` is where the good lines end, in bytes; behind it is nothing but `torn`."""

    records: list[AnyRecord]
    link: Link
    end: int
    torn: bytes = b""


_LINE = re.compile(rb"[^\n]*\n|[^\n]+")


def read(data: bytes, after: Link | None = None) -> Reading:
    """A whole file. It begins with a snapshot; `after` is where the file before it ended, where there is one."""
    records: list[AnyRecord] = []
    end = 0
    lines = _LINE.findall(data)
    for number, line in enumerate(lines, 1):
        body = unsealed(line)
        if body is None:
            # The snapshot is synced before the file gets its name: a first line cannot be torn.
            if number == len(lines) > 1:
                return Reading(records, _known(after), end, line)
            raise Broken(number, "its checksum does not match its contents", records)
        try:
            record = _decoded(body, first=number == 1)
            after = _chained(record, body, after)
        except ValueError as error:
            raise Broken(number, str(error), records) from None
        records.append(record)
        end += len(line)
    if not records:
        raise Broken(1, "the file is empty", records)
    return Reading(records, _known(after), end)


def unsealed(line: bytes) -> bytes | None:
    """The JSON of a line, None where its checksum or its form is not right."""
    body = line[9:-1]
    return body if line == b"%08x %s\n" % (crc32(body), body) else None


class _Head(msgspec.Struct, frozen=True):
    type: str
    format: int | None = None


def _decoded(body: bytes, *, first: bool) -> AnyRecord:
    try:
        head = msgspec.json.decode(body, type=_Head)
        if head.format is not None and head.format != FORMAT:
            newer = f", made by a newer bgproxy; this one reads up to {FORMAT}" if head.format > FORMAT else ""
            raise ValueError(f"its format is {head.format}{newer}")
        record: AnyRecord = msgspec.json.decode(body, type=AnyRecord)
    except msgspec.DecodeError as error:  # also ValidationError
        raise ValueError(f"it is not a record of format {FORMAT}: {error}") from None
    if isinstance(record, Snapshot) is not first:
        raise ValueError("a file begins with a snapshot, and has no other")
    return record


def _chained(record: AnyRecord, body: bytes, after: Link | None) -> Link:
    if after is not None and record.seq != after.seq + 1:
        raise ValueError(f"it is record {record.seq}, and record {after.seq + 1} was to follow")
    if after is not None and record.prev != after.digest:
        raise ValueError(f"it (record {record.seq}) does not follow from the record before it")
    return Link(record.seq, hashlib.sha256(body).hexdigest())


def _known(after: Link | None) -> Link:
    assert after is not None
    return after
