from __future__ import annotations

import asyncio
import os
import signal
import sys
import time

import pytest

from bgproxy.controlplane import workers as module
from bgproxy.core.certificates import TlsMaterial
from bgproxy.core.messages import OutOfDescriptors, encode
from bgproxy.core.model import BLUE, GREEN
from bgproxy.shm import worker_slot
from tests.support.proxies import FakeProxy, eventually

BOUND_S = 10.0


@pytest.fixture
async def make(tmp_path):
    made: list[FakeProxy] = []

    def make(**options) -> FakeProxy:
        made.append(FakeProxy(tmp_path, **options))
        return made[-1]

    yield make
    for each in made:
        await each.close()


@pytest.fixture
async def proxy(make):
    proxy = make()
    await proxy.start()
    return proxy


def worker(proxy: FakeProxy, number: int):
    (found,) = [each for each in proxy.workers.living() if each.number == number]
    return found


async def test_every_slot_gets_a_worker_that_serves(proxy):
    pids = {view.pid for view in proxy.workers.views()}
    assert len(pids) == 2
    assert (await proxy.ask())[2] in pids
    assert all(view.ready and view.table_version == 1 for view in proxy.workers.views())
    assert (proxy.workers.ready, proxy.workers.configured, proxy.workers.table_version) == (2, 2, 1)
    assert len(proxy.workers.lag_s()) == 2


async def test_a_published_epoch_is_seen_by_every_worker(proxy):
    proxy.segment.live.store(1, GREEN)
    assert await proxy.workers.publish(BOUND_S) == []
    assert proxy.workers.epochs() == [1, 1]


async def test_a_worker_that_says_nothing_is_returned_and_the_others_are_not(make):
    proxy = make()
    proxy.modes(w1="silent")
    await proxy.start()
    proxy.segment.live.store(1, GREEN)
    (silent,) = await proxy.workers.publish(0.2)
    assert silent.number == 1


async def test_a_worker_that_dies_instead_of_answering_counts_as_one_that_serves_nobody(make):
    proxy = make()
    proxy.modes(w1="dies-on-publish")
    await proxy.start()
    proxy.segment.live.store(1, GREEN)
    assert await proxy.workers.publish(BOUND_S) == []
    await eventually(lambda: proxy.workers.ready == 2, "a replacement")
    assert proxy.emit.of("worker_died")[0]["how"] == "exit status 1"


async def test_a_stopped_worker_is_killed_and_its_replacement_knows_the_new_word(make):
    proxy = make()
    proxy.modes(w1="stops-on-publish")
    await proxy.start()
    proxy.segment.live.store(1, GREEN)
    (silent,) = await proxy.workers.publish(0.3)
    proxy.modes()
    assert await proxy.workers.kill_and_replace(silent, "did not acknowledge")
    assert silent.dead
    with pytest.raises(ProcessLookupError):
        os.kill(silent.pid, 0)
    await eventually(lambda: proxy.workers.ready == 2, "a replacement")
    assert proxy.workers.epochs() == [1, 1]
    assert worker(proxy, 1).pid != silent.pid


async def test_a_worker_killed_by_anybody_is_replaced_and_its_slot_handed_over(proxy):
    victim = worker(proxy, 0)
    cells = proxy.segment.slots[0].cells
    cells[worker_slot.IN_FLIGHT + GREEN] = 2
    cells[worker_slot.CONNECTIONS_TOTAL] = 17
    os.kill(victim.pid, signal.SIGKILL)
    await eventually(lambda: proxy.workers.deaths == 1 and proxy.workers.ready == 2, "a replacement")
    died = proxy.emit.of("worker_died")
    assert died == [{"worker": 0, "pid": victim.pid, "how": "killed by SIGKILL", "requests_lost": 2}]
    assert cells[worker_slot.IN_FLIGHT + GREEN] == 0
    assert cells[worker_slot.CONNECTIONS_TOTAL] == 17


async def test_a_connection_that_waits_in_the_queue_of_a_dead_worker_is_served_by_its_replacement(make):
    proxy = make(workers=1)
    await proxy.start()
    victim = worker(proxy, 0)
    os.kill(victim.pid, signal.SIGSTOP)
    asked = [asyncio.create_task(proxy.ask()) for _ in range(5)]
    await asyncio.sleep(0)  # a turn of the loop, in which each begins to connect
    os.kill(victim.pid, signal.SIGKILL)
    # The stopped worker may have been about to accept one of them; what it had not accepted is not lost.
    answers = await asyncio.gather(*asked, return_exceptions=True)
    served = [answer for answer in answers if not isinstance(answer, BaseException)]
    assert len(served) >= 4
    assert all(pid != victim.pid for _, _, pid in served)


