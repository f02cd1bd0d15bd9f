from __future__ import annotations

import os
import socket

import pytest

from bgproxy.controlplane.inherited import Inherited
from bgproxy.core.model import Address
from bgproxy.shm.bequest import Bequest, Heirloom, Role


def listening() -> tuple[int, int]:
    """A descriptor that nobody else owns, and its port."""
    sock = socket.create_server(("127.0.0.1", 0))
    return sock.getsockname()[1], sock.detach()


def bequest(role: Role, address: str, *fds: int) -> Bequest:
    return Bequest((Heirloom(role, address, fds, role != ""),))


@pytest.fixture
def inherit():
    every: list[Inherited] = []

    def inherit(*bequests: Bequest) -> Inherited:
        every.append(Inherited(*bequests))
        return every[-1]

    yield inherit
    for each in every:
        each.close()


def test_what_is_written_in_the_same_way_is_the_same(inherit):
    port, fd = listening()
    found = inherit(bequest("plain", f"app.example:{port}", fd))
    assert found.take("plain", Address("app.example", port + 1)) is None
    taken = found.take("plain", Address("app.example", port))
    assert taken is not None
    assert ([sock.fileno() for sock in taken.sockets], taken.name, taken.is_ours) == (
        [fd],
        f"app.example:{port}",
        True,
    )
    assert found.take("plain", Address("app.example", port)) is None, "only once"
    taken.sockets[0].close()


def test_a_socket_may_change_its_role_but_not_by_port_zero(inherit):
    port, fd = listening()
    found = inherit(bequest("plain", f"127.0.0.1:{port}", fd))
    assert found.take("tls", Address("127.0.0.1", 0)) is None
    taken = found.take("tls", Address("127.0.0.1", port))
    assert taken is not None
    taken.sockets[0].close()


def test_port_zero_takes_what_it_had_become(inherit):
    port, fd = listening()
    found = inherit(bequest("plain", f"127.0.0.1:{port}", fd))
    assert found.take("plain", Address("127.0.0.2", 0)) is None
    taken = found.take("plain", Address("127.0.0.1", 0))
    assert taken is not None
    assert taken.name == f"127.0.0.1:{port}"
    taken.sockets[0].close()


def test_systemd_knows_numbers_only(inherit):
    port, fd = listening()
    found = inherit(bequest("", f"127.0.0.1:{port}", fd))
    assert found.take("plain", Address("no-such-name.invalid", port)) is None
    assert found.take("plain", Address(path="/run/x.sock")) is None
    taken = found.take("plain", Address("localhost", port))
    assert taken is not None
    assert not taken.is_ours
    taken.sockets[0].close()


def test_the_same_socket_may_come_twice_and_is_kept_once(inherit):
    port, fd = listening()
    twin = os.dup(fd)
    found = inherit(bequest("", f"127.0.0.1:{port}", fd), bequest("plain", f"127.0.0.1:{port}", twin))
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(twin)
    assert found.names == [f"127.0.0.1:{port}"]


def test_what_nobody_takes_can_be_named_and_is_closed(inherit):
    port, fd = listening()
    found = inherit(bequest("plain", f"127.0.0.1:{port}", fd))
    assert found.names == [f"127.0.0.1:{port}"]
    found.close()
    assert found.names == []
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
