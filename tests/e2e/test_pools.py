"""Pools while traffic runs: a rolling restart, other upstreams, and what a restart of the proxy keeps of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.house import App, Proxy, eventually
from tests.support.load import Load

HOLD = b"GET /hold HTTP/1.1\r\nHost: app.example\r\n\r\n"


def takes_traffic(proxy: Proxy, colour: str = "blue") -> dict[str, bool]:
    upstreams = proxy.status["pools"][colour]["upstreams"]
    return {each["id"]: bool(each["up"]) and not each["drained"] for each in upstreams}


def drain(proxy: Proxy, app: App, verb: str = "drain", **body: Any) -> Any:
    return proxy.post(f"/pools/blue/upstreams/{app.address}/{verb}", **body)


@pytest.fixture
def two(start: Callable[..., Proxy], app: Callable[..., App], green: App) -> tuple[Proxy, App, App]:
    """Two upstreams in the live pool."""
    one, other = app("blue-1"), app("blue-2")
    proxy = start(one, green, "--blue", other.address)
    eventually(lambda: all(takes_traffic(proxy).values()), "two upstreams")
    return proxy, one, other


def test_a_rolling_restart_of_the_live_pool_costs_nobody_a_request(
    two: tuple[Proxy, App, App], app: Callable[..., App]
) -> None:
    proxy, *apps = two
    load = Load(proxy.port, clients=16)

    async def work() -> None:
        await load.start()
        for number, old in enumerate(apps, 1):
            done = await asyncio.to_thread(
                proxy.command, "pool", "drain", f"blue/{old.address}", "--wait", "drained", "--timeout", "20s"
            )
            assert done.returncode == 0, done.stderr
            served = await asyncio.to_thread(old.told, "served")
            await load.more(500)
            assert await asyncio.to_thread(old.told, "served") == served, "a request came after the answer"
            await asyncio.to_thread(old.end)
            await load.more(100)
            await asyncio.to_thread(app, f"blue-{number}-new", old.address)
            done = await asyncio.to_thread(proxy.command, "pool", "enable", f"blue/{old.address}", "--wait", "up")
            assert done.returncode == 0, done.stderr
            begun = {answer.colour for answer in load.answers}
            await load.until(
                lambda name=f"blue-{number}-new": any(each.colour == name for each in load.answers[-200:]),
                f"the new one among {begun}",
            )
        await load.finish()

    load.run(work)
    assert load.losses == []
    assert {answer.colour for answer in load.answers} == {"blue-1", "blue-2", "blue-1-new", "blue-2-new"}
    assert len(proxy.events("upstream_drained")) == len(proxy.events("upstream_enabled")) == 2


def test_a_request_in_flight_keeps_a_drain_waiting_and_is_answered(two: tuple[Proxy, App, App]) -> None:
    proxy, one, other = two
    client = proxy.client()
    client.send(HOLD)
    eventually(lambda: one.told("held") + other.told("held") == 1, "the request")
    busy, free = (one, other) if one.told("held") else (other, one)
    late = drain(proxy, busy, wait=True, timeout="300ms")
    assert (late.status, late.document["code"]) == (504, "drain_timed_out")
    assert late.document["remaining"] == {"in_flight": 1}
    assert {proxy.colour() for _ in range(6)} == {free.name}
    busy.told("release")
    assert client.answer().body == busy.name.encode()
    done = drain(proxy, busy, wait=True, timeout="20s")
    assert (done.status, done.document["changed"]) == (200, False)
    client.close()


def test_who_is_the_last_to_take_traffic_is_not_drained_but_by_force(two: tuple[Proxy, App, App]) -> None:
    proxy, one, other = two
    assert drain(proxy, one).document["changed"] is True
    refused = drain(proxy, other)
    assert (refused.status, refused.document["code"]) == (409, "pool_refused")
    assert refused.document["failed"][0]["result"] == "drained by operator"
    assert drain(proxy, other, force=True).status == 200
    client = proxy.client()
    assert client.ask().status == 503
    client.close()
    assert drain(proxy, one, "enable", wait=True).document["upstreams"][0]["takes_traffic"] is True
    assert proxy.colour() == one.name


def test_a_drained_upstream_does_not_count_for_a_switch_and_stays_drained_over_a_restart(
    proxy: Proxy, green: App
) -> None:
    path = f"/pools/green/upstreams/{green.address}"
    assert proxy.post(f"{path}/drain").status == 200
    refused = proxy.switch("green")
    assert refused.status == 409
    assert [each["result"] for each in refused.document["failed"]][-1] == "drained by operator"
    assert proxy.end() == 0
    proxy.start_again()
    assert takes_traffic(proxy, "green") == {green.address: False}
    assert proxy.post(f"{path}/enable", wait=True).status == 200
    assert proxy.switch("green").status == 200


def test_another_pool_is_asked_first_written_down_and_kept_until_the_file_changes(
    start: Callable[..., Proxy], blue: App, green: App, app: Callable[..., App]
) -> None:
    proxy = start(blue, green)
    new, dead = app("green-2"), app("dead")
    dead.end()
    done = proxy.put("/pools/green/upstreams", upstreams=[new.address, dead.address], release="2.1", reason="a release")
    assert done.status == 200, done.document
    up = {each["id"]: (each["new"], each["takes_traffic"]) for each in done.document["upstreams"]}
    assert up == {new.address: (True, True), dead.address: (True, False)}
    assert "connection refused" in done.document["upstreams"][1]["why_not"]
    assert proxy.status["workers"]["table_versions"] == [2, 2]
    pool = proxy.get("/pools/green").document
    assert (pool["source"], pool["release"], pool["changed"]["reason"]) == ("run time", "2.1", "a release")
    assert proxy.switch("green").status == 200
    assert proxy.colour() == "green-2"

    assert proxy.end() == 0
    proxy.start_again()
    assert proxy.colour() == "green-2", "kept over a restart"
    assert proxy.end() == 0
    proxy._flags = (*proxy._flags, "--green", dead.address)
    proxy.start_again()
    assert [each["id"] for each in proxy.status["pools"]["green"]["upstreams"]] == [green.address, dead.address]
    assert [event["colour"] for event in proxy.events("pool_from_file")] == ["green"]


def test_the_live_pool_is_replaced_under_load_without_an_error_and_only_by_healthy_ones(
    proxy: Proxy, blue: App, app: Callable[..., App]
) -> None:
    new, sick = app("blue-new"), app("sick")
    sick.told("sick")
    refused = proxy.put("/pools/blue/upstreams", upstreams=[new.address])
    assert (refused.status, refused.document["code"]) == (409, "pool_refused")
    refused = proxy.put("/pools/blue/upstreams", upstreams=[sick.address], allow_live=True)
    assert (refused.status, refused.document["code"]) == (409, "pool_refused")
    assert "answered 500" in refused.document["failed"][0]["result"]
    assert proxy.colour() == "blue"
    assert proxy.status["pools"]["blue"]["source"] == "file"

    load = Load(proxy.port, clients=16)

    async def work() -> None:
        await load.start()
        for upstreams in ([new.address], [blue.address], [new.address, blue.address], [new.address]):
            done = await asyncio.to_thread(
                proxy.command, "pool", "set", "blue", *upstreams, "--allow-live", "--reason", "over"
            )
            assert done.returncode == 0, done.stderr
            await load.more(200)
        served = await asyncio.to_thread(blue.told, "served")
        await load.more(500)
        assert await asyncio.to_thread(blue.told, "served") == served
        await load.finish()

    load.run(work)
    assert load.losses == []
    assert {answer.colour for answer in load.answers} == {"blue", "blue-new"}
