"""What was changed about the pools at run time, kept over restarts: a document in the journal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from bgproxy.core.journal import PoolsSet, State
from bgproxy.core.model import Colour
from bgproxy.errors import StateCorrupt

if TYPE_CHECKING:
    from bgproxy.controlplane.journal import Journal

FROM_CONFIGURATION = "what was set before gives way to the configuration"


class ChangedPool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Upstreams that were set at run time. `configured` is the fingerprint of those that the configuration had then:
    as long as it has the same, these count."""

    upstreams: tuple[dict[str, Any], ...]
    release: str
    configured: str
    at: str
    by: str
    reason: str


class PoolRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`drained` are ids of upstreams, which count for as long as their pool has them."""

    blue: ChangedPool | None = None
    green: ChangedPool | None = None
    drained_blue: tuple[str, ...] = ()
    drained_green: tuple[str, ...] = ()

    def changed(self, colour: Colour) -> ChangedPool | None:
        return self.green if colour else self.blue

    def drained(self, colour: Colour) -> tuple[str, ...]:
        return self.drained_green if colour else self.drained_blue

    def with_pool(self, colour: Colour, pool: ChangedPool | None) -> PoolRecord:
        return msgspec.structs.replace(self, **{colour.label: pool})

    def with_drained(self, colour: Colour, ids: tuple[str, ...]) -> PoolRecord:
        return msgspec.structs.replace(self, **{f"drained_{colour.label}": ids})


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """Who changed it and why, and `what` was changed, for the history."""

    what: str
    by: str = ""
    reason: str = ""


class KeptPools:
    """The record, as the journal has it."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def save_pools(self, record: PoolRecord, note: Note) -> None:
        """StoreUnavailable where it is not on disk; then the last one still counts."""
        document = _document(record)
        await self._journal.save_pools(document, by=note.by, reason=note.reason, detail=note.what)

    def note(self, record: PoolRecord, note: Note) -> None:
        """Written whenever the disk takes it: what a start would find by itself."""
        said = PoolsSet(document=_document(record), by=note.by, reason=note.reason, detail=note.what)
        self._journal.conclude(said)


def recorded(state: State) -> PoolRecord:
    """An empty one where nothing was ever changed. StateCorrupt where it is not one of ours."""
    if state.pools is None:
        return PoolRecord()
    try:
        return msgspec.convert(state.pools, PoolRecord)
    except msgspec.ValidationError as error:
        raise StateCorrupt(
            f"what was changed about the pools at run time cannot be read in the journal: {error}",
            hint="start the version that wrote it; or give the journal up: mv it away, and set [switch] initial to the "
            "colour that is to serve",
        ) from None


def _document(record: PoolRecord) -> Any:
    return None if record == PoolRecord() else msgspec.to_builtins(record)
