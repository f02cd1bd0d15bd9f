from __future__ import annotations

import pytest

from bgproxy.cli.audit import lines
from bgproxy.controlplane.journal_file import JournalFile
from bgproxy.core.journal import Intent, Outcome, State

AT = "2026-01-31T12:00:0{}.000Z"


def entry(**members: object) -> dict[str, object]:
    plain = {
        "at": AT.format(1),
        "epoch": 1,
        "kind": "switch",
        "from": "blue",
        "to": "green",
        "mode": "instant",
        "by": "token:ci",
        "reason": "1.3",
        "forced": False,
        "result": "acknowledged",
        "held_s": None,
        "acked_s": 0.0004,
        "drain_s": None,
        "late": False,
        "detail": "",
    }
    return plain | members


async def test_history_asks_for_as_many_as_it_is_told_and_prints_them(run, api):
    done = await run("history", "-n", "1", "-o", "json", "--admin", api.server.url)
    assert (done.exit_code, done.err) == (0, "")
    assert '"kind": "switch"' in done.out
    assert (await run("history", "-n", "0", "--admin", api.server.url)).exit_code == 2


def test_a_history_is_a_table():
    back = entry(kind="rollback", mode="fence", forced=True, late=True, held_s=0.2, drain_s=3.0, reason="", by="")
    gate = entry(kind="maintenance on", to=None, mode=None, result=None, acked_s=None)
    running = entry(result=None, acked_s=None, detail="why")
    head, *rows = lines({"history": [entry(), back, gate, running]})
    assert head.split() == ["at", "epoch", "what", "result", "took", "by", "reason"]
    assert rows[0].split() == [
        *(AT.format(1), "1", "switch", "blue", "→", "green", "acknowledged"),
        *("seen", "by", "all", "in", "400", "µs", "token:ci", "1.3"),
    ]
    assert "rollback blue → green (fence) forced  acknowledged (written late)  held 200 ms" in rows[1]
    assert "drained in 3 s" in rows[1]
    assert "maintenance on" in rows[2]
    assert "not known yet" in rows[3]
    assert rows[3].endswith("1.3; why")
    assert lines({"history": []}) == ["nothing was switched yet"]


@pytest.fixture
def state_dir(tmp_path):
    """A journal of two files: four records, then two."""
    directory = tmp_path / "state"
    directory.mkdir()
    file = JournalFile(directory)
    file.begin(State(epoch=0, live="blue"), AT.format(0))
    file.append(Intent(at=AT.format(1), epoch=1, from_="blue", to="green", kind="switch"))
    file.append(Outcome(at=AT.format(2), epoch=1, result="acknowledged"))
    file.compact(AT.format(3))
    file.append(Intent(at=AT.format(4), epoch=2, from_="green", to="blue", kind="rollback"))
    file.append(Outcome(at=AT.format(5), epoch=2, result="acknowledged"))
    file.close()
    return directory


async def test_a_good_journal_is_counted(run, state_dir):
    done = await run("audit", "verify", str(state_dir))
    assert (done.exit_code, done.out) == (0, f"OK: 6 records in 2 files, from {AT.format(0)} to {AT.format(5)}\n")
    one = await run("audit", "verify", str(state_dir / "journal.jsonl"))
    assert (one.exit_code, one.out.startswith("OK: 3 records in ")) == (0, True)


@pytest.mark.parametrize(
    ("name", "line", "good"), [("journal-000000001.jsonl", 2, 1), ("journal.jsonl", 1, 3), ("journal.jsonl", 2, 4)]
)
async def test_the_first_broken_record_is_named(run, state_dir, name, line, good):
    path = state_dir / name
    parts = path.read_bytes().splitlines(keepends=True)
    parts[line - 1] = parts[line - 1].replace(b'"epoch":', b'"epoch": ', 1)
    path.write_bytes(b"".join(parts))
    done = await run("audit", "verify", str(state_dir))
    assert done.exit_code == 1
    assert done.out == (
        f"{path}: line {line}: its checksum does not match its contents; the {good} records before it are good\n"
    )


async def test_a_file_that_does_not_follow_from_the_one_before_is_named(run, state_dir):
    archive = state_dir / "journal-000000001.jsonl"
    archive.write_bytes(b"".join(archive.read_bytes().splitlines(keepends=True)[:-1]))
    done = await run("audit", "verify", str(state_dir))
    assert done.exit_code == 1
    assert "journal.jsonl: line 1: it is record 4, and record 3 was to follow" in done.out


async def test_a_torn_tail_is_told_as_what_it_is(run, state_dir):
    path = state_dir / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-7])
    done = await run("audit", "verify", str(state_dir))
    assert done.exit_code == 1
    assert "line 3: it is torn: " in done.out
    assert "which the next start cuts; the 5 records before it are good" in done.out


async def test_a_contradiction_is_named(run, state_dir, monkeypatch):
    from bgproxy.core import replay

    file = JournalFile(state_dir)
    file.load()
    monkeypatch.setattr(replay, "apply", lambda now, record: now)
    file.append(Intent(at=AT.format(6), epoch=2, from_="green", to="blue", kind="rollback"))
    file.close()
    monkeypatch.undo()
    done = await run("audit", "verify", str(state_dir))
    assert done.exit_code == 1
    assert "record 7 cannot be: it intends epoch 2 while epoch 2 is live" in done.out


async def test_after_a_journal_was_given_up_another_one_begins_beside_the_old_files(run, state_dir):
    (state_dir / "journal.jsonl").rename(state_dir / "journal.jsonl.damaged")
    file = JournalFile(state_dir)
    file.begin(State(epoch=0, live="green"), AT.format(7))
    file.close()
    assert (await run("audit", "verify", str(state_dir))).exit_code == 0


async def test_where_there_is_none_that_is_an_error(run, tmp_path):
    (tmp_path / "empty").mkdir()
    none = await run("audit", "verify", str(tmp_path / "empty"))
    assert (none.exit_code, "there is no journal in" in none.err) == (1, True)
    missing = await run("audit", "verify", str(tmp_path / "missing"))
    assert (missing.exit_code, "no such file or directory" in missing.err) == (1, True)


async def test_without_a_place_it_is_that_of_the_running_proxy_or_the_default_one(
    run, api, control, state_dir, tmp_path, monkeypatch
):
    control.document = {"epoch": 2, "live": "blue", "journal": {"file": str(state_dir / "journal.jsonl")}}
    monkeypatch.setenv("BGPROXY_ADMIN", api.server.url)
    assert (await run("audit", "verify")).out.startswith("OK: 6 records")
    monkeypatch.setenv("BGPROXY_ADMIN", "http://127.0.0.1:1")
    monkeypatch.setenv("BGPROXY_STATE__DIR", str(tmp_path / "other"))
    assert str(tmp_path / "other") in (await run("audit", "verify")).err
