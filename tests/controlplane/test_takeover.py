from __future__ import annotations

import os
import socket
import threading

import pytest

from bgproxy.controlplane import takeover as module
from bgproxy.controlplane.takeover import TAKEOVER_SOCKET, Takeover, inherit
from bgproxy.shm import bequest
from bgproxy.shm.bequest import Bequest, Heirloom
from tests.support.proxies import Recorder


@pytest.fixture
def emit():
    return Recorder()


@pytest.fixture
def opened(tmp_path):
    takeover = Takeover(tmp_path)
    takeover.publish()
    yield takeover
    takeover.close()


def answering(takeover: Takeover, *answers: Bequest | None) -> threading.Thread:
    """A worker that outlived: one answer per connection; None hangs up."""
    door = socket.socket(fileno=os.dup(takeover.fd))

    def serve() -> None:
        with door:
            for answer in answers:
                heir, _ = door.accept()
                with heir:
                    if answer is not None:
                        bequest.send(heir, answer)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_nothing_was_left_behind(tmp_path, emit):
    assert inherit(tmp_path, emit=emit) == []
    assert emit.events == []


def test_a_worker_hands_over_and_one_that_leaves_meanwhile_does_not_matter(opened, tmp_path, emit):
    with socket.socket() as sock:
        worker = answering(opened, None, Bequest((Heirloom("plain", "a:1", (sock.fileno(),)),)))
        (found,) = inherit(tmp_path, emit=emit)
        worker.join()
        assert [os.fstat(fd).st_ino for fd in found.fds] == [os.fstat(sock.fileno()).st_ino]
    for fd in found.fds:
        os.close(fd)
    assert emit.events == []


def test_nobody_who_answers_is_told_and_is_no_obstacle(opened, tmp_path, emit, monkeypatch):
    monkeypatch.setattr(module, "ANSWER_BOUND_S", 0.05)
    assert inherit(tmp_path, emit=emit) == []
    assert emit.of("sockets_not_inherited") == [{"error": "timed out"}]


def test_only_the_user_of_the_proxy_may_ask(opened, tmp_path):
    assert (tmp_path / TAKEOVER_SOCKET).stat().st_mode & 0o777 == 0o600


def test_until_it_is_published_the_one_before_is_asked(opened, tmp_path):
    before = (tmp_path / TAKEOVER_SOCKET).lstat().st_ino
    successor = Takeover(tmp_path)
    assert (tmp_path / TAKEOVER_SOCKET).lstat().st_ino == before
    successor.publish()
    assert (tmp_path / TAKEOVER_SOCKET).lstat().st_ino != before
    opened.close()
    assert (tmp_path / TAKEOVER_SOCKET).exists(), "it is the successor's"
    successor.close()
    assert list(tmp_path.iterdir()) == []


def test_a_long_path_is_no_obstacle(tmp_path, emit):
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    takeover = Takeover(deep)
    takeover.publish()
    worker = answering(takeover, Bequest())
    assert inherit(deep, emit=emit) == [Bequest()]
    worker.join()
    takeover.close()
