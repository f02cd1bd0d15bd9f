"""The journal under a real proxy: killed again and again while it is switched, and on a disk that is full."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bgproxy.cli.client import AdminClient, Answer
from bgproxy.errors import BgproxyError
from tests.support.house import PATIENCE_S, App, Proxy, bgproxy, eventually
from tests.support.state_files import state_file

ORDERS = ("instant", "instant", "fence", "fence-writes", "rollback")
SHORT, LONG = 3, 25  # kills


class Switching:
    """Switches and rolls back as fast as it is answered, until the proxy is gone. `acknowledged` is what the last
    answer said, (epoch, live); `in_flight` what the order that was never answered asked for, None for none."""

    def __init__(self, proxy: Proxy, acknowledged: tuple[int, str], chance: random.Random) -> None:
        self.acknowledged, self.in_flight = acknowledged, None
        self.answered = 0
        self.history: dict[int, str] = {}
        self._admin, self._chance = AdminClient([proxy.admin_url]), chance
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def until_it_ends(self) -> None:
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            epoch, live = self.acknowledged
            to = "green" if live == "blue" else "blue"
            self.in_flight = (epoch + 1, to)
            try:
                answer = self._order(to)
            except BgproxyError:
                return
            self.in_flight = None
            # Refused are switches beside workers of an earlier supervisor: nothing was changed.
            if answer.status == 200:
                assert (answer.document["epoch"], answer.document["to"]) == (epoch + 1, to)
                self.acknowledged = epoch + 1, to
                self.history[epoch + 1] = to
                self.answered += 1
            else:
                assert answer.document["code"] in ("switch_refused", "nothing_to_roll_back_to"), answer.document

    def _order(self, to: str) -> Answer:
        order = self._chance.choice(ORDERS)
        if order == "rollback":
            return self._admin.post("/rollback", {}, timeout_s=PATIENCE_S)
        return self._admin.post("/switch", {"to": to, "mode": order}, timeout_s=PATIENCE_S)


def survive(proxy: Proxy, kills: int) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    acknowledged, history = (0, "blue"), {}
    met_in_flight = 0
    for _ in range(kills):
        client = Switching(proxy, acknowledged, chance)
        wanted = chance.randint(1, 12)
        eventually(lambda wanted=wanted, client=client: client.answered >= wanted, "some switches")
        workers = proxy.worker_pids if chance.random() < 0.3 else []
        # The moment is what is random here: nothing is waited for.
        threading.Event().wait(chance.random() * 0.01)
        proxy.process.kill()
        proxy.process.wait()
        for pid in filter(None, workers):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        client.until_it_ends()
        history |= client.history

        proxy.start_again()
        status = proxy.status
        found = (status["epoch"], status["live"])
        assert found in (client.acknowledged, client.in_flight), f"seed {seed}"
        met_in_flight += found == client.in_flight
        if found == client.in_flight:
            history[found[0]] = found[1]
            assert status["last_switch"]["result"] in ("recovered", "acknowledged", "unconfirmed")
        acknowledged = found
        told = {each["epoch"]: each for each in reversed(proxy.get("/history").document["history"]) if each["to"]}
        for epoch, to in list(history.items())[-100:]:
            assert (told[epoch]["to"], told[epoch]["result"] in ("refused", "aborted")) == (to, False), f"seed {seed}"
    verified = bgproxy("audit", "verify", str(proxy.state_dir))
    assert (verified.returncode, verified.stderr) == (0, ""), verified.stdout
    assert verified.stdout.startswith("OK: ")
    print(f"{acknowledged[0]} switches, {kills} kills, {met_in_flight} times the one in flight was live afterwards")


def test_whenever_it_is_killed_the_live_colour_is_the_acknowledged_one_or_that_of_the_switch_in_flight(
    proxy: Proxy,
) -> None:
    survive(proxy, SHORT)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_the_same_many_times(proxy: Proxy) -> None:
    survive(proxy, LONG)


# --- a disk that is full ---------------------------------------------------------------------------------------------


def keyed(proxy: Proxy, path: str, key: str, **body: object) -> Answer:
    return AdminClient([proxy.admin_url]).post(path, body, timeout_s=PATIENCE_S, headers={"Idempotency-Key": key})


@pytest.fixture
def full(proxy: Proxy) -> Iterator[Callable[[], None]]:
    """Lets no file of the supervisor grow beyond what the journal has now, and ten bytes: half a record fits. Its log
    is shorter by then. Undone by the end of the test, or before it by `roomy`."""

    def fill() -> None:
        size = (proxy.state_dir / "journal.jsonl").stat().st_size
        assert len(proxy.log_text()) + 4096 < size, "the log goes on being written"
        resource.prlimit(proxy.process.pid, resource.RLIMIT_FSIZE, (size + 10, resource.RLIM_INFINITY))

    yield fill
    if proxy.process.poll() is None:
        roomy(proxy)


def roomy(proxy: Proxy) -> None:
    resource.prlimit(proxy.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def test_a_full_disk_refuses_a_switch_before_traffic_moves_and_never_a_rollback(
    proxy: Proxy, full: Callable[[], None]
) -> None:
    journal: Path = proxy.state_dir / "journal.jsonl"
    for number in range(6):  # with answers that are longer than what the log says of them
        colour = "blue" if number % 2 else "green"
        assert keyed(proxy, "/switch", f"k{number}", to=colour, reason="x" * 1000).status == 200
    eventually(lambda: proxy.status["last_switch"]["result"] == "drained", "the end of the drain")
    eventually(lambda: proxy.status["journal"]["pending"] == 0, "its record")
    before = journal.read_bytes()
    full()

    refused = proxy.switch("green", reason="2.0")
    assert (refused.status, refused.document["code"]) == (503, "store_unavailable")
    assert refused.document["detail"].endswith("File too large; nothing was changed")
    assert (proxy.status["epoch"], proxy.status["live"], proxy.colour()) == (6, "blue", "blue")
    assert journal.read_bytes() == before, "no half of a record is left"
    assert (proxy.status["journal"]["ok"], proxy.status["durable"]) == (False, True)

    back = proxy.post("/rollback", reason="2.0 is worse")
    assert (back.status, back.document["to"], back.document["durable"]) == (200, "green", False)
    assert back.document["detail"].startswith("NOT ON DISK YET: File too large")
    assert proxy.colour() == "green"
    forth = proxy.command("rollback", "--reason", "or not")
    assert (forth.returncode, proxy.colour()) == (0, "blue")
    assert "NOT ON DISK YET" in forth.stdout
    assert proxy.status["durable"] is False
    assert journal.read_bytes() == before
    assert proxy.switch("green").status == 503, "still"
    upgrade = proxy.post("/upgrade")
    assert (upgrade.status, upgrade.document["code"]) == (409, "upgrade_impossible")

    roomy(proxy)
    eventually(lambda: proxy.status["durable"] and proxy.status["journal"]["ok"], "the return of the disk")
    assert len(proxy.events("journal_unavailable")) == len(proxy.events("journal_recovered")) == 1
    assert len(proxy.events("rollback_not_durable")) == 2
    proxy.kill_everything()
    proxy.start_again()
    assert (proxy.status["epoch"], proxy.status["live"], proxy.colour()) == (8, "blue", "blue")
    told = proxy.get("/history").document["history"]
    assert [each["epoch"] for each in told] == [8, 7, 6, 5, 4, 3, 2, 1]
    assert [(each["kind"], each["reason"], each["late"], each["result"]) for each in told[:3]] == [
        ("rollback", "or not", True, "acknowledged"),
        ("rollback", "2.0 is worse", True, "acknowledged"),
        ("switch", "x" * 1000, False, "acknowledged"),
    ]
    assert bgproxy("audit", "verify", str(proxy.state_dir)).returncode == 0
    listed = proxy.command("history", "-n", "2")
    assert (listed.returncode, listed.stdout.count("rollback")) == (0, 2)
    assert "(written late)" in listed.stdout


@pytest.mark.soak
def test_an_answer_and_maintenance_outlive_everything(proxy: Proxy) -> None:
    proxy.switch("green")
    first = keyed(proxy, "/rollback", "once", reason="3 a.m.")
    assert proxy.post("/maintenance", on=True, reason="database").status == 200
    proxy.kill_everything()
    proxy.start_again()
    again = keyed(proxy, "/rollback", "once", reason="3 a.m.")
    assert (again.status, again.document) == (first.status, first.document)
    assert (proxy.status["epoch"], proxy.status["state"]) == (2, "maintenance")
    client = proxy.client()
    assert client.ask().status == 503
    client.close()


@pytest.mark.soak
def test_an_upgrade_hands_the_journal_over(proxy: Proxy, blue: App) -> None:
    old = proxy.client()
    old.send(b"GET /hold HTTP/1.1\r\nHost: app.example\r\n\r\n")
    eventually(lambda: blue.told("held") == 1, "the old request")
    proxy.switch("green")
    assert proxy.post("/upgrade").status == 200
    blue.told("release")  # the old program learns of the end of a drain that is no longer its to write down
    assert old.answer().status == 200
    assert proxy.follow() == 0
    assert proxy.post("/rollback").document["epoch"] == 2
    assert proxy.status["journal"]["ok"] is True
    assert not proxy.events("journal_unavailable")
    assert bgproxy("audit", "verify", str(proxy.state_dir)).returncode == 0
    old.close()


@pytest.mark.soak
def test_the_state_of_an_older_version_is_taken_over(proxy: Proxy) -> None:
    assert proxy.end() == 0
    (proxy.state_dir / "journal.jsonl").unlink()
    (proxy.state_dir / "state.json").write_bytes(state_file())
    proxy.start_again()
    assert (proxy.status["epoch"], proxy.status["live"], proxy.colour()) == (8, "green", "green")
    assert proxy.status["last_switch"]["reason"] == "1.2 → 1.3"
    assert proxy.post("/rollback").document["epoch"] == 9
    assert {"journal.jsonl", "state.json.migrated"} < set(os.listdir(proxy.state_dir))