async def test_a_worker_that_dies_at_its_start_is_tried_again_and_again_more_slowly(make, monkeypatch):
    monkeypatch.setattr(module, "BACKOFF_S", (0.0, 0.01, 0.02))
    proxy = make(workers=1)
    proxy.modes(w0="crash")
    await proxy.workers.start()
    await eventually(lambda: len(proxy.emit.of("worker_crash_loop")) >= 3, "a crash loop")
    assert [each["next_start_s"] for each in proxy.emit.of("worker_crash_loop")[:3]] == [0.01, 0.02, 0.02]
    assert proxy.emit.of("worker_died")[0]["how"] == "exit status 3"
    proxy.modes()
    await eventually(lambda: proxy.workers.ready == 1, "a worker after the crash loop")


async def test_a_worker_that_served_is_replaced_at_once_however_often_it_is_killed(make, monkeypatch):
    monkeypatch.setattr(module, "SERVED_LONG_ENOUGH_S", 0.0)
    proxy = make(workers=1)
    await proxy.start()
    for count in range(1, 4):
        os.kill(worker(proxy, 0).pid, signal.SIGKILL)
        await eventually(lambda n=count: proxy.workers.deaths == n and proxy.workers.ready == 1, "a replacement")
    assert proxy.emit.of("worker_crash_loop") == []


async def test_a_program_that_cannot_be_started_is_reported_and_tried_again(make, monkeypatch):
    monkeypatch.setattr(module, "BACKOFF_S", (0.01,))
    proxy = make(workers=1, command=("/nonexistent/worker",))
    await proxy.workers.start()
    await eventually(lambda: len(proxy.emit.of("worker_not_started")) >= 2, "a second attempt")
    assert proxy.emit.of("worker_not_started")[0] == {"worker": 0, "error": "No such file or directory"}
    (view,) = proxy.workers.views()
    assert (view.pid, view.ready) == (0, False)


async def test_a_worker_without_a_heartbeat_is_named_killed_and_replaced(make):
    proxy = make(heartbeat_bound_s=0.4)
    proxy.modes(w1="no-heartbeat")
    await proxy.start()
    victim = worker(proxy, 1)
    proxy.modes()
    await eventually(lambda: victim.dead and proxy.workers.ready == 2, "a replacement")
    # On a busy machine the heart of another may stand still for that long as well.
    (killed,) = [each for each in proxy.emit.of("worker_killed") if each["pid"] == victim.pid]
    assert killed["worker"] == 1
    assert killed["reason"].startswith("has shown no sign of life for")


async def test_a_worker_that_never_gets_ready_is_replaced(make):
    proxy = make(workers=1, heartbeat_bound_s=0.4, start_bound_s=0.4)
    proxy.modes(w0="never-ready")
    await proxy.workers.start()
    assert not await proxy.workers.all_ready(0.05)
    await eventually(lambda: proxy.emit.of("worker_killed"), "the end of the worker")
    assert "was not ready 0.4 s after its start" in proxy.emit.of("worker_killed")[0]["reason"]


async def test_workers_are_not_blamed_for_time_in_which_the_supervisor_did_not_run_either(make):
    proxy = make(heartbeat_bound_s=0.8)
    await proxy.start()
    for each in proxy.workers.living():
        os.kill(each.pid, signal.SIGSTOP)
    time.sleep(2.0)  # noqa: ASYNC251  the loop stands still, as the whole machine would
    for each in proxy.workers.living():
        os.kill(each.pid, signal.SIGCONT)
    cells, continued = [slot.cells for slot in proxy.segment.slots], time.monotonic_ns()
    # Judged again with heartbeats that are newer than all of this.
    await eventually(lambda: all(each[worker_slot.HEARTBEAT_NS] > continued + 500_000_000 for each in cells), "a while")
    assert proxy.emit.of("worker_killed") == []


