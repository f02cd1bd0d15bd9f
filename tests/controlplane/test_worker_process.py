from __future__ import annotations

import asyncio
import errno
import os

import pytest

from bgproxy.controlplane.worker_process import WorkerProcess
from bgproxy.core.messages import Configure, Drained, Ejected, Ready, Seen, TableAccepted, encode
from bgproxy.core.settings import WorkerSettings
from bgproxy.shm.segment import Segment
from tests.support.proxies import TABLE, eventually


class Heard:
    def __init__(self) -> None:
        self.changes = 0
        self.gone: list[WorkerProcess] = []
        self.ejected: list[Ejected] = []
        self.broken: list[str] = []

    def changed(self) -> None:
        self.changes += 1


@pytest.fixture
def heard():
    return Heard()


@pytest.fixture
def worker(heard):
    return WorkerProcess(
        0,
        changed=heard.changed,
        gone=heard.gone.append,
        ejected=lambda _, report: heard.ejected.append(report),
        broken=lambda _, why: heard.broken.append(why),
    )


def test_what_a_worker_says_is_remembered(worker, heard):
    worker.data_received(encode(TableAccepted(1)) + encode(Seen(4, 9)) + encode(Ready(17))[:-3])
    assert (worker.table_version, worker.seen_sequence, worker.ready) == (1, 4, False)
    worker.data_received(encode(Ready(17))[-3:])
    assert worker.ready
    assert heard.changes == 3


def test_an_older_answer_does_not_take_back_a_newer_one(worker):
    worker.data_received(encode(Seen(4, 9)) + encode(Seen(3, 9)))
    assert worker.has_seen(4)
    assert not worker.has_seen(5)


def test_what_it_leaves_out_and_what_it_cut_is_passed_on(worker, heard):
    report = Ejected(1, 0, 5, 10.0, "refused")
    worker.data_received(encode(report) + encode(Drained(2, 1)))
    assert heard.ejected == [report]
    assert worker.drained == Drained(2, 1)


@pytest.mark.parametrize("line", [b"rubbish\n", b'{"type":"seen"}\n', b'{"type":"published","epoch":1}\n'])
def test_what_is_no_message_breaks_it(worker, heard, line):
    worker.data_received(line)
    assert "no control message" in heard.broken[0]


def test_a_connection_that_ends_before_the_process_breaks_it(worker, heard):
    worker.connection_lost(None)
    assert heard.broken == ["closed its control connection"]


@pytest.mark.parametrize(
    ("status", "text"), [(3, "exit status 3"), (-9, "killed by SIGKILL"), (-40, "killed by signal 40")]
)
def test_how_it_ended_is_said_in_words(worker, status, text):
    worker.exit_status = status
    assert worker.how_it_ended == text


def test_before_its_start_nothing_can_be_sent_or_killed(worker):
    worker.send(Configure(WorkerSettings(), TABLE))
    worker.kill()


async def test_a_process_that_ends_at_once_is_seen_dead_once(worker, heard):
    segment = Segment.create(1)
    await worker.spawn(
        ("/bin/false",), segment_fd=segment.fd, listen_fds=(), configure=lambda: Configure(WorkerSettings(), TABLE)
    )
    await eventually(lambda: worker.dead, "its end")
    assert heard.gone == [worker]
    assert worker.how_it_ended == "exit status 1"
    assert worker.has_seen(99)
    worker.kill()
    await asyncio.sleep(0)  # a turn of the loop, in which a second death would be told
    assert heard.gone == [worker]
    segment.close()


async def test_a_process_that_cannot_be_watched_does_not_stay(worker, heard, monkeypatch):
    started: list[int] = []

    def no_descriptor(pid: int) -> int:
        started.append(pid)
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", no_descriptor)
    with pytest.raises(OSError, match="Too many open files"):
        await worker.spawn(
            ("/bin/sh", "-c", "exec sleep 600"),
            segment_fd=0,
            listen_fds=(),
            configure=lambda: Configure(WorkerSettings(), TABLE),
        )
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)


async def test_it_is_recorded_before_it_is_configured_and_so_before_it_serves(worker):
    segment = Segment.create(1)
    configured: list[bool] = []

    async def recorded() -> None:
        assert worker.pid
        configured.append(worker.configured)

    await worker.spawn(
        ("/bin/sh", "-c", "exec sleep 600"),
        segment_fd=segment.fd,
        listen_fds=(),
        configure=lambda: Configure(WorkerSettings(), TABLE),
        recorded=recorded,
    )
    assert configured == [False]
    assert worker.configured
    worker.kill()
    await eventually(lambda: worker.dead, "its end")
    segment.close()
