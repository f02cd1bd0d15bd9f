from __future__ import annotations

from bgproxy.controlplane.operation import refused
from bgproxy.core.gates import Verdict
from bgproxy.core.model import GREEN

# The run of an operation is told in test_switcher.py, from the order to the answer.


def test_a_refusal_names_every_reason_and_says_that_nothing_was_changed():
    error = refused(
        "switch",
        GREEN,
        [
            Verdict("pool_healthy", "green", "at least 1 healthy", False, "0 healthy, 1 needed"),
            Verdict("upstream_healthy", "green/a:1", "GET /healthz", False, "down: refused, 3 times in a row", 12.0),
        ],
    )
    assert error.detail == (
        "the switch to green was refused: green: 0 healthy, 1 needed; "
        "green/a:1: down: refused, 3 times in a row (for 12.0 s); nothing was changed"
    )
    assert [each["target"] for each in error.extra["failed"]] == ["green", "green/a:1"]
    assert "--force" in error.hint
