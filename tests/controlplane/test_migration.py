from __future__ import annotations

import os

import pytest

from bgproxy.controlplane.journal import Journal
from bgproxy.controlplane.migration import decode, find
from bgproxy.core.journal import LastSwitch, State
from bgproxy.errors import StateCorrupt, StoreUnavailable
from tests.support.faulty_os import MoodyOs
from tests.support.state_files import state_file


@pytest.fixture
def load(tmp_path):
    """A start: the state it comes up with."""
    opened = []

    def start(**options) -> State | None:
        opened.append(Journal(tmp_path, **options))
        return opened[-1].load()

    yield start
    for each in opened:
        each.close()


def test_a_state_file_becomes_a_journal_with_everything_it_said(load, tmp_path):
    (tmp_path / "state.json").write_bytes(state_file())
    state = load()
    assert (state.epoch, state.live, state.previous) == (8, "green", "blue")
    assert state.last_switch == LastSwitch(
        at="2026-01-31T12:00:00Z", from_="blue", to="green", kind="switch", by="ci", reason="1.2 → 1.3", forced=False
    )
    assert [(entry.epoch, entry.to, entry.reason) for entry in state.history] == [(8, "green", "1.2 → 1.3")]
    assert sorted(os.listdir(tmp_path)) == ["journal.jsonl", "state.json.migrated"]
    assert (tmp_path / "state.json.migrated").read_bytes() == state_file()
    assert load() == state


def test_a_state_before_the_first_switch_has_nothing_to_go_back_to(load, tmp_path):
    (tmp_path / "state.json").write_bytes(state_file(epoch=0, live="blue", previous=None, last_switch=None))
    assert load() == State(epoch=0, live="blue")


def test_a_state_file_that_was_left_behind_is_put_away_later(load, tmp_path):
    (tmp_path / "state.json").write_bytes(state_file())
    system = MoodyOs()
    system.failing["replace"] = 5
    with pytest.raises(StoreUnavailable):
        load(system=system)
    assert sorted(os.listdir(tmp_path)) == ["state.json"]
    first = load()
    (tmp_path / "state.json.migrated").rename(tmp_path / "state.json")
    assert load() == first
    assert sorted(os.listdir(tmp_path)) == ["journal.jsonl", "state.json.migrated"]


def test_a_state_file_that_is_ahead_of_the_journal_is_never_guessed_around(load, tmp_path):
    (tmp_path / "state.json").write_bytes(state_file())
    load()
    (tmp_path / "state.json").write_bytes(state_file(epoch=9, live="blue", previous="green"))
    with pytest.raises(
        StateCorrupt, match=r"epoch 9 \(blue live\).*epoch 8 \(green live\): an older bgproxy"
    ) as caught:
        load()
    assert "move the one away" in caught.value.hint


def test_a_damaged_state_file_beside_a_good_journal_is_left_alone(load, tmp_path):
    (tmp_path / "state.json").write_bytes(state_file())
    state = load()
    (tmp_path / "state.json").write_bytes(b"rubbish")
    assert load() == state
    assert (tmp_path / "state.json").read_bytes() == b"rubbish"


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "it is empty"),
        (b"\0" * 300, "it is not JSON"),
        (state_file()[:-20], "it is not JSON"),
        (b"[]", "it is not a JSON object"),
        (b'{"live": "blue"}', "its format is None, expected 1"),
        (state_file(format=True), "its format is True, expected 1"),
        (state_file(format=2), "its format is 2, expected 1"),
        (state_file().replace(b'"epoch": 8', b'"epoch": 9'), "its checksum does not match its contents"),
        (state_file(live="purple"), "a member is wrong: Invalid enum value 'purple'"),
        (state_file(epoch="8"), "a member is wrong: Expected `int`, got `str`"),
        (state_file(epoch=-1), "its epoch is -1, expected 0 or more"),
        (state_file(epoch="absent"), "a member is wrong: Object missing required field `epoch`"),
        (state_file(mode="fence"), "a member is wrong: Object contains unknown field `mode`"),
    ],
)
def test_a_damaged_state_file_is_an_error_that_names_it_and_the_remedy(load, tmp_path, data, complaint):
    (tmp_path / "state.json").write_bytes(data)
    with pytest.raises(StateCorrupt) as caught:
        load()
    assert str(tmp_path / "state.json") in caught.value.detail
    assert complaint in caught.value.detail
    assert "[switch] initial" in caught.value.hint
    assert os.listdir(tmp_path) == ["state.json"]
    assert (tmp_path / "state.json").read_bytes() == data


def test_no_flipped_bit_goes_unnoticed():
    good, noticed = state_file(), 0
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= 1 << position % 8
        try:
            assert decode(bytes(bad)) == decode(good), "white space says nothing"
        except ValueError:
            noticed += 1
    assert noticed > len(good) * 0.8


@pytest.mark.parametrize("kind", ["directory", "pipe"])
def test_something_else_in_the_place_of_the_file_is_an_error(tmp_path, kind):
    if kind == "directory":
        (tmp_path / "state.json").mkdir()
    else:
        os.mkfifo(tmp_path / "state.json")
    with pytest.raises(StateCorrupt, match=r"state\.json: the state cannot be read"):
        find(tmp_path)
