"""`GET /history?limit=N`: what was switched, by whom, and what came of it; the newest first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bgproxy.core.replay import HISTORY
from bgproxy.errors import BadRequest

if TYPE_CHECKING:
    from aiohttp import web


def limit_of_query(request: web.Request) -> int:
    """As many as there are where none is asked for."""
    unknown = [key for key in request.query if key != "limit"]
    if unknown:
        raise BadRequest(f"the query parameter {unknown[0]!r} is unknown; only 'limit' is expected")
    texts = request.query.getall("limit", [str(HISTORY)])
    if len(texts) == 1 and texts[0].isascii() and texts[0].isdigit() and 1 <= int(texts[0][:9]) <= HISTORY:
        return int(texts[0][:9])
    raise BadRequest(f"'limit' is expected once, a number from 1 to {HISTORY}: /history?limit=20")
