from __future__ import annotations

import asyncio
import errno
import os
import threading
from datetime import UTC, datetime, timedelta

import pytest

from bgproxy.controlplane import journal_file
from bgproxy.controlplane.journal import Journal
from bgproxy.controlplane.journal_file import read_file
from bgproxy.core import replay
from bgproxy.core.journal import Decided, Intent, Outcome, State, read
from bgproxy.errors import StoreUnavailable
from tests.support.faulty_os import MoodyOs
from tests.support.proxies import Recorder, eventually

BEGIN = State(epoch=7, live="blue", previous="green")
INTENT = Intent(epoch=8, from_="blue", to="green", kind="switch", by="ci", reason="1.3")
ROLLBACK = Intent(at="2026-01-31T03:00:00.000Z", epoch=8, from_="blue", to="green", kind="rollback")
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def done(epoch: int = 8, result: str = "acknowledged", **members) -> Outcome:
    return Outcome(epoch=epoch, result=result, **members)


class Bench:
    """A journal that has begun, on a disk with moods."""

    def __init__(self, directory) -> None:
        self.directory, self.system, self.emit, self.now = directory, MoodyOs(), Recorder(), NOON
        self.journal = Journal(directory, system=self.system, emit=self.emit, wall=lambda: self.now, retry_s=0.02)

    @property
    def records(self) -> list[str]:
        """What is on disk, as words."""
        found = read(read_file(self.directory / "journal.jsonl")).records[1:]
        words = [
            (type(each).__name__.lower(), getattr(each, "result", ""), "late" if each.late else "") for each in found
        ]
        return [" ".join(filter(None, word)) for word in words]

    def found(self) -> State:
        """What a restart would come up with."""
        return replay.settled(read(read_file(self.directory / "journal.jsonl")).records).state

    async def until_well(self) -> None:
        await eventually(lambda: self.emit.of("journal_recovered"), "the return of the disk")
        await eventually(lambda: not self.journal._unwritten or not self.journal.health["ok"], "what waited")

    def close(self) -> None:
        self.system.failing = {}
        self.system.release()
        self.journal.close()


@pytest.fixture
async def bench(tmp_path):
    made = Bench(tmp_path)
    await made.journal.begin(BEGIN)
    yield made
    made.close()


@pytest.fixture
def journal(bench):
    return bench.journal


async def test_an_intent_is_on_disk_when_it_returns_and_its_outcome_follows(bench, journal):
    await journal.intend(INTENT)
    assert bench.records == ["intent"]
    await journal.conclude(done())
    assert bench.records == ["intent", "outcome acknowledged"]
    assert journal.state == bench.found()
    assert (journal.state.epoch, journal.state.last_switch.at) == (8, "2026-01-31T12:00:00.000Z")
    assert bench.emit.events == []


async def test_a_fence_is_decided_in_between(bench, journal):
    await journal.intend(INTENT)
    await journal.decide(8)
    assert bench.records == ["intent", "decided"]


async def test_it_tells_how_it_is(bench, journal):
    assert journal.health == {
        "ok": True,
        "durable": True,
        "pending": 0,
        "error": None,
        "since": None,
        "file": str(bench.directory / "journal.jsonl"),
        "records": 1,
        "seq": 1,
        "bytes": (bench.directory / "journal.jsonl").stat().st_size,
        "last_fsync_s": 0.0,
    }
    told = []
    journal.listen(told.append)
    await journal.intend(INTENT)
    assert journal.health["last_fsync_s"] == round(told[0], 6) > 0


async def test_the_history_is_newest_first_and_says_what_is_not_on_disk_too(bench, journal):
    await journal.intend(INTENT)
    await journal.conclude(done())
    bench.system.failing = {"write": errno.ENOSPC}
    back = Intent(epoch=9, from_="green", to="blue", kind="rollback")
    journal.postpone(back)
    journal.conclude(done(9))
    await eventually(lambda: len(journal.history()) == 2, "the rollback")
    await eventually(lambda: journal.history()[0]["result"] == "acknowledged", "its outcome")
    assert [(each["epoch"], each["kind"]) for each in journal.history()] == [(9, "rollback"), (8, "switch")]
    assert len(journal.history(1)) == 1


