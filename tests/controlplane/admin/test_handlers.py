"""Every route of the admin API over real connections, with a control plane that answers what the test says."""

from __future__ import annotations

import asyncio

import pytest

from bgproxy import __version__
from bgproxy.controlplane.admin import handlers
from bgproxy.controlplane.admin.handlers import Reading
from bgproxy.controlplane.orders import Defaults, GateOrder, ReplacedWorker, SwitchOrder
from bgproxy.core.gates import Verdict
from bgproxy.core.model import GREEN
from bgproxy.errors import (
    DrainTimedOut,
    NothingToRollBackTo,
    StaleEpoch,
    StoreUnavailable,
    SwitchInProgress,
    SwitchRefused,
    WorkersDidNotAcknowledge,
)
from tests.support.admin import switch_report

FAILED = Verdict("upstream_healthy", "green/127.0.0.1:9002", "GET /healthz", False, "never checked yet", 4.0)
PASSED = Verdict("workers_ready", "workers", "every worker is ready", True, "2 ready")


async def test_status_is_the_document(api, control):
    reply = await api.ask("GET", "/status")
    assert (reply.status, reply.document) == (200, control.document)
    assert reply.headers["Content-Type"] == "application/json"


async def test_status_answers_304_while_nothing_but_a_clock_has_moved(api, control):
    tag = (await api.ask("GET", "/status")).headers["ETag"]
    assert tag == '"e3-1"'
    control.document = control.document | {"uptime_s": 2.0}
    unchanged = await api.ask("GET", "/status", headers={"If-None-Match": f'"other", {tag}'})
    assert (unchanged.status, unchanged.headers["ETag"], unchanged.body) == (304, tag, b"")
    control.document = control.document | {"epoch": 4, "live": "green"}
    changed = await api.ask("GET", "/status", headers={"If-None-Match": tag})
    assert (changed.status, changed.headers["ETag"]) == (200, '"e4-2"')
    assert (await api.ask("GET", "/status", headers={"If-None-Match": "*"})).status == 304


async def test_costly_reads_take_one_turn_of_the_loop_each():
    """However many ask for the status at once: an order that comes behind them is not kept waiting for all of them."""
    reading, turn, turns = Reading(), 0, []

    async def count() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)  # turns of the loop are what is counted

    async def read() -> None:
        async with reading:
            turns.append(turn)

    counting = asyncio.create_task(count())
    await asyncio.gather(*(read() for _ in range(20)))
    counting.cancel()
    assert len(turns) == len(set(turns)) == 20


async def test_a_switch_order_reaches_the_control_plane_in_full(api, control):
    body = {
        "to": "green",
        "if_epoch": 3,
        "reason": "release 2",
        "wait": "drained",
        "timeout": "1500ms",
        "force": True,
        "dry_run": True,
        "mode": "fence-writes",
        "fence_timeout": 2,
        "fence_policy": "cut",
    }
    reply = await api.ask("POST", "/switch", json=body)
    assert reply.status == 200
    (order,) = control.orders
    assert order == SwitchOrder(
        kind="switch",
        to=GREEN,
        if_epoch=3,
        reason="release 2",
        by=order.by,
        mode="fence-writes",
        fence_timeout_s=2.0,
        fence_policy="cut",
        wait="drained",
        timeout_s=1.5,
        force=True,
        dry_run=True,
    )
    assert order.by == "tcp:127.0.0.1"


async def test_the_configured_wait_and_mode_apply_where_none_is_asked_for_but_no_rollback_is_fenced_unasked(
    api, control
):
    control.defaults = Defaults(mode="fence", wait="drained")
    await api.ask("POST", "/switch", json={"to": "green"})
    await api.ask("POST", "/rollback", json={"wait": "acked", "timeout": 5})
    await api.ask("POST", "/rollback", json={"mode": "fence"})
    assert [(order.mode, order.wait, order.timeout_s) for order in control.orders] == [
        ("fence", "drained", None),
        ("instant", "acked", 5.0),
        ("fence", "drained", None),
    ]


async def test_a_key_makes_an_order_safe_to_repeat(api, control):
    body, key = {"to": "green"}, {"Idempotency-Key": "run-7"}
    first = await api.ask("POST", "/switch", json=body, headers=key)
    assert "Idempotency-Replayed" not in first.headers
    control.report = switch_report(epoch=99)
    again = await api.ask("POST", "/switch", json=body, headers=key)
    assert (again.status, again.body, again.headers["Idempotency-Replayed"]) == (200, first.body, "true")
    assert [order.key for order in control.orders] == ["run-7"]
    other = await api.ask("POST", "/rollback", headers=key)
    assert (other.status, other.document["code"]) == (422, "idempotency_key_reused")
    await api.ask("POST", "/switch", json=body | {"dry_run": True}, headers={"Idempotency-Key": "dry"})
    real = await api.ask("POST", "/switch", json=body, headers={"Idempotency-Key": "dry"})
    assert "Idempotency-Replayed" not in real.headers


