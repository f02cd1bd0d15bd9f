"""Finding the admin API and speaking to it."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from bgproxy.cli.client import (
    DEFAULT_ADMIN,
    AdminClient,
    NoAnswerInTime,
    UsageProblem,
    find_admin,
    read_token,
    state_dir,
)
from bgproxy.errors import EXIT_TIMEOUT, EXIT_UNREACHABLE, EXIT_USAGE, AdminUnreachable
from tests.support.admin import admin_api, token
from tests.support.http_apps import http_app, raw_server


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Bound by nobody who listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_what_was_told_wins():
    assert find_admin("unix:/a.sock", {}) == ["unix:/a.sock"]


def test_the_addresses_the_supervisor_wrote_are_used_the_socket_first(tmp_path):
    (tmp_path / "addresses.json").write_text(
        json.dumps({"listen": [], "admin": "127.0.0.1:4711", "socket": "/s/admin.sock", "pid": 1})
    )
    environment = {"BGPROXY_STATE__DIR": str(tmp_path)}
    assert find_admin(None, environment) == ["unix:/s/admin.sock", "http://127.0.0.1:4711"]


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"admin": 3}', "{}"])
def test_without_usable_addresses_it_is_the_default(tmp_path, content):
    if content is not None:
        (tmp_path / "addresses.json").write_text(content)
    assert find_admin(None, {"BGPROXY_STATE__DIR": str(tmp_path)}) == [DEFAULT_ADMIN]


@pytest.mark.parametrize(
    ("environment", "directory"),
    [
        ({"BGPROXY_STATE__DIR": "/a", "STATE_DIRECTORY": "/b"}, "/a"),
        ({"BGPROXY_STATE__DIR": "auto", "STATE_DIRECTORY": "/b"}, "/b"),
        ({"STATE_DIRECTORY": "/b", "XDG_STATE_HOME": "/c"}, "/b"),
        ({"XDG_STATE_HOME": "/c"}, "/c/bgproxy"),
    ],
)
def test_the_state_directory_is_the_one_the_supervisor_uses(environment, directory):
    assert state_dir(environment) == Path(directory)


def test_a_token_file_is_one_line(tmp_path):
    path = tmp_path / "token"
    path.write_text("s3cret\n")
    assert read_token(str(path)) == "s3cret"
    assert read_token(None) == ""


@pytest.mark.parametrize("content", [b"", b"two words", b"a\nb", "schön".encode()])
def test_a_token_file_without_a_token_is_a_usage_error(tmp_path, content):
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(UsageProblem) as problem:
        read_token(str(path))
    assert problem.value.exit_code == EXIT_USAGE
    assert str(path) in problem.value.detail
    assert "schön" not in problem.value.detail


def test_a_missing_token_file_is_a_usage_error(tmp_path):
    with pytest.raises(UsageProblem, match="no such file"):
        read_token(str(tmp_path / "gone"))


@pytest.mark.parametrize(
    "target", ["https://h:1", "http://h", "http://h:1/path", "ftp://h:1", "http://:1", "h:99999", "[::1"]
)
def test_an_address_that_cannot_be_used_says_what_was_expected(target):
    with pytest.raises(UsageProblem, match="expected http://HOST:PORT or unix:/PATH"):
        AdminClient([target]).get("/status")


def test_an_admin_that_is_not_there_says_what_to_do(closed_port, tmp_path):
    with pytest.raises(AdminUnreachable) as problem:
        AdminClient([f"unix:{tmp_path}/gone", f"http://127.0.0.1:{closed_port}"]).get("/status")
    assert problem.value.exit_code == EXIT_UNREACHABLE
    assert f"unix:{tmp_path}/gone (no such file or directory)" in problem.value.detail
    assert f"http://127.0.0.1:{closed_port} (connection refused)" in problem.value.detail
    assert "--admin" in problem.value.hint


def test_a_name_that_cannot_be_one_is_not_reached():
    with pytest.raises(AdminUnreachable, match="no admin API can be reached"):
        AdminClient([f"http://{'a' * 70}:80"]).get("/status")


async def test_the_next_target_is_tried(api, closed_port):
    client = AdminClient([f"http://127.0.0.1:{closed_port}", f"127.0.0.1:{api.port}"])
    assert (await asyncio.to_thread(client.get, "/livez")).ok


async def test_it_speaks_over_the_unix_socket(api, control):
    client = AdminClient([f"unix:{api.server.path}"])
    answer = await asyncio.to_thread(client.post, "/switch", {"to": "green"}, timeout_s=5.0)
    assert (answer.ok, answer.document["to"]) == (True, "green")
    assert control.orders[0].by.startswith("unix:uid=")


async def test_the_token_is_sent(control, tmp_path):
    async with admin_api(control, tmp_path, tokens=(token("ci", "read", "s3cret"),)) as api:
        target = f"http://127.0.0.1:{api.port}"
        assert (await asyncio.to_thread(AdminClient([target]).get, "/status")).status == 401
        assert (await asyncio.to_thread(AdminClient([target], "s3cret").get, "/status")).status == 200


async def test_a_silent_admin_is_given_up_and_the_truth_is_told():
    async with raw_server(None) as address:
        client = AdminClient([str(address)])
        with pytest.raises(NoAnswerInTime, match="may or may not have been carried out") as problem:
            await asyncio.to_thread(client.post, "/switch", {}, timeout_s=0.1)
        assert problem.value.exit_code == EXIT_TIMEOUT
        with pytest.raises(NoAnswerInTime, match=r"within 0\.1s$"):
            await asyncio.to_thread(client.get, "/status", timeout_s=0.1)


async def test_an_order_is_waited_for_as_long_as_the_admin_api_is_alive():
    """As with a drain of hours: silence is no reason to give up while somebody is there."""
    asked = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/livez":
            asked.set()
        else:
            await asked.wait()
        return web.json_response({})

    async with http_app(answer) as address:
        client = AdminClient([str(address)], silence_s=0.05)
        assert (await asyncio.to_thread(client.post, "/switch", {}, timeout_s=60.0)).ok
    assert asked.is_set()


async def test_so_is_a_status_that_waits_for_a_drain(monkeypatch):
    monkeypatch.setattr("bgproxy.cli.client.CONNECT_TIMEOUT_S", 0.1)

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/livez":
            asked.set()
        else:
            await asked.wait()
        return web.json_response({})

    asked = asyncio.Event()
    async with http_app(answer) as address:
        client = AdminClient([str(address)], silence_s=0.05)
        assert (await asyncio.to_thread(client.get, "/status?wait=drained", timeout_s=60.0)).ok
    assert asked.is_set()
    async with raw_server(None) as address:
        client = AdminClient([str(address)], silence_s=0.05)
        with pytest.raises(NoAnswerInTime, match=r"does not answer any more \(no answer within [\d.]+s\)$"):
            await asyncio.to_thread(client.get, "/status?wait=drained", timeout_s=60.0)


async def test_an_admin_api_that_has_frozen_is_given_up_long_before_the_bound(monkeypatch):
    monkeypatch.setattr("bgproxy.cli.client.CONNECT_TIMEOUT_S", 0.1)
    async with raw_server(None) as address:
        client = AdminClient([str(address)], silence_s=0.05)
        with pytest.raises(NoAnswerInTime, match="may or may not have been carried out") as problem:
            await asyncio.to_thread(client.post, "/switch", {}, timeout_s=86400.0)
    assert problem.value.exit_code == EXIT_TIMEOUT
    assert "bgproxy status" in problem.value.hint


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{"])
async def test_a_broken_answer_is_one_sentence(answer):
    async with raw_server(answer) as address:
        with pytest.raises(AdminUnreachable, match="broke"):
            await asyncio.to_thread(AdminClient([str(address)]).get, "/status")


async def test_somebody_else_at_the_address_is_noticed():
    async with raw_server(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>") as address:
        with pytest.raises(AdminUnreachable, match="is not the admin API"):
            await asyncio.to_thread(AdminClient([str(address)]).get, "/status")


async def test_an_answer_may_have_no_body():
    async with raw_server(b"HTTP/1.1 204 No Content\r\n\r\n") as address:
        answer = await asyncio.to_thread(AdminClient([str(address)]).get, "/status")
    assert (answer.status, answer.document) == (204, None)
