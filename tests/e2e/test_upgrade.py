"""The whole program is replaced under load, by itself: nobody who asks is to notice. Most runs with `make soak`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bgproxy.cli.client import Answer
from bgproxy.core.model import parse_address
from tests.support.certificates import client_context, issue, write_pair
from tests.support.house import ROOT, App, Proxy, bgproxy, eventually, state_of, stop
from tests.support.ledger import Moved, violations
from tests.support.load import Load

BEFORE = [Moved(0.0, 0.0, 0, "blue")]
HOLD = b"GET /hold HTTP/1.1\r\nHost: app.example\r\n\r\n"


def gone(pid: int) -> bool:
    return state_of(pid) in ("", "Z")


@pytest.fixture
def both(start: Callable[..., Proxy], blue: App, green: App, tmp_path: Path) -> Proxy:
    """With an address for plain HTTP and one for TLS."""
    write_pair(issue("app.example"), tmp_path / "cert.pem", tmp_path / "key.pem")
    pairs = json.dumps([{"cert": f"{tmp_path}/cert.pem", "key": f"{tmp_path}/key.pem"}])
    return start(blue, green, env={"BGPROXY_TLS__LISTEN": "127.0.0.1:0", "BGPROXY_TLS__CERTIFICATES": pairs})


def upgrade(proxy: Proxy) -> dict[str, Any]:
    answer = proxy.post("/upgrade")
    assert answer.status == 200, answer.document
    assert answer.document["old_pid"] == proxy.process.pid
    assert proxy.follow() == 0
    assert proxy.process.pid == answer.document["new_pid"]
    document: dict[str, Any] = answer.document
    return document


def survive(proxy: Proxy, app: App, rounds: int) -> None:
    """So many upgrades, one after the other, while many ask: again and again, once each, and over TLS."""
    tls_port = parse_address(proxy.addresses["tls"][0]).port
    loads = [
        Load(proxy.port, clients=16),
        Load(proxy.port, clients=16, asks=1),
        Load(tls_port, clients=8, asks=3, tls=client_context()),
    ]
    ports = (proxy.port, tls_port, proxy.addresses["admin"])

    async def work() -> None:
        for load in loads:
            load.over = False
            await load.start()
        for _ in range(rounds):
            slow = await asyncio.to_thread(proxy.client)
            slow.send(HOLD)
            await asyncio.to_thread(eventually, lambda: app.told("held") == 1, "the slow request")
            old = proxy.worker_pids
            ordered = asyncio.create_task(asyncio.to_thread(proxy.post, "/upgrade"))
            assert (await ordered).status == 200, ordered.result().document
            for load in loads:
                await load.more(100)
            await asyncio.to_thread(app.told, "release")
            answer = await asyncio.to_thread(slow.answer)
            assert (answer.status, answer.body) == (200, b"blue")
            slow.close()
            assert await asyncio.to_thread(proxy.follow) == 0
            assert all(map(gone, old))
        for load in loads:
            await load.finish()

    loads[0].run(work)
    print(
        f"{[len(load.answers) for load in loads]} requests, {rounds} upgrades, {sum(len(x.losses) for x in loads)} lost"
    )
    for load in loads:
        assert load.losses[:5] == []
        assert violations(load.answers, BEFORE)[:5] == []
    now = (proxy.port, parse_address(proxy.addresses["tls"][0]).port, proxy.addresses["admin"])
    assert now == ports


def test_no_request_is_refused_or_reset_over_two_upgrades(both: Proxy, blue: App) -> None:
    survive(both, blue, 2)
    assert len(both.events("upgraded")) == 2
    assert not both.events("orphans_killed")


@pytest.mark.soak
def test_no_request_is_refused_or_reset_over_ten_upgrades(both: Proxy, blue: App) -> None:
    survive(both, blue, 10)


@pytest.mark.soak
def test_what_was_switched_before_an_upgrade_is_so_after_it_and_orders_go_to_the_new_one(proxy: Proxy) -> None:
    proxy.switch("green", reason="release 2.0")
    kept = proxy.client()
    assert kept.ask().body == b"green"
    upgrade(proxy)
    status = proxy.status
    assert (status["live"], status["epoch"], status["last_switch"]["reason"]) == ("green", 1, "release 2.0")
    assert proxy.post("/rollback").document["epoch"] == 2
    assert proxy.colour() == "blue"
    assert sorted(os.listdir(proxy.state_dir)) == [
        *("addresses.json", "admin.sock", "journal.jsonl", "lock", "takeover.sock", "workers.json")
    ]
    kept.close()
    assert proxy.end() == 0
    assert sorted(os.listdir(proxy.state_dir)) == ["journal.jsonl", "lock"]


@pytest.mark.soak
def test_sigusr2_upgrades_too(proxy: Proxy) -> None:
    old = proxy.process.pid
    proxy.process.send_signal(signal.SIGUSR2)
    eventually(lambda: proxy.events("upgraded"), "the upgrade")
    assert proxy.follow() == 0
    assert proxy.process.pid != old
    assert proxy.colour() == "blue"


@pytest.mark.soak
def test_while_old_workers_drain_a_switch_is_refused_and_a_rollback_ends_them(proxy: Proxy, blue: App) -> None:
    proxy.switch("green")
    proxy.post("/rollback")
    slow = proxy.client()
    slow.send(HOLD)
    eventually(lambda: blue.told("held") == 1, "the slow request")
    old = proxy.process
    assert proxy.post("/upgrade").ok
    eventually(lambda: proxy.get("/readyz").ok, "the new one")
    refused = proxy.switch("green")
    assert (refused.status, refused.document["code"]) == (409, "switch_refused")
    assert [each["gate"] for each in refused.document["failed"]] == ["no_orphaned_workers"]
    assert old.poll() is None, "it waits for the slow request"
    back = proxy.post("/rollback")
    assert (back.status, back.document["to"]) == (200, "green")
    assert slow.is_ended(), "a rollback waits for nobody"
    slow.close()
    assert proxy.follow() == 0


# --- new versions that are not as they should be ----------------------------------------------------------------------


class Version:
    """What the next Python that starts in this house runs first: another version of the program, as it were."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()

    def is_(self, code: str) -> None:
        (self.directory / "sitecustomize.py").write_text(code)

    def hangs(self) -> None:
        self.is_("import sys, time\nif 'run' in sys.orig_argv: time.sleep(600)\n")


