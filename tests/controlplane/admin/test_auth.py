"""Who may call: tokens and roles on TCP, the kernel's word on the unix socket, no browser from elsewhere."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator

import pytest

from tests.support.admin import Admin, admin_api, token

READ, SWITCH = "r" * 32, "s" * 32


@pytest.fixture
async def guarded(control, tmp_path) -> AsyncIterator[Admin]:
    tokens = (token("dashboard", "read", READ), token("ci", "switch", SWITCH), token("boss", "admin", "a" * 32))
    async with admin_api(control, tmp_path, tokens=tokens) as running:
        yield running


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


@pytest.mark.parametrize(
    "headers", [{}, bearer("wrong"), bearer(""), {"Authorization": "Basic " + READ}, {"Authorization": READ}]
)
async def test_without_a_valid_token_nothing_is_told(guarded, headers):
    reply = await guarded.ask("GET", "/status", headers=headers)
    assert (reply.status, reply.document["code"]) == (401, "unauthorized")
    assert reply.headers["WWW-Authenticate"].startswith("Bearer")


async def test_a_token_of_strange_bytes_is_just_wrong(guarded):
    reader, writer = await asyncio.open_connection("127.0.0.1", guarded.port)
    writer.write(b"GET /status HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer \xff\xfe\xc3\xa9\r\n\r\n")
    assert b" 401 " in await reader.readline()
    writer.close()
    await writer.wait_closed()


async def test_a_reader_reads_and_does_not_switch(guarded, control):
    for path in ("/status", "/metrics", "/preflight?to=green", "/version"):
        assert (await guarded.ask("GET", path, headers=bearer(READ))).status == 200
    for path in ("/switch", "/rollback"):
        reply = await guarded.ask("POST", path, json={}, headers=bearer(READ))
        assert (reply.status, reply.document["code"]) == (403, "forbidden")
    assert control.orders == []


@pytest.mark.parametrize(("secret", "by"), [(SWITCH, "token:ci"), ("a" * 32, "token:boss")])
async def test_a_switcher_switches_under_the_name_of_the_token(guarded, control, secret, by):
    reply = await guarded.ask("POST", "/switch", json={"to": "green"}, headers=bearer(secret))
    assert (reply.status, control.orders[0].by) == (200, by)


async def test_the_scheme_is_not_case_sensitive(guarded):
    assert (await guarded.ask("GET", "/status", headers={"Authorization": "bearer " + READ})).status == 200


async def test_load_balancers_need_no_token(guarded):
    assert (await guarded.ask("GET", "/livez")).status == 200
    assert (await guarded.ask("GET", "/readyz")).status == 200


async def test_the_unix_socket_needs_no_token_and_the_kernel_names_the_user(guarded, control):
    reply = await guarded.ask("POST", "/switch", over="unix", json={"to": "green"})
    assert (reply.status, control.orders[0].by) == (200, f"unix:uid={os.getuid()}")


async def test_forwarding_fields_are_nobody(guarded):
    headers = {"X-Forwarded-For": "127.0.0.1", "Forwarded": "for=127.0.0.1", "X-Real-IP": "127.0.0.1"}
    assert (await guarded.ask("GET", "/status", headers=headers)).status == 401


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8081", "localhost.evil.example", "127.0.0.2", ""])
async def test_a_host_that_is_not_ours_is_misdirected(api, control, host):
    reply = await api.ask("POST", "/switch", json={"to": "green"}, headers={"Host": host})
    assert (reply.status, reply.document["code"], control.orders) == (421, "misdirected_request", [])


async def test_a_missing_host_is_not_ours_and_no_name_server_is_asked(api, monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr(socket, "getfqdn", lambda *_: asked.append("our own name") or "localhost")
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(b"GET /status HTTP/1.0\r\n\r\n")
    assert b" 421 " in await reader.readline()
    assert asked == []
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8081", "127.0.0.1:1", "[::1]:8081", "[::1]"])
async def test_a_host_that_is_ours_is_accepted(api, host):
    assert (await api.ask("GET", "/status", headers={"Host": host})).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
async def test_a_page_of_another_origin_is_not_obeyed(api, control, headers):
    for path in ("/switch", "/rollback"):
        reply = await api.ask("POST", path, json={"to": "green"}, headers=headers)
        assert (reply.status, control.orders) == (403, [])
    assert (await api.ask("GET", "/status", headers=headers)).status == 403


async def test_a_page_of_our_own_origin_is_served(api):
    headers = {"Origin": f"http://127.0.0.1:{api.port}", "Sec-Fetch-Site": "same-origin"}
    assert (await api.ask("GET", "/status", headers=headers)).status == 200