async def test_maintenance_and_pools_survive(bench, journal):
    await journal.set_maintenance(True, by="ops", reason="database")
    await journal.save_pools({"blue": ["127.0.0.1:9001"]}, by="ops")
    assert (bench.found().maintenance.by, bench.found().pools) == ("ops", {"blue": ["127.0.0.1:9001"]})


async def test_an_answer_is_kept_for_a_day(bench, journal):
    assert await journal.answered("k", "h", 200, {"epoch": 8})
    bench.now += timedelta(hours=23)
    await journal.answered("k2", "h", 200, {})
    assert list(bench.found().answers) == ["k", "k2"]
    bench.now += timedelta(hours=1)
    await journal.answered("k3", "h", 200, {})
    assert list(bench.found().answers) == ["k2", "k3"]


async def test_an_order_with_a_key_that_was_never_answered_has_an_answer_after_a_restart(bench, journal):
    await journal.intend(Intent(epoch=8, from_="blue", to="green", kind="rollback", key="k", request_hash="h"))
    kept = bench.found().answers["k"]
    assert (kept.status, kept.until) == (replay.RECOVERED, "2026-02-01T12:00:00.000Z")


async def test_a_contradiction_is_a_fault_of_ours_and_is_not_written(bench, journal):
    with pytest.raises(ValueError, match="it intends epoch 7"):
        await journal.intend(Intent(epoch=7, from_="blue", to="green", kind="switch"))
    await journal.postpone(Decided(epoch=3))
    assert bench.emit.of("journal_not_written")[0]["error"].startswith("epoch 3 was decided")
    assert bench.records == []
    assert journal.durable


async def test_other_file_work_comes_after_what_was_asked_for_before(bench, journal):
    journal.conclude(done(7))
    seen = []
    await journal.in_thread(lambda: seen.append(bench.records))
    assert seen == [["outcome acknowledged"]]


async def test_the_disk_is_never_waited_for_on_the_loop(tmp_path):
    threads = set()

    class Watched(MoodyOs):
        def __getattr__(self, name):
            threads.add(threading.get_ident())
            return super().__getattr__(name)

    journal = Journal(tmp_path, system=Watched())
    await journal.begin(BEGIN)
    await journal.intend(INTENT)
    await journal.conclude(done())
    assert threads
    assert threading.get_ident() not in threads
    journal.close()


# --- a disk that takes nothing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EIO])
async def test_what_cannot_be_written_is_as_if_never_asked(bench, journal, error):
    bench.system.failing = {"write": error}
    with pytest.raises(StoreUnavailable, match=f"{os.strerror(error)}; nothing was changed$") as caught:
        await journal.intend(INTENT)
    assert str(bench.directory) in caught.value.detail
    assert bench.found() == BEGIN
    health = journal.health
    assert (health["ok"], health["error"], health["since"]) == (False, os.strerror(error), "2026-01-31T12:00:00.000Z")
    await eventually(lambda: bench.emit.of("journal_unavailable"), "the warning")
    bench.system.failing = {}
    await bench.until_well()
    assert journal.health["ok"]
    await journal.intend(INTENT)
    assert bench.records == ["intent"]
    assert len(bench.emit.of("journal_unavailable")) == 1, "said once"


async def test_what_cannot_be_taken_back_either_is_told_honestly_and_taken_back_later(bench, journal):
    bench.system.failing = {"fsync": errno.EIO, "ftruncate": errno.EIO}
    with pytest.raises(StoreUnavailable, match=r"nothing was changed, but .* a restart would come up with it"):
        await journal.intend(INTENT)
    assert bench.found().epoch == 8
    bench.system.failing = {}
    await bench.until_well()
    assert bench.found() == BEGIN


