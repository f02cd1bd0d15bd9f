from __future__ import annotations

import os
import signal
import subprocess
import sys

import msgspec
import pytest

from bgproxy.controlplane import orphans as module
from bgproxy.controlplane.orphans import Orphans, Record, Recorded, describe, start_time, write_record
from bgproxy.core.model import GREEN
from bgproxy.shm.live_pointer import Hold, Live
from bgproxy.shm.segment import Segment
from tests.support.proxies import Recorder, eventually

LEAVES = "import time; print('up', flush=True); time.sleep(600)"
STAYS = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"


@pytest.fixture
def start():
    started: list[subprocess.Popen[str]] = []

    def start(script: str = LEAVES) -> Recorded:
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "up\n"
        recorded = describe(process.pid, process.args)
        assert recorded is not None
        return recorded

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def emit():
    return Recorder()


def found(tmp_path, emit, *recorded: Recorded, listen: tuple[str, ...] = ("127.0.0.1:80",)) -> Orphans:
    write_record(tmp_path, Record(recorded, listen))
    return Orphans.find(tmp_path, emit=emit)


def test_without_a_record_there_are_none(tmp_path, emit):
    orphans = Orphans.find(tmp_path, emit=emit)
    assert (orphans.pids(), orphans.listen, emit.events) == ((), frozenset(), [])


def test_those_that_still_run_are_found_with_what_they_hold(tmp_path, emit, start):
    first, second = start(), start()
    orphans = found(tmp_path, emit, first, second)
    assert orphans.pids() == (first.pid, second.pid)
    assert orphans.listen == {"127.0.0.1:80"}
    assert orphans.living() == [first, second]
    assert emit.of("orphans_found") == [{"pids": [first.pid, second.pid]}]
    orphans.release()


@pytest.mark.parametrize(
    "other",
    [
        {"started": 1},
        {"argv": ("python", "-m", "something.else")},
        {"pid": 2**30},
        {"pid": -1},
        {"pid": 2**80},
    ],
    ids=["another start time", "another command", "no such process", "no pid", "no number for a pid"],
)
def test_a_process_that_only_resembles_one_is_left_alone(tmp_path, emit, start, other):
    recorded = start()
    changed = msgspec.structs.replace(recorded, **other)
    orphans = found(tmp_path, emit, changed)
    assert (orphans.pids(), orphans.listen) == ((), frozenset())
    os.kill(recorded.pid, 0)


def test_a_record_that_cannot_be_read_is_reported_and_empty(tmp_path, emit):
    (tmp_path / "workers.json").write_bytes(b"rubbish")
    assert Orphans.find(tmp_path, emit=emit).pids() == ()
    assert len(emit.of("workers_record_unusable")) == 1


async def test_they_are_asked_to_leave_and_do(tmp_path, emit, start):
    orphans = found(tmp_path, emit, start(), start())
    gone = []
    orphans.changed = lambda: gone.append(orphans.pids())
    await orphans.retire(10.0)
    assert orphans.pids() == ()
    assert gone[-1] == ()
    assert emit.of("orphans_killed") == []


async def test_those_that_do_not_leave_are_killed(tmp_path, emit, start):
    leaves, stays = start(LEAVES), start(STAYS)
    orphans = found(tmp_path, emit, leaves, stays)
    await orphans.retire(0.2)
    assert orphans.pids() == ()
    assert emit.of("orphans_killed") == [{"pids": [stays.pid]}]


async def test_a_rollback_does_not_wait_for_those_that_stay(tmp_path, emit, start):
    stays = start(STAYS)
    orphans = found(tmp_path, emit, stays)
    assert await orphans.end_now() == [stays.pid]
    assert await orphans.end_now() == []


async def test_one_that_cannot_be_killed_is_named(tmp_path, emit, start, monkeypatch):
    stays = start(STAYS)
    orphans = found(tmp_path, emit, stays)
    monkeypatch.setattr(module, "_DEATH_BOUND_S", 0.05)
    monkeypatch.setattr(module.signal, "pidfd_send_signal", lambda *_: None)
    with pytest.raises(ChildProcessError, match=f"still running after SIGKILL: pid {stays.pid}"):
        await orphans.end_now()
    orphans.release()


async def test_one_that_ended_by_itself_is_noticed_and_not_signalled(tmp_path, emit, start):
    recorded = start()
    orphans = found(tmp_path, emit, recorded)
    os.kill(recorded.pid, signal.SIGKILL)
    await eventually(lambda: orphans.pids() == (), "its end")
    await orphans.retire(0.0)
    assert emit.of("orphans_killed") == []


def test_a_process_that_is_gone_cannot_be_described():
    assert describe(2**30, ("x",)) is None


def test_the_start_time_is_read_past_any_name(tmp_path):
    odd = tmp_path / ") R 1 2 3 ("
    odd.symlink_to("/bin/sleep")
    with subprocess.Popen([str(odd), "60"]) as process:
        assert start_time(process.pid) >= start_time(os.getpid())
        process.kill()


def test_the_record_is_for_its_owner_alone(tmp_path):
    write_record(tmp_path, Record())
    assert (tmp_path / "workers.json").stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["workers.json"]


def test_the_word_that_an_orphan_serves_by_is_read_from_its_own_memory(tmp_path, emit):
    segment = Segment.create(1)
    segment.live.store(7, GREEN, Hold.ALL)
    script = "import sys, time; print('up', flush=True); time.sleep(600)"
    commands = {
        "with a segment": [sys.executable, "-c", script, "--segment-fd", str(segment.fd)],
        "with none": [sys.executable, "-c", script],
        "with another descriptor": [sys.executable, "-c", script, "--segment-fd", "0"],
        "with no descriptor": [sys.executable, "-c", script, "--segment-fd"],
    }
    processes = []
    try:
        recorded = []
        for command in commands.values():
            process = subprocess.Popen(command, pass_fds=[segment.fd], stdout=subprocess.PIPE, text=True)
            processes.append(process)
            assert process.stdout.readline() == "up\n"
            recorded.append(describe(process.pid, command))
        orphans = found(tmp_path, emit, *recorded)
        assert orphans.words() == [Live(7, GREEN, Hold.ALL), None, None, None]
        processes[0].kill()
        processes[0].wait()
        assert orphans.words() == [None, None, None]
        orphans.release()
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdout.close()
        segment.close()
