"""Answers to orders with an Idempotency-Key, between the journal and those who ask again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from bgproxy.controlplane.idempotency import Answer, Kept
from bgproxy.controlplane.orders import SwitchReport
from bgproxy.core.replay import RECOVERED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bgproxy.controlplane.journal import Journal
    from bgproxy.core.journal import State


def kept_by(state: State) -> dict[str, Kept]:
    """The answers of before the restart. Where the process died before it answered, the answer is what became of it."""
    kept = {}
    for key, each in state.answers.items():
        document = each.document
        if each.status == RECOVERED:
            document = msgspec.to_builtins(msgspec.convert(document, SwitchReport))
        kept[key] = Kept(
            each.request_hash, Answer(200 if each.status == RECOVERED else each.status, document), _time(each.until)
        )
    return kept


def _time(text: str) -> datetime:
    """Of what does not say it, that it is not over: rather an old answer than a second switch."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        return datetime.max.replace(tzinfo=UTC)


def keep_in(journal: Journal) -> Callable[[str, Kept], Awaitable[None]]:
    async def keep(key: str, kept: Kept) -> None:
        await journal.answered(key, kept.digest, kept.answer.status, kept.answer.document)

    return keep