@pytest.fixture
def version(tmp_path: Path) -> Version:
    return Version(tmp_path / "version")


@pytest.fixture
def versioned(start: Callable[..., Proxy], blue: App, green: App, version: Version) -> Proxy:
    return start(blue, green, env={"PYTHONPATH": f"{version.directory}:{ROOT}"})


@pytest.fixture
def hanging(versioned: Proxy, version: Version) -> Iterator[Future[Answer]]:
    """An upgrade to a version that never becomes ready; the answer to who ordered it."""
    version.hangs()
    with ThreadPoolExecutor(1) as pool:
        ordered = pool.submit(versioned.post, "/upgrade", timeout="20s")
        eventually(lambda: versioned.events("upgrade_began"), "the upgrade")
        yield ordered


@pytest.mark.soak
def test_the_version_that_is_installed_by_then_is_what_runs(versioned: Proxy, version: Version) -> None:
    version.is_("import bgproxy\nbgproxy.__version__ = '9.9'\n")
    said = versioned.command("upgrade")
    assert said.returncode == 0, said.stderr
    old = versioned.process.pid
    assert versioned.follow() == 0
    assert said.stdout.startswith(f"pid {old} → {versioned.process.pid}  version ")
    assert said.stdout.splitlines()[0].endswith(" → 9.9")
    assert versioned.status["version"] == "9.9"


