"""A supervisor is killed and another takes over, under load: nobody who asks is to notice."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from bgproxy.controlplane.journal_file import JournalFile
from bgproxy.controlplane.orphans import SEGMENT_OPTION
from bgproxy.core.journal import Intent
from bgproxy.core.model import GREEN
from bgproxy.shm.segment import Segment
from tests.support.house import Proxy, bgproxy, eventually, state_of, stop
from tests.support.ledger import Moved, violations
from tests.support.load import Load

BEFORE = [Moved(0.0, 0.0, 0, "blue")]


async def until(condition: Callable[[], object], what: str) -> None:
    """`eventually`, and the clients go on meanwhile."""
    await asyncio.to_thread(eventually, condition, what)


def survive(proxy: Proxy, rounds: int, *, asks: int = 0) -> Load:
    """So many supervisors are killed, one after the other; the next is started under the same load."""
    load = Load(proxy.port, clients=32, asks=asks)

    async def work() -> None:
        await load.start()
        for _ in range(rounds):
            orphans = proxy.worker_pids
            proxy.process.kill()
            await asyncio.to_thread(proxy.process.wait)
            await load.more(500)
            await asyncio.to_thread(proxy.start_again)
            await until(lambda: all(state_of(pid) == "" for pid in orphans), "the end of the old workers")  # noqa: B023
            await load.more(500)
        await load.finish()

    load.run(work)
    print(f"{len(load.answers)} requests, {rounds} supervisors killed, {len(load.losses)} lost")
    return load


def assert_nobody_noticed(load: Load) -> None:
    assert load.losses[:5] == []
    assert violations(load.answers, BEFORE)[:5] == []


def test_no_request_fails_when_the_supervisor_is_killed_and_another_takes_over(proxy: Proxy) -> None:
    port = proxy.port
    assert_nobody_noticed(survive(proxy, 1, asks=3))
    assert proxy.port == port, "the very same sockets"
    assert not proxy.events("sockets_not_inherited")
    assert not proxy.events("orphans_killed")


@pytest.mark.parametrize(
    "asks",
    [
        pytest.param(0, marks=pytest.mark.soak),
        pytest.param(1, marks=pytest.mark.long),
        pytest.param(7, marks=pytest.mark.long),
    ],
)
def test_no_request_fails_over_ten_takeovers(proxy: Proxy, asks: int) -> None:
    assert_nobody_noticed(survive(proxy, 10, asks=asks))


@pytest.mark.soak
def test_without_a_supervisor_the_workers_that_are_left_serve_for_one_that_hangs_or_dies(proxy: Proxy) -> None:
    hung, left = proxy.worker_pids
    port = proxy.port
    proxy.process.kill()
    proxy.process.wait()
    stop(hung)
    # Those that the kernel puts into its queue are taken by the other one.
    assert [proxy.colour() for _ in range(32)] == ["blue"] * 32
    proxy.start_again()
    assert proxy.port == port
    assert [proxy.colour() for _ in range(32)] == ["blue"] * 32
    eventually(lambda: state_of(left) == "", "the end of the old one")
    proxy.process.kill()
    proxy.process.wait()
    os.kill(hung, signal.SIGKILL)
    assert [proxy.colour() for _ in range(32)] == ["blue"] * 32


# --- killed within a switch -------------------------------------------------------------------------------------------


def write_intent(proxy: Proxy) -> None:
    """As if the supervisor had been killed between this and the cutover, or behind the cutover."""
    journal = JournalFile(proxy.state_dir)
    journal.load()
    at = "2026-01-31T12:00:00.000Z"
    journal.append(Intent(at=at, epoch=1, from_="blue", to="green", kind="switch", reason="2.0"))
    journal.close()


def move_the_word(pid: int) -> None:
    """What the supervisor that is dead by now would have stored."""
    argv = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    number = argv[argv.index(SEGMENT_OPTION) + 1]
    segment = Segment.attach(os.open(f"/proc/{pid}/fd/{number}", os.O_RDWR | os.O_CLOEXEC))
    segment.live.store(1, GREEN)
    segment.close()


@pytest.mark.parametrize("moved", [False, True], ids=["before the cutover", "behind it"])
def test_a_switch_that_the_supervisor_died_in_is_what_its_workers_serve(proxy: Proxy, moved: bool) -> None:
    """Clients never see the colour change because somebody was started."""
    load = Load(proxy.port, clients=8, asks=3)
    word = (1, "green") if moved else (0, "blue")

    async def work() -> None:
        orphans = proxy.worker_pids
        proxy.process.kill()
        await asyncio.to_thread(proxy.process.wait)
        await asyncio.to_thread(write_intent, proxy)
        if moved:
            move_the_word(orphans[0])
        await load.start()
        await load.more(50)
        await asyncio.to_thread(proxy.start_again)
        await load.more(50)
        await load.finish()

    load.run(work)
    assert load.losses[:5] == []
    assert {answer.colour for answer in load.answers} == {word[1]}
    status, (entry,) = proxy.status, proxy.get("/history").document["history"]
    assert (status["epoch"], status["live"]) == word
    assert (entry["epoch"], entry["result"]) == (1, "recovered" if moved else "aborted")
    assert bgproxy("audit", "verify", str(proxy.state_dir)).returncode == 0
