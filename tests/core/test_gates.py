from __future__ import annotations

import msgspec
import pytest

from bgproxy.core import gates
from bgproxy.core.gates import PoolView, Snapshot, WorkerView, evaluate, failed
from bgproxy.core.health import UpstreamHealth
from bgproxy.core.model import BLUE, GREEN


def upstream(index: int = 0, **changes: object) -> UpstreamHealth:
    up = UpstreamHealth(
        f"u{index}", index, f"127.0.0.1:900{index}", up=True, checked_at=99.0, consecutive=9, since=50.0
    )
    return msgspec.structs.replace(up, **changes)


def snapshot(**changes: object) -> Snapshot:
    steady = Snapshot(
        live=BLUE,
        epoch=7,
        blue=PoolView(1, (upstream(),)),
        green=PoolView(1, (upstream(),)),
        table_version=1,
        workers=(WorkerView(0, 100, True, 1), WorkerView(1, 101, True, 1)),
        check="GET /healthz",
        now=100.0,
    )
    return msgspec.structs.replace(steady, **changes)


def the_only(verdicts: list[gates.Verdict]) -> gates.Verdict:
    (verdict,) = failed(verdicts)
    return verdict


def test_a_steady_proxy_passes_every_gate_and_says_so():
    verdicts = evaluate(snapshot(), GREEN)
    assert failed(verdicts) == []
    assert [v.gate for v in verdicts] == ["pool_healthy", "table_acknowledged", "workers_ready", "no_orphaned_workers"]
    assert verdicts[2].result == "2 ready"


def test_the_health_of_the_target_pool_counts_and_not_that_of_the_other():
    sick = PoolView(1, (upstream(up=False, error="connection refused"),))
    assert failed(evaluate(snapshot(blue=sick), GREEN)) == []
    assert failed(evaluate(snapshot(blue=sick), BLUE)) != []


def test_a_pool_with_too_few_healthy_upstreams_is_refused_with_each_of_them_named():
    pool = PoolView(
        2,
        (
            upstream(0),
            upstream(1, up=False, error="connection refused", consecutive=3, since=88.0),
            upstream(2, up=None),
        ),
    )
    whole, down, unknown = failed(evaluate(snapshot(green=pool), GREEN))
    assert (whole.target, whole.check) == ("green", "at least 2 of 3 upstreams healthy")
    assert whole.result == "1 healthy, 2 needed"
    assert (down.target, down.check) == ("green/127.0.0.1:9001", "GET /healthz")
    assert down.result == "down: connection refused, 3 times in a row"
    assert down.since_s == 12.0
    assert str(down) == "green/127.0.0.1:9001: down: connection refused, 3 times in a row (for 12.0 s)"
    assert unknown.target == "green/127.0.0.1:9002"


def test_an_unhealthy_upstream_that_is_not_needed_is_named_without_refusing():
    pool = PoolView(1, (upstream(0), upstream(1, up=False, error="answered 500, expected 200-299")))
    verdicts = evaluate(snapshot(green=pool), GREEN)
    assert failed(verdicts) == []
    assert [v.target for v in verdicts if v.gate == gates.UPSTREAM_HEALTHY] == ["green/127.0.0.1:9001"]


@pytest.mark.parametrize(
    ("changes", "result"),
    [
        ({"up": None, "checked_at": None}, "never checked yet"),
        ({"up": None, "consecutive": 1}, "not decided yet: answered as expected, 1 time in a row"),
        (
            {"up": None, "error": "no answer within 5s", "consecutive": 2},
            "not decided yet: no answer within 5s, 2 times in a row",
        ),
        (
            {"up": False, "consecutive": 1},
            "down, but answered as expected 1 time in a row: not often enough to be up again",
        ),
    ],
)
def test_what_is_known_about_an_upstream_is_told_as_it_is(changes, result):
    verdicts = failed(evaluate(snapshot(green=PoolView(1, (upstream(**changes),))), GREEN))
    assert verdicts[1].result == result


