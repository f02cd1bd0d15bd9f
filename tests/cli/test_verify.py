from __future__ import annotations

import gzip
import json
import os

import pytest

from bgproxy.core.journal import FILE, FORMAT, Decided, Entry, Intent, Link, Outcome, Snapshot, State, seal
from bgproxy.errors import EXIT_FAILED, EXIT_OK, EXIT_USAGE

COLOURS = ("blue", "green")


def journal(*records, after=None):
    link, lines = after or Link(), []
    for record in records:
        line, link = seal(record, link)
        lines.append(line)
    return b"".join(lines)


def switched(epoch, mode="instant", result="acknowledged"):
    old, new = COLOURS[1 - epoch % 2], COLOURS[epoch % 2]
    return (
        Intent(epoch=epoch, from_=old, to=new, kind="switch", mode=mode),
        *([Decided(epoch=epoch)] if mode != "instant" and result != "aborted" else []),
        Outcome(epoch=epoch, result=result),
    )


START = Snapshot(format=FORMAT, state=State(epoch=0, live="blue"))


def line(number, arrive, dispatch, end, **more):
    told = {"ts": "2026-01-01T00:00:00.000000+00:00", "method": "GET", "path": "/", "status": 200, "boot": "0123abcd"}
    told |= {"arrive_ns": arrive, "dispatch_ns": dispatch, "end_ns": end, "held_s": 0.0, "stream": None}
    told |= {"epoch": number, "colour": COLOURS[number % 2], "termination": "ok", "request_id": f"r{arrive}"}
    return json.dumps(told | more).encode() + b"\n"


REFUSED = line(0, 1, None, 5, epoch=None, colour=None, termination="refused", status=503)
GOOD = line(0, 10, 11, 20) + line(1, 21, 22, 30) + REFUSED + line(2, 25, 2_000_031, 2_000_040)


@pytest.fixture
def state_dir(tmp_path):
    directory = tmp_path / "state"
    directory.mkdir()
    (directory / FILE).write_bytes(journal(START, *switched(1), *switched(2, "fence")))
    return directory


@pytest.fixture
def verified(run, tmp_path, state_dir):
    """The outcome for a log with these bytes."""

    async def verify(data=GOOD, *options):
        log = tmp_path / "access.log"
        log.write_bytes(data)
        return await run("verify-log", str(log), *(options or ("--state-dir", str(state_dir))))

    return verify


async def test_a_good_log_is_proved_and_says_by_what(verified):
    done = await verified()
    assert (done.exit_code, done.err) == (EXIT_OK, "")
    assert done.out.splitlines() == [
        "proved: 4 records, 3 dispatched under 3 epochs, 2 switches, 1 fences",
        "  C1  the colour is that of the epoch: 3 checked",
        "  C2  epochs never go back: 2 checked",
        "  C3  a fence keeps the colours apart: 1 checked",
        "  C4  what was dispatched has a colour, and times in order: 4 checked",
        "  fence to epoch 2 (fence): 2 ms between the colours",
    ]


async def test_a_violation_names_both_records_and_the_journals(verified, tmp_path):
    done = await verified(line(1, 21, 22, 2_000_050) + line(2, 25, 31, 40))
    assert done.exit_code == EXIT_FAILED
    log = tmp_path / "access.log"
    assert done.out.splitlines()[0].startswith("violated: 2 records")
    assert done.out.splitlines()[-4:] == [
        "violated C3: the fence to epoch 2 let both colours run for 2.000 ms: the first of these had not ended when "
        "the second was dispatched",
        f"  {log}:1  r21  GET epoch 1 green ok  arrived 21, dispatched 22, ended 2000050",
        f"  {log}:2  r25  GET epoch 2 blue ok  arrived 25, dispatched 31, ended 40",
        "  journal: fence switch to epoch 2, blue, record 4",
    ]


async def test_the_document_says_the_same(verified, state_dir):
    done = await verified(line(0, 10, 11, 20, colour="green"), "-o", "json", "--state-dir", str(state_dir))
    assert done.exit_code == EXIT_FAILED
    document = json.loads(done.out)
    assert document["verdict"] == "violated"
    (violation,) = document["violations"]["first"]
    assert violation["check"] == "C1"
    assert violation["records"][0]["line"] == 1
    assert violation["journal"]["epoch"] == 0
    assert document["fences"] == [{"epoch": 2, "mode": "fence", "gap_s": None}]


@pytest.mark.parametrize("data", [b"", REFUSED, b'127.0.0.1 - - [1/Jan/2026:00:00:00 +0000] "GET / HTTP/1.1" 200 4\n'])
async def test_where_there_is_nothing_to_check_nothing_is_proved(verified, data):
    done = await verified(data)
    assert done.exit_code == EXIT_FAILED
    assert done.out.startswith("nothing to check: ")
    assert 'hint: it takes a JSON access log ([log] access = "json")' in done.out


async def test_a_torn_last_line_is_told_and_tolerated(verified, tmp_path):
    done = await verified(GOOD + line(2, 50, 51, 52)[:-30])
    assert done.exit_code == EXIT_OK
    assert done.out.splitlines()[-1] == f"not read: the last line, which is torn, {tmp_path / 'access.log'}:5"


