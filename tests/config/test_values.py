from __future__ import annotations

import os

from bgproxy.config import Token
from bgproxy.config.values import ProbeHeaders, Route, usable_cores
from bgproxy.core.settings import StreamPolicy, StreamRoute


def test_secrets_do_not_show():
    token = Token(name="ci", role="switch", sha256="ab" * 32)
    headers = ProbeHeaders({"Authorization": "Bearer s3cret"})
    for shown in (repr(token), str(token), repr(headers), str(headers), f"{token} {headers}"):
        assert "abab" not in shown
        assert "s3cret" not in shown
    assert "ci" in repr(token)
    assert "Authorization" in repr(headers)


def test_a_route_says_only_what_it_says_otherwise():
    default = StreamPolicy(policy="close-after", timeout=60.0, spread=5.0, retry=1.0)
    route = Route(path="/chat/", policy="close-now", spread=0.0)
    assert route.over(default) == StreamRoute(
        "/chat/", StreamPolicy(policy="close-now", timeout=60.0, spread=0.0, close_code=1012, retry=1.0)
    )
    assert Route(path="/").over(default).policy == default


def test_only_cores_that_may_be_used_are_counted():
    assert usable_cores() == len(os.sched_getaffinity(0))
