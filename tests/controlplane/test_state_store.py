from __future__ import annotations

import os
import stat
import threading

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgproxy.controlplane.state_store import LastSwitch, State, StateStore, decode, encode
from bgproxy.core.model import BLUE, GREEN
from bgproxy.errors import StateCorrupt, StoreUnavailable
from tests.support.faulty_os import Died, FaultyOs

OLD = State(epoch=7, live="blue", previous="green")
NEW = State(
    epoch=8,
    live="green",
    previous="blue",
    last_switch=LastSwitch(
        at="2026-01-31T12:00:00Z", from_="blue", to="green", kind="switch", by="ci", reason="1.2 → 1.3", forced=False
    ),
)


@pytest.fixture
def store(tmp_path):
    store = StateStore(tmp_path)
    yield store
    store.close()


def test_where_nothing_was_saved_there_is_no_state(store):
    assert store.load() is None


async def test_what_was_saved_is_loaded(store, tmp_path):
    await store.save(OLD)
    await store.save(NEW)
    assert store.load() == NEW
    assert stat.S_IMODE((tmp_path / "state.json").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]
    assert (NEW.live_colour, NEW.previous_colour) == (GREEN, BLUE)


def test_before_the_first_switch_there_is_no_previous_colour():
    assert State(epoch=0, live="blue").previous_colour is None


@given(
    st.integers(0, 2**63 - 1), st.sampled_from(["blue", "green"]), st.text(st.characters(codec="utf-8"), max_size=50)
)
def test_any_state_survives_the_round_trip(epoch, live, reason):
    last = msgspec.structs.replace(NEW.last_switch, reason=reason)
    state = State(epoch=epoch, live=live, last_switch=last)
    assert decode(encode(state)) == state


def test_a_left_over_temporary_file_is_removed_and_never_read(store, tmp_path):
    store.save_now(OLD)
    (tmp_path / "state.json.new").write_bytes(encode(NEW))
    assert store.load() == OLD
    assert not (tmp_path / "state.json.new").exists()


def changed(**members: object) -> bytes:
    """A state with these members, its checksum right for them."""
    from bgproxy.controlplane import state_store

    everything = {"format": 1, **msgspec.to_builtins(NEW)} | members
    everything = {key: value for key, value in everything.items() if value != "absent"}
    everything["checksum"] = state_store._checksum(everything)
    return orjson.dumps(everything, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2) + b"\n"


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "it is empty"),
        (b"\0" * 300, "it is not JSON"),
        (encode(NEW)[:-20], "it is not JSON"),
        (b"[]", "it is not a JSON object"),
        (b'{"live": "blue"}', "its format is None, expected 1"),
        (changed(format=True), "its format is True, expected 1"),
        (changed(format=2), "made by a newer bgproxy; this one reads up to 1"),
        (encode(NEW).replace(b'"epoch": 8', b'"epoch": 9'), "its checksum does not match its contents"),
        (changed(live="purple"), "a member is wrong: Invalid enum value 'purple'"),
        (changed(epoch="8"), "a member is wrong: Expected `int`, got `str`"),
        (changed(epoch=-1), "its epoch is -1, expected 0 or more"),
        (changed(epoch="absent"), "a member is wrong: Object missing required field `epoch`"),
        (changed(mode="fence"), "a member is wrong: Object contains unknown field `mode`"),
        (encode(NEW) + b"\n", "its bytes are not as bgproxy writes them"),
    ],
)
def test_a_corrupt_state_is_an_error_that_names_the_file_and_the_remedy(store, tmp_path, data, complaint):
    (tmp_path / "state.json").write_bytes(data)
    with pytest.raises(StateCorrupt) as caught:
        store.load()
    assert str(tmp_path / "state.json") in caught.value.detail
    assert complaint in caught.value.detail
    assert "move" in caught.value.hint
    assert "[switch] initial" in caught.value.hint
    assert (tmp_path / "state.json").read_bytes() == data


def test_the_error_shows_what_can_still_be_made_out(store, tmp_path):
    (tmp_path / "state.json").write_bytes(encode(NEW)[:-3])
    with pytest.raises(StateCorrupt, match='it seems to say live "green" and epoch 8'):
        store.load()
    (tmp_path / "state.json").write_bytes(b"rubbish")
    with pytest.raises(StateCorrupt, match="neither colour nor epoch can be made out"):
        store.load()