async def test_what_was_done_all_the_same_is_written_when_the_disk_returns_in_order_and_late(bench, journal):
    recovered = []
    journal.on_recovered = lambda: recovered.append(bench.records)
    bench.system.failing = {"write": errno.ENOSPC}
    with pytest.raises(StoreUnavailable):
        await journal.intend(ROLLBACK)
    written = journal.postpone(ROLLBACK)
    journal.conclude(done())
    assert not await journal.answered("k", "h", 200, {}), "a disk that is known not to work is not waited for"
    assert not journal.durable
    assert journal.health["pending"] == 3
    assert bench.found() == BEGIN
    with pytest.raises(StoreUnavailable):
        await journal.intend(Intent(epoch=9, from_="green", to="blue", kind="switch"))
    bench.system.failing = {}
    await written
    await bench.until_well()
    assert recovered == [["intent late", "outcome acknowledged late", "answer late"]]
    assert journal.durable
    assert (journal.health["pending"], bench.found().epoch) == (0, 8)
    assert bench.found().last_switch.at == ROLLBACK.at, "when it was done, not when it was written"
    await journal.intend(Intent(epoch=9, from_="green", to="blue", kind="switch"))


async def test_the_next_write_brings_along_what_waits(bench, journal):
    bench.journal._retry_s = 3600
    bench.system.failing = {"write": errno.ENOSPC}
    journal.postpone(ROLLBACK)
    journal.conclude(done())
    await eventually(lambda: bench.emit.of("journal_unavailable"), "the warning")
    bench.system.failing = {}
    await journal.intend(Intent(epoch=9, from_="green", to="blue", kind="switch"))
    assert bench.records == ["intent late", "outcome acknowledged late", "intent"]
    await bench.until_well()


async def test_what_is_lost_at_the_end_is_said(bench, journal):
    bench.system.failing = {"write": errno.ENOSPC}
    journal.postpone(ROLLBACK)
    journal.conclude(done())
    await eventually(lambda: bench.emit.of("journal_unavailable"), "the warning")
    journal.close()
    await eventually(lambda: bench.emit.of("journal_not_written"), "what is lost")
    (lost,) = bench.emit.of("journal_not_written")
    assert (lost["records"], lost["first"]) == (2, f"intent of {ROLLBACK.at}")
    bench.journal = Journal(bench.directory, emit=bench.emit)


async def test_a_last_try_is_made_at_the_end(bench, journal):
    bench.journal._retry_s = 3600
    bench.system.failing = {"write": errno.ENOSPC}
    journal.postpone(ROLLBACK)
    journal.conclude(done())
    await eventually(lambda: bench.emit.of("journal_unavailable"), "the warning")
    bench.system.failing = {}
    journal.close()
    assert bench.records == ["intent late", "outcome acknowledged late"]
    bench.journal = Journal(bench.directory, emit=bench.emit)


# --- a disk that hangs -----------------------------------------------------------------------------------------------


async def test_what_lands_after_it_was_given_up_is_taken_back_at_once(bench, journal):
    bench.system.held = {"fsync"}
    with pytest.raises(
        StoreUnavailable, match=r"did not answer within 0\.05 s; nothing was changed, and if it is"
    ) as e:
        await journal.intend(INTENT, patience_s=0.05)
    assert "a restart in between would come up with it" in e.value.detail
    assert not journal.health["ok"]
    bench.system.release()
    await bench.until_well()
    assert bench.records == ["intent", "outcome refused"]
    assert bench.found().epoch == 7
    await journal.intend(INTENT)


async def test_what_was_not_begun_when_it_was_given_up_is_never_written(bench, journal):
    bench.system.held = {"fsync"}
    journal.conclude(done(7))
    with pytest.raises(StoreUnavailable, match=r"did not answer within 0\.05 s; nothing was changed$"):
        await journal.intend(INTENT, patience_s=0.05)
    bench.system.release()
    await bench.until_well()
    assert bench.records == ["outcome acknowledged"]


