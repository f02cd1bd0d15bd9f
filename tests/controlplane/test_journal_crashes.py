"""Every moment in which the process or the machine may die, and what the next start makes of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bgproxy.controlplane import journal_file
from bgproxy.controlplane.journal import Journal
from bgproxy.controlplane.journal_file import JournalFile
from bgproxy.core.journal import Decided, GateSet, Intent, Outcome, State
from tests.support.model_disk import Image, ModelDisk
from tests.support.state_files import state_file

HERE = Path("/state")
AT = "2026-01-31T12:00:00.000Z"


class Observer:
    """Follows a journal from call to call. `acknowledged` is what the last answer said, `in_flight` what the switch on
    its way would make of it; each is (epoch, live, previous), or None before the first start."""

    def __init__(self, *, torn: bool) -> None:
        self.acknowledged: tuple[int, str, str | None] | None = None
        self.in_flight: tuple[int, str, str | None] | None = None
        self.switches = 0  # that were answered
        self.images: dict[tuple[tuple[str, bytes], ...], tuple[set[object], int]] = {}
        self._torn = torn

    def __call__(self, disk: ModelDisk) -> None:
        allowed: set[object] = {self.acknowledged, self.in_flight or self.acknowledged}
        for image in (disk.killed(), *disk.crashed(torn=self._torn)):
            key = tuple(sorted(image.items()))
            before, switches = self.images.get(key, (allowed, self.switches))
            # The same directory at two moments has to satisfy both.
            self.images[key] = before & allowed, max(switches, self.switches)


def intent(epoch: int, mode: str = "instant") -> Intent:
    a, b = ("green", "blue") if epoch % 2 == 0 else ("blue", "green")
    return Intent(at=AT, epoch=epoch, from_=a, to=b, kind="switch", mode=mode)


def live_at(epoch: int) -> tuple[int, str, str | None]:
    now, other = ("blue", "green") if epoch % 2 == 0 else ("green", "blue")
    return epoch, now, other if epoch else None


def switch(file: JournalFile, epoch: int, observer: Observer, mode: str = "instant") -> None:
    if mode == "instant":
        observer.in_flight = live_at(epoch)
    file.append(intent(epoch, mode))
    if mode != "instant":
        observer.in_flight = live_at(epoch)
        file.append(Decided(at=AT, epoch=epoch))
    # The answer does not wait for the outcome's record.
    observer.acknowledged, observer.in_flight = live_at(epoch), None
    file.append(Outcome(at=AT, epoch=epoch, result="acknowledged", acked_s=0.001))
    observer.switches += 1


def abort(file: JournalFile, epoch: int, observer: Observer) -> None:
    file.append(intent(epoch, "fence"))
    file.append(Outcome(at=AT, epoch=epoch, result="aborted"))


def compact(file: JournalFile, _epoch: int, _observer: Observer) -> None:
    file.compact(AT)


def gate(file: JournalFile, _epoch: int, _observer: Observer) -> None:
    file.append(GateSet(at=AT, maintenance=True))


def scenario(file: JournalFile, observer: Observer) -> None:
    """A first start, switches and rollbacks, fences that go through and that do not, and two new files."""
    observer.in_flight = live_at(0)
    file.begin(State(epoch=0, live="blue"), AT)
    observer.acknowledged, observer.in_flight = live_at(0), None
    switch(file, 1, observer)
    switch(file, 2, observer, "fence")
    compact(file, 2, observer)
    abort(file, 3, observer)
    switch(file, 3, observer, "fence-writes")
    gate(file, 3, observer)
    compact(file, 3, observer)
    switch(file, 4, observer)


def silent(_event: str, /, **_fields: object) -> None:
    """Ten thousand starts have much to say."""


def found(image: Image) -> tuple[object, State | None]:
    journal = Journal(HERE, system=ModelDisk(dict(image)), emit=silent)
    state = journal.load()
    journal.close()
    return (None if state is None else (state.epoch, state.live, state.previous)), state


def answered(state: State) -> int:
    return sum(entry.result == "acknowledged" for entry in state.history)


def test_whatever_moment_it_dies_in_the_state_is_the_acknowledged_one_or_that_of_the_switch_in_flight():
    observer = Observer(torn=True)
    disk = ModelDisk(boundary=observer)
    file = JournalFile(HERE, system=disk)
    observer(disk)
    scenario(file, observer)
    assert disk.calls.count("write") == 16
    assert len(observer.images) > 2000, "every byte of every record"
    outcomes = set()
    for key, (allowed, switches) in observer.images.items():
        assert allowed, "no directory may stand for two states"
        what, state = found(dict(key))
        assert what in allowed, dict(key)
        assert state is None or answered(state) >= switches
        outcomes.add(what)
    assert outcomes == {None, *map(live_at, range(5))}


def test_a_start_that_dies_half_way_changes_nothing():
    observer = Observer(torn=False)
    scenario(JournalFile(HERE, system=ModelDisk(boundary=observer)), observer)
    moments = 0
    for key in observer.images:
        first, _ = found(dict(key))

        def again(disk: ModelDisk, first: object = first) -> None:
            nonlocal moments
            for image in (disk.killed(), *disk.crashed(torn=False)):
                moments += 1
                assert found(image)[0] == first

        journal = Journal(HERE, system=ModelDisk(dict(key), boundary=again), emit=silent)
        journal.load()
        journal.close()
    assert moments > len(observer.images)


def test_what_was_loaded_after_a_kill_is_durable_before_it_serves():
    disk = ModelDisk()
    file = JournalFile(HERE, system=disk)
    file.begin(State(epoch=0, live="blue"), AT)
    line_to_come = disk.killed()
    scenario_disk = ModelDisk(line_to_come)
    file = JournalFile(HERE, system=scenario_disk)
    file.load()

    def killed_before_the_sync(_fd: int) -> None:
        raise KeyboardInterrupt

    scenario_disk.fsync = killed_before_the_sync  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        file.append(intent(1))
    del scenario_disk.fsync
    assert live_at(1) in [found(image)[0] for image in [scenario_disk.killed()]]
    after = Journal(HERE, system=scenario_disk)
    assert after.load().epoch == 1
    assert {found(image)[0] for image in scenario_disk.crashed(torn=True)} == {live_at(1)}


@pytest.mark.parametrize("torn", [False, True])
def test_a_migration_that_dies_anywhere_is_done_again_or_is_done(torn):
    observer = Observer(torn=torn)
    observer.acknowledged = (8, "green", "blue")
    disk = ModelDisk({"state.json": state_file()}, boundary=observer)
    observer(disk)
    journal = Journal(HERE, system=disk)
    assert journal.load().epoch == 8
    assert sorted(disk.killed()) == ["journal.jsonl", "state.json.migrated"]
    for key, (allowed, _) in observer.images.items():
        what, state = found(dict(key))
        assert {what} == allowed, dict(key)
        assert state.last_switch.reason == "1.2 → 1.3"


def test_the_model_does_what_the_real_disk_does(tmp_path):
    disk = ModelDisk()
    modelled, real = JournalFile(HERE, system=disk), JournalFile(tmp_path)
    for file in (modelled, real):
        scenario(file, Observer(torn=False))
        file.close()
    assert disk.killed() == {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}


def test_a_rename_that_is_not_synced_may_be_forgotten_and_so_may_what_was_not_synced():
    """The model itself: without what the journal does, it loses what a real machine may lose."""
    disk = ModelDisk({"a": b"old"})
    fd = disk.open(HERE / "b", os.O_WRONLY | os.O_CREAT)
    disk.write(fd, memoryview(b"new"))
    disk.replace(HERE / "b", HERE / "a")
    left = [image.get("a") for image in disk.crashed(torn=True)]
    assert set(left) == {b"old", b"", b"n", b"ne", b"new", b"\0\0\0", b"n\0\0", b"ne\0"}
    disk.fsync(fd)
    assert {image["a"] for image in disk.crashed(torn=True)} == {b"old", b"new"}
    disk.fsync(disk.open(HERE, os.O_DIRECTORY))
    assert {image["a"] for image in disk.crashed(torn=True)} == {b"new"}


@pytest.mark.parametrize("lost", ["fsync of the file", "fsync of the directory"])
def test_without_its_syncs_the_journal_would_not_pass(lost, monkeypatch):
    if lost == "fsync of the directory":
        monkeypatch.setattr(JournalFile, "_sync_directory", lambda self: None)
    else:
        real = ModelDisk.fsync
        monkeypatch.setattr(
            ModelDisk, "fsync", lambda disk, fd: real(disk, fd) if not hasattr(disk._open[fd][0], "content") else None
        )
    observer = Observer(torn=False)
    scenario(JournalFile(HERE, system=ModelDisk(boundary=observer)), observer)

    def holds(key, allowed) -> bool:
        try:
            return found(dict(key))[0] in allowed
        except journal_file.StateCorrupt:
            return False

    assert not all(holds(key, allowed) for key, (allowed, _) in observer.images.items())
