"""A start between the journal and workers that outlived their supervisor; tests/e2e/test_orphans.py has real ones."""

from __future__ import annotations

from typing import Any

import pytest

from bgproxy.controlplane.journal import Journal
from bgproxy.controlplane.recovery import foresee, recover, succeed
from bgproxy.core.journal import Intent, Outcome, State
from bgproxy.core.model import BLUE, GREEN
from bgproxy.errors import StartupError
from bgproxy.shm.live_pointer import Hold, Live
from tests.support.proxies import Recorder

SWITCH = Intent(epoch=8, from_="blue", to="green", kind="switch")


class Left:
    """Workers that serve by these words."""

    def __init__(self, *words: Live | None, stuck: bool = False) -> None:
        self._words, self._stuck = list(words), stuck

    def words(self) -> list[Live | None]:
        return self._words

    def pids(self) -> tuple[int, ...]:
        return tuple(range(1, len(self._words) + 1))

    async def end_now(self) -> list[int]:
        if self._stuck:
            raise ChildProcessError("still running after SIGKILL: pid 1")
        self._words = []
        return []


@pytest.fixture
def emit():
    return Recorder()


@pytest.fixture
async def start(tmp_path, emit):
    """The word that a start comes up with."""
    opened: list[Journal] = []

    def journal() -> Journal:
        opened.append(Journal(tmp_path, emit=emit))
        return opened[-1]

    async def start(orphans: Left, *records: Any, begin: bool = True, initial: Any = BLUE) -> tuple[int, str]:
        if begin:
            before = journal()
            await before.begin(State(epoch=7, live="blue", previous="green"))
            for record in records:
                await (before.intend(record) if isinstance(record, Intent) else before.conclude(record))
        state = await recover(journal(), orphans, initial, emit=emit)  # type: ignore[arg-type]
        return state.epoch, state.live

    yield start
    for each in opened:
        each.close()


@pytest.mark.parametrize(
    ("words", "comes_up"),
    [
        ((), (8, "green")),
        ((Live(7, BLUE),), (7, "blue")),
        ((Live(7, BLUE, Hold.ALL),), (7, "blue")),
        ((Live(8, GREEN),), (8, "green")),
        ((Live(7, BLUE), Live(8, GREEN), Live(7, BLUE)), (8, "green")),
        ((Live(9, BLUE),), (9, "blue")),
    ],
)
async def test_an_open_switch_is_what_the_newest_word_of_the_workers_says(start, emit, words, comes_up):
    orphans = Left(*words)
    assert await start(orphans, SWITCH) == comes_up
    assert orphans.words() == list(words), "they go on"
    assert not emit.of("orphans_not_trusted")


@pytest.mark.parametrize("stuck", [False, True])
async def test_where_a_word_cannot_be_read_the_workers_are_ended_before_the_journal_decides(start, emit, stuck):
    orphans = Left(Live(7, BLUE), None, stuck=stuck)
    assert await start(orphans, SWITCH) == (8, "green")
    (told,) = emit.of("orphans_not_trusted")
    assert told["pids"] == [1, 2]
    assert "cannot be read" in told["reason"]
    assert bool(orphans.words()) is stuck
    assert bool(emit.of("orphans_not_killed")) is stuck


@pytest.mark.parametrize("words", [(None,), (None, Live(7, BLUE))])
async def test_with_nothing_open_a_word_that_cannot_be_read_is_no_reason_to_end_anybody(start, words):
    orphans = Left(*words)
    assert await start(orphans) == (7, "blue")
    assert orphans.words()


async def test_workers_that_cannot_be_by_the_journal_are_ended(start, emit):
    orphans = Left(Live(7, BLUE))
    assert await start(orphans, SWITCH, Outcome(epoch=8, result="acknowledged")) == (8, "green")
    (told,) = emit.of("orphans_not_trusted")
    assert "the workers serve blue as epoch 7, and by the journal green is live as epoch 8" in told["reason"]
    assert orphans.words() == []


async def test_a_rollback_that_the_disk_never_took_is_found_with_the_workers(start, emit):
    assert await start(Left(Live(8, GREEN))) == (8, "green")
    assert emit.of("switch_recovered") == [{"epoch": 8, "result": "recovered", "live": "green"}]


async def test_where_the_journal_was_moved_away_the_workers_say_what_is_live(start, emit):
    assert await start(Left(Live(41, GREEN)), begin=False) == (41, "green")
    assert emit.of("state_from_workers") == [{"epoch": 41, "live": "green"}]


async def test_a_successor_looks_until_it_may_write_and_then_has_what_was_written_meanwhile(tmp_path, emit):
    old, new = Journal(tmp_path, emit=emit), Journal(tmp_path, emit=emit)
    with pytest.raises(StartupError, match="not there any more"):
        foresee(new)
    await old.begin(State(epoch=7, live="blue", previous="green"))
    foreseen = foresee(new)
    await old.answered("k", "h", 200, {})
    state = succeed(new, foreseen)
    assert (state.epoch, list(state.answers)) == (7, ["k"])
    new.close()
    third = Journal(tmp_path, emit=emit)
    await old.set_maintenance(True)
    with pytest.raises(StartupError, match="says something else"):
        succeed(third, foreseen)
    third.close()
    old.close()


@pytest.mark.parametrize(("initial", "live"), [(BLUE, "blue"), (GREEN, "green")])
async def test_at_the_very_first_start_the_configuration_says_it(start, emit, initial, live):
    assert await start(Left(), begin=False, initial=initial) == (0, live)
    assert emit.events == []
