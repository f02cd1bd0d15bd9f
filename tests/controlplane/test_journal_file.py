from __future__ import annotations

import errno
import os
import stat

import pytest

from bgproxy.controlplane import journal_file
from bgproxy.controlplane.journal_file import JournalFile, archives, read_file
from bgproxy.core import replay
from bgproxy.core.journal import Answer, GateSet, Intent, Outcome, State, read
from bgproxy.errors import StateCorrupt
from tests.support.faulty_os import FaultyOs, MoodyOs

AT = "2026-01-31T12:00:00.000Z"
OLD = State(epoch=7, live="blue", previous="green")
INTENT = Intent(at=AT, epoch=8, from_="blue", to="green", kind="switch", by="ci", reason="1.3")
DONE = Outcome(at=AT, epoch=8, result="acknowledged")


@pytest.fixture
def open_file(tmp_path):
    opened = []

    def begun(*, system=os) -> JournalFile:
        """The directory's journal; a new one says OLD."""
        opened.append(JournalFile(tmp_path, system=system))
        if opened[-1].load() is None:
            opened[-1].begin(OLD, AT)
        return opened[-1]

    yield begun
    for each in opened:
        each.close()


@pytest.fixture
def file(open_file):
    return open_file()


def found(directory) -> replay.Replayed:
    return replay.replay(read(read_file(directory / "journal.jsonl")).records)


def test_where_nothing_was_written_there_is_no_journal(tmp_path):
    assert JournalFile(tmp_path).load() is None
    assert os.listdir(tmp_path) == []


def test_what_was_appended_is_loaded(file, open_file, tmp_path):
    file.append(INTENT)
    file.append(DONE)
    again = open_file()
    assert again.now == file.now
    assert (again.now.state.epoch, again.records, again.seq_of_last) == (8, 3, 3)
    assert again.bytes == (tmp_path / "journal.jsonl").stat().st_size
    assert stat.S_IMODE((tmp_path / "journal.jsonl").stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["journal.jsonl"]


def test_a_record_is_one_write_and_one_sync(open_file):
    system = FaultyOs()
    file = open_file(system=system)
    before = len(system.calls)
    file.append(INTENT)
    assert [call for call in system.calls[before:] if call not in ("stat", "fstat")] == ["write", "fsync"]


def test_what_contradicts_is_not_written(file, tmp_path):
    before = (tmp_path / "journal.jsonl").read_bytes()
    with pytest.raises(ValueError, match="it intends epoch 7"):
        file.append(Intent(at=AT, epoch=7, from_="blue", to="green", kind="switch"))
    assert (tmp_path / "journal.jsonl").read_bytes() == before


# --- a disk that fails -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [False, True], ids=["before the call", "after the call"])
def test_an_append_that_fails_anywhere_leaves_nothing_and_a_retry_works(tmp_path, after):
    def attempt(number: int | None) -> FaultyOs:
        directory = tmp_path / f"{number}-{after}"
        directory.mkdir()
        first = JournalFile(directory)
        first.begin(OLD, AT)
        first.close()
        system = FaultyOs()
        file = JournalFile(directory, system=system)
        file.load()
        system.fail_from_now(number, after=after)
        before = len(system.calls)
        if number is None:
            file.append(INTENT)
        else:
            with pytest.raises(OSError, match="No space left"):
                file.append(INTENT)
            assert found(directory) == replay.Replayed(OLD)
            assert not file.in_doubt
            file.append(INTENT)
        system.made = len(system.calls) - before
        file.append(DONE)
        file.close()
        assert found(directory).state.epoch == 8
        return system

    for number in range(attempt(None).made):
        attempt(number)


def test_a_short_write_is_continued(open_file, tmp_path):
    system = FaultyOs(fault="short")
    file = open_file(system=system)
    before = system.calls.count("write")
    system.fail_from_now(3)  # behind three looks at whether it is still the same file
    file.append(INTENT)
    assert system.calls.count("write") == before + 2
    assert found(tmp_path).open is not None


def test_half_a_record_is_taken_back_before_the_next_one(open_file, tmp_path):
    system = MoodyOs()
    file = open_file(system=system)
    before = (tmp_path / "journal.jsonl").read_bytes()
    system.failing = {"fsync": errno.EIO, "ftruncate": errno.EIO}
    with pytest.raises(OSError, match="Input/output error"):
        file.append(INTENT)
    assert file.in_doubt
    assert (tmp_path / "journal.jsonl").read_bytes() != before, "a restart now would find it"
    with pytest.raises(OSError, match="Input/output error"):
        file.append(INTENT)
    system.failing = {}
    file.repair()
    assert (tmp_path / "journal.jsonl").read_bytes() == before
    file.append(GateSet(at=AT, maintenance=True))
    assert found(tmp_path).state.maintenance is not None
    assert found(tmp_path).open is None


def test_a_disk_that_cannot_be_written_can_still_be_read(open_file):
    open_file().append(INTENT)
    system = MoodyOs()
    system.failing = {"ftruncate": errno.EROFS}
    file = open_file(system=system)
    assert file.now.open is not None
    with pytest.raises(OSError, match="Read-only"):
        file.append(DONE)
    system.failing = {}
    file.append(DONE)
    assert file.now.state.epoch == 8


def test_a_probe_finds_out_whether_the_disk_takes_something_and_leaves_nothing(open_file, tmp_path):
    system = MoodyOs()
    file = open_file(system=system)
    file.probe()
    system.failing = {"write": errno.ENOSPC}
    with pytest.raises(OSError, match="No space"):
        file.probe()
    assert os.listdir(tmp_path) == ["journal.jsonl"]


@pytest.mark.parametrize("what", ["moved", "removed", "replaced", "written to"])
def test_a_file_that_somebody_else_changed_is_not_relied_on(file, tmp_path, what):
    path = tmp_path / "journal.jsonl"
    if what == "moved":
        path.rename(tmp_path / "elsewhere")
    elif what == "removed":
        path.unlink()
    elif what == "replaced":
        path.rename(tmp_path / "elsewhere")
        path.write_bytes((tmp_path / "elsewhere").read_bytes())
    else:
        path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(OSError, match="by somebody else"):
        file.append(INTENT)
    with pytest.raises(OSError, match="by somebody else"):
        file.compact(AT)


def test_a_first_file_that_cannot_be_written_leaves_nothing(tmp_path):
    for call in ("open", "write", "fsync", "replace"):
        system = MoodyOs()
        system.failing = {call: errno.ENOSPC}
        file = JournalFile(tmp_path, system=system)
        with pytest.raises(OSError, match="No space"):
            file.begin(OLD, AT)
        assert os.listdir(tmp_path) == [], call
        system.failing = {}
        file.begin(OLD, AT)
        file.close()
        assert found(tmp_path).state == OLD
        (tmp_path / "journal.jsonl").unlink()


# --- damage ----------------------------------------------------------------------------------------------------------


def test_a_torn_tail_is_cut_and_kept_beside(file, open_file, tmp_path):
    file.append(INTENT)
    path = tmp_path / "journal.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    again = JournalFile(tmp_path)
    torn = again.load()
    assert torn == (tmp_path / "journal.torn").read_bytes()
    assert path.read_bytes() + torn == whole[:-20]
    assert again.now == replay.Replayed(OLD)
    again.append(INTENT)
    assert path.read_bytes() == whole
    again.close()


def damaged(tmp_path, line: int, change) -> bytes:
    path = tmp_path / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line - 1] = change(lines[line - 1])
    path.write_bytes(b"".join(lines))
    return path.read_bytes()