@pytest.mark.soak
@pytest.mark.parametrize(
    ("bound_s", "why"),
    [(60, "it was not ready within 4 s"), (2, "1 of 2 workers were ready within 2 s")],
    ids=["killed", "gives up by itself"],
)
def test_a_new_version_that_is_not_ready_in_time_is_killed_and_the_old_one_goes_on(
    versioned: Proxy, version: Version, bound_s: int, why: str
) -> None:
    """One of its two workers served already: what it had is finished, and nobody loses anything."""
    version.is_(
        "import sys\n"
        "if sys.orig_argv[3:5] == ['--slot', '1']: sys.exit(3)\n"
        f"if 'run' in sys.orig_argv: import bgproxy.supervisor as s; s.WORKERS_READY_BOUND_S = {bound_s}\n"
    )
    pids, load = versioned.worker_pids, Load(versioned.port, clients=16, asks=3)
    answers: list[Answer] = []

    async def work() -> None:
        await load.start()
        answers.append(await asyncio.to_thread(versioned.post, "/upgrade", timeout="4s" if bound_s > 4 else "25s"))
        await asyncio.to_thread(eventually, lambda: not orphans(versioned), "the end of the other worker")
        await load.more(100)
        await load.finish()

    load.run(work)
    (answer,) = answers
    assert (answer.status, answer.document["code"]) == (503, "upgrade_failed")
    assert f"{why}; this one goes on" in answer.document["detail"]
    assert load.losses[:5] == []
    assert versioned.process.poll() is None
    assert versioned.worker_pids == pids
    assert versioned.switch("green").ok
    assert versioned.colour() == "green"
    version.is_("")
    upgrade(versioned)
    assert versioned.colour() == "green"


def orphans(proxy: Proxy) -> list[str]:
    return [each for each in proxy.status["can_switch"]["reasons"] if "supervisor" in each]


@pytest.mark.soak
def test_a_new_version_that_does_not_start_is_told_with_its_own_words(
    start: Callable[..., Proxy], blue: App, green: App, tmp_path: Path
) -> None:
    file = tmp_path / "bgproxy.toml"
    file.write_text("version = 1\n")
    proxy = start(blue, green, "-c", str(file))
    file.write_text("version = 1\n[server]\nworkerz = 2\n")
    said = proxy.command("upgrade")
    assert said.returncode == 1
    assert f"the new program did not take over: {file}:3:1: " in said.stderr
    assert "this one goes on" in said.stderr
    (failed,) = [line for line in proxy.log_text().splitlines() if '"upgrade_failed"' in line]
    assert "workerz" in failed
    assert proxy.colour() == "blue"
    assert proxy.get("/readyz").ok


@pytest.mark.soak
def test_a_new_version_that_dies_is_told(versioned: Proxy, version: Version) -> None:
    version.is_("import sys, os\nif 'run' in sys.orig_argv: os._exit(7)\n")
    answer = versioned.post("/upgrade")
    assert answer.status == 503
    assert "it ended before it was ready, with exit status 7" in answer.document["detail"]
    assert versioned.switch("green").ok


def test_one_that_dies_after_it_was_let_go_leaves_a_journal_that_the_old_one_goes_on_with(
    versioned: Proxy, version: Version
) -> None:
    """It had written to it already."""
    assert versioned.switch("green").ok
    version.is_(
        "import sys, os, pathlib\n"
        "if 'run' in sys.orig_argv:\n"
        "    from bgproxy.controlplane.succession import Predecessor\n"
        "    from bgproxy.controlplane.journal_file import JournalFile\n"
        "    from bgproxy.core.journal import PoolsSet\n"
        "    def die(self):\n"
        f"        file = JournalFile(pathlib.Path({str(versioned.state_dir)!r}))\n"
        "        file.load()\n"
        "        file.append(PoolsSet(at='2026-01-31T12:00:00.000Z', by='the new one'))\n"
        "        os._exit(7)\n"
        "    Predecessor.serving = die\n"
    )
    answer = versioned.post("/upgrade")
    assert (answer.status, answer.document["code"]) == (503, "upgrade_failed")
    assert "with exit status 7" in answer.document["detail"]
    eventually(lambda: not orphans(versioned), "the end of its workers")
    assert versioned.switch("blue").ok
    history = versioned.get("/history").document["history"]
    assert [(each["kind"], each["epoch"]) for each in history] == [("switch", 2), ("pools", 1), ("switch", 1)]
    assert bgproxy("audit", "verify", str(versioned.state_dir)).returncode == 0
    assert versioned.status["journal"]["ok"]