async def test_a_rollback_that_did_not_wait_counts_although_its_first_attempt_is_taken_back(bench, journal):
    bench.system.held = {"fsync"}
    with pytest.raises(StoreUnavailable):
        await journal.intend(ROLLBACK, patience_s=0.05)
    journal.postpone(ROLLBACK)
    journal.conclude(done())
    bench.system.release()
    await bench.until_well()
    assert bench.records == ["intent", "outcome refused", "intent late", "outcome acknowledged"]
    assert bench.found().epoch == 8


async def test_a_decision_that_lands_too_late_takes_the_fence_back(bench, journal):
    await journal.intend(Intent(epoch=8, from_="blue", to="green", kind="switch", mode="fence"))
    bench.system.held = {"fsync"}
    with pytest.raises(StoreUnavailable):
        await journal.decide(8, patience_s=0.05)
    journal.conclude(done(result="aborted", detail="the disk"))
    bench.system.release()
    await bench.until_well()
    assert bench.records == ["intent", "decided", "outcome aborted", "outcome aborted"]
    assert bench.found().epoch == 7


async def test_who_stops_waiting_takes_his_record_back(bench, journal):
    bench.system.held = {"fsync"}
    waiting = asyncio.create_task(journal.intend(INTENT, patience_s=30))
    await eventually(lambda: bench.system.made["write"] == 2, "the write")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    bench.system.release()
    await journal.conclude(done(7))
    assert bench.records == ["intent", "outcome refused", "outcome acknowledged"]


async def test_a_disk_that_hangs_is_not_asked_again_and_again(bench, journal, monkeypatch):
    bench.system.held = {"fsync"}
    with pytest.raises(StoreUnavailable):
        await journal.intend(INTENT, patience_s=0.01)
    tries = 0
    schedule = journal._schedule_retry

    def counted() -> None:
        nonlocal tries
        tries += 1
        schedule()

    monkeypatch.setattr(journal, "_schedule_retry", counted)
    await eventually(lambda: tries > 5, "several seconds of the retry timer")
    assert journal._thread._work_queue.qsize() <= 1


# --- two programs ----------------------------------------------------------------------------------------------------


async def test_what_is_given_away_is_not_written_until_it_is_taken_back(bench, journal, restarted):
    await journal.intend(INTENT)
    journal.conclude(done())
    await journal.give_away()
    assert bench.records == ["intent", "outcome acknowledged"]
    drained = journal.conclude(done(drain_s=2.0))
    with pytest.raises(StoreUnavailable, match="another program is taking it over"):
        await journal.intend(Intent(epoch=9, from_="green", to="blue", kind="rollback"))
    assert not await journal.answered("k", "h", 200, {}), "not waited for"
    await journal.in_thread(journal._writer.try_again)
    assert not await journal.is_settled()
    assert bench.records == ["intent", "outcome acknowledged"]

    other = restarted()
    other.load()
    await other.set_maintenance(True, by="the new one")
    await journal.take_back()
    await drained
    assert bench.records == ["intent", "outcome acknowledged", "gateset", "outcome acknowledged"]
    assert (journal.state.maintenance.by, journal.state.last_switch.drain_s) == ("the new one", 2.0)
    await journal.intend(Intent(epoch=9, from_="green", to="blue", kind="rollback"))
    assert await journal.is_settled()
    assert journal.health["ok"]


async def test_also_where_the_other_began_a_new_file(bench, journal, restarted, monkeypatch):
    await journal.give_away()
    monkeypatch.setattr(journal_file, "COMPACT_RECORDS", 0)
    other = restarted()
    other.load()
    await other.intend(INTENT)
    await other.conclude(done())
    await eventually(lambda: bench.emit.of("journal_compacted"), "the new file")
    monkeypatch.undo()
    await journal.take_back()
    await journal.intend(Intent(epoch=9, from_="green", to="blue", kind="rollback"))
    assert bench.records == ["intent"]
    assert bench.found().epoch == 9


