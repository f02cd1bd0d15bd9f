from __future__ import annotations

import os

from bgproxy.config import Token
from bgproxy.config.values import ProbeHeaders, usable_cores


def test_secrets_do_not_show():
    token = Token(name="ci", role="switch", sha256="ab" * 32)
    headers = ProbeHeaders({"Authorization": "Bearer s3cret"})
    for shown in (repr(token), str(token), repr(headers), str(headers), f"{token} {headers}"):
        assert "abab" not in shown
        assert "s3cret" not in shown
    assert "ci" in repr(token)
    assert "Authorization" in repr(headers)


def test_only_cores_that_may_be_used_are_counted():
    assert usable_cores() == len(os.sched_getaffinity(0))