def test_earlier_damage_is_refused_with_the_place_what_can_be_made_out_and_the_commands(file, tmp_path):
    for record in (INTENT, DONE, Intent(at=AT, epoch=9, from_="green", to="blue", kind="rollback")):
        file.append(record)
    data = damaged(tmp_path, 3, lambda line: line.replace(b"acknowledged", b"acknowledgeD"))
    with pytest.raises(StateCorrupt) as caught:
        JournalFile(tmp_path).load()
    path = tmp_path / "journal.jsonl"
    assert caught.value.detail == (
        f"{path}: the journal is not usable: line 3: its checksum does not match its contents; "
        'the lines before it say live "green", epoch 8; from it on, live "blue" and epoch 9 can be made out last'
    )
    assert caught.value.hint == (
        f"restore {path} from a backup, or give it up: mv {path} {path}.damaged, "
        "set [switch] initial to the colour that is to serve, and start again"
    )
    assert path.read_bytes() == data, "nothing was touched"
    assert os.listdir(tmp_path) == ["journal.jsonl"]


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "line 1: the file is empty; no line before it can be read; from it on, neither colour nor epoch can be"),
        (b"\0" * 300, "line 1: its checksum"),
        (b'{"live": "green", "epoch": 3}\n', 'from it on, live "green" and epoch 3 can be made out last'),
    ],
)
def test_a_file_without_a_beginning_is_refused(tmp_path, data, complaint):
    (tmp_path / "journal.jsonl").write_bytes(data)
    with pytest.raises(StateCorrupt, match=complaint):
        JournalFile(tmp_path).load()


def test_records_that_contradict_each_other_are_refused(file, tmp_path, monkeypatch):
    monkeypatch.setattr(replay, "apply", lambda now, record: now)
    file.append(Intent(at=AT, epoch=3, from_="blue", to="green", kind="switch"))
    monkeypatch.undo()
    with pytest.raises(StateCorrupt, match="contradicts itself: record 2 cannot be: it intends epoch 3 while epoch 7"):
        JournalFile(tmp_path).load()


