"""The client commands from the command line to the admin API and back."""

from __future__ import annotations

import json

import pytest

from bgproxy.controlplane.orders import ReplacedWorker
from bgproxy.core.gates import Verdict
from bgproxy.core.model import GREEN
from bgproxy.errors import (
    EXIT_CONFLICT,
    EXIT_FAILED,
    EXIT_OK,
    EXIT_REFUSED,
    EXIT_TIMEOUT,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
    DrainTimedOut,
    NothingToRollBackTo,
    StaleEpoch,
    StoreUnavailable,
    SwitchInProgress,
    SwitchRefused,
    WorkersDidNotAcknowledge,
)
from tests.cli.test_words import STATUS
from tests.support.admin import admin_api, switch_report, token

FAILED = Verdict("upstream_healthy", "green/127.0.0.1:9002", "GET /healthz", False, "never checked yet", 4.0)


@pytest.fixture
def at(api) -> tuple[str, str]:
    return ("--admin", f"http://127.0.0.1:{api.port}")


async def test_a_switch_prints_old_new_epoch_durations_and_the_way_back(run, at, control):
    control.report = switch_report(epoch=8, durable_s=0.0012, acked_s=0.0004, undo="bgproxy rollback")
    done = await run("switch", "green", *at)
    assert (done.exit_code, done.err) == (EXIT_OK, "")
    assert "blue → green  epoch 8" in done.out
    assert "durable in 1.2 ms, seen by every worker in 400 µs" in done.out
    assert f"undo: bgproxy rollback {' '.join(at)}" in done.out
    assert control.orders[0].to is GREEN


async def test_every_option_reaches_the_admin_api(run, at, control):
    options = "--wait drained --timeout 5s --reason because --if-epoch 0 --force --dry-run --mode fence"
    options += " --fence-timeout 3s --fence-policy cut --streams close-now --expect-release 2.0 --idempotency-key run-7"
    await run("switch", "green", *options.split(), *at)
    (order,) = control.orders
    assert (order.wait, order.timeout_s, order.reason, order.if_epoch) == ("drained", 5.0, "because", 0)
    assert (order.force, order.dry_run) == (True, True)
    assert (order.mode, order.fence_timeout_s, order.fence_policy) == ("fence", 3.0, "cut")
    assert order.streams == "close-now"
    assert (order.expect_release, order.key) == ("2.0", "run-7")


@pytest.mark.parametrize(
    ("command", "kind", "said"),
    [
        (("pause",), "pause", "paused: new requests are held"),
        (("resume",), "resume", "open: requests are served by blue"),
        (("maintenance", "on"), "maintenance on", "maintenance: every request is answered 503"),
        (("maintenance", "off"), "maintenance off", "open: requests are served by blue"),
    ],
)
async def test_pause_and_maintenance_say_what_is_done_with_requests_now(run, at, control, command, kind, said):
    done = await run(*command, "--reason", "migration", "--wait", "drained", "--timeout", "2s", *at)
    assert done.exit_code == EXIT_OK
    assert said in done.out
    (order,) = control.gate_orders
    assert (order.kind, order.reason, order.wait, order.timeout_s) == (kind, "migration", "drained", 2.0)


async def test_a_fence_says_how_long_requests_were_held(run, at, control):
    control.report = switch_report(mode="fence", held_s=0.0123, held=7, cut=2, streams_left=3, streams="keep")
    done = await run("switch", "green", *at)
    assert "fence: 7 requests were held, for 12.3 ms at most, 2 were cut" in done.out
    assert "streams left on blue: 3, kept" in done.out


async def test_a_rollback_names_no_colour(run, at, control):
    control.report = switch_report(kind="rollback", from_="green", to="blue")
    done = await run("rollback", *at)
    assert "green → blue" in done.out
    assert (control.orders[0].kind, control.orders[0].to) == ("rollback", None)


async def test_force_says_what_it_overrode(run, at, control):
    control.report = switch_report(forced=True, overridden=(FAILED.as_dict(),))
    done = await run("switch", "green", "--force", *at)
    assert "overridden by --force:\n  - green/127.0.0.1:9002: GET /healthz: never checked yet (for 4 s)" in done.out


async def test_a_replaced_worker_is_named(run, at, control):
    control.report = switch_report(replaced_workers=(ReplacedWorker(1, 4711, "no answer within 2s"),))
    assert "worker 1 (pid 4711) was replaced: no answer within 2s" in (await run("switch", "green", *at)).out


async def test_a_refusal_prints_every_reason_and_exits_5(run, at, control):
    control.report = SwitchRefused("green was refused", failed=[FAILED.as_dict()] * 2, hint="use --force")
    done = await run("switch", "green", *at)
    assert (done.exit_code, done.out) == (EXIT_REFUSED, "")
    assert done.err.count("never checked yet (for 4 s)") == 2
    assert "error: green was refused" in done.err
    assert "hint: use --force" in done.err


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (NothingToRollBackTo("x"), EXIT_REFUSED),
        (SwitchInProgress("x"), EXIT_CONFLICT),
        (StaleEpoch("x"), EXIT_CONFLICT),
        (StoreUnavailable("x"), EXIT_FAILED),
        (WorkersDidNotAcknowledge("x"), EXIT_TIMEOUT),
        (DrainTimedOut("x"), EXIT_TIMEOUT),
        (RuntimeError("x"), EXIT_FAILED),
    ],
)
async def test_every_error_has_its_exit_code(run, at, control, error, exit_code):
    control.report = error
    assert (await run("rollback", *at)).exit_code == exit_code


