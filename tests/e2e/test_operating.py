"""What an operator does and meets: ends, sick upstreams, sockets, probes, metrics."""

from __future__ import annotations

import os
import signal
import socket
import stat
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bgproxy.core.model import parse_address
from tests.support.house import App, Proxy, eventually
from tests.support.load import Load
from tests.support.raw_client import RawClient
from tests.support.raw_http import Ended

HOLD = b"GET /hold HTTP/1.1\r\nHost: app.example\r\n\r\n"


def in_flight(proxy: Proxy, app: App, target: str = "/hold") -> RawClient:
    """A client whose request has reached the app, which does not answer before it is told."""
    before = app.told("held")
    client = proxy.client()
    client.send(HOLD.replace(b"/hold", target.encode()))
    eventually(lambda: app.told("held") == before + 1, "the request")
    return client


# --- ends -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("held_by", ["pause", "fence"])
def test_sigterm_serves_what_is_held(proxy: Proxy, blue: App, held_by: str) -> None:
    """More than one turn of a worker's loop lets go, so that those behind are seen too."""
    running = in_flight(proxy, blue)
    with ThreadPoolExecutor(1) as pool:
        if held_by == "pause":
            assert proxy.post("/pause").ok
        else:
            ordered = pool.submit(proxy.switch, "green", mode="fence", fence_timeout="60s")
            eventually(lambda: proxy.status["state"] == "holding", "the fence")
        waiting = [proxy.client() for _ in range(200)]
        for client in waiting:
            client.send(b"GET / HTTP/1.1\r\nHost: app.example\r\n\r\n")
        eventually(lambda: proxy.status["held"] == 200, "those that wait")
        proxy.process.send_signal(signal.SIGTERM)
        assert Counter(client.answer().status for client in waiting) == {200: 200}
        blue.told("release")
        assert running.answer().status == 200
        if held_by == "fence":
            assert ordered.result().document["code"] == "fence_timed_out"
    for client in (running, *waiting):
        client.close()
    assert proxy.process.wait(30) == 0