@pytest.mark.parametrize(
    ("mode", "reason"),
    [("rubbish", "said something that is no control message"), ("hang-up", "closed its control connection")],
)
async def test_a_worker_that_cannot_be_talked_to_is_replaced(make, monkeypatch, mode, reason):
    monkeypatch.setattr(module, "DEATH_NOTICE_S", 0.05)
    proxy = make(workers=1)
    proxy.modes(w0=mode)
    await proxy.workers.start()
    await eventually(lambda: proxy.emit.of("worker_killed"), "the end of the worker")
    assert reason in proxy.emit.of("worker_killed")[0]["reason"]
    proxy.modes()
    await eventually(lambda: proxy.workers.ready == 1, "a replacement")


async def test_a_report_that_an_upstream_is_left_out_ends_with_its_worker(make):
    proxy = make(workers=1)
    proxy.modes(w0="ejects")
    await proxy.start()
    await eventually(lambda: proxy.workers.ejected_until(GREEN, 0), "the report")
    assert proxy.workers.ejected_until(BLUE, 0) is None
    (event,) = proxy.emit.of("upstream_ejected")
    assert (event["colour"], event["upstream"], event["failures"]) == ("green", "127.0.0.1:9002", 5)
    proxy.modes()
    os.kill(worker(proxy, 0).pid, signal.SIGKILL)
    await eventually(lambda: proxy.workers.ejected_until(GREEN, 0) is None, "the end of the report")


async def test_a_worker_without_descriptors_is_an_event(proxy):
    worker(proxy, 1).data_received(encode(OutOfDescriptors(1024)))
    assert proxy.emit.of("worker_out_of_descriptors") == [{"worker": 1, "limit": 1024}]


async def test_a_drain_ends_every_worker_and_replaces_none(proxy):
    pids = [each.pid for each in proxy.workers.living()]
    assert await proxy.workers.drain(BOUND_S) == []
    assert proxy.workers.living() == []
    assert proxy.emit.of("worker_died") == []
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_a_drain_tells_what_workers_say_that_they_had_to_cut(make):
    proxy = make()
    proxy.modes(w0="cuts")
    await proxy.start()
    pid = worker(proxy, 0).pid
    assert await proxy.workers.drain(BOUND_S) == [module.Cut(0, pid, 2, 1, killed=False)]


async def test_a_drain_tells_what_was_cut_with_a_worker_that_did_not_leave(make, monkeypatch):
    monkeypatch.setattr(module, "DRAIN_GRACE_S", 0.05)
    proxy = make(workers=1)
    proxy.modes(w0="ignores-drain")
    await proxy.start()
    pid = worker(proxy, 0).pid
    cells = proxy.segment.slots[0].cells
    cells[worker_slot.IN_FLIGHT + BLUE] = 4
    cells[worker_slot.TUNNELS + GREEN] = 5
    assert await proxy.workers.drain(0.1) == [module.Cut(0, pid, 4, 5, killed=True)]


async def test_a_second_signal_ends_a_drain_at_once(make):
    proxy = make()
    proxy.modes(w0="ignores-drain", w1="ignores-drain")
    await proxy.start()
    draining = asyncio.create_task(proxy.workers.drain(3600))
    await asyncio.sleep(0)  # a turn of the loop, in which it begins
    proxy.workers.kill_all()
    assert len(await draining) == 2


async def test_a_worker_inherits_nothing_but_what_it_needs(proxy):
    for each in proxy.workers.living():
        targets = [os.readlink(f"/proc/{each.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{each.pid}/fd")]
        sockets = [target for target in targets if target.startswith("socket:")]
        assert len(sockets) == 2, targets  # its control connection and its listening socket
        assert os.getpgid(each.pid) == each.pid


def test_the_real_worker_is_started_with_this_interpreter():
    assert (sys.executable, "-m", "bgproxy.worker") == module.COMMAND


async def test_a_worker_that_does_not_take_the_certificates_is_named(make):
    proxy = make()
    proxy.modes(w1="no-certificates")
    proxy.workers.certify(TlsMaterial(4, ()))
    await proxy.start()
    await eventually(lambda: proxy.emit.of("tls_not_taken"), "the refusal at the start")
    proxy.workers.certify(TlsMaterial(5, ()))
    await eventually(lambda: len(proxy.emit.of("tls_not_taken")) == 2, "the refusal of the change")
    assert proxy.emit.of("tls_not_taken") == [{"worker": 1, "version": n, "error": "cannot"} for n in (4, 5)]
