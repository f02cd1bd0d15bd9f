from __future__ import annotations

import json
import os
import sys

import pytest

from bgproxy.controlplane.orphans import NEXT_WORKERS_FILE, WORKERS_FILE, Orphans, describe, write_record
from bgproxy.controlplane.orphans import Record as WorkersRecord
from bgproxy.controlplane.records import ADDRESSES_FILE, Records
from tests.support.proxies import Recorder

ARGV = tuple(sys.orig_argv)


class Workers:
    def __init__(self, *pids: int) -> None:
        self._pids = pids

    def living(self):
        return [type("W", (), {"pid": pid, "argv": ARGV}) for pid in self._pids]


class House:
    def __init__(self, directory, *, has_predecessor: bool = False) -> None:
        self.directory, self.emit = directory, Recorder()
        self.orphans = Orphans(emit=self.emit)
        self.fault: Exception | None = None
        self.records = Records(
            directory,
            self.orphans,
            ["127.0.0.1:80"],
            in_thread=self.in_thread,
            emit=self.emit,
            has_predecessor=has_predecessor,
        )
        self.records.workers = Workers(os.getpid())  # type: ignore[assignment]

    async def in_thread(self, work) -> None:
        if self.fault is not None:
            raise self.fault
        work()

    def files(self) -> list[str]:
        return sorted(os.listdir(self.directory))


def pids(path) -> list[int]:
    return [each["pid"] for each in json.loads(path.read_bytes())["workers"]]


@pytest.fixture
def house(tmp_path):
    return House(tmp_path)


async def test_workers_are_written_down_with_what_they_hold(house, tmp_path):
    await house.records.record()
    assert pids(tmp_path / WORKERS_FILE) == [os.getpid()]
    assert json.loads((tmp_path / WORKERS_FILE).read_bytes())["listen"] == ["127.0.0.1:80"]


async def test_a_record_that_cannot_be_written_is_told_and_keeps_nobody(house):
    house.fault = OSError("the disk is full")
    await house.records.record()
    assert house.emit.of("workers_record_unusable") == [{"error": "the disk is full"}]


async def test_beside_a_predecessor_its_own_record_stays_until_we_take_over(tmp_path):
    write_record(tmp_path, WorkersRecord())
    house = House(tmp_path, has_predecessor=True)
    await house.records.record()
    assert pids(tmp_path / WORKERS_FILE) == []
    assert pids(tmp_path / NEXT_WORKERS_FILE) == [os.getpid()]
    found = Orphans.find(tmp_path, emit=house.emit)
    assert found.pids() == (os.getpid(),), "a third one would find both"
    found.release()
    await house.records.own()
    assert pids(tmp_path / WORKERS_FILE) == [os.getpid()]
    assert house.files() == [WORKERS_FILE]


async def test_one_that_fails_beside_its_predecessor_leaves_it_as_it_was(tmp_path):
    write_record(tmp_path, WorkersRecord())
    (tmp_path / ADDRESSES_FILE).write_text(json.dumps({"pid": os.getppid()}))
    house = House(tmp_path, has_predecessor=True)
    await house.records.record()
    house.records.forget()
    assert house.files() == [ADDRESSES_FILE, WORKERS_FILE]


async def test_after_the_end_nothing_is_left_but_what_others_need(house, tmp_path):
    house.records.write_addresses({"pid": os.getpid()})
    await house.records.record()
    recorded = describe(os.getpid(), ARGV)
    assert recorded is not None
    house.orphans.adopt([recorded])
    house.records.forget()
    assert house.files() == [WORKERS_FILE]
    house.orphans.release()
    house.records.forget()
    assert house.files() == []


async def test_what_belongs_to_a_successor_is_left_alone(house, tmp_path):
    house.records.write_addresses({"pid": 1})
    await house.records.record()
    house.records.disown()
    (tmp_path / WORKERS_FILE).write_bytes(b"the successor's")
    await house.records.record()
    house.records.forget()
    assert (tmp_path / WORKERS_FILE).read_bytes() == b"the successor's"
    assert (tmp_path / ADDRESSES_FILE).exists()


def test_addresses_that_cannot_be_written_are_told_and_keep_nobody(house, tmp_path):
    (tmp_path / (ADDRESSES_FILE + ".new")).mkdir()
    house.records.write_addresses({"admin": "127.0.0.1:8081"})
    (said,) = house.emit.of("addresses_not_written")
    assert (said["error"], said["admin"]) == ("Is a directory", "127.0.0.1:8081")


async def test_at_the_end_a_disk_that_takes_nothing_is_told_too(house, tmp_path):
    await house.records.record()
    recorded = describe(os.getpid(), ARGV)
    assert recorded is not None
    house.orphans.adopt([recorded])
    (tmp_path / (WORKERS_FILE + ".new")).mkdir()
    house.records.forget()
    house.orphans.release()
    assert house.emit.of("workers_record_unusable")
    assert pids(tmp_path / WORKERS_FILE) == [os.getpid()]