@pytest.mark.parametrize("left", [b"", None])
async def test_what_cannot_be_gone_on_with_is_told_and_left_as_it_is(bench, journal, left):
    await journal.give_away()
    path = bench.directory / "journal.jsonl"
    path.unlink() if left is None else path.write_bytes(left)
    await journal.take_back()
    await eventually(lambda: bench.emit.of("journal_unavailable"), "the complaint")
    with pytest.raises(StoreUnavailable):
        await journal.intend(INTENT)
    assert not path.exists() if left is None else path.read_bytes() == left


async def test_with_something_not_on_disk_it_cannot_be_given_away(bench, journal):
    bench.system.failing = {"write": errno.ENOSPC}
    journal.postpone(ROLLBACK)
    assert not await journal.is_settled()
    with pytest.raises(StoreUnavailable, match="not wholly on disk: No space left"):
        await journal.give_away()
    bench.system.failing = {}
    await journal.take_back()
    await bench.until_well()
    assert bench.records == ["intent late"]


async def test_a_disk_that_hangs_is_not_waited_for_to_give_it_away(bench, journal):
    bench.system.held = {"fsync"}
    journal.postpone(ROLLBACK)
    assert not await journal.is_settled(patience_s=0.01)
    with pytest.raises(StoreUnavailable, match="the disk does not answer"):
        await journal.give_away(patience_s=0.01)
    await journal.take_back(patience_s=0.01)
    bench.system.release()
    await eventually(lambda: journal.durable, "the disk")
    await journal.conclude(done())


async def test_what_was_not_handed_over_is_told_at_the_end(bench):
    other = Journal(bench.directory, emit=bench.emit)
    other.load()
    await other.give_away()
    other.conclude(done())
    other.close()
    assert bench.emit.of("journal_not_written")[0]["error"] == "another program has taken the journal over"


# --- starts ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def restarted(bench):
    """Another journal of the same directory, after its process was killed."""
    opened = []

    def restart(*, system=os) -> Journal:
        opened.append(Journal(bench.directory, system=system, emit=bench.emit, retry_s=0.02))
        return opened[-1]

    yield restart
    for each in opened:
        each.close()


async def test_an_intent_that_the_process_died_in_is_decided_on_disk_and_said(bench, journal, restarted):
    await journal.intend(INTENT)
    state = restarted().load()
    assert (state.epoch, state.live, state.last_switch.result) == (8, "green", "recovered")
    assert bench.records == ["intent", "outcome recovered"]
    assert bench.emit.of("switch_recovered")[0] == {"epoch": 8, "result": "recovered", "live": "green"}
    assert restarted().load() == state


async def test_a_fence_that_was_not_decided_is_void_after_a_restart(bench, journal, restarted):
    await journal.intend(Intent(epoch=8, from_="blue", to="green", kind="switch", mode="fence"))
    state = restarted().load()
    assert (state.epoch, state.history[-1].result) == (7, "aborted")
    assert bench.records == ["intent", "outcome aborted"]


@pytest.mark.parametrize(("epoch", "live", "result"), [(7, "blue", "aborted"), (8, "green", "recovered")])
async def test_where_workers_still_serve_it_is_decided_by_their_word(bench, journal, restarted, epoch, live, result):
    await journal.intend(INTENT)
    state = restarted().load(replay.Witness(epoch, live))
    assert (state.epoch, state.live, state.history[-1].result) == (epoch, live, result)
    assert bench.records == ["intent", f"outcome {result}"]
    assert bench.emit.of("switch_recovered")[0] == {"epoch": 8, "result": result, "live": live}
    assert restarted().load() == state


