from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
import pytest
import structlog

from bgproxy import config as configuration
from bgproxy import supervisor
from bgproxy.controlplane.journal_file import JournalFile
from bgproxy.controlplane.orphans import Record, describe, write_record
from bgproxy.controlplane.state_lock import StateLock, prepare_directory
from bgproxy.core.journal import State
from bgproxy.errors import StartupError, StateCorrupt
from tests.support.app import App
from tests.support.proxies import FAKE_WORKER, eventually

if TYPE_CHECKING:
    from pathlib import Path

BOUND_S = 30.0


@pytest.fixture(autouse=True)
def _leave_structlog_as_it_was():
    yield
    structlog.reset_defaults()


@pytest.fixture
async def apps():
    blue, green = App("blue"), App("green")
    addresses = {"blue": await blue.start(), "green": await green.start()}
    yield addresses, blue, green
    await blue.close()
    await green.close()


@pytest.fixture
def config(apps, tmp_path):
    addresses, _, _ = apps

    def make(**flags: Any) -> configuration.Config:
        given = {
            "listen": ("127.0.0.1:0",),
            "admin": "127.0.0.1:0",
            "blue": (addresses["blue"],),
            "green": (addresses["green"],),
            "workers": "2",
            "state_dir": tmp_path / "state",
        }
        env = {"BGPROXY_HEALTH__INTERVAL": "100ms", "BGPROXY_SERVER__TIMEOUTS__SHUTDOWN": "5s"}
        return configuration.load(None, flags=configuration.Flags(**(given | flags)), env=env)

    return make