def test_every_upstream_that_is_up_has_to_be_of_the_expected_release():
    pool = PoolView(1, (upstream(0, release="2.0"), upstream(1), upstream(2, up=False, release="1.0")), release="2.0")
    assert failed(gates.expected_release(snapshot(green=pool), GREEN, "2.0")) == []
    stale, silent = failed(
        gates.expected_release(snapshot(green=PoolView(1, (upstream(0, release="1.9"), upstream(1)))), GREEN, "2.0")
    )
    assert (stale.gate, stale.check, stale.result) == ("expected_release", "its release is 2.0", "its release is 1.9")
    assert silent.result == "it does not say which release it is"


def test_a_pool_that_needs_none_healthy_passes_with_none():
    assert failed(evaluate(snapshot(green=PoolView(0, (upstream(up=False, error="x"),))), GREEN)) == []


def test_a_worker_with_an_older_pool_table_refuses_the_switch():
    workers = (
        WorkerView(0, 100, True, 1),
        WorkerView(1, 101, True, 0, since=97.5),
        WorkerView(2, 102, True, 2, since=99.0),
    )
    verdict = the_only(evaluate(snapshot(workers=workers), GREEN))
    assert verdict.gate == gates.TABLE_ACKNOWLEDGED
    assert verdict.result == "worker 1 (pid 101) has none, worker 2 (pid 102) has 2"
    assert verdict.since_s == 2.5


def test_each_worker_that_is_not_ready_is_named():
    workers = (WorkerView(0, 0, False, 0, since=99.5), WorkerView(1, 101, False, 1, since=99.0))
    gone, starting = failed(evaluate(snapshot(workers=workers), GREEN))
    assert (gone.target, gone.result) == ("worker 0", "has no process; its replacement is on its way")
    assert (starting.target, starting.result, starting.since_s) == ("worker 1", "pid 101 is starting", 1.0)


def test_workers_of_an_earlier_supervisor_refuse_the_switch_by_pid():
    verdict = the_only(evaluate(snapshot(orphans=(41, 42)), GREEN))
    assert verdict.gate == gates.NO_ORPHANS
    assert verdict.result == "still running: pid 41, 42"


def test_every_reason_is_given_at_once():
    now = snapshot(
        green=PoolView(1, (upstream(up=False, error="connection refused"),)),
        workers=(WorkerView(0, 100, False, 0),),
        orphans=(41,),
    )
    assert {v.gate for v in failed(evaluate(now, GREEN))} == {
        gates.POOL_HEALTHY,
        gates.UPSTREAM_HEALTHY,
        gates.TABLE_ACKNOWLEDGED,
        gates.WORKERS_READY,
        gates.NO_ORPHANS,
    }


def test_a_rollback_asks_about_health_alone():
    now = snapshot(workers=(WorkerView(0, 0, False, 0),), orphans=(41,))
    assert failed(evaluate(now, GREEN, rollback=True)) == []
    sick = snapshot(green=PoolView(1, (upstream(up=False, error="connection refused"),)))
    assert failed(evaluate(sick, GREEN, rollback=True)) != []


def test_a_verdict_becomes_the_members_of_a_problem_document():
    (verdict, *_) = evaluate(snapshot(), GREEN)
    assert verdict.as_dict() == {
        "gate": "pool_healthy",
        "target": "green",
        "check": "at least 1 of 1 upstreams healthy",
        "result": "1 healthy, 1 needed",
        "since_s": None,
    }
    assert str(verdict) == "green: 1 healthy, 1 needed"


def test_a_drained_upstream_does_not_count_however_healthy_it_is():
    pool = PoolView(2, (upstream(0), upstream(1, drained=True)))
    whole, drained = failed(evaluate(snapshot(green=pool), GREEN))
    assert whole.result == "1 healthy, 2 needed"
    assert (drained.target, drained.result) == ("green/127.0.0.1:9001", "drained by operator")