async def test_a_decision_by_the_word_that_is_not_on_disk_is_not_durable(bench, journal, restarted):
    """A restart that finds no workers any more would complete the switch."""
    await journal.intend(INTENT)
    bench.system.failing = {"write": errno.ENOSPC}
    again = restarted(system=bench.system)
    assert again.load(replay.Witness(7, "blue")).epoch == 7
    assert not again.durable
    await again.in_thread(lambda: None)
    bench.system.failing = {}
    await eventually(lambda: again.durable, "the disk")
    assert bench.found().epoch == 7


async def test_a_look_changes_nothing_and_decides_nothing(bench, journal, restarted):
    await journal.intend(INTENT)
    path = bench.directory / "journal.jsonl"
    torn = path.read_bytes() + b"half a rec"
    path.write_bytes(torn)
    (bench.directory / "journal.jsonl.new").write_bytes(b"of somebody who is beginning it")
    looked = restarted().look()
    assert (looked.open.epoch, looked.state.epoch) == (8, 7)
    assert path.read_bytes() == torn
    assert sorted(os.listdir(bench.directory)) == ["journal.jsonl", "journal.jsonl.new"]
    path.unlink()
    assert restarted().look() is None


async def test_a_start_on_a_disk_that_takes_nothing_comes_up_all_the_same(bench, journal, restarted):
    await journal.intend(INTENT)
    system = MoodyOs()
    system.failing = {"open": errno.EROFS, "ftruncate": errno.EROFS, "write": errno.EROFS}
    real_open = os.open
    system.open = lambda path, flags, mode=0o600: (
        real_open(path, flags, mode) if not flags & os.O_WRONLY or not system.failing else system_refuses()
    )

    def system_refuses() -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    again = restarted(system=system)
    state = again.load()
    assert (state.epoch, state.live) == (8, "green")
    assert (again.health["ok"], again.health["pending"]) == (False, 1)
    assert bench.records == ["intent"]
    system.failing = {}
    await again.in_thread(lambda: None)
    await bench.until_well()
    assert bench.records == ["intent", "outcome recovered late"]


async def test_a_torn_tail_is_cut_and_said(bench, journal, restarted):
    await journal.intend(INTENT)
    path = bench.directory / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    assert restarted().load() == BEGIN
    (said,) = bench.emit.of("journal_tail_cut")
    assert (said["file"], said["kept_as"]) == (str(path), "journal.torn")
    assert said["bytes"] == (bench.directory / "journal.torn").stat().st_size


async def test_a_first_start_that_cannot_write_is_an_error(tmp_path):
    system = MoodyOs()
    system.failing = {"write": errno.ENOSPC}
    journal = Journal(tmp_path, system=system)
    assert journal.load() is None
    with pytest.raises(StoreUnavailable, match="No space left"):
        await journal.begin(BEGIN)
    journal.close()


# --- a new file ------------------------------------------------------------------------------------------------------


async def test_a_file_that_has_grown_is_begun_anew_behind_an_outcome(bench, journal, monkeypatch):
    monkeypatch.setattr(journal_file, "COMPACT_RECORDS", 2)
    await journal.intend(INTENT)
    await journal.conclude(done())
    await eventually(lambda: bench.emit.of("journal_compacted"), "the new file")
    assert bench.emit.of("journal_compacted")[0]["kept_as"] == "journal-000000001.jsonl"
    assert bench.records == []
    assert bench.found() == journal.state
    assert journal.history()[0]["reason"] == "1.3"


async def test_a_new_file_that_cannot_be_begun_is_tried_again_behind_the_next_outcome(bench, journal, monkeypatch):
    monkeypatch.setattr(journal_file, "COMPACT_RECORDS", 2)
    await journal.intend(INTENT)
    bench.system.failing = {"link": errno.EIO}
    await journal.conclude(done())
    await bench.until_well()
    assert bench.records == ["intent", "outcome acknowledged"]
    bench.system.failing = {}
    await journal.conclude(done(drain_s=1.0))
    await eventually(lambda: bench.emit.of("journal_compacted"), "the new file")
    assert bench.found() == journal.state
