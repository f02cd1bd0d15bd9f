"""What tests/e2e/test_upgrade.py cannot reach: how the new program is started, and one that misbehaves."""

from __future__ import annotations

import asyncio
import os
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from bgproxy.controlplane import upgrade as module
from bgproxy.controlplane.orphans import NEXT_WORKERS_FILE, WORKERS_FILE, Record, Recorded, write_record
from bgproxy.controlplane.upgrade import Program, Upgrade
from bgproxy.errors import StoreUnavailable, SwitchInProgress, UpgradeFailed, UpgradeImpossible
from bgproxy.shm.bequest import Bequest
from bgproxy.shm.live_pointer import Hold
from tests.support.proxies import Recorder, eventually

SPEAK = """
import json, os, socket, time
from bgproxy.controlplane.succession import Predecessor, send, Prepared, Serving, Failed
from bgproxy.shm import bequest
with_old = Predecessor.find(os.environ)
say = lambda message: send(with_old._connection, message)
"""
GO_ON = "with_old._connection.setblocking(True); go = with_old._connection.recv(99999)\n"


def test_it_is_started_as_it_was_itself(tmp_path, monkeypatch):
    (tmp_path / "releases").mkdir()
    (tmp_path / "current").symlink_to("releases")
    monkeypatch.chdir(tmp_path / "current")
    monkeypatch.setattr(sys, "orig_argv", ["python", "-X", "dev", "-m", "bgproxy", "run"])
    program = Program.running({"PWD": str(tmp_path / "current")})
    assert program.command == (sys.executable, "-X", "dev", "-m", "bgproxy", "run")
    assert program.directory == str(tmp_path / "current"), "as it was reached: another release may be there by then"
    for wrong in ("", "/", "current", f"{tmp_path}/none"):
        assert Program.running({"PWD": wrong}).directory == str(tmp_path / "releases")


class Written:
    """A journal that has everything on disk, or not."""

    def __init__(self, said: list[str]) -> None:
        self.said, self.pending, self.error = said, 0, ""

    @property
    def health(self) -> dict[str, Any]:
        return {"pending": self.pending, "error": self.error or None}

    async def is_settled(self) -> bool:
        return not self.pending

    async def give_away(self) -> None:
        self.said.append("journal given away")
        if self.error:
            raise StoreUnavailable(self.error)

    async def take_back(self) -> None:
        self.said.append("journal taken back")


class House:
    """Everything around an upgrade, remembered and not done."""

    def __init__(self, directory, script: str, *, executable: str = sys.executable) -> None:
        self.emit = Recorder()
        self.said: list[str] = []
        self.adopted: list[Recorded] = []
        self.of_its_own: tuple[Recorded, ...] = ()
        self.changing = self.switching = self.are_pools_held = False
        self.journal = Written(self.said)
        self.lock_fd = os.open(os.devnull, os.O_RDONLY)
        self.gate = SimpleNamespace(standing=Hold.OPEN)
        self.upgrade = Upgrade(
            directory,
            Program((executable, "-c", SPEAK + script), os.getcwd()),
            lock=SimpleNamespace(fd=self.lock_fd),  # type: ignore[arg-type]
            sockets=Bequest,
            gate=self.gate,  # type: ignore[arg-type]
            switcher=SimpleNamespace(hold_for=self.hold_for),  # type: ignore[arg-type]
            orphans=SimpleNamespace(adopt=self.adopted.extend, living=list),  # type: ignore[arg-type]
            records=self,  # type: ignore[arg-type]
            journal=self.journal,  # type: ignore[arg-type]
            tables=SimpleNamespace(hold_for_upgrade=self.hold_pools),  # type: ignore[arg-type]
            emit=self.emit,
            notifier=SimpleNamespace(  # type: ignore[arg-type]
                reloading=lambda _: self.said.append("reloading"), main_pid=lambda _: self.said.append("main pid")
            ),
            handed_over=lambda: self.said.append("handed over"),
            timeout_s=30.0,
        )
        self.upgrade.resume = lambda: self.said.append("resumed")

    def hold_for(self, kind: str, by: str, *, give_way: Any):
        if self.switching:
            raise SwitchInProgress("a switch is running")
        self.said.append("held")
        self.give_way = give_way
        return lambda: self.said.append("released")

    def hold_pools(self):
        if self.changing:
            raise SwitchInProgress("a reload is running")
        self.are_pools_held = True

        def release() -> None:
            self.are_pools_held = False

        return release

    def own_workers(self) -> tuple[Recorded, ...]:
        return self.of_its_own

    async def own(self) -> None:
        self.said.append("records owned")

    def disown(self) -> None:
        self.said.append("records disowned")


@pytest.fixture
def house(tmp_path):
    every: list[House] = []

    def make(script: str, **more: Any) -> House:
        every.append(House(tmp_path, script, **more))
        return every[-1]

    yield make
    for each in every:
        os.close(each.lock_fd)


async def released(house: House) -> None:
    await eventually(lambda: "released" in house.said, "the release")
    assert not house.are_pools_held


@pytest.mark.parametrize("what", ["changing", "switching"])
async def test_while_something_else_is_changed_there_is_none(house, what):
    here = house("")
    setattr(here, what, True)
    with pytest.raises(SwitchInProgress):
        await here.upgrade.execute("me")
    assert (here.said, here.are_pools_held) == ([], False)