def test_during_an_upgrade_a_switch_is_refused_and_a_rollback_ends_it(versioned: Proxy, version: Version) -> None:
    versioned.switch("green")
    version.hangs()
    with ThreadPoolExecutor(1) as pool:
        ordered = pool.submit(versioned.post, "/upgrade", timeout="20s")
        eventually(lambda: versioned.events("upgrade_began"), "the upgrade")
        refused = versioned.switch("blue")
        assert (refused.status, refused.document["holder"]["kind"]) == (409, "upgrade")
        again = versioned.post("/upgrade")
        assert (again.status, again.document["code"]) == (409, "switch_in_progress")
        back = versioned.post("/rollback")
        assert (back.status, back.document["to"]) == (200, "blue")
        cancelled = ordered.result()
    assert cancelled.status == 503
    assert "a rollback was ordered" in cancelled.document["detail"]
    assert versioned.colour() == "blue"


@pytest.mark.soak
def test_sigterm_during_an_upgrade_ends_both(versioned: Proxy, hanging: Future[Answer]) -> None:
    assert versioned.end() == 0
    assert "this program is ending" in hanging.result().document["detail"]
    assert sorted(os.listdir(versioned.state_dir)) == ["journal.jsonl", "lock"]


@pytest.mark.soak
def test_an_old_one_that_is_killed_meanwhile_is_succeeded_all_the_same(proxy: Proxy) -> None:
    proxy.process.send_signal(signal.SIGUSR2)
    eventually(lambda: proxy.events("upgrade_began"), "the upgrade")
    orphaned = proxy.worker_pids
    old = proxy.process.pid
    proxy.process.kill()
    proxy.process.wait()
    eventually(lambda: json.loads((proxy.state_dir / "addresses.json").read_bytes())["pid"] != old, "the successor")
    proxy.follow()
    eventually(lambda: all(map(gone, orphaned)), "the old workers")
    assert proxy.colour() == "blue"
    assert proxy.switch("green").ok


@pytest.mark.soak
def test_a_worker_that_hangs_is_left_behind_by_an_upgrade(start: Callable[..., Proxy], blue: App, green: App) -> None:
    proxy = start(blue, green, env={"BGPROXY_SERVER__TIMEOUTS__SHUTDOWN": "1s"})
    hung = proxy.worker_pids[0]
    stop(hung)
    waiting = [proxy.client() for _ in range(8)]
    for client in waiting:
        client.send(b"GET / HTTP/1.1\r\nHost: app.example\r\n\r\n")
    upgrade(proxy)
    assert [client.answer().body for client in waiting] == [b"blue"] * 8, "what waited for it is served by the new ones"
    eventually(lambda: gone(hung), "its end")
    for client in waiting:
        client.close()


@pytest.mark.soak
def test_while_requests_are_paused_there_is_no_upgrade_and_maintenance_survives_one(proxy: Proxy) -> None:
    proxy.post("/pause")
    answer = proxy.post("/upgrade")
    assert (answer.status, answer.document["code"]) == (409, "upgrade_impossible")
    proxy.post("/resume")
    proxy.post("/maintenance", on=True)
    upgrade(proxy)
    assert proxy.status["state"] == "maintenance"
    assert proxy.post("/maintenance", on=False).document["changed"]
