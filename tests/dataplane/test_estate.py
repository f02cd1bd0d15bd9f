from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import pytest

from bgproxy.dataplane import estate as module
from bgproxy.dataplane.estate import Estate
from bgproxy.shm import bequest
from bgproxy.shm.bequest import Bequest, Heirloom


class FakeListener:
    def __init__(self) -> None:
        self.opened: list[tuple[int, bool]] = []

    async def open(self, descriptors: Any, *, tls: bool) -> None:
        self.opened += [(fd, tls) for fd in descriptors]


def inode(fd: int) -> int:
    return os.fstat(fd).st_ino


@pytest.fixture
def sockets():
    every = [socket.socket() for _ in range(3)]
    yield [sock.fileno() for sock in every]
    for sock in every:
        sock.detach()


@pytest.fixture
async def estate(tmp_path, sockets):
    own, other, tls = sockets
    door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    door.bind(str(tmp_path / "door"))
    door.listen()
    kept = Bequest((Heirloom("plain", "a:1", (own, other)), Heirloom("tls", "a:2", (tls,))))
    made = Estate(asyncio.get_running_loop(), kept, {own}, door.detach())
    yield made
    made.close()
    os.close(own)


def ask(path) -> Bequest:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asking:
        asking.settimeout(10)
        asking.connect(str(path))
        return bequest.receive(asking)


async def test_without_a_supervisor_it_accepts_for_all_and_hands_over_to_whoever_comes(estate, tmp_path, sockets):
    listener = FakeListener()
    await estate.serve_for_all(listener)  # type: ignore[arg-type]
    assert [(inode(fd), tls) for fd, tls in listener.opened] == [(inode(sockets[1]), False), (inode(sockets[2]), True)]
    for _ in range(2):
        found = await asyncio.to_thread(ask, tmp_path / "door")
        assert [inode(fd) for fd in found.fds] == [inode(fd) for fd in sockets]
        for fd in found.fds:
            os.close(fd)
    for fd, _ in listener.opened:
        os.close(fd)


async def test_another_user_gets_nothing(estate, tmp_path, monkeypatch):
    monkeypatch.setattr(module.os, "geteuid", lambda: 12345)
    monkeypatch.setattr(module, "_UCRED", FakeCredentials())
    await estate.serve_for_all(FakeListener())  # type: ignore[arg-type]
    with pytest.raises(ConnectionResetError):
        await asyncio.to_thread(ask, tmp_path / "door")


class FakeCredentials:
    size = 12

    def unpack(self, _: bytes) -> tuple[int, int, int]:
        return 1, 54321, 1


async def test_one_that_leaves_gives_up_what_is_not_its_own(estate, sockets):
    estate.close()
    assert inode(sockets[0])
    for fd in sockets[1:]:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    await estate.serve_for_all(FakeListener())  # type: ignore[arg-type]  # too late, and nothing comes of it