@pytest.mark.parametrize(("was_done", "asked"), [(True, 1), (False, 2)])
async def test_an_error_is_repeated_where_the_order_was_carried_out_and_judged_anew_where_not(
    api, control, was_done, asked
):
    control.report = DrainTimedOut("still running", extra={"epoch": 1})
    control.report.was_done = was_done
    replies = [
        await api.ask("POST", "/switch", json={"to": "green"}, headers={"Idempotency-Key": "k"}) for _ in range(2)
    ]
    assert [(reply.status, reply.document["code"]) for reply in replies] == [(504, "drain_timed_out")] * 2
    assert replies[0].body == replies[1].body
    assert len(control.orders) == asked


@pytest.mark.parametrize("key", ["", "two words", "ü", "k" * 256])
async def test_a_key_that_is_none_is_refused(api, control, key):
    reply = await api.ask("POST", "/switch", json={"to": "green"}, headers={"Idempotency-Key": key})
    assert (reply.status, reply.document["code"]) == (400, "bad_request")
    assert not control.orders


async def test_if_match_is_the_epoch_of_a_status_tag(api, control):
    tag = (await api.ask("GET", "/status")).headers["ETag"]
    for given, expected in ((tag, 3), ('"e7-1"', 7), ("*", None)):
        await api.ask("POST", "/switch", json={"to": "green"}, headers={"If-Match": given})
        assert control.orders[-1].if_epoch == expected
    both = await api.ask("POST", "/rollback", json={"if_epoch": 3}, headers={"If-Match": tag})
    assert (both.status, control.orders[-1].if_epoch) == (200, 3)


@pytest.mark.parametrize("given", ["e3-1", '"3"', 'W/"e3-1"', '"e3-1", "e4-1"', '"e4-1"'])
async def test_a_precondition_that_cannot_be_read_is_never_ignored(api, control, given):
    reply = await api.ask("POST", "/switch", json={"to": "green", "if_epoch": 3}, headers={"If-Match": given})
    assert (reply.status, reply.document["code"]) == (400, "bad_request")
    assert "If-Match" in reply.document["detail"]
    assert not control.orders


async def test_the_expected_release_reaches_the_control_plane(api, control):
    await api.ask("POST", "/switch", json={"to": "green", "expect_release": "2.0"})
    assert control.orders[0].expect_release == "2.0"
    assert (await api.ask("POST", "/switch", json={"to": "green", "expect_release": ""})).status == 400
    assert (await api.ask("POST", "/rollback", json={"expect_release": "2.0"})).status == 400


async def test_an_upgrade_is_ordered_with_its_bound(api, control):
    reply = await api.ask("POST", "/upgrade", json={"timeout": "90s"})
    assert (reply.status, reply.document["new_pid"], reply.document["new_version"]) == (200, 2, "2")
    assert (await api.ask("POST", "/upgrade", json={})).status == 200
    assert [timeout_s for _, timeout_s in control.upgrades] == [90.0, None]
    assert (await api.ask("POST", "/upgrade", json={"to": "2.0"})).status == 400


@pytest.mark.parametrize(
    ("path", "body", "kind", "state"),
    [
        ("/pause", {}, "pause", "paused"),
        ("/resume", {}, "resume", "open"),
        ("/maintenance", {"on": True}, "maintenance on", "maintenance"),
        ("/maintenance", {"on": False}, "maintenance off", "open"),
    ],
)
async def test_pause_and_maintenance_reach_the_control_plane_in_full(api, control, path, body, kind, state):
    body |= {"reason": "migration", "wait": "drained", "timeout": "3s"}
    reply = await api.ask("POST", path, json=body)
    assert (reply.status, reply.document["state"]) == (200, state)
    (order,) = control.gate_orders
    assert order == GateOrder(kind=kind, by="tcp:127.0.0.1", reason="migration", wait="drained", timeout_s=3.0)


async def test_maintenance_is_turned_on_or_off_and_never_toggled(api, control):
    reply = await api.ask("POST", "/maintenance", json={})
    assert (reply.status, reply.document["code"]) == (400, "bad_request")
    assert "on" in reply.document["detail"]
    assert not control.gate_orders


async def test_the_report_names_what_was_done_and_how_to_undo_it(api, control):
    replaced = (ReplacedWorker(1, 4711, "no answer"),)
    control.report = switch_report(durable_s=0.001, acked_s=0.002, undo="bgproxy rollback", replaced_workers=replaced)
    document = (await api.ask("POST", "/switch", json={"to": "green"})).document
    assert (document["from"], document["to"], document["changed"]) == ("blue", "green", True)
    assert document["undo"] == "bgproxy rollback"
    assert document["replaced_workers"] == [{"worker": 1, "pid": 4711, "reason": "no answer"}]


async def test_a_rollback_needs_no_body(api, control):
    assert (await api.ask("POST", "/rollback")).status == 200
    assert (control.orders[0].kind, control.orders[0].to) == ("rollback", None)


