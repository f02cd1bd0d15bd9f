"""One small app of the demo: its routes, and that it never outlives who started it."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from aiohttp import WSMsgType
from aiohttp.test_utils import TestClient, TestServer

from bgproxy.demo.app import make_app


@pytest.fixture
async def client():
    async with TestClient(TestServer(make_app("blue", "1.0"))) as made:
        yield made


async def test_it_says_who_it_is(client):
    assert await (await client.get("/")).text() == "hello from blue, version 1.0\n"


async def test_it_is_healthy(client):
    answer = await client.get("/healthz")
    assert (answer.status, await answer.json()) == (200, {"ok": True, "colour": "blue", "release": "1.0"})
    assert answer.headers["X-Release"] == "1.0"


async def test_slow_takes_as_long_as_asked(client):
    assert await (await client.get("/slow?s=0.01")).text() == "blue 1.0 took 0.01s\n"
    for nonsense in ("later", "nan", "-1", "inf"):
        assert (await client.get(f"/slow?s={nonsense}")).status == 400


async def test_echo_gives_the_body_back(client):
    body = b"0123456789" * 100_000
    answer = await client.post("/echo", data=body, headers={"Content-Type": "application/x-test"})
    assert await answer.read() == body
    assert answer.headers["Content-Type"] == "application/x-test"


async def test_sse_sends_events_as_they_come(client):
    answer = await client.get("/sse")
    assert answer.headers["Content-Type"] == "text/event-stream"
    assert await answer.content.readuntil(b"\n\n") == b"id: 0\ndata: blue 1.0\n\n"
    answer.close()


async def test_the_websocket_answers_in_its_colour(client):
    async with client.ws_connect("/ws") as socket:
        assert await socket.receive_str() == "hello from blue, version 1.0"
        await socket.send_str("hi")
        assert await socket.receive_str() == "blue: hi"
        await socket.close()
        assert (await socket.receive()).type is WSMsgType.CLOSED


def started() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "bgproxy.demo.app", "--colour", "blue", "--release", "1.0"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline().startswith(b"listening 127.0.0.1:")
    return process


def test_it_ends_when_its_standard_input_does():
    process = started()
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, b"")


def test_it_ends_on_sigterm_and_leaves_ctrl_c_to_the_demo():
    process = started()
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0
    _, errors = process.communicate()
    assert errors == b""


def test_it_ends_quietly_when_nobody_waits_for_it_any_more():
    command = [sys.executable, "-m", "bgproxy.demo.app", "--colour", "blue", "--release", "1.0"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=30) == 0