async def test_lines_that_are_no_records_are_counted_and_named(verified):
    done = await verified(b"garbage\n" + GOOD + b'{"event": "ready"}\n')
    assert done.exit_code == EXIT_OK
    assert "not read: 2 lines that are no records, the first at " in done.out
    assert "access.log:1, " in done.out
    assert "access.log:6" in done.out


async def test_records_of_an_older_version_are_not_judged_by_time_and_counted(verified):
    old = json.dumps({"epoch": 0, "colour": "blue", "termination": "ok", "method": "GET"}).encode() + b"\n"
    done = await verified(GOOD + old)
    assert done.exit_code == EXIT_OK
    assert "not judged: 1 records without times, of an older version" in done.out


async def test_logs_may_be_many_and_compressed_in_any_order(run, tmp_path, state_dir):
    first, second, third = GOOD.split(b"\n", 2)
    (tmp_path / "a.gz").write_bytes(gzip.compress(third))
    (tmp_path / "b").write_bytes(second + b"\n")
    (tmp_path / "c.gz").write_bytes(gzip.compress(first + b"\n"))
    done = await run(
        "verify-log", *(str(tmp_path / name) for name in ("a.gz", "b", "c.gz")), "--state-dir", str(state_dir)
    )
    assert done.out.startswith("proved: 4 records")


async def test_a_compressed_log_that_is_still_written_is_read_as_far_as_it_goes(run, tmp_path, state_dir):
    log = tmp_path / "a.gz"
    log.write_bytes(gzip.compress(GOOD)[:-8])
    done = await run("verify-log", str(log), "--state-dir", str(state_dir))
    assert done.exit_code == EXIT_OK
    assert f"torn, {log}:5" in done.out


async def test_standard_input_is_a_log_too(verified, run, state_dir, monkeypatch):
    reader, writer = os.pipe()
    os.write(writer, GOOD)
    os.close(writer)
    with os.fdopen(reader) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        done = await run("verify-log", "-", "--state-dir", str(state_dir))
    assert done.out.startswith("proved: 4 records")


# --- the journal ------------------------------------------------------------------------------------------------------


async def test_one_file_of_a_journal_is_enough(verified, state_dir):
    done = await verified(GOOD, "--journal", str(state_dir / FILE))
    assert done.exit_code == EXIT_OK


async def test_archives_belong_to_the_journal_and_those_of_an_earlier_chain_do_not(verified, state_dir):
    old = journal(START, *switched(1), *switched(2, "fence"))
    present = State(epoch=3, live="green", history=(Entry(at="", kind="switch", epoch=3, to="green", mode="instant"),))
    (state_dir / "journal-000000001.jsonl").write_bytes(old)
    after = Link(7, "0" * 64)
    (state_dir / FILE).write_bytes(journal(Snapshot(format=FORMAT, state=present), after=after))
    later = line(3, 2_000_050, 2_000_051, 2_000_052)
    assert (await verified(GOOD + later)).exit_code == EXIT_OK
    (state_dir / FILE).write_bytes(journal(Snapshot(format=FORMAT, state=present)))
    done = await verified(GOOD + later)
    assert done.exit_code == EXIT_FAILED
    assert "it says epoch 0, which the journal does not know; it begins with epoch 3" in done.out


async def test_what_the_journal_took_back_was_never_live(verified, state_dir):
    (state_dir / FILE).write_bytes(journal(START, *switched(1, "fence", "aborted")))
    done = await verified(line(1, 1, 2, 3))
    assert "it says epoch 1, which was never live: the fence switch to it was taken back" in done.out


# --- usage ------------------------------------------------------------------------------------------------------------


async def test_more_violations_than_can_be_read_are_counted(verified):
    done = await verified(b"".join(line(0, 5, 4, 6) for _ in range(25)))
    assert done.out.count("violated C4") == 20
    assert "and 5 more violations" in done.out


async def test_a_log_or_a_journal_that_is_not_there_is_said(run, verified, tmp_path, state_dir):
    done = await run("verify-log", str(tmp_path / "none"), "--state-dir", str(state_dir))
    assert (done.exit_code, done.out) == (EXIT_USAGE, "")
    assert "none cannot be read: no such file or directory" in done.err
    done = await verified(GOOD, "--state-dir", str(tmp_path))
    assert done.exit_code == EXIT_USAGE
    assert f"there is no journal in {tmp_path}" in done.err
    done = await verified(GOOD, "--journal", str(tmp_path / "none.jsonl"))
    assert done.exit_code != EXIT_OK
    assert "Traceback" not in done.err


async def test_a_damaged_journal_proves_nothing(verified, state_dir):
    damaged = bytearray((state_dir / FILE).read_bytes())
    damaged[30] ^= 1
    (state_dir / FILE).write_bytes(damaged)
    done = await verified()
    assert done.exit_code == EXIT_USAGE
    assert "a damaged journal proves nothing" in done.err


async def test_a_directory_and_a_file_exclude_each_other(verified, state_dir):
    done = await verified(GOOD, "--state-dir", str(state_dir), "--journal", str(state_dir / FILE))
    assert done.exit_code == EXIT_USAGE
