from __future__ import annotations

import pytest


@pytest.mark.parametrize(("query", "entries"), [("", 1), ("?limit=1", 1), ("?limit=200", 1)])
async def test_the_history_is_asked_for_with_or_without_a_limit(api, query, entries):
    reply = await api.ask("GET", f"/history{query}")
    assert (reply.status, len(reply.document["history"])) == (200, entries)


@pytest.mark.parametrize(
    "query", ["?limit=0", "?limit=201", "?limit=-1", "?limit=", "?limit=٣", "?limit=1&limit=2", "?n=3", "?limit=1e9"]
)
async def test_a_limit_that_is_none_is_refused(api, query):
    reply = await api.ask("GET", f"/history{query}")
    assert (reply.status, reply.document["code"]) == (400, "bad_request")
    assert "limit" in reply.document["detail"]