class Running:
    """A supervisor on the loop of the test, with fake workers."""

    def __init__(self, config: configuration.Config, modes: dict[str, str], directory) -> None:
        self.addresses: dict[str, Any] = {}
        self.up = asyncio.Event()
        path = directory / "modes.json"
        path.write_text(json.dumps(modes))
        command = (sys.executable, "-m", FAKE_WORKER, "--modes", str(path))
        self.task = asyncio.create_task(supervisor.serve(config, ready=self._ready, command=command))

    def _ready(self, addresses) -> None:
        self.addresses = dict(addresses)
        self.up.set()

    async def until_up(self) -> Running:
        async with asyncio.timeout(BOUND_S):
            waiting = asyncio.create_task(self.up.wait())
            await asyncio.wait((waiting, self.task), return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
        if self.task.done():
            self.task.result()
        return self

    async def end(self, *signals: signal.Signals) -> int:
        for number in signals or (signal.SIGTERM,):
            os.kill(os.getpid(), number)
            await asyncio.sleep(0.05)
        async with asyncio.timeout(BOUND_S):
            return await self.task


@pytest.fixture
async def start(tmp_path):
    started: list[Running] = []

    async def start(config: configuration.Config, modes: dict[str, str] | None = None) -> Running:
        started.append(Running(config, modes or {}, tmp_path))
        return await started[-1].until_up()

    yield start
    for each in started:
        if not each.task.done():
            await each.end()


async def admin(addresses: dict[str, Any], method: str, path: str, **body: Any) -> tuple[int, dict[str, Any]]:
    url = f"http://{addresses['admin']}{path}"
    async with aiohttp.ClientSession() as session, session.request(method, url, json=body or None) as response:
        return response.status, await response.json(content_type=None)


async def get(address: str, path: str = "/") -> str:
    async with aiohttp.ClientSession() as session, session.get(f"http://{address}{path}") as response:
        assert response.status == 200, await response.text()
        return await response.text()


async def test_it_says_where_it_listens_once_it_does_and_cleans_up_after_itself(config, start, tmp_path):
    running = await start(config())
    written = json.loads((tmp_path / "state" / "addresses.json").read_text())
    assert written == running.addresses
    assert written["pid"] == os.getpid()
    assert (await get(written["listen"][0])).startswith("0 blue")
    status, document = await admin(written, "GET", "/status")
    assert (status, document["live"], document["workers"]["ready"]) == (200, "blue", 2)
    assert (await admin(written, "GET", "/readyz"))[0] == 200
    assert await running.end() == 0
    assert sorted(os.listdir(tmp_path / "state")) == ["journal.jsonl", "lock"]
    with pytest.raises(aiohttp.ClientConnectorError):
        await get(written["listen"][0])


async def test_a_switch_survives_a_restart_and_wins_over_the_initial_colour(config, start):
    first = await start(config())
    status, report = await admin(first.addresses, "POST", "/switch", to="green", reason="1.3")
    assert (status, report["changed"], report["epoch"]) == (200, True, 1)
    await first.end()
    second = await start(config())
    document = (await admin(second.addresses, "GET", "/status"))[1]
    assert (document["live"], document["epoch"], document["last_switch"]["reason"]) == ("green", 1, "1.3")
    assert (await get(second.addresses["listen"][0])).startswith("1 green")
    assert (await admin(second.addresses, "POST", "/rollback"))[1]["to"] == "blue"


async def test_a_corrupt_journal_is_an_error_before_anything_listens(config, tmp_path):
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state" / "journal.jsonl").write_bytes(b'{"epoch": 7, "live": "gre')
    with pytest.raises(StateCorrupt, match=r"journal\.jsonl"):
        await supervisor.serve(config())
    assert (tmp_path / "state" / "journal.jsonl").read_bytes() == b'{"epoch": 7, "live": "gre'


async def test_a_second_supervisor_on_the_same_state_is_refused_with_the_pid_of_the_first(config, tmp_path):
    prepare_directory(tmp_path / "state")
    lock = StateLock.acquire(tmp_path / "state")
    with pytest.raises(StartupError, match=rf"another bgproxy \(pid {os.getpid()}\)"):
        await supervisor.serve(config())
    lock.release()


async def test_an_address_in_use_is_an_error_that_leaves_nothing_behind(config, apps, tmp_path):
    taken = apps[0]["blue"]
    with pytest.raises(StartupError, match=f"cannot listen on {taken}: another process listens there already"):
        await supervisor.serve(config(listen=(taken,)))
    assert sorted(os.listdir(tmp_path / "state")) == ["journal.jsonl", "lock"]


async def test_workers_that_do_not_start_end_the_start_with_a_sentence(config, start, monkeypatch):
    monkeypatch.setattr(supervisor, "WORKERS_READY_BOUND_S", 0.5)
    with pytest.raises(StartupError, match=r"[01] of 2 workers were ready within 0\.5 s"):
        await start(config(), {"1": "crash"})


async def test_a_start_that_fails_does_not_forget_the_workers_of_an_earlier_supervisor(
    config, start, tmp_path, monkeypatch, doomed
):
    monkeypatch.setattr(supervisor, "WORKERS_READY_BOUND_S", 0.5)
    old = await asyncio.create_subprocess_exec("/bin/sleep", "600")
    doomed.append(old.pid)
    prepare_directory(tmp_path / "state")
    write_record(tmp_path / "state", Record((describe(old.pid, ("/bin/sleep", "600")),), ("127.0.0.1:1",)))
    with pytest.raises(StartupError):
        await start(config(), {"1": "crash"})
    assert workers_of(tmp_path / "state") == [old.pid]
    assert old.returncode is None
    old.kill()
    await old.wait()


async def test_a_signal_during_the_start_ends_it_in_order(config, start, tmp_path):
    running = Running(config(), {"1": "never-ready"}, tmp_path)
    await eventually((tmp_path / "state" / "workers.json").exists, "the start")
    assert await running.end(signal.SIGINT) == 0
    assert not running.up.is_set()


async def test_what_was_cut_at_the_shutdown_is_logged_and_the_end_is_still_orderly(config, start, capfd):
    running = await start(config(), {"0": "cuts"})
    assert await running.end(signal.SIGINT) == 0
    (line,) = [line for line in capfd.readouterr().out.splitlines() if "cut_at_shutdown" in line]
    assert "requests=2" in line
    assert "streams=1" in line


async def test_a_second_signal_ends_it_without_patience(config, start):
    running = await start(config(), {"0": "ignores-drain", "1": "ignores-drain"})
    assert await running.end(signal.SIGTERM, signal.SIGTERM) == 1


async def test_an_upstream_without_a_verdict_delays_the_start_only_so_long(config, start, monkeypatch):
    monkeypatch.setattr(supervisor, "FIRST_VERDICTS_BOUND_S", 0.1)

    async def never(reader, writer):
        with contextlib.closing(writer):
            await reader.read()

    server = await asyncio.start_server(never, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    running = await start(config(green=(f"127.0.0.1:{port}",)))
    status, problem = await admin(running.addresses, "POST", "/switch", to="green")
    assert (status, problem["code"]) == (409, "switch_refused")
    assert "never checked yet" in problem["detail"]
    await running.end()
    server.close()


# --- real processes --------------------------------------------------------------------------------------------------


class Process:
    """`bgproxy run` as a process of its own, with real workers."""

    def __init__(self, state: Path, *arguments: str) -> None:
        self._addresses = state / "addresses.json"
        # No pipe: workers that outlive the process would keep it open.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bgproxy", "run", *arguments, "--state-dir", str(state)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    async def until_up(self) -> Process:
        def ready() -> bool:
            assert self._process.poll() is None, f"it ended with {self._process.returncode}"
            return self._addresses.exists() and self.addresses()["pid"] == self._process.pid

        await eventually(ready, "the start")
        return self

    def addresses(self) -> dict[str, Any]:
        return json.loads(self._addresses.read_text())

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self._process.send_signal(number)
        return await asyncio.to_thread(self._process.wait, BOUND_S)


def workers_of(state) -> list[int]:
    return [each.pid for each in msgspec.json.decode((state / "workers.json").read_bytes(), type=Record).workers]


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False


@pytest.fixture
async def run(apps, tmp_path):
    addresses, _, _ = apps
    every: list[Process] = []

    async def run(*, listen: str = "127.0.0.1:0", workers: int = 1) -> Process:
        pools = ("--blue", addresses["blue"], "--green", addresses["green"])
        more = ("--listen", listen, "--admin", "127.0.0.1:0", "--workers", str(workers))
        every.append(Process(tmp_path, *pools, *more))
        return await every[-1].until_up()

    yield run
    for each in every:
        await each.end()


@pytest.fixture
def doomed():
    """Pids of processes that nobody else would end where a test fails."""
    pids: list[int] = []
    yield pids
    for pid in filter(is_alive, pids):
        os.kill(pid, signal.SIGKILL)


async def test_workers_outlive_a_killed_supervisor_and_the_next_one_takes_over_their_clients(run, doomed, tmp_path):
    first = await run(workers=2)
    written = first.addresses()
    (listen,) = written["listen"]
    assert (await admin(written, "POST", "/switch", to="green"))[1]["epoch"] == 1
    await eventually(lambda: len(workers_of(tmp_path)) == 2, "the record")
    orphans = workers_of(tmp_path)
    doomed += orphans

    assert await first.end(signal.SIGKILL) == -signal.SIGKILL
    assert all(map(is_alive, orphans))
    assert await get(listen) == "green"

    answers: set[str] = set()
    lost: list[str] = []
    done = asyncio.Event()

    async def client() -> None:
        while not done.is_set():
            try:
                answers.add(await get(listen))
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                lost.append(repr(error))

    clients = [asyncio.create_task(client()) for _ in range(4)]
    second = await run(listen=listen, workers=2)
    await eventually(lambda: not any(map(is_alive, orphans)), "the end of the old workers")
    done.set()
    await asyncio.gather(*clients)
    assert answers == {"green"}
    assert lost == []
    assert (await admin(second.addresses(), "POST", "/rollback"))[1]["epoch"] == 2
    assert await get(listen) == "blue"


async def test_what_is_in_flight_at_the_shutdown_is_finished(run):
    process = await run()
    written = process.addresses()
    slow = asyncio.create_task(get(written["listen"][0], "/slow"))

    async def in_flight() -> int:
        return (await admin(written, "GET", "/status"))[1]["pools"]["blue"]["in_flight"]

    async with asyncio.timeout(BOUND_S):
        while not await in_flight():  # noqa: ASYNC110  the count is in another process
            await asyncio.sleep(0.01)
    assert await process.end() == 0
    assert await slow == "blue"


async def test_a_proxy_comes_back_with_the_state_that_is_on_disk(run, tmp_path):
    journal = JournalFile(tmp_path)
    journal.begin(State(epoch=41, live="green", previous="blue"), "2026-01-31T12:00:00.000Z")
    journal.close()
    process = await run()
    document = (await admin(process.addresses(), "GET", "/status"))[1]
    assert (document["live"], document["epoch"], document["rollback"]["to"]) == ("green", 41, "blue")
