"""What an operator reads."""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import pytest

from bgproxy.cli import words
from bgproxy.controlplane.orders import GateReport

UPSTREAM: dict[str, Any] = {
    "id": "a",
    "address": "127.0.0.1:9001",
    "up": True,
    "weight": 1,
    "in_flight": 0,
    "parked": 1,
    "check": {
        "ok": True,
        "at": "t",
        "age_s": 0.4,
        "stale": False,
        "status": 200,
        "duration_s": 0.0012,
        "consecutive": 3,
        "error": None,
    },
    "ejected_until": None,
}
POOL: dict[str, Any] = {
    "role": "live",
    "release": None,
    "healthy": 1,
    "total": 1,
    "min_healthy": 1,
    "degraded": None,
    "in_flight": 2,
    "streams": 1,
    "draining": False,
    "rps": 12.5,
    "error_share": 0.01,
    "stale": False,
    "latency_s": {"p50": 0.001, "p90": 0.002, "p99": 0.25},
    "upstreams": [UPSTREAM],
}
IDLE: dict[str, Any] = POOL | {
    "role": "idle",
    "rps": 0.0,
    "error_share": None,
    "latency_s": {"p50": None, "p90": None, "p99": None},
}
STATUS: dict[str, Any] = {
    "epoch": 7,
    "live": "blue",
    "idle": "green",
    "state": "steady",
    "uptime_s": 7500.0,
    "can_switch": {"ok": True, "to": "green", "reasons": []},
    "rollback": {"ready": False, "to": None, "reasons": ["there has been no switch yet"]},
    "last_switch": None,
    "pools": {"blue": POOL, "green": IDLE},
    "workers": {"configured": 2, "ready": 2, "epochs": [7, 7], "lag_s": [0.0, 0.0], "stale": False},
}


def page(**changes: Any) -> str:
    document = copy.deepcopy(STATUS)
    for path, value in changes.items():
        *parents, last = path.split("__")
        target: Any = document
        for part in parents:
            target = target[int(part) if part.isdigit() else part]
        target[last] = value
    return "\n".join(words.status(document))


def test_status_is_a_page_of_tables():
    assert page() == (
        "blue is live  epoch 7  steady  up 2 h 5 min\n"
        "\n"
        "pool   role  healthy  from  in flight  streams  req/s  errors  p50   p99\n"
        "blue   live  1/1      file  2          1        12.5   1.0%    1 ms  250 ms\n"
        "green  idle  1/1      file  2          1        0      -       -     -\n"
        "\n"
        "upstream  address         state  last check\n"
        "blue      127.0.0.1:9001  up     200 in 1.2 ms, 400 ms ago\n"
        "green     127.0.0.1:9001  up     200 in 1.2 ms, 400 ms ago\n"
        "\n"
        "workers: 2 of 2 ready, epochs 7, 7\n"
        "switch to green: possible\n"
        "rollback to -: not now: there has been no switch yet"
    )


def test_a_gate_that_a_restart_would_not_know_says_so():
    document = msgspec.to_builtins(
        GateReport(changed=True, kind="maintenance on", state="maintenance", live="blue", epoch=1, at="", undo="u")
    )
    assert "NOT ON DISK" not in "\n".join(words.gate(document))
    assert words.gate(document | {"durable": False})[-2:] == [
        "NOT ON DISK YET: a restart before it is would not know what was done last",
        "undo: u",
    ]


def test_what_waits_is_said_first():
    assert page(held=1).startswith("blue is live  epoch 7  steady  up 2 h 5 min\nheld: 1 request\n\n")
    failing = {"ok": False, "error": "No space left on device", "since": "2026-01-31T12:00:00.000Z"}
    assert page(held=3, durable=False, journal=failing).splitlines()[1:5] == [
        "held: 3 requests",
        "NOT ON DISK YET: what was done last; a restart now would not know it",
        "journal: cannot be written since 2026-01-31T12:00:00.000Z: No space left on device; "
        "a switch is refused, a rollback is not",
        "",
    ]
    well = {"ok": True, "error": None, "since": None}
    assert page(held=0, durable=True, journal=well) == page()


