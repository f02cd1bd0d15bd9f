"""Starting and closing the admin API."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from bgproxy.controlplane.admin.app import _own_host, start_admin
from bgproxy.core.model import Address
from bgproxy.errors import StartupError
from tests.support.admin import LOOPBACK, FakeControl


async def test_port_zero_becomes_the_real_port(api):
    assert api.server.address.port > 0
    assert api.server.url == f"http://127.0.0.1:{api.port}"


async def test_it_can_live_on_the_unix_socket_alone(tmp_path):
    server = await start_admin(FakeControl(), listen=None, socket_path=tmp_path / "a.sock")
    assert (server.address, server.url) == (None, f"unix:{tmp_path}/a.sock")
    await server.close()
    assert not (tmp_path / "a.sock").exists()


async def test_it_can_live_on_tcp_alone():
    server = await start_admin(FakeControl(), listen=LOOPBACK, socket_path=None)
    await server.close()


async def test_when_one_listener_cannot_be_had_none_is_left_open(tmp_path):
    (tmp_path / "a.sock").write_text("in the way")
    with pytest.raises(StartupError, match="not a socket"):
        await start_admin(FakeControl(), listen=LOOPBACK, socket_path=tmp_path / "a.sock")


async def test_after_close_nobody_answers(tmp_path):
    server = await start_admin(FakeControl(), listen=LOOPBACK, socket_path=None)
    assert isinstance(server.address, Address)
    await server.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", server.address.port)


async def test_the_address_it_listens_on_is_a_host_of_its_own():
    server = await start_admin(FakeControl(), listen=LOOPBACK, socket_path=None, allowed_hosts=())
    for host, status in ((f"127.0.0.1:{server.address.port}", 200), ("localhost", 421)):
        async with (
            aiohttp.ClientSession() as client,
            client.get(f"{server.url}/status", headers={"Host": host}) as answer,
        ):
            assert answer.status == status
    await server.close()


def test_every_interface_is_not_a_host():
    assert _own_host(Address(host="0.0.0.0", port=1)) == []
    assert _own_host(Address(host="::1", port=1)) == ["[::1]"]
    assert _own_host(None) == []