async def test_json_is_the_answer_itself_whatever_it_is(run, at, control):
    document = json.loads((await run("switch", "green", "-o", "json", *at)).out)
    assert (document["to"], document["changed"]) == ("green", True)
    control.report = StaleEpoch("the epoch is 8")
    refused = await run("switch", "green", "-o", "json", *at)
    assert (json.loads(refused.out)["code"], refused.exit_code) == ("stale_epoch", EXIT_CONFLICT)


async def test_options_may_stand_before_the_command(run, at, control):
    control.document = STATUS
    assert json.loads((await run(*at, "-o", "json", "status")).out) == STATUS


async def test_status_is_a_page(run, at, control):
    control.document = STATUS
    done = await run("status", *at)
    assert (done.exit_code, done.err) == (EXIT_OK, "")
    assert done.out.startswith("blue is live  epoch 7")


async def test_status_can_wait_until_the_old_colour_is_empty(run, at, control):
    control.document = STATUS
    control.drained.set()
    done = await run("status", "--wait", "drained", "--timeout", "90s", "--streams", "--if-epoch", "0", *at)
    assert (done.exit_code, done.err) == (EXIT_OK, "")
    assert "blue is live" in done.out
    await run("status", "--wait", "drained", *at)
    assert control.waits == [(90.0, True, 0), (None, False, None)]


async def test_a_wait_that_was_in_vain_has_the_exit_code_of_its_reason(run, at, control):
    control.drained.set()
    control.drain_error = DrainTimedOut("green is live, but 3 requests still run on blue")
    done = await run("status", "--wait", "drained", *at)
    assert (done.exit_code, done.out) == (EXIT_TIMEOUT, "")
    assert "3 requests still run on blue" in done.err
    control.drain_error = StaleEpoch("epoch 8 (blue) came")
    assert (await run("status", "--wait", "drained", *at)).exit_code == EXIT_CONFLICT


@pytest.mark.parametrize("options", ["--timeout 5s", "--streams", "--if-epoch 7", "--watch --wait drained"])
async def test_options_of_the_wait_belong_to_a_wait_that_ends(run, at, control, options):
    assert (await run("status", *options.split(), *at)).exit_code == EXIT_USAGE
    assert control.waits == []


async def test_status_can_be_watched_until_interrupted(run, at, control, monkeypatch):
    control.document = STATUS
    pauses = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("bgproxy.cli.operate.time.sleep", pause)
    done = await run("status", "--watch", *at)
    assert (done.exit_code, done.out.count("blue is live"), done.err.strip()) == (130, 3, "")


async def test_preflight_lists_the_reasons_and_exits_5(run, at, control):
    control.verdicts = [FAILED]
    done = await run("preflight", "green", *at)
    assert done.exit_code == EXIT_REFUSED
    assert "a switch to green would be refused now\n  - green/127.0.0.1:9002: GET /healthz: never checked" in done.out
    control.verdicts = []
    assert (await run("preflight", "green", *at)).exit_code == EXIT_OK


async def test_preflight_is_about_the_idle_colour_by_default(run, at, control):
    control.document = STATUS
    assert "a switch to green would be done now" in (await run("preflight", *at)).out


async def test_preflight_without_permission_says_so(run, control, tmp_path):
    async with admin_api(control, tmp_path, tokens=(token("a", "read", "s3cret"),)) as api:
        done = await run("preflight", "--admin", f"http://127.0.0.1:{api.port}")
        assert (done.exit_code, done.out) == (EXIT_FAILED, "")
        assert "error: this needs a token" in done.err
        (tmp_path / "token").write_text("s3cret\n")
        control.document = STATUS
        file = ("--token-file", str(tmp_path / "token"))
        assert (await run("preflight", "--admin", f"http://127.0.0.1:{api.port}", *file)).exit_code == EXIT_OK


async def test_the_environment_says_where_the_admin_is(run, api, control, monkeypatch):
    monkeypatch.setenv("BGPROXY_ADMIN", f"unix:{api.server.path}")
    control.report = switch_report(undo="bgproxy rollback")
    # It will say so to the next command too, so the way back need not.
    assert "undo: bgproxy rollback\n" in (await run("switch", "green")).out


async def test_the_addresses_of_the_running_bgproxy_are_found(run, api, control, tmp_path):
    state = tmp_path / "xdg" / "bgproxy"
    state.mkdir(parents=True)
    (state / "addresses.json").write_text(json.dumps({"listen": [], "admin": f"127.0.0.1:{api.port}", "pid": 1}))
    assert (await run("switch", "green")).exit_code == EXIT_OK


async def test_nobody_there_is_one_sentence_and_exit_4(run, tmp_path):
    done = await run("status", "--admin", f"unix:{tmp_path}/none.sock")
    assert (done.exit_code, done.out) == (EXIT_UNREACHABLE, "")
    assert done.err.startswith("error: no admin API can be reached at unix:")
    assert done.err.count("\n") == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("switch",),
        ("switch", "red"),
        ("switch", "green", "--if-epoch", "-1"),
        ("switch", "green", "--mode", "slowly"),
        ("switch", "green", "--wait", "acked", "--timeout", "5s"),
        ("status", "-o", "yaml"),
        ("status", "--admin", "nonsense://x"),
        ("status", "--token-file", "/does/not/exist"),
    ],
)
async def test_wrong_usage_exits_2(run, arguments, control):
    done = await run(*arguments)
    assert (done.exit_code, done.out) == (EXIT_USAGE, "")
    assert "error" in done.err.lower()


async def test_a_refused_option_value_is_a_usage_error_too(run, at):
    done = await run("switch", "green", "--wait", "drained", "--timeout", "soon", *at)
    assert done.exit_code == EXIT_USAGE
    assert "'timeout': 'soon' is not a duration" in done.err
