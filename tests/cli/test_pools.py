from __future__ import annotations

import json

import pytest

from bgproxy.config.changes import Change
from bgproxy.controlplane.pool_orders import DrainOrder, SetOrder
from bgproxy.controlplane.reload import ReloadReport
from bgproxy.core.model import BLUE, GREEN
from bgproxy.errors import (
    EXIT_CONFIG,
    EXIT_OK,
    EXIT_REFUSED,
    EXIT_TIMEOUT,
    EXIT_USAGE,
    ConfigurationRefused,
    PoolRefused,
    UnknownUpstream,
    UpstreamNotUp,
)
from tests.cli.test_words import STATUS
from tests.support.admin import pool_report

MEMBER = {"id": "127.0.0.1:9", "weight": 1, "new": True, "drained": False, "up": False}


@pytest.fixture
def at(api) -> tuple[str, str]:
    return ("--admin", f"http://127.0.0.1:{api.port}")


async def test_pools_are_shown_with_their_source_and_every_upstream(run, at, control):
    control.document = STATUS
    done = await run("pool", "show", *at)
    assert (done.exit_code, done.err) == (EXIT_OK, "")
    assert "blue (live)  1 of 1 healthy, 1 needed  from run time since t, by blue: r" in done.out
    assert "green (idle)" in done.out
    one = await run("pool", "show", "green", *at)
    assert "green (idle)" in one.out
    assert "blue (live)" not in one.out


async def test_a_pool_is_set_and_who_takes_no_traffic_is_named(run, at, control):
    idle = MEMBER | {"takes_traffic": False, "why_not": "down: connection refused"}
    control.pools.report = pool_report(added=("127.0.0.1:9",), removed=("127.0.0.1:8",), upstreams=(idle,))
    options = "--release 2 --allow-live --reason why --if-epoch 3 --timeout 5s"
    done = await run("pool", "set", "green", "127.0.0.1:9", "unix:/a.sock=3", *options.split(), *at)
    assert done.exit_code == EXIT_OK
    assert "green has other upstreams now (pool table 2)\n  + 127.0.0.1:9\n  - 127.0.0.1:8\n" in done.out
    assert "127.0.0.1:9 takes no traffic: down: connection refused" in done.out
    (order,) = control.pools.orders
    assert order == SetOrder(
        colour=GREEN,
        upstreams=["127.0.0.1:9", {"address": "unix:/a.sock", "weight": 3}],
        release="2",
        allow_live=True,
        reason="why",
        if_epoch=3,
        timeout_s=5.0,
        by="tcp:127.0.0.1",
    )


async def test_an_upstream_is_drained_and_enabled_by_colour_and_id(run, at, control):
    control.pools.report = pool_report(colour="blue", drained="https://a:1", drain_s=0.5)
    done = await run("pool", "drain", "blue/https://a:1", "--wait", "drained", "--force", "--timeout", "9s", *at)
    assert done.out == "blue/https://a:1 is drained\nnothing is in flight there, after 500 ms\n"
    control.pools.report = pool_report(colour="blue", enabled="unix:/a.sock")
    assert "is enabled" in (await run("pool", "enable", "blue/unix:/a.sock", "--wait", "up", *at)).out
    assert control.pools.orders == [
        DrainOrder(colour=BLUE, upstream="https://a:1", wait=True, force=True, timeout_s=9.0, by="tcp:127.0.0.1"),
        DrainOrder(colour=BLUE, upstream="unix:/a.sock", wait=True, enable=True, by="tcp:127.0.0.1"),
    ]


@pytest.mark.parametrize(
    "words", [("drain", "green"), ("enable", "red/a"), ("drain", "blue/"), ("set", "green", "a:1=b")]
)
async def test_what_names_nothing_is_a_usage_error(run, at, control, words):
    done = await run("pool", *words, *at)
    assert done.exit_code == EXIT_USAGE
    assert control.pools.orders == []


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [(PoolRefused("no"), EXIT_REFUSED), (UnknownUpstream("no"), EXIT_USAGE), (UpstreamNotUp("no"), EXIT_TIMEOUT)],
)
async def test_every_refusal_has_its_exit_code(run, at, control, error, exit_code):
    control.pools.report = error
    assert (await run("pool", "enable", "blue/a", *at)).exit_code == exit_code


async def test_a_reload_says_what_is_different_and_what_waits(run, at, control):
    control.pools.reload_report = ReloadReport(
        changed=True,
        at="t",
        by="b",
        file="f",
        sha256="s",
        table_version=3,
        changes=(Change("pools.green.upstreams", ["a:1"], ["a:1", "b:1"]), Change("pools.green.release", "", "2")),
        needs_restart=(Change("server.workers", 2, 3),),
        warnings=("look",),
    )
    done = await run("reload", *at)
    assert done.out == (
        "the configuration was taken\n"
        "  pools.green.upstreams: [a:1] → [a:1, b:1]\n"
        '  pools.green.release: "" → 2\n'
        "these need a restart, and are as they were:\n"
        "  server.workers: 2 → 3\n"
        "warning: look\n"
    )
    assert json.loads((await run("reload", "-o", "json", *at)).out)["sha256"] == "s"


async def test_a_file_that_was_not_taken_is_said_problem_by_problem(run, at, control):
    control.pools.reload_report = ConfigurationRefused("no", problems=["f:1:1: one", "f:2:1: two"], hint="repair")
    done = await run("reload", *at)
    assert (done.exit_code, done.err) == (EXIT_CONFIG, "error: no\n  - f:1:1: one\n  - f:2:1: two\nhint: repair\n")