def test_no_flipped_byte_goes_unnoticed():
    good = encode(NEW)
    for position in range(len(good)):
        for bit in range(8):
            bad = bytearray(good)
            bad[position] ^= 1 << bit
            with pytest.raises(ValueError, match="it"):
                decode(bytes(bad))


@given(st.binary(max_size=200))
def test_garbage_is_never_a_state(data):
    with pytest.raises(ValueError, match="it"):
        decode(data)


@pytest.mark.parametrize("kind", ["directory", "pipe"])
def test_something_else_in_the_place_of_the_file_is_an_error(store, tmp_path, kind):
    if kind == "directory":
        (tmp_path / "state.json").mkdir()
    else:
        os.mkfifo(tmp_path / "state.json")
    with pytest.raises(StateCorrupt, match=r"state\.json: the state cannot be read"):
        store.load()


# --- faults at every boundary ----------------------------------------------------------------------------------------


def boundaries(tmp_path) -> int:
    system = FaultyOs()
    store = StateStore(tmp_path, system=system)
    store.save_now(OLD)
    store.close()
    assert [call for call in system.calls if call != "unlink"] == [
        "open", "write", "fsync", "close", "replace", "open", "fsync", "close",
    ]  # fmt: skip
    return len(system.calls)


def fresh(tmp_path, number: int, after: bool, first: bool):
    directory = tmp_path / f"{number}-{after}-{first}"
    directory.mkdir()
    if not first:
        before = StateStore(directory)
        before.save_now(OLD)
        before.close()
    return directory


def loaded(directory) -> State | None:
    store = StateStore(directory)
    try:
        return store.load()
    finally:
        store.close()


@pytest.mark.parametrize("first", [True, False], ids=["first state", "later state"])
@pytest.mark.parametrize("after", [False, True], ids=["before the call", "after the call"])
def test_whatever_moment_the_process_dies_in_the_file_holds_the_old_state_or_the_new_one(tmp_path, first, after):
    outcomes = []
    for number in range(boundaries(tmp_path)):
        directory = fresh(tmp_path, number, after, first)
        store = StateStore(directory, system=FaultyOs(number, fault="die", after=after))
        with pytest.raises(Died):
            store.save_now(NEW)
        store.close()
        outcomes.append(loaded(directory))
    assert set(outcomes) == {None if first else OLD, NEW}


@pytest.mark.parametrize("first", [True, False], ids=["first state", "later state"])
@pytest.mark.parametrize("after", [False, True], ids=["before the call", "after the call"])
def test_a_write_that_fails_anywhere_leaves_the_old_state_and_a_retry_works(tmp_path, first, after):
    for number in range(boundaries(tmp_path)):
        directory = fresh(tmp_path, number, after, first)
        system = FaultyOs(number, after=after)
        store = StateStore(directory, system=system)
        if system_forgives(number):
            store.save_now(NEW)
        else:
            with pytest.raises(StoreUnavailable, match="nothing was changed") as caught:
                store.save_now(NEW)
            assert "No space left on device" in caught.value.detail
            assert loaded(directory) == (None if first else OLD)
            assert sorted(os.listdir(directory)) == ([] if first else ["state.json"])
        store.save_now(NEW)
        store.close()
        assert loaded(directory) == NEW


def system_forgives(number: int) -> bool:
    return number == 0  # the removal of a left-over file: where it matters, the open that follows fails


@pytest.mark.parametrize("first", [True, False], ids=["first state", "later state"])
def test_where_the_disk_takes_nothing_back_the_error_tells_what_a_restart_would_find(tmp_path, first):
    directory = fresh(tmp_path, 0, False, first)
    store = StateStore(directory, system=FaultyOs(6, once=False))  # from the opening of the directory on
    with pytest.raises(StoreUnavailable, match="a restart would come up with it"):
        store.save_now(NEW)
    store.close()
    assert loaded(directory) == NEW


async def test_a_short_write_is_continued(tmp_path):
    system = FaultyOs(2, fault="short")
    store = StateStore(tmp_path, system=system)
    await store.save(NEW)
    store.close()
    assert system.calls.count("write") == 2
    assert loaded(tmp_path) == NEW


async def test_the_disk_is_never_waited_for_on_the_loop(tmp_path):
    threads = set()

    class Watched(FaultyOs):
        def __getattr__(self, name):
            threads.add(threading.get_ident())
            return super().__getattr__(name)

    store = StateStore(tmp_path, system=Watched())
    await store.save(NEW)
    store.close()
    assert threads
    assert threading.get_ident() not in threads
