"""Clients at full speed while the colour changes, and while workers die: what may be lost, and what never."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bgproxy.cli.client import Answer
from tests.support.house import App, Proxy, client_ports_of, eventually, state_of, stop
from tests.support.ledger import violations
from tests.support.load import Hand, Load

SWITCHES = 200
BY_COMMAND = 40  # every so many moves is made by the command line


@pytest.fixture
def patient(start: Callable[..., Proxy], blue: App, green: App) -> Proxy:
    """A machine with two cores may be slow to start a worker in the middle of a load."""
    return start(blue, green, env={"BGPROXY_SWITCH__ACK_TIMEOUT": "15s"})


async def move(hand: Hand, number: int) -> None:
    """Switches and rollbacks in turn, now and then by the command line."""
    if number % BY_COMMAND == BY_COMMAND - 1:
        await (hand.switch_by_command() if number % (2 * BY_COMMAND) == BY_COMMAND - 1 else hand.rollback_by_command())
    else:
        await (hand.switch() if number % 2 == 0 else hand.rollback())


def assert_no_promise_is_broken(load: Load, hand: Hand) -> None:
    found = violations(load.answers, hand.moves, load.losses)
    # A few are enough to see what is wrong; pytest would compare thousands of lines for minutes.
    assert found[:5] == [], f"{len(found)} broken promises in {len(load.answers)} answers"


@pytest.mark.parametrize(("clients", "between"), [(32, 40), pytest.param(64, 100, marks=pytest.mark.soak)])
def test_no_request_fails_or_meets_the_old_colour_while_it_is_switched_200_times(
    patient: Proxy, clients: int, between: int, record_property: Callable[[str, object], None]
) -> None:
    """`between` two moves there are more answers than clients: every epoch is met by somebody."""
    load, hand = Load(patient.port, clients), Hand(patient.addresses["admin"])

    async def work() -> None:
        await hand.connect()
        await load.start()
        for number in range(SWITCHES):
            await move(hand, number)
            await load.more(between)
        await load.finish()
        await hand.disconnect()

    load.run(work)
    record_property("requests", len(load.answers))
    record_property("slowest_switch_s", hand.slowest_s)
    print(f"{len(load.answers)} requests, {SWITCHES} switches, the slowest took {hand.slowest_s * 1e3:.1f} ms")
    assert_no_promise_is_broken(load, hand)
    assert len(hand.moves) == SWITCHES + 1
    assert {answer.epoch for answer in load.answers} >= set(range(SWITCHES + 1)), "every epoch has served"
    assert (patient.status["epoch"], patient.status["live"]) == (SWITCHES, hand.moves[-1].colour)
    eventually(lambda: patient.status["workers"]["connections"] == 0, "the end of every connection")


@pytest.mark.parametrize(("clients", "kills"), [(32, 3), pytest.param(64, 8, marks=pytest.mark.soak)])
def test_only_requests_on_a_killed_worker_are_lost(
    patient: Proxy, clients: int, kills: int, record_property: Callable[[str, object], None]
) -> None:
    load, hand = Load(patient.port, clients), Hand(patient.addresses["admin"])
    killed: dict[int, int] = {}  # pid → requests that were in flight on it

    async def kill(number: int) -> None:
        _, status = await hand.ask("GET", "/status")
        pid = status["workers"]["pids"][number % 2]
        if pid is None:
            return
        # Stopped for a moment, so that the list of its connections is exact; what waits in its queue is not on it.
        stop(pid)
        killed[pid] = load.worker_is_killed(pid, client_ports_of(pid, patient.port))
        os.kill(pid, signal.SIGKILL)

    async def kill_one_a_second() -> None:
        for number in range(kills):
            await asyncio.sleep(1)
            await kill(number)

    async def work() -> None:
        await hand.connect()
        await load.start()
        switcher = Hand(patient.addresses["admin"])
        await switcher.connect()
        killing = asyncio.create_task(kill_one_a_second())
        while not killing.done():
            await switcher.switch()
            await load.more(100)
        await killing
        await load.more(500)
        await load.finish()
        hand.moves = switcher.moves
        await hand.disconnect()
        await switcher.disconnect()

    load.run(work)
    lost = {pid: sum(loss.killed_worker == pid for loss in load.losses) for pid in killed}
    record_property("requests", len(load.answers))
    record_property("lost_per_kill", list(lost.values()))
    print(f"{len(load.answers)} requests, {len(hand.moves) - 1} switches, lost per kill -9: {list(lost.values())}")
    assert_no_promise_is_broken(load, hand)
    assert len(killed) >= kills - 2, "there was a worker to kill nearly every second"
    assert sum(lost.values()) > 0, "kill -9 of a busy worker loses what is in flight on it"
    assert all(lost[pid] <= killed[pid] for pid in killed), (lost, killed)


@pytest.fixture
def stopped_worker(proxy: Proxy) -> Iterator[int]:
    """A worker that lives and does nothing."""
    pid = proxy.worker_pids[0]
    stop(pid)
    yield pid
    if state_of(pid) == "T":
        os.kill(pid, signal.SIGCONT)


def test_a_connection_that_waits_for_a_worker_outlives_it(start: Callable[..., Proxy], blue: App, green: App) -> None:
    proxy = start(blue, green, workers=1)
    (pid,) = proxy.worker_pids
    stop(pid)
    client = proxy.client()
    client.send(b"GET / HTTP/1.1\r\nHost: app.example\r\n\r\n")
    assert client_ports_of(pid, proxy.port) == set(), "nobody has accepted it"
    os.kill(pid, signal.SIGKILL)
    assert client.answer().body == b"blue"
    eventually(lambda: proxy.worker_pids not in ([pid], [None]), "the replacement")
    client.close()


def test_a_worker_that_does_not_acknowledge_is_replaced_and_named(
    start: Callable[..., Proxy], blue: App, green: App
) -> None:
    proxy = start(blue, green, env={"BGPROXY_SWITCH__ACK_TIMEOUT": "300ms"})
    stopped = proxy.worker_pids[1]
    stop(stopped)
    answer = proxy.switch("green")
    assert answer.status == 200
    (replaced,) = answer.document["replaced_workers"]
    assert (replaced["worker"], replaced["pid"]) == (1, stopped)
    assert replaced["reason"] == "did not acknowledge epoch 1 within 0.3 s"
    assert answer.document["acked_s"] >= 0.3
    assert state_of(stopped) == ""
    eventually(lambda: proxy.get("/readyz").ok, "the replacement")
    assert stopped not in proxy.worker_pids
    assert {proxy.colour() for _ in range(8)} == {"green"}


@pytest.mark.soak  # ten seconds of silence are waited for
def test_a_silent_worker_is_found_even_if_nobody_switches(proxy: Proxy, stopped_worker: int) -> None:
    eventually(lambda: proxy.status["workers"]["stale"], "the silence being seen")
    eventually(lambda: state_of(stopped_worker) == "", "its end")
    eventually(lambda: proxy.get("/readyz").ok, "the replacement")
    (killed,) = proxy.events("worker_killed")
    assert killed["pid"] == stopped_worker
    assert "no sign of life" in killed["reason"]


def test_a_switch_without_a_healthy_pool_is_refused_and_changes_nothing(proxy: Proxy, green: App) -> None:
    before = (proxy.state_dir / "journal.jsonl").read_bytes()
    green.told("sick")
    eventually(lambda: proxy.status["pools"]["green"]["healthy"] == 0, "the verdict")
    answer = proxy.switch("green")
    problem = answer.document
    assert (answer.status, problem["code"]) == (409, "switch_refused")
    assert problem["detail"].endswith("nothing was changed")
    assert [(each["gate"], each["target"]) for each in problem["failed"]] == [
        ("pool_healthy", "green"),
        ("upstream_healthy", f"green/{green.address}"),
    ]
    assert problem["failed"][0]["result"] == "0 healthy, 1 needed"
    assert "answered 500" in problem["failed"][1]["result"]
    assert (proxy.status["live"], proxy.status["epoch"], proxy.colour()) == ("blue", 0, "blue")
    assert (proxy.state_dir / "journal.jsonl").read_bytes() == before
    preflight = proxy.get("/preflight?to=green").document
    assert [each["gate"] for each in preflight["failed"]] == [each["gate"] for each in problem["failed"]]

    forced = proxy.switch("green", force=True, reason="blue is worse")
    assert (forced.status, forced.document["forced"]) == (200, True)
    assert [each["gate"] for each in forced.document["overridden"]] == ["pool_healthy", "upstream_healthy"]
    assert proxy.colour() == "green", "forced is forced: it serves"


def test_old_requests_finish_on_the_old_colour_and_drained_waits_for_them(proxy: Proxy, blue: App) -> None:
    old = proxy.client()
    old.send(b"GET /hold HTTP/1.1\r\nHost: app.example\r\n\r\n")
    eventually(lambda: blue.told("held") == 1, "the old request")
    late = proxy.switch("green", wait="drained", timeout="300ms")
    assert (late.status, late.document["code"]) == (504, "drain_timed_out")
    assert late.document["remaining"] == {"requests": 1, "streams": 0}
    assert (proxy.status["live"], proxy.status["state"]) == ("green", "steady")
    assert proxy.colour() == "green"
    assert proxy.status["pools"]["blue"]["draining"] is True

    asking = asyncio.run(_answered_only_after(proxy, blue))
    assert asking.status == 200
    assert asking.document["drain_s"] > 0
    answer = old.answer()
    assert (answer.body, answer.one("X-BG-Epoch")) == (b"blue", "0")
    assert old.ask().body == b"green", "its next request is a new one"
    old.close()


async def _answered_only_after(proxy: Proxy, blue: App) -> Answer:
    """A repeated order waits for the drain, too; it is answered once the old request is."""
    waiting = asyncio.create_task(asyncio.to_thread(proxy.switch, "green", wait="drained"))
    done, _ = await asyncio.wait((waiting,), timeout=0.3)
    assert not done
    await asyncio.to_thread(blue.told, "release")
    return await waiting


def test_a_rollback_goes_to_the_previous_colour_and_a_second_one_forth_again(proxy: Proxy) -> None:
    nothing = proxy.post("/rollback")
    assert (nothing.status, nothing.document["code"]) == (409, "nothing_to_roll_back_to")
    proxy.switch("green")
    back = proxy.post("/rollback", reason="too many errors")
    assert (back.document["kind"], back.document["from"], back.document["to"]) == ("rollback", "green", "blue")
    assert proxy.colour() == "blue"
    assert proxy.status["last_switch"]["reason"] == "too many errors"
    assert proxy.post("/rollback").document["to"] == "green"
    assert proxy.status["epoch"] == 3


def test_a_switch_to_what_is_live_already_changes_nothing(proxy: Proxy) -> None:
    answer = proxy.switch("blue")
    assert (answer.status, answer.document["changed"], answer.document["epoch"]) == (200, False, 0)
    stale = proxy.switch("green", if_epoch=7)
    assert (stale.status, stale.document["code"], stale.document["epoch"]) == (412, "stale_epoch", 0)


def test_the_live_colour_survives_a_kill_of_everything_and_wins_over_initial(
    start: Callable[..., Proxy], blue: App, green: App
) -> None:
    proxy = start(blue, green, env={"BGPROXY_SWITCH__INITIAL": "blue"})
    proxy.switch("green")
    proxy.post("/rollback")
    proxy.switch("green", reason="for good")
    proxy.kill_everything()
    proxy.start_again()
    status = proxy.status
    assert (status["live"], status["epoch"], status["rollback"]["to"]) == ("green", 3, "blue")
    assert status["last_switch"]["reason"] == "for good"
    assert proxy.colour() == "green"
    assert proxy.post("/rollback").document["epoch"] == 4


def test_workers_outlive_their_supervisor_and_a_new_one_takes_over(proxy: Proxy, blue: App) -> None:
    proxy.switch("green")
    orphans = proxy.worker_pids
    kept = proxy.client()
    proxy.process.kill()
    proxy.process.wait()
    assert kept.ask().body == b"green", "they go on forwarding on the last word"
    assert proxy.colour() == "green", "new connections, too"
    proxy.start_again()
    eventually(lambda: all(state_of(pid) == "" for pid in orphans), "their leaving")
    assert (proxy.status["epoch"], proxy.colour()) == (1, "green")
    assert proxy.post("/rollback").ok
    assert proxy.colour() == "blue"
    kept.close()


def test_a_damaged_state_is_never_guessed_around(proxy: Proxy) -> None:
    proxy.switch("green")
    assert proxy.end() == 0
    file: Path = proxy.state_dir / "journal.jsonl"
    for damage in (b"", b"{", b'{"live": "green"}', b"\0" * 300):
        file.write_bytes(damage)
        with pytest.raises(AssertionError, match="it ended with 1"):
            proxy.start_again()
        said = proxy.log_text().splitlines()[-2:]
        assert said[0].startswith(f"error: {file}: the journal is not usable: line 1: "), damage
        assert said[1] == (
            f"hint: restore {file} from a backup, or give it up: mv {file} {file}.damaged, "
            "set [switch] initial to the colour that is to serve, and start again"
        )
        assert "Traceback" not in proxy.log_text()
        assert file.read_bytes() == damage

    file.rename(f"{file}.damaged")
    proxy.start_again()
    assert proxy.colour() == "blue"
