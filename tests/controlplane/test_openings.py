from __future__ import annotations

import os
import socket
from contextlib import AsyncExitStack

import msgspec
import pytest

from bgproxy.controlplane.inherited import Inherited
from bgproxy.controlplane.openings import open_up
from bgproxy.controlplane.premises import enter
from bgproxy.errors import StartupError
from bgproxy.shm.bequest import Bequest, Heirloom
from tests.support.beginning import config
from tests.support.proxies import Recorder


@pytest.fixture
async def stack():
    async with AsyncExitStack() as stack:
        yield stack


async def test_all_that_is_open_is_inherited_by_a_new_program(tmp_path, stack):
    here = config(tmp_path)
    premises = await enter(here, stack, None, emit=Recorder())
    openings = open_up(here, premises, stack, workers_outlive=True, emit=Recorder())
    (listen,) = openings.addresses()["listen"]
    assert openings.addresses()["tls"] == []
    assert {each.address for each in openings.bequest.heirlooms} > {listen, str(openings.doors.address)}
    assert openings.takeover is not None
    assert open_up_again(here, premises, stack).takeover is None


def open_up_again(here, premises, stack):
    fresh = msgspec.structs.replace(premises, inherited=Inherited(Bequest()))
    changed = msgspec.structs.replace(here, admin=msgspec.structs.replace(here.admin, listen=None, socket=None))
    return open_up(changed, fresh, stack, workers_outlive=False, emit=Recorder())


async def test_a_socket_that_nobody_wants_is_an_error_with_its_address(tmp_path, stack):
    here = config(tmp_path)
    premises = await enter(here, stack, None, emit=Recorder())
    with socket.create_server(("127.0.0.1", 0)) as passed:
        fd, address = os.dup(passed.fileno()), f"127.0.0.1:{passed.getsockname()[1]}"
        unwanted = Inherited(Bequest((Heirloom("", address, (fd,), is_ours=False),)))
        premises = msgspec.structs.replace(premises, inherited=unwanted)
        with pytest.raises(StartupError, match=f"systemd passes a socket for {address}"):
            open_up(here, premises, stack, workers_outlive=False, emit=Recorder())
        unwanted.close()
