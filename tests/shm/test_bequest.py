from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import msgspec
import pytest

from bgproxy.shm import bequest
from bgproxy.shm.bequest import AT_ONCE, Bequest, Heirloom


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def opened(count: int) -> tuple[int, ...]:
    return tuple(os.open(os.devnull, os.O_RDONLY) for _ in range(count))


def inodes(fds: tuple[int, ...]) -> list[int]:
    return [os.fstat(fd).st_ino for fd in fds]


def close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)


def test_sockets_arrive_as_what_they_are_and_are_not_inherited_further(pair):
    with socket.socket() as first, socket.socket() as second:
        sent = Bequest(
            (Heirloom("plain", "0.0.0.0:80", (first.fileno(),)), Heirloom("tls", "[::]:443", (second.fileno(),)))
        )
        bequest.send(pair[0], sent)
        received = bequest.receive(pair[1])
        assert [(each.role, each.address) for each in received.heirlooms] == [
            ("plain", "0.0.0.0:80"),
            ("tls", "[::]:443"),
        ]
        assert inodes(received.fds) == inodes(sent.fds)
        assert not any(map(os.get_inheritable, received.fds))
        close(*received.fds)


def test_more_than_fit_into_one_message_come_in_several(pair):
    fds = opened(AT_ONCE + 3)
    bequest.send(pair[0], Bequest((Heirloom("plain", "a:1", fds[:5]), Heirloom("plain", "b:1", fds[5:]))))
    received = bequest.receive(pair[1])
    assert [len(each.fds) for each in received.heirlooms] == [5, AT_ONCE - 2]
    close(*fds, *received.fds)


def test_nothing_is_a_bequest_too(pair):
    bequest.send(pair[0], Bequest())
    assert bequest.receive(pair[1]) == Bequest()


def test_text_and_bytes_say_the_same():
    told = Bequest((Heirloom("admin", "unix:/run/a,b.sock", (7, 8)),))
    assert bequest.decode(told.encode()) == bequest.decode(told.encode().decode()) == told


def test_what_was_announced_and_does_not_come_is_an_error_that_leaves_nothing_open(pair):
    (fd,) = opened(1)
    before = len(os.listdir("/proc/self/fd"))
    pair[0].send(Bequest((Heirloom("plain", "a:1", (1, 2, 3)),)).encode())
    socket.send_fds(pair[0], [b"."], [fd])
    pair[0].shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionResetError):
        bequest.receive(pair[1])
    assert len(os.listdir("/proc/self/fd")) == before
    close(fd)


@pytest.mark.parametrize("count", [0, 2])
def test_another_number_than_was_announced_is_an_error(pair, count):
    fds = opened(count)
    pair[0].send(Bequest((Heirloom("plain", "a:1", (1,)),)).encode())
    socket.send_fds(pair[0], [b"."], fds)
    with pytest.raises(ValueError, match=f"1 sockets were announced and {count} came"):
        bequest.receive(pair[1])
    close(*fds)


def test_somebody_who_leaves_at_once_is_an_error(pair):
    pair[0].close()
    with pytest.raises(ConnectionResetError):
        bequest.receive(pair[1])


def test_what_is_no_bequest_is_an_error(pair):
    pair[0].send(b"{}x")
    with pytest.raises(msgspec.DecodeError):
        bequest.receive(pair[1])