def test_what_a_switch_has_left_behind_is_said():
    left = {"requests": 2, "streams": 1, "oldest_s": 300.0}
    assert "\ngreen: left by the last switch: 2 requests and 1 stream, the oldest for 5 min\n" in page(
        pools__green__remaining=left, pools__green__leaving=0
    )
    left = {"requests": 0, "streams": 3, "oldest_s": None}
    assert "\ngreen: left by the last switch: 3 streams; 1 stream will be closed\n" in page(
        pools__green__remaining=left, pools__green__leaving=1
    )
    nothing = {"requests": 0, "streams": 0, "oldest_s": None}
    assert "left" not in page(pools__green__remaining=nothing, pools__blue__remaining=None)


def test_what_is_wrong_stands_out():
    at = "pools__blue__upstreams__0__"
    assert "connection refused, 400 ms ago" in page(
        **{f"{at}check__ok": False, f"{at}check__error": "connection refused", f"{at}up": False}
    )
    assert "never checked" in page(**{f"{at}check__ok": None, f"{at}up": None})
    assert "unknown" in page(**{f"{at}up": None})
    assert "  stale  " in page(**{f"{at}up": None, f"{at}check__stale": True})
    assert "up, ejected" in page(**{f"{at}ejected_until": "t"})
    assert "STALE" in page(workers__stale=True)
    assert "1/1 stale" in page(pools__green__stale=True)
    assert "blue: every upstream is down" in page(pools__blue__degraded="every upstream is down")


def test_the_last_switch_says_who_and_why():
    last = {"at": "t", "from": "green", "to": "blue", "kind": "rollback", "by": "token:ci", "reason": "errors"}
    assert "last rollback: green → blue at t by token:ci: errors" in page(last_switch=last)
    assert page(last_switch=last | {"by": "", "reason": ""}).endswith("last rollback: green → blue at t")


REPORT: dict[str, Any] = {
    "changed": True,
    "kind": "switch",
    "from": "blue",
    "to": "green",
    "epoch": 8,
    "dry_run": False,
    "durable_s": 0.001,
    "acked_s": 0.0004,
    "drain_s": None,
    "replaced_workers": [],
    "overridden": [],
    "undo": "bgproxy rollback",
    "detail": "",
}


def test_a_dry_run_says_that_nothing_was_changed():
    said = "the switch to green would be done; nothing was changed"
    overridden = {"target": "green", "check": "2 healthy", "result": "1 healthy", "since_s": None}
    lines = words.report(REPORT | {"dry_run": True, "changed": False, "detail": said, "overridden": [overridden]})
    assert lines == [said, "epoch 8", "overridden by --force:", "  - green: 2 healthy: 1 healthy"]


def test_live_already_is_no_change():
    assert words.report(REPORT | {"changed": False}) == ["green is live already; nothing was changed", "epoch 8"]


def test_a_drain_and_a_remark_are_told():
    lines = words.report(REPORT | {"drain_s": 2.5, "detail": "one more thing"})
    assert "the old requests were done in 2.5 s" in lines
    assert "one more thing" in lines


def test_reasons_that_the_sentence_gives_are_not_given_twice():
    failed = [{"target": "green", "check": "c", "result": each, "since_s": None} for each in ("one", "two")]
    assert words.problem({"detail": "refused: green: one", "failed": failed}) == [
        "refused: green: one",
        "  - green: c: two",
    ]


def test_a_problem_without_a_document_is_still_a_sentence():
    assert words.problem({}) == ["the admin API refused"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0000004, "0 µs"),
        (0.00035, "350 µs"),
        (0.0421, "42.1 ms"),
        (1.5, "1.5 s"),
        (119, "119 s"),
        (150, "2 min"),
        (7300, "2 h 1 min"),
        (3 * 86400, "3 days"),
    ],
)
def test_a_duration_has_the_unit_a_reader_would_choose(value, text):
    assert words.seconds(value) == text
