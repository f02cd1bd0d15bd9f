from __future__ import annotations

import pytest

from bgproxy.config.changes import Change
from bgproxy.controlplane.pool_orders import DEFAULT_TIMEOUT_S, DrainOrder, SetOrder
from bgproxy.controlplane.reload import ReloadReport
from bgproxy.core.model import BLUE, GREEN
from bgproxy.errors import ConfigurationRefused, PoolRefused
from tests.support.admin import admin_api, pool_report, token

STATUS = {"epoch": 3, "live": "blue", "pools": {name: {"role": name, "source": "file"} for name in ("blue", "green")}}
PATH = "/pools/green/upstreams"


async def test_pools_are_shown_with_how_they_came_to_be_so(api, control):
    control.document = STATUS
    both = (await api.ask("GET", "/pools")).document
    assert (both["epoch"], both["live"], set(both["pools"])) == (3, "blue", {"blue", "green"})
    one = (await api.ask("GET", "/pools/green")).document
    assert one == both["pools"]["green"]
    assert (one["colour"], one["role"], one["changed"]["by"]) == ("green", "green", "green")
    assert (await api.ask("GET", "/pools/red")).status == 404


async def test_an_order_reaches_the_pools_in_full(api, control):
    body = {
        "upstreams": ["127.0.0.1:1", {"address": "127.0.0.1:2", "weight": 2}],
        "release": "2",
        "allow_live": True,
        "if_epoch": 3,
        "timeout": "1500ms",
        "reason": "why",
    }
    reply = await api.ask("PUT", PATH, json=body)
    assert (reply.status, reply.document["table_version"]) == (200, 2)
    assert control.pools.orders == [
        SetOrder(
            colour=GREEN,
            upstreams=["127.0.0.1:1", {"address": "127.0.0.1:2", "weight": 2}],
            release="2",
            allow_live=True,
            if_epoch=3,
            timeout_s=1.5,
            reason="why",
            by="tcp:127.0.0.1",
        )
    ]
    await api.ask("PUT", PATH, json={"upstreams": ["127.0.0.1:1"]})
    assert control.pools.orders[-1].timeout_s == DEFAULT_TIMEOUT_S


@pytest.mark.parametrize("verb", ["drain", "enable"])
@pytest.mark.parametrize("id", ["127.0.0.1%3A9001", "127.0.0.1:9001", "https%3A%2F%2Fa%3A1", "unix:%2Frun%2Fa.sock"])
async def test_an_upstream_is_named_by_its_id_whatever_is_in_it(api, control, verb, id):
    from urllib.parse import unquote

    control.pools.report = pool_report(drained="x")
    reply = await api.ask(
        "POST", f"/pools/blue/upstreams/{id}/{verb}", json={"wait": True, "timeout": 5, "force": True}
    )
    assert reply.status == 200
    assert control.pools.orders == [
        DrainOrder(
            colour=BLUE,
            upstream=unquote(id),
            enable=verb == "enable",
            wait=True,
            force=True,
            timeout_s=5.0,
            by="tcp:127.0.0.1",
        )
    ]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PUT", PATH, {}, 400),
        ("PUT", PATH, {"upstreams": "127.0.0.1:1"}, 400),
        ("PUT", PATH, {"upstreams": [1]}, 400),
        ("PUT", PATH, {"upstreams": [], "alow_live": True}, 400),
        ("PUT", PATH, {"upstreams": [], "timeout": "soon"}, 400),
        ("PUT", "/pools/red/upstreams", {"upstreams": []}, 404),
        ("POST", PATH, {}, 405),
        ("POST", "/pools/blue/upstreams/a/drain", {"allow_live": True}, 400),
        ("POST", "/pools/blue/upstreams/a/explode", {}, 404),
        ("POST", "/reload", {"force": True}, 400),
    ],
)
async def test_orders_are_read_strictly(api, control, method, path, body, status):
    assert (await api.ask(method, path, json=body)).status == status
    assert (control.pools.orders, control.pools.reloads) == ([], [])


async def test_a_refusal_is_a_problem(api, control):
    control.pools.report = PoolRefused("no", failed=[{"gate": "g"}])
    reply = await api.ask("PUT", PATH, json={"upstreams": ["127.0.0.1:1"]})
    assert (reply.status, reply.document["code"], reply.document["failed"]) == (409, "pool_refused", [{"gate": "g"}])


async def test_a_reload_is_answered_key_by_key(api, control):
    control.pools.reload_report = ReloadReport(
        changed=True,
        at="t",
        by="b",
        file="f",
        sha256="s",
        table_version=3,
        changes=(Change("server.limits.requests", 1, 2),),
        needs_restart=(),
    )
    reply = await api.ask("POST", "/reload")
    assert reply.document["changes"] == [{"key": "server.limits.requests", "old": 1, "new": 2}]
    assert control.pools.reloads == ["tcp:127.0.0.1"]
    control.pools.reload_report = ConfigurationRefused("no", problems=["a", "b"])
    refused = await api.ask("POST", "/reload")
    assert (refused.status, refused.document["problems"]) == (409, ["a", "b"])


@pytest.mark.parametrize(
    ("method", "path", "needs"),
    [
        ("GET", "/pools", "read"),
        ("POST", "/pools/blue/upstreams/a/drain", "switch"),
        ("PUT", PATH, "admin"),
        ("POST", "/reload", "admin"),
    ],
)
async def test_where_requests_go_is_decided_by_admins(control, tmp_path, method, path, needs):
    control.document = STATUS
    roles = ("read", "switch", "admin")
    async with admin_api(control, tmp_path, tokens=[token(role, role, role) for role in roles]) as api:
        may = {}
        for role in roles:
            headers = {"Authorization": f"Bearer {role}"}
            body = {"json": {"upstreams": ["127.0.0.1:1"]}} if method == "PUT" else {}
            may[role] = (await api.ask(method, path, headers=headers, **body)).status == 200
        assert may == {role: roles.index(role) >= roles.index(needs) for role in roles}


async def test_other_tokens_and_hosts_count_from_the_next_request_on(control, tmp_path):
    async with admin_api(control, tmp_path, tokens=[token("a", "admin", "old")]) as api:
        old, new = ({"Authorization": f"Bearer {secret}"} for secret in ("old", "new"))
        assert (await api.ask("GET", "/status", headers=old)).status == 200
        api.server.configure([token("a", "admin", "new")], ["admin.example"])
        assert (await api.ask("GET", "/status", headers=old)).status == 401
        assert (await api.ask("GET", "/status", headers=new)).status == 200, "its own address stays a name of it"
        assert (await api.ask("GET", "/status", headers=new | {"Host": "admin.example"})).status == 200
        assert (await api.ask("GET", "/status", headers=new | {"Host": "localhost"})).status == 421
