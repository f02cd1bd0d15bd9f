"""The same key, the same answer: a client that did not hear the answer may ask again without switching twice.

Kept is every answer after which something is as the order wanted it, also where that answer is an error (the switch was
done, the drain took too long). A refusal that changed nothing is not kept: asked again, the order is judged anew.
"""

from __future__ import annotations

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from bgproxy.errors import IdempotencyKeyReused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from bgproxy.controlplane.orders import SwitchOrder

MOST = 1000  # answers; the oldest go first
KEPT_FOR = timedelta(hours=24)


class Answer(msgspec.Struct, frozen=True):
    """An HTTP status and the JSON document that goes with it. `is_final`: asked again, it is given again."""

    status: int
    document: dict[str, Any]
    is_final: bool = True


class Kept(msgspec.Struct, frozen=True):
    """An answer, and the digest of the order that it was the answer to. After `until` (UTC) the key is free again."""

    digest: str
    answer: Answer
    until: datetime


async def forget(key: str, kept: Kept) -> None:
    """Where answers need not survive the process."""


class Answers:
    """`kept` are those of before a restart; `keep(key, kept)` returns when a further one would survive one."""

    def __init__(
        self,
        kept: Mapping[str, Kept] | None = None,
        *,
        keep: Callable[[str, Kept], Awaitable[None]] = forget,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._kept = dict(kept or {})
        self._keep, self._wall = keep, wall
        self._running: dict[str, tuple[str, asyncio.Task[Answer]]] = {}

    async def once(self, key: str, digest: str, run: Callable[[], Awaitable[Answer]]) -> tuple[Answer, bool]:
        """The answer, and whether it had been given before. Who asks while the first is still at work gets the same.

        IdempotencyKeyReused where the key was used for another order.
        """
        kept = self._kept.get(key)
        if kept is not None and kept.until > self._wall():
            _refuse_another(key, kept.digest, digest)
            return kept.answer, True
        if key in self._running:
            first, task = self._running[key]
            _refuse_another(key, first, digest)
            return await asyncio.shield(task), True
        task = asyncio.get_running_loop().create_task(self._run(key, digest, run))
        self._running[key] = digest, task
        task.add_done_callback(lambda done: self._over(key, done))
        return await asyncio.shield(task), False

    async def _run(self, key: str, digest: str, run: Callable[[], Awaitable[Answer]]) -> Answer:
        answer = await run()
        if answer.is_final:
            self._kept.pop(key, None)  # one that is over: this is the newest now
            kept = self._kept[key] = Kept(digest, answer, self._wall() + KEPT_FOR)
            while len(self._kept) > MOST:
                del self._kept[next(iter(self._kept))]
            await self._keep(key, kept)
        return answer

    def _over(self, key: str, task: asyncio.Task[Answer]) -> None:
        del self._running[key]
        if not task.cancelled():
            task.exception()  # everybody who waited has been told


def digest_of(order: SwitchOrder) -> str:
    """What has to be the same for an order to be the same. Who gave it need not be: pipelines change their runners."""
    return hashlib.sha256(msgspec.json.encode(msgspec.structs.replace(order, by="", key=""))).hexdigest()


def _refuse_another(key: str, first: str, digest: str) -> None:
    if first != digest:
        raise IdempotencyKeyReused(
            f"the Idempotency-Key {key!r} was used for another order; nothing was changed",
            hint="use a new key for a new order",
        )