async def test_a_refusal_lists_every_failed_check(api, control):
    control.report = SwitchRefused("green cannot go live", failed=[FAILED.as_dict()], hint="or use force")
    reply = await api.ask("POST", "/switch", json={"to": "green"})
    assert (reply.status, reply.headers["Content-Type"]) == (409, "application/problem+json")
    assert reply.document == {
        "type": "about:blank",
        "title": "Conflict",
        "status": 409,
        "code": "switch_refused",
        "detail": "green cannot go live",
        "hint": "or use force",
        "failed": [FAILED.as_dict()],
    }


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (NothingToRollBackTo("x"), 409, "nothing_to_roll_back_to"),
        (SwitchInProgress("x"), 409, "switch_in_progress"),
        (StaleEpoch("x"), 412, "stale_epoch"),
        (StoreUnavailable("x"), 503, "store_unavailable"),
        (WorkersDidNotAcknowledge("x", extra={"workers": [1]}), 504, "workers_did_not_acknowledge"),
        (DrainTimedOut("x"), 504, "drain_timed_out"),
    ],
)
async def test_every_control_error_is_a_problem_with_its_own_status(api, control, error, status, code):
    control.report = error
    reply = await api.ask("POST", "/rollback")
    assert (reply.status, reply.document["code"], reply.document["detail"]) == (status, code, "x")
    assert reply.document.get("workers") == error.extra.get("workers")


async def test_preflight_gives_every_verdict(api, control):
    control.verdicts = [FAILED, PASSED]
    document = (await api.ask("GET", "/preflight?to=green")).document
    assert (document["to"], document["ok"], document["failed"]) == ("green", False, [FAILED.as_dict()])
    assert [verdict["passed"] for verdict in document["verdicts"]] == [False, True]
    control.verdicts = [PASSED]
    assert (await api.ask("GET", "/preflight?to=green")).document["ok"] is True


@pytest.mark.parametrize("query", ["", "?to=red", "?to=blue&to=green", "?to=blue&colour=1"])
async def test_preflight_asks_for_one_colour(api, query):
    reply = await api.ask("GET", f"/preflight{query}")
    assert (reply.status, reply.document["code"]) == (400, "bad_request")


async def test_readiness_says_why_not(api, control):
    assert (await api.ask("GET", "/readyz")).status == 200
    control.reasons = ["1 of 2 workers are ready"]
    reply = await api.ask("GET", "/readyz")
    assert (reply.status, reply.document["reasons"]) == (503, ["1 of 2 workers are ready"])
    assert (await api.ask("GET", "/livez")).status == 200


async def test_metrics_have_the_prometheus_content_type(api):
    reply = await api.ask("GET", "/metrics")
    assert (reply.body, reply.headers["Content-Type"]) == (
        b"bgproxy_epoch 3\n",
        "text/plain; version=0.0.4; charset=utf-8",
    )


async def test_version(api):
    assert (await api.ask("GET", "/version")).document == {"version": __version__}


async def test_head_tells_the_same_without_a_body(api):
    reply = await api.ask("HEAD", "/status")
    assert (reply.status, reply.body) == (200, b"")


# --- GET /status?wait=drained -----------------------------------------------------------------------------------------


async def test_the_status_may_wait_for_the_drain_and_is_that_of_its_end(api, control):
    asked = asyncio.ensure_future(api.ask("GET", "/status?wait=drained&timeout=90s&streams=1&if_epoch=3"))
    await control.waited_for.wait()
    control.document = {"epoch": 4, "live": "green", "uptime_s": 2.0}
    control.drained.set()
    answer = await asked
    assert (answer.status, answer.document["epoch"]) == (200, 4)
    await api.ask("GET", "/status?wait=drained")
    await api.ask("GET", "/status?wait=drained&streams=0")
    assert control.waits == [(90.0, True, 3), (None, False, None), (None, False, None)]


async def test_a_wait_that_was_in_vain_is_a_problem(api, control):
    control.drained.set()
    control.drain_error = DrainTimedOut("3 requests still run", extra={"remaining": {"requests": 3, "streams": 0}})
    answer = await api.ask("GET", "/status?wait=drained&timeout=0s")
    assert (answer.status, answer.document["code"]) == (504, "drain_timed_out")
    assert answer.document["remaining"]["requests"] == 3


@pytest.mark.parametrize(
    "query",
    [
        *("wiat=drained", "wait=acked", "wait=", "wait=drained&wait=drained", "timeout=5s", "streams=1", "if_epoch=1"),
        *("wait=drained&timeout=5", "wait=drained&timeout=-1s", "wait=drained&streams=yes", "wait=drained&if_epoch=-1"),
    ],
)
async def test_a_wait_that_is_not_understood_must_not_look_like_one_that_is_over(api, control, query):
    answer = await api.ask("GET", f"/status?{query}")
    assert (answer.status, answer.document["code"]) == (400, "bad_request")
    assert control.waits == []


async def test_nobody_is_waited_for_in_vain(api, control, monkeypatch):
    monkeypatch.setattr(handlers, "LISTENING_S", 0.01)
    asked = asyncio.ensure_future(api.ask("GET", "/status?wait=drained"))
    await control.waited_for.wait()
    asked.cancel()
    await asyncio.wait_for(control.abandoned.wait(), 10)
