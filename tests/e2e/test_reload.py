"""The configuration read again under traffic: all of it or nothing, and nobody notices."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.house import App, Proxy, eventually
from tests.support.load import Load
from tests.support.raw_http import response
from tests.support.raw_upstream import RawUpstream

UPGRADE = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


class Written:
    """A configuration file and the proxy that runs with it."""

    def __init__(self, directory: Path, blue: str, green: str) -> None:
        self.path = directory / "bgproxy.toml"
        self.settings: dict[str, dict[str, Any]] = {
            "server": {"workers": 2},
            "pools.blue": {"upstreams": [blue]},
            "pools.green": {"upstreams": [green]},
            "log": {"level": "info"},
        }
        self.write()
        self.proxy = Proxy(directory, ("-c", str(self.path), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"))

    def write(self, **sections: dict[str, Any]) -> None:
        """`pools_blue={…}` for [pools.blue]; other sections stay as they are."""
        for name, keys in sections.items():
            self.settings.setdefault(name.replace("_", "."), {}).update(keys)
        lines = ["version = 1"]
        for name, keys in self.settings.items():
            lines.append(f"[{name}]")
            lines += [f"{key} = {self._value(value)}" for key, value in keys.items()]
        self.path.write_text("\n".join(lines) + "\n")

    @staticmethod
    def _value(value: Any) -> str:
        if isinstance(value, list):
            return "[" + ", ".join(f'"{each}"' for each in value) + "]"
        return str(value).lower() if isinstance(value, bool | int) else f'"{value}"'


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Callable[..., Written]]:
    with contextlib.ExitStack() as stack:

        def start(blue: str, green: str) -> Written:
            made = Written(tmp_path, blue, green)
            stack.callback(made.proxy.clean_up)
            made.proxy.until_ready()
            return made

        yield start


@pytest.fixture
def running(written: Callable[..., Written], blue: App, green: App) -> Written:
    return written(blue.address, green.address)


def keys(changes: list[dict[str, Any]]) -> dict[str, tuple[Any, Any]]:
    return {each["key"]: (each["old"], each["new"]) for each in changes}


def test_a_thousand_requests_over_ten_reloads_without_a_failure(
    running: Written, green: App, app: Callable[..., App]
) -> None:
    proxy, other = running.proxy, app("blue-2")
    blue = running.settings["pools.blue"]["upstreams"][0]
    load = Load(proxy.port, clients=16)
    client = proxy.client()
    assert client.ask().body == b"blue"

    async def work() -> None:
        await load.start()
        for number in range(10):
            upstreams = [blue] if number % 2 else [blue, other.address]
            running.write(pools_blue={"upstreams": upstreams, "release": f"r{number}"})
            if number % 3:
                answer = await asyncio.to_thread(proxy.post, "/reload")
                assert answer.status == 200, answer.document
            else:
                version = f"r{number}"
                proxy.process.send_signal(signal.SIGHUP)
                await asyncio.to_thread(
                    eventually, lambda v=version: proxy.status["pools"]["blue"]["release"] == v, "the reload"
                )
            await load.more(100)
        await load.finish()

    load.run(work)
    assert load.losses == []
    assert client.ask().body in (b"blue", b"blue-2"), "a keep-alive client has not noticed"
    client.close()
    assert {answer.colour for answer in load.answers} == {"blue", "blue-2"}
    assert proxy.process.poll() is None
    assert proxy.events("worker_died") == []
    assert len(proxy.events("reloaded")) == 10


def test_what_changed_is_said_by_key_and_what_needs_a_restart_is_named(running: Written, tmp_path: Path) -> None:
    proxy = running.proxy
    first = proxy.status["config"]
    running.write(
        server={"workers": 3},
        server_limits={"body_bytes": "10B"},
        switch={"wait": "drained"},
        health={"fall": 4},
        headers={"request_id": "X-Trace"},
        log={"level": "warning", "access": "json", "access_file": str(tmp_path / "access.log")},
        admin={"allowed_hosts": ["admin.example", "127.0.0.1"]},
    )
    done = proxy.command("reload")
    assert done.returncode == 0, done.stderr
    assert "server.limits.body_bytes: 0 → 10" in done.stdout
    assert "these need a restart, and are as they were:\n  server.workers: 2 → 3" in done.stdout
    client = proxy.client()
    assert client.ask("POST", "/", body=b"x" * 11).status == 413
    client.close()
    now = proxy.status["config"]
    assert now["sha256"] != first["sha256"]
    assert now["loaded_at"] > first["loaded_at"]
    again = proxy.post("/reload").document
    assert (again["changed"], keys(again["needs_restart"])) == (False, {"server.workers": (2, 3)})
    eventually(lambda: "413" in (tmp_path / "access.log").read_text(), "the access log")
    (event, *_) = proxy.events("reload_needs_restart")
    assert event["keys"] == ["server.workers: 2 → 3"]
    assert proxy.events("reloaded") == [], "the level of the log was raised before it was said"
    assert proxy.switch("green").document["drain_s"] is not None, "[switch] wait is drained now"


def test_a_broken_file_changes_nothing_and_every_problem_is_said(
    running: Written, blue: App, app: Callable[..., App]
) -> None:
    proxy, dead = running.proxy, app("dead")
    dead.end()
    good = running.path.read_text()
    running.write(pools_blue={"upstreams": ["nonsense"]}, server_timeouts={"header": "soon"})
    refused = proxy.post("/reload")
    assert (refused.status, refused.document["code"]) == (409, "configuration_refused")
    assert len(refused.document["problems"]) == 2
    assert all(problem.startswith(f"{running.path}:") for problem in refused.document["problems"])
    done = proxy.command("reload")
    assert done.returncode == 3
    assert "nonsense" in done.stderr
    assert "soon" in done.stderr

    running.path.write_text(good.replace(blue.address, dead.address))
    refused = proxy.post("/reload")
    assert (refused.status, refused.document["code"]) == (409, "pool_refused"), refused.document
    running.path.write_text(good + '[health]\npath = "/nowhere"\nexpect_body = "never"\n')
    refused = proxy.post("/reload")
    assert "would call blue/" in refused.document["problems"][0]
    running.path.write_text(good + '[tls]\nlisten = ["127.0.0.1:0"]\n')
    assert proxy.post("/reload").status == 409
    assert proxy.colour() == "blue"
    assert proxy.status["workers"]["table_version"] == 1
    running.path.unlink()
    proxy.process.send_signal(signal.SIGHUP)
    eventually(lambda: len(proxy.events("reload_refused")) == 6, "the refusal of a file that is gone")
    assert proxy.colour() == "blue"
    running.path.write_text(good)
    assert proxy.post("/reload").document["changed"] is False


def test_streams_and_requests_survive_a_reload_that_takes_their_upstream_away(
    written: Callable[..., Written], green: App, app: Callable[..., App]
) -> None:
    def script(conversation: Any) -> None:
        while True:
            asked = conversation.request()
            if asked.target == "/ws":
                conversation.send(b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
                while True:
                    conversation.send(conversation.until(b"?"))
            if asked.target == "/events":
                conversation.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
                streams.append(conversation)
                conversation.rest()
                return
            conversation.send(response(200, b"fine"))

    streams: list[Any] = []
    upstream = RawUpstream(script)
    try:
        made = written(upstream.address, green.address)
        proxy, other = made.proxy, app("blue-2")
        tunnel, events = proxy.client(), proxy.client()
        tunnel.send(UPGRADE)
        assert b" 101 " in tunnel.until(b"\r\n\r\n")
        events.send(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"data: 1" in events.until(b"data: 1\n\n")
        made.write(pools_blue={"upstreams": [other.address]})
        assert proxy.post("/reload").status == 200
        assert proxy.colour() == "blue-2"
        tunnel.send(b"still there?")
        assert tunnel.until(b"still there?") == b"still there?"
        streams[0].send(b"data: 2\n\n")
        assert b"data: 2" in events.until(b"data: 2\n\n")
        made.write(pools_blue={"upstreams": [upstream.address]})
        assert proxy.post("/reload").status == 200
        tunnel.send(b"and now?")
        assert tunnel.until(b"and now?") == b"and now?"
        assert proxy.status["pools"]["blue"]["streams"] == 2
        tunnel.close()
        events.close()
        eventually(lambda: proxy.status["pools"]["blue"]["streams"] == 0, "the end of the streams")
    finally:
        upstream.close()


def test_without_a_file_there_is_nothing_to_reload_and_sighup_ends_nothing(proxy: Proxy) -> None:
    proxy.process.send_signal(signal.SIGHUP)
    eventually(lambda: proxy.events("reload_refused"), "the answer to the signal")
    refused = proxy.post("/reload")
    assert (refused.status, refused.document["code"]) == (409, "nothing_to_reload")
    assert proxy.colour() == "blue"