def test_sigterm_under_load_lets_requests_in_flight_finish(proxy: Proxy, blue: App) -> None:
    load = Load(proxy.port, clients=16)
    waiting, begun = in_flight(proxy, blue), in_flight(proxy, blue, "/half")

    async def work() -> None:
        await load.start()
        load.reconnects = False
        proxy.process.send_signal(signal.SIGTERM)
        await load.until(lambda: not load.connections, "the end of the idle connections")

    load.run(work)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port))
    assert proxy.process.poll() is None, "two requests are still running"
    blue.told("release")
    assert [client.answer().body for client in (waiting, begun)] == [b"blue", b"blue"]
    for client in (waiting, begun):
        assert client.is_ended()
        client.close()
    assert proxy.process.wait(30) == 0
    # A client may have asked in the very moment in which its idle connection was closed; an answer is never cut.
    assert all(loss.what.endswith("before any answer") for loss in load.losses), load.losses
    (stopped,) = proxy.events("stopped")
    assert (stopped["cut_requests"], stopped["cut_streams"]) == (0, 0)
    assert sorted(os.listdir(proxy.state_dir)) == ["journal.jsonl", "lock"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_that_hangs_is_cut_at_the_shutdown_timeout_and_reported(
    start: Callable[..., Proxy], blue: App, green: App, number: signal.Signals
) -> None:
    proxy = start(blue, green, env={"BGPROXY_SERVER__TIMEOUTS__SHUTDOWN": "500ms"})
    client = in_flight(proxy, blue)
    assert proxy.end(number) == 0
    assert client.is_ended()
    client.close()
    (cut,) = proxy.events("cut_at_shutdown")
    assert (cut["requests"], cut["streams"], cut["killed"]) == (1, 0, False)
    (stopped,) = proxy.events("stopped")
    assert stopped["cut_requests"] == 1


def test_a_second_signal_ends_it_at_once(proxy: Proxy, blue: App) -> None:
    client = in_flight(proxy, blue)
    proxy.process.send_signal(signal.SIGTERM)
    eventually(lambda: proxy.events("stopping"), "the first signal being heard")
    assert proxy.end() == 1, "and not after the 30 s that the request may take"
    assert client.is_ended()
    client.close()


# --- upstreams --------------------------------------------------------------------------------------------------------


def test_the_last_upstream_of_the_live_pool_serves_on_when_its_checks_fail(proxy: Proxy, blue: App) -> None:
    blue.told("sick")
    eventually(lambda: proxy.status["pools"]["blue"]["degraded"], "the verdict")
    assert proxy.status["pools"]["blue"]["healthy"] == 0
    assert [proxy.colour() for _ in range(8)] == ["blue"] * 8
    assert proxy.get("/readyz").ok
    assert [event["colour"] for event in proxy.events("pool_degraded")] == ["blue"]
    blue.told("well")
    eventually(lambda: proxy.status["pools"]["blue"]["degraded"] is None, "the recovery")


def test_an_unhealthy_upstream_leaves_the_rotation_and_returns(
    start: Callable[..., Proxy], app: Callable[..., App], green: App
) -> None:
    first, second = app("blue-1"), app("blue-2")
    proxy = start(first, green, "--blue", second.address)
    eventually(lambda: proxy.status["pools"]["blue"]["healthy"] == 2, "both")
    assert {proxy.colour() for _ in range(16)} == {"blue-1", "blue-2"}
    second.told("sick")
    eventually(lambda: proxy.status["pools"]["blue"]["healthy"] == 1, "the verdict")
    eventually(lambda: {proxy.colour() for _ in range(16)} == {"blue-1"}, "its leaving")
    served = second.told("served")
    assert [proxy.colour() for _ in range(16)] == ["blue-1"] * 16
    assert second.told("served") == served
    second.told("well")
    eventually(lambda: {proxy.colour() for _ in range(16)} == {"blue-1", "blue-2"}, "its return")


def test_a_dead_upstream_costs_no_request_while_another_of_its_pool_lives(
    start: Callable[..., Proxy], app: Callable[..., App], green: App
) -> None:
    first, second = app("blue-1"), app("blue-2")
    proxy = start(first, green, "--blue", second.address, env={"BGPROXY_HEALTH__INTERVAL": "1h"})
    assert {proxy.colour() for _ in range(16)} == {"blue-1", "blue-2"}
    second.end()  # no check has seen it yet
    assert [proxy.colour() for _ in range(32)] == ["blue-1"] * 32
    assert proxy.status["pools"]["green"]["in_flight"] == 0
    assert green.told("served") == 0, "nothing ever crosses colours"


def test_a_pool_with_nobody_left_answers_503_and_never_with_the_other_colour(
    proxy: Proxy, blue: App, green: App
) -> None:
    blue.end()
    client = proxy.client()
    answer = client.ask()
    assert answer.status in (502, 503)
    assert answer.one("X-BG-Colour") in ("", "blue")
    assert green.told("served") == 0
    client.close()


def test_upstreams_and_clients_may_be_on_unix_sockets_and_ipv6(
    start: Callable[..., Proxy], app: Callable[..., App], tmp_path: Path
) -> None:
    blue = app("blue", f"unix:{tmp_path}/blue.sock")
    green = app("green", "[::1]:0")
    front = tmp_path / "front.sock"
    proxy = start(blue, green, "--listen", "[::1]:0", "--listen", f"unix:{front}")
    assert [address.rpartition(":")[0] for address in proxy.addresses["listen"]] == ["127.0.0.1", "[::1]", "unix"]
    for colour in ("blue", "green"):
        for which in range(3):
            client = proxy.client(which)
            answer = client.ask()
            assert (answer.body.decode(), answer.one("X-BG-Colour")) == (colour, colour)
            client.close()
        proxy.switch("green")
    assert proxy.end() == 0
    assert not front.exists()


# --- what it tells ----------------------------------------------------------------------------------------------------


def test_the_metrics_count_every_request_once(proxy: Proxy) -> None:
    load = Load(proxy.port, clients=8)

    async def work() -> None:
        await load.start()
        await load.more(500)
        await load.finish()

    for _ in range(2):
        load.run(work)
        proxy.switch("green")
    client = proxy.client()
    assert client.ask("GET", "/", "Host: twice").status == 400
    client.close()
    sent = Counter(answer.colour for answer in load.answers)

    def samples() -> dict[tuple[str, str], float]:
        families = text_string_to_metric_families(_metrics(proxy))
        return {
            (sample.name, ",".join(sample.labels.values())): sample.value
            for family in families
            for sample in family.samples
        }

    def reached_upstreams(colour: str) -> float:
        return sum(samples()[f"bgproxy_upstream_{what}_total", colour] for what in ("connects", "reuses"))

    # Counted when the answer has been written, and some counters a tick later: a client may be faster.
    for colour in ("blue", "green"):
        eventually(lambda: reached_upstreams(colour) == sent[colour], f"every request to {colour} being counted")  # noqa: B023
    found = samples()
    assert found["bgproxy_requests_total", "blue,GET,200"] == sent["blue"]
    assert {key: value for key, value in found.items() if key[0] == "bgproxy_requests_total" and value} == {
        ("bgproxy_requests_total", f"{colour},GET,200"): sent[colour] for colour in ("blue", "green")
    }
    assert found["bgproxy_request_duration_seconds_count", "blue,2xx"] == sent["blue"]
    assert found["bgproxy_rejected_requests_total", "bad_request"] == 1
    assert found["bgproxy_switches_total", "green,switch,ok"] == 1
    assert found["bgproxy_switch_acked_seconds_count", ""] == 1
    assert found["bgproxy_switch_drain_seconds_count", ""] == 1
    assert (found["bgproxy_live", "green"], found["bgproxy_live", "blue"], found["bgproxy_epoch", ""]) == (1, 0, 1)
    assert found["bgproxy_requests_in_flight", "blue"] == found["bgproxy_requests_in_flight", "green"] == 0


def _metrics(proxy: Proxy) -> str:
    client = RawClient(parse_address(proxy.addresses["admin"]))
    try:
        client.send(f"GET /metrics HTTP/1.1\r\nHost: {proxy.addresses['admin']}\r\n\r\n".encode())
        return client.answer().body.decode()
    finally:
        client.close()


def test_a_live_pool_that_was_never_checked_takes_no_traffic_and_is_not_ready(
    start: Callable[..., Proxy], blue: App, green: App
) -> None:
    green.told("mute")
    proxy = start(blue, green, env={"BGPROXY_SWITCH__INITIAL": "green", "BGPROXY_HEALTH__TIMEOUT": "1h"})
    assert proxy.get("/livez").ok
    not_ready = proxy.get("/readyz")
    assert not_ready.status == 503
    assert not_ready.document["reasons"] == ["no upstream of the live pool (green) takes traffic"]
    client = proxy.client()
    answer = client.ask()
    assert (answer.status, answer.one("X-BG-Reason")) == (503, "no_healthy_upstream")
    assert (blue.told("served"), green.told("served")) == (0, 0)
    proxy.switch("blue")
    assert proxy.get("/readyz").ok
    assert client.ask().body == b"blue"
    client.close()


def test_a_live_pool_that_only_ever_failed_its_checks_is_tried_against_them(
    start: Callable[..., Proxy], blue: App, green: App
) -> None:
    green.told("sick")
    proxy = start(blue, green, env={"BGPROXY_SWITCH__INITIAL": "green"})
    assert proxy.colour() == "green"
    assert proxy.status["pools"]["green"]["degraded"].startswith("no upstream has been up")
    assert proxy.get("/readyz").ok


def test_the_admin_api_is_on_a_unix_socket_for_owner_and_group_alone(proxy: Proxy) -> None:
    path = Path(proxy.addresses["socket"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    client = RawClient(parse_address(f"unix:{path}"))
    client.send(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert client.answer().status == 200
    client.close()
    assert proxy.end() == 0
    assert not path.exists()


def test_the_proxy_does_not_serve_the_admin_api_and_the_admin_api_does_not_proxy(proxy: Proxy, blue: App) -> None:
    client = proxy.client()
    assert client.ask("GET", "/status").body == b"blue", "to clients it is a path like any other"
    client.close()
    assert proxy.get("/load").status == 404
    assert blue.told("served") == 1


def test_a_port_that_is_taken_is_named_before_anything_runs(
    proxy: Proxy, blue: App, green: App, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "second"
    elsewhere.mkdir()
    pools = ("--blue", blue.address, "--green", green.address)
    second = Proxy(elsewhere, ("--listen", proxy.listen, "--admin", "127.0.0.1:0", *pools))
    assert second.process.wait(30) == 1
    said = second.log_text().splitlines()
    assert f"error: cannot listen on {proxy.listen}: another process listens there already" in said
    assert said[-1].startswith("hint: stop it")
    assert "Traceback" not in second.log_text()
    assert proxy.colour() == "blue", "the first one is not disturbed"


def test_a_state_directory_belongs_to_one_proxy(proxy: Proxy, blue: App, green: App) -> None:
    pools = ("--blue", blue.address, "--green", green.address)
    second = Proxy(proxy.state_dir.parent, ("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", *pools))
    assert second.process.wait(30) == 1
    assert f"another bgproxy (pid {proxy.process.pid}) uses the state directory" in second.log_text()
    assert proxy.colour() == "blue"


def test_a_client_that_half_sends_a_request_and_leaves_is_nobodys_problem(proxy: Proxy, blue: App) -> None:
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", proxy.port)) as rude:
            rude.sendall(b"GET / HTTP/1.1\r\nHos")
    aborted = in_flight(proxy, blue)
    aborted.reset()
    eventually(lambda: blue.told("held") == 0, "the upstream's request being given up")
    client = proxy.client()
    client.send(b"GET /half HTTP/1.1\r\nHost: app.example\r\n\r\n")
    eventually(lambda: blue.told("held") == 1, "the second request")
    blue.end()
    with pytest.raises(Ended) as cut:
        client.answer()
    assert cut.value.so_far.endswith(b"\r\n\r\nbl"), "a truncated answer looks truncated"
    client.close()
    assert proxy.status["workers"]["ready"] == 2
