from __future__ import annotations

import os
import socket

import msgspec
import pytest

from bgproxy.controlplane import succession
from bgproxy.controlplane.orphans import Recorded
from bgproxy.controlplane.succession import (
    VARIABLE,
    Failed,
    Go,
    Hello,
    Predecessor,
    Prepared,
    Serving,
    tell_predecessor,
)
from bgproxy.shm import bequest
from bgproxy.shm.bequest import Bequest, Heirloom

HELLO = Hello(1, "1.0", 0, 3)
OLD = (Recorded(4711, 1, ("worker",)),)


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def met(pair):
    """The old program's end, and the old program as the new one sees it."""
    with socket.socket() as sock:
        succession.send(pair[0], HELLO)
        bequest.send(pair[0], Bequest((Heirloom("plain", "a:1", (sock.fileno(),)),)))
        predecessor = Predecessor(pair[1])
    yield pair[0], predecessor
    predecessor.close()
    for fd in predecessor.bequest.fds:
        os.close(fd)


async def test_the_new_one_gets_sockets_says_that_it_is_prepared_and_is_told_to_go(met):
    old, predecessor = met
    assert predecessor.hello == HELLO
    assert [each.address for each in predecessor.bequest.heirlooms] == ["a:1"]
    succession.send(old, Go(OLD))
    assert await predecessor.take_over("2.0") == OLD
    assert await succession.hear(old) == Prepared("2.0")
    said: list[str] = []
    predecessor.when_serving(lambda: said.append("orders"))
    assert said == []
    predecessor.serving()
    assert said == ["orders"]
    assert await succession.hear(old) == Serving()
    assert await succession.hear(old) is None


async def test_an_old_one_that_is_gone_is_no_obstacle(met):
    old, predecessor = met
    old.close()
    assert await predecessor.take_over("2.0") is None
    predecessor.failed("nobody hears it")
    predecessor.serving()


async def test_an_old_one_that_leaves_instead_of_an_answer_is_gone(met):
    old, predecessor = met
    old.shutdown(socket.SHUT_WR)
    assert await predecessor.take_over("2.0") is None


async def test_what_failed_is_told(met):
    old, predecessor = met
    predecessor.failed("no room")
    assert await succession.hear(old) == Failed("no room")


async def test_words_of_another_version_are_an_error(pair):
    pair[1].send(b'{"type": "song"}')
    with pytest.raises(msgspec.ValidationError):
        await succession.hear(pair[0])


def test_without_a_predecessor_there_is_none():
    assert Predecessor.find({}) is None


def test_the_variable_is_for_one_process_alone(pair):
    lock = os.open(os.devnull, os.O_RDONLY)
    os.set_inheritable(lock, True)
    succession.send(pair[0], msgspec.structs.replace(HELLO, lock_fd=lock))
    bequest.send(pair[0], Bequest())
    environment = {VARIABLE: str(os.dup(pair[1].fileno())), "OTHER": "1"}
    predecessor = Predecessor.find(environment)
    assert predecessor is not None
    assert environment == {"OTHER": "1"}
    assert not os.get_inheritable(lock)
    predecessor.close()
    os.close(lock)


def test_somebody_who_says_something_else_is_no_predecessor(pair):
    succession.send(pair[0], Serving())
    with pytest.raises(ValueError, match="expected hello"):
        Predecessor(pair[1])


async def test_a_start_that_fails_early_can_be_told_too(pair):
    tell_predecessor({VARIABLE: str(pair[1].fileno())}, "line 3 is wrong")
    assert await succession.hear(pair[0]) == Failed("line 3 is wrong")
    tell_predecessor({}, "nobody asked")
    tell_predecessor({VARIABLE: "no number"}, "nobody hears it")