async def test_one_that_serves_takes_over(house):
    here = house("say(Prepared('2.0'))\n" + GO_ON + "say(Serving())\ntime.sleep(0.2)\n")
    report = await here.upgrade.execute("me")
    assert (report.old_pid, report.new_version) == (os.getpid(), "2.0")
    await asyncio.sleep(0)  # what is called when it is done has been called
    assert here.said == ["held", "reloading", "journal given away", "main pid", "records disowned", "handed over"]
    assert here.upgrade.is_done
    assert here.are_pools_held, "no order changes anything here any more"
    await asyncio.to_thread(os.waitpid, report.new_pid, 0)


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("say(Serving())\n", "it said Serving"),
        ("with_old._connection.send(b'hm')\n", "it said what this version does not understand"),
        ("say(Failed('no room'))\n", "no room"),
        ("os._exit(9)\n", "with exit status 9"),
        ("os.kill(os.getpid(), 9)\n", "with signal 9"),
        ("say(Prepared('2.0'))\n" + GO_ON + "say(Prepared('3.0'))\n", "it took over and did not serve"),
        ("say(Prepared('2.0'))\n" + GO_ON, "it ended before it was ready"),
    ],
)
async def test_one_that_does_not_is_told_and_everything_is_as_it_was(house, script, why):
    here = house(script)
    with pytest.raises(UpgradeFailed, match=why):
        await here.upgrade.execute("me")
    await released(here)
    assert here.said[-5:] == ["main pid", "journal taken back", "records owned", "resumed", "released"]
    assert not here.upgrade.is_done
    (failed,) = here.emit.of("upgrade_failed")
    assert why.partition(" of ")[0][:20] in failed["reason"]


async def test_workers_of_one_that_failed_are_not_forgotten_wherever_it_wrote_them_down(house, tmp_path):
    """They serve by a word of their own."""
    here = house("say(Prepared('2.0'))\n" + GO_ON)
    own, early, late = (Recorded(pid, 1, ("worker",)) for pid in (1, 2, 3))
    here.of_its_own = (own,)
    write_record(tmp_path, Record((early,)), NEXT_WORKERS_FILE)
    write_record(tmp_path, Record((late, own)), WORKERS_FILE)
    with pytest.raises(UpgradeFailed):
        await here.upgrade.execute("me")
    await released(here)
    assert here.adopted == [early, late]


async def test_one_that_is_not_ready_in_time_is_killed(house):
    here = house("time.sleep(600)\n")
    with pytest.raises(UpgradeFailed, match=r"it was not ready within 0.05 s; this one goes on"):
        await here.upgrade.execute("me", 0.05)
    await released(here)


async def test_one_that_cannot_be_started_is_told(house):
    here = house("", executable="/no/such/python")
    with pytest.raises(UpgradeFailed, match="it could not be started: No such file or directory"):
        await here.upgrade.execute("me")
    await released(here)
    assert here.said == ["held", "reloading", "resumed", "released"]


@pytest.mark.parametrize("error", ["No space left on device", ""])
async def test_what_is_not_on_disk_yet_is_in_the_way(house, error):
    """The new one would come up with what the disk says."""
    here = house("")
    here.journal.pending, here.journal.error = 2, error
    with pytest.raises(UpgradeImpossible, match=f"2 records .* {error or 'the disk is slow'}; nothing was changed"):
        await here.upgrade.execute("me")
    assert here.said == []


async def test_a_disk_that_breaks_meanwhile_is_in_the_way_too(house):
    here = house("say(Prepared('2.0'))\n" + GO_ON)
    here.journal.error = "Read-only file system"
    with pytest.raises(UpgradeFailed, match="Read-only file system; this one goes on"):
        await here.upgrade.execute("me")
    await released(here)
    assert "journal taken back" in here.said


async def test_once_it_is_decided_a_rollback_waits_for_the_new_one(house):
    here = house("say(Prepared('2.0'))\n" + GO_ON + "time.sleep(0.3); say(Serving())\n")
    ordered = asyncio.create_task(here.upgrade.execute("me"))
    await eventually(lambda: "main pid" in here.said, "the decision")
    assert here.are_pools_held
    await here.give_way()
    report = await ordered
    assert here.upgrade.is_done
    await asyncio.to_thread(os.waitpid, report.new_pid, 0)
    await here.upgrade.cancel("too late")


async def test_the_first_process_of_a_container_is_not_replaced(house, monkeypatch):
    here = house("")
    monkeypatch.setattr(module.os, "getpid", lambda: 1)
    with pytest.raises(UpgradeImpossible, match="first process of a container"):
        await here.upgrade.execute("me")
    assert here.said == []


async def test_a_demo_is_not_upgraded(house):
    here = house("")
    here.upgrade._program = Program((), "")
    with pytest.raises(UpgradeImpossible, match="a demo cannot be upgraded"):
        await here.upgrade.execute("me")


async def test_a_pause_is_in_the_way(house):
    here = house("")
    here.gate.standing = Hold.ALL
    with pytest.raises(UpgradeImpossible, match="paused"):
        await here.upgrade.execute("me")
