"""Streams that a switch leaves behind, through the whole house and with real clients."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.support.house import App, Proxy, eventually
from tests.support.raw_http import request
from tests.support.stream_app import TOKENS

CLIENTS = 50
ROUTES = [{"path": "/keep/", "policy": "keep"}, {"path": "/later/", "policy": "close-after", "timeout": "1h"}]


@pytest.fixture
def leaving(start: Callable[..., Proxy], tmp_path: Path) -> Callable[..., Proxy]:
    """A proxy that closes the streams of the old colour at once, those of ROUTES excepted."""

    def proxy(app: App, **more: str) -> Proxy:
        env = {
            "BGPROXY_SWITCH__STREAMS__POLICY": "close-now",
            "BGPROXY_SWITCH__STREAMS__SPREAD": "300ms",
            "BGPROXY_SWITCH__ROUTE": json.dumps(ROUTES),
            "BGPROXY_LOG__ACCESS": "json",
            "BGPROXY_LOG__ACCESS_FILE": str(tmp_path / "access.log"),
        }
        return start(app, app, env=env | more)

    return proxy


@pytest.fixture
def websocket_app() -> Any:
    app = App("blue", module="websocket_app")
    yield app
    app.end()


@asynccontextmanager
async def websockets(proxy: Proxy, *paths: str) -> AsyncIterator[list[ClientConnection]]:
    async with AsyncExitStack() as stack:
        made = [connect(f"ws://{proxy.listen}{path}", proxy=None, compression=None) for path in paths]
        yield list(await asyncio.gather(*map(stack.enter_async_context, made)))


async def lives(websocket: ClientConnection, word: str) -> bool:
    await websocket.send(word)
    return await asyncio.wait_for(websocket.recv(), 10) == word


async def end_of(websocket: ClientConnection) -> tuple[int | None, list[Any]]:
    """The close code that the client saw, and what it was told before."""
    heard: list[Any] = []
    try:
        while True:
            heard.append(await asyncio.wait_for(websocket.recv(), 10))
    except ConnectionClosed as closed:
        return (None if closed.rcvd is None else closed.rcvd.code), heard


def access_log(tmp_path: Path) -> list[dict[str, Any]]:
    path = tmp_path / "access.log"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def ends(tmp_path: Path) -> list[tuple[str, str]]:
    return sorted((each["path"], each["termination"]) for each in access_log(tmp_path) if each["status"] == 101)


async def test_fifty_websockets_are_told_to_come_back_and_those_of_other_routes_live_on(
    leaving: Callable[..., Proxy], websocket_app: App, tmp_path: Path
) -> None:
    proxy = leaving(websocket_app)
    async with websockets(proxy, *["/chat"] * CLIENTS, "/keep/1", "/later/1") as clients:
        assert all(await asyncio.gather(*(lives(client, "before") for client in clients)))
        *chats, kept, later = clients
        for client in chats:
            await client.send("last words")
        assert (await asyncio.to_thread(proxy.switch, "green")).ok
        assert await asyncio.gather(*map(end_of, chats)) == [(1012, ["last words"])] * CLIENTS
        assert await lives(kept, "still here")
        assert await lives(later, "me too")
        async with websockets(proxy, "/chat") as (new,):
            blue = (await asyncio.to_thread(lambda: proxy.status))["pools"]["blue"]
            assert (blue["remaining"]["requests"], blue["remaining"]["streams"], blue["leaving"]) == (0, 2, 1)
            assert blue["remaining"]["oldest_s"] > 0
            assert blue["draining"] is True
            done = await asyncio.to_thread(proxy.command, "status", "--wait", "drained", "--timeout", "5s")
            assert done.returncode == 0, done.stderr
            assert "blue: left by the last switch: 2 streams, the oldest for " in done.stdout
            assert "1 stream will be closed" in done.stdout
            done = await asyncio.to_thread(
                proxy.command, "status", "--wait", "drained", "--timeout", "50ms", "--streams"
            )
            assert done.returncode == 7
            assert "0 requests and 2 streams still run on blue" in done.stderr

            back = asyncio.create_task(asyncio.to_thread(proxy.get, "/status?wait=drained&streams=1&if_epoch=1"))
            assert (await asyncio.to_thread(proxy.post, "/rollback")).ok
            assert (await back).document["code"] == "stale_epoch", "blue is live again: never told to be empty"
            await asyncio.to_thread(
                eventually, lambda: proxy.status["pools"]["blue"]["leaving"] == 0, "the end of the plan"
            )
            assert await lives(kept, "as before")
            assert await lives(later, "nothing will come of it")
            assert (await end_of(new))[0] == 1012, "green was left in turn"
    assert (await asyncio.to_thread(proxy.get, "/status?wait=drained&streams=1")).status == 200
    metrics = (await asyncio.to_thread(httpx.get, f"{proxy.admin_url}/metrics")).text
    assert f'bgproxy_streams_closed_total{{colour="blue",kind="tunnel"}} {CLIENTS}' in metrics
    assert 'bgproxy_streams_closed_total{colour="green",kind="tunnel"} 1' in metrics
    told = [("/chat", "drained")] * (CLIENTS + 1) + [("/keep/1", "ok"), ("/later/1", "ok")]
    await asyncio.to_thread(eventually, lambda: len(ends(tmp_path)) == len(told), "the access log")
    assert ends(tmp_path) == told


def test_event_streams_end_between_two_events_with_a_hint(leaving: Callable[..., Proxy], tmp_path: Path) -> None:
    app = App("blue", module="stream_app")
    try:
        proxy = leaving(app)
        with closing(proxy.client()) as client, closing(proxy.client()) as other, httpx.Client() as real:
            with real.stream("GET", f"http://{proxy.listen}/tokens/events?stream=real") as answer:
                pieces = answer.iter_raw()
                heard = next(pieces)
                client.send(request(target="/tokens/events?stream=raw"))
                client.until(TOKENS[0] + b"\n\n")
                other.ask("POST", "/acknowledge?stream=raw")
                client.until(TOKENS[1] + b"\n\n")
                assert proxy.switch("green", wait="drained").ok
                heard += b"".join(pieces)  # to its proper end: httpx raises where it is not
                assert client.until(b"0\r\n\r\n").count(b"retry: ") == 1
            *events, hint, rest = heard.split(b"\n\n")
            assert events == [b"data: " + TOKENS[0]]
            assert 3000 <= int(hint.removeprefix(b"retry: ")) <= 3300
            assert rest == b""
            assert client.ask("GET", "/healthz").one("X-BG-Colour") == "green", "on the same connection"
        eventually(lambda: len([e for e in access_log(tmp_path) if e["termination"] == "drained"]) == 2, "the log")
    finally:
        app.end()


async def test_a_proxy_that_ends_tells_them_too(
    leaving: Callable[..., Proxy], websocket_app: App, tmp_path: Path
) -> None:
    proxy = leaving(websocket_app, BGPROXY_SERVER__TIMEOUTS__SHUTDOWN="2s")
    async with websockets(proxy, "/chat", "/keep/1") as (told, kept):
        ending = asyncio.create_task(asyncio.to_thread(proxy.end))
        assert await end_of(told) == (1012, [])
        assert (await end_of(kept))[0] is None, "cut at the end"
        assert await ending == 0
    assert ends(tmp_path) == [("/chat", "drained"), ("/keep/1", "drained")]
    (stopped,) = proxy.events("stopped")
    assert (stopped["cut_requests"], stopped["cut_streams"]) == (0, 1)
