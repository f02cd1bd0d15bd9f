"""What was changed about the pools at run time, kept over restarts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from bgproxy.controlplane.durable import replace_durably
from bgproxy.core.model import Colour
from bgproxy.errors import StateCorrupt, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

POOLS_FILE = "pools.json"
FORMAT = 1


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
    format: int = FORMAT

    def changed(self, colour: Colour) -> ChangedPool | None:
        return self.green if colour else self.blue

    def drained(self, colour: Colour) -> tuple[str, ...]:
        return self.drained_green if colour else self.drained_blue

    def with_pool(self, colour: Colour, pool: ChangedPool | None) -> PoolRecord:
        return msgspec.structs.replace(self, **{colour.label: pool})

    def with_drained(self, colour: Colour, ids: tuple[str, ...]) -> PoolRecord:
        return msgspec.structs.replace(self, **{f"drained_{colour.label}": ids})


class Persisted(Protocol):
    """Where the record is kept. StoreUnavailable where it cannot be, and then the last one still is."""

    async def save_pools(self, record: PoolRecord) -> None: ...
    def load_pools(self) -> PoolRecord:
        """An empty one where nothing was ever changed. Blocks: for the start."""


class PoolFile:
    """A file of its own in the state directory. `in_thread` runs file work outside the loop."""

    def __init__(
        self,
        directory: Path,
        *,
        in_thread: Callable[[Callable[[], None]], Awaitable[None]] = asyncio.to_thread,
        **options: Any,
    ) -> None:
        self.path = directory / POOLS_FILE
        self._in_thread, self._options = in_thread, options

    async def save_pools(self, record: PoolRecord) -> None:
        await self._in_thread(lambda: self._save(record))

    def _save(self, record: PoolRecord) -> None:
        before = self._bytes_on_disk()
        try:
            replace_durably(self.path, msgspec.json.format(msgspec.json.encode(record)) + b"\n", **self._options)
        except OSError as error:
            # The rename may have happened before the failure: then a restart would find what was refused here.
            is_as_before = self._bytes_on_disk() == before or self._put_back(before)
            raise StoreUnavailable(
                f"{self.path}: the change could not be written: {error.strerror or error}; "
                + ("nothing was changed" if is_as_before else "nothing was changed yet, but a restart would do it"),
                hint="make room on the disk or repair its permissions, then repeat the command",
            ) from error

    def _put_back(self, before: bytes | None) -> bool:
        try:
            if before is None:
                self.path.unlink()
            else:
                replace_durably(self.path, before, **self._options)
        except OSError:
            return False
        return True

    def _bytes_on_disk(self) -> bytes | None:
        try:
            return self.path.read_bytes()
        except OSError:
            return None

    def load_pools(self) -> PoolRecord:
        try:
            record = msgspec.json.decode(self.path.read_bytes(), type=PoolRecord)
        except FileNotFoundError:
            return PoolRecord()
        except (OSError, msgspec.DecodeError) as error:
            raise StateCorrupt(
                f"{self.path}: what was changed at run time cannot be read: {error}", hint=_HINT
            ) from None
        if record.format != FORMAT:
            raise StateCorrupt(f"{self.path}: its format is {record.format}, expected {FORMAT}", hint=_HINT)
        return record


_HINT = "move it away: then the pools are those of the configuration; set others again with bgproxy pool set"