@pytest.mark.parametrize("kind", ["directory", "pipe", "huge"])
def test_something_else_in_the_place_of_the_file_is_an_error(tmp_path, kind, monkeypatch):
    if kind == "directory":
        (tmp_path / "journal.jsonl").mkdir()
    elif kind == "pipe":
        os.mkfifo(tmp_path / "journal.jsonl")
    else:
        monkeypatch.setattr(journal_file, "MAX_BYTES", 3)
        (tmp_path / "journal.jsonl").write_bytes(b"1234")
    with pytest.raises(StateCorrupt, match=r"journal\.jsonl: the journal cannot be read"):
        JournalFile(tmp_path).load()


# --- a new file ------------------------------------------------------------------------------------------------------


def test_a_new_file_says_the_same_and_carries_the_chain_on(file, open_file, tmp_path):
    file.append(INTENT)
    file.append(DONE)
    before = file.now.state
    kept = file.compact(AT)
    assert sorted(os.listdir(tmp_path)) == [kept, "journal.jsonl"] == ["journal-000000001.jsonl", "journal.jsonl"]
    assert (file.records, file.seq_of_last) == (1, 4)
    file.append(GateSet(at=AT, maintenance=True))
    first = read(read_file(tmp_path / kept))
    assert read(read_file(tmp_path / "journal.jsonl"), first.link).link.seq == 5
    assert open_file().now.state.last_switch == before.last_switch


def test_it_is_begun_anew_when_it_has_grown_and_no_switch_is_on_its_way(file, monkeypatch):
    assert not file.has_grown
    monkeypatch.setattr(journal_file, "COMPACT_RECORDS", 1)
    file.append(INTENT)
    assert not file.has_grown, "a snapshot would not say what is open"
    file.append(DONE)
    assert file.has_grown
    monkeypatch.setattr(journal_file, "COMPACT_RECORDS", 5000)
    assert not file.has_grown
    file.append(Answer(at=AT, key="k", request_hash="h", status=200, until="t", document="x" * 1024 * 1024))
    assert file.has_grown
    file.compact(AT)
    assert not file.has_grown, "what the snapshot itself takes does not count"


def test_the_last_eight_are_kept(file, tmp_path):
    names = [file.compact(AT) for _ in range(10)]
    assert [path.name for path in archives(tmp_path)] == names[2:]


def test_an_older_chain_is_never_written_over(file, tmp_path):
    file.compact(AT)
    old = (tmp_path / "journal-000000001.jsonl").read_bytes()
    (tmp_path / "journal.jsonl").rename(tmp_path / "journal.jsonl.damaged")
    again = JournalFile(tmp_path)
    again.begin(State(epoch=0, live="green"), AT)
    assert again.compact(AT) == "journal-000000001-2.jsonl"
    again.close()
    assert (tmp_path / "journal-000000001.jsonl").read_bytes() == old
    assert [path.name for path in archives(tmp_path)] == ["journal-000000001.jsonl", "journal-000000001-2.jsonl"]


def test_where_links_are_not_possible_it_goes_on_without_the_old_file(open_file, tmp_path):
    system = MoodyOs()
    file = open_file(system=system)
    system.failing = {"link": errno.EPERM}
    file.compact(AT)
    assert os.listdir(tmp_path) == ["journal.jsonl"]
    system.failing = {"link": errno.ENOSPC}
    with pytest.raises(OSError, match="No space"):
        file.compact(AT)


@pytest.mark.parametrize("call", ["open", "write", "fsync", "link", "replace"])
def test_a_new_file_that_cannot_be_begun_leaves_the_old_one_in_use(open_file, tmp_path, call):
    system = MoodyOs()
    file = open_file(system=system)
    system.failing = {call: errno.ENOSPC}
    with pytest.raises(OSError, match="No space"):
        file.compact(AT)
    system.failing = {}
    file.append(INTENT)
    assert found(tmp_path).open is not None
    assert "journal.jsonl.new" not in os.listdir(tmp_path)


def test_a_name_that_may_not_be_durable_is_synced_before_anything_is_appended(open_file, monkeypatch):
    system = FaultyOs()
    file = open_file(system=system)
    real = JournalFile._sync_directory
    synced = []

    def fails_the_second_time(self):
        synced.append(1)
        if len(synced) == 2:
            raise OSError(errno.EIO, "Input/output error")
        real(self)

    monkeypatch.setattr(JournalFile, "_sync_directory", fails_the_second_time)
    with pytest.raises(OSError, match="Input"):
        file.compact(AT)
    file.append(INTENT)
    assert len(synced) == 3
    assert file.records == 2
