"""Read, handle, write: what waits is handled in order, and nothing overtakes it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from bgproxy.dataplane.turn import Turn


class FakeLoop:
    """Runs what `call_soon` was given when the test says so."""

    def __init__(self) -> None:
        self.soon: list[Any] = []
        self.reported: list[dict[str, Any]] = []

    def call_soon(self, callback: Any) -> None:
        self.soon.append(callback)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.reported.append(context)

    def turn(self) -> None:
        due, self.soon = self.soon, []
        for callback in due:
            callback()


class FakeHandler:
    """Notes what it handles, and writes it on."""

    def __init__(self, turn: Turn, name: str, log: list[str]) -> None:
        self.waiting: bytes | None = None
        self.transport: Any = SimpleNamespace(abort=lambda: log.append(f"{name} aborted"))
        self._turn, self._name, self._log = turn, name, log

    def handle(self, data: bytes) -> None:
        if data == b"bug":
            raise ValueError("a bug of ours")
        self._log.append(f"{self._name} handles {data.decode()}")
        self._turn.write(lambda out: self._log.append(f"{self._name} sends {out.decode()}"), data)


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def loop() -> FakeLoop:
    return FakeLoop()


@pytest.fixture
def turn(loop: FakeLoop) -> Turn:
    return Turn(loop)  # type: ignore[arg-type]


def test_all_that_came_is_handled_before_anything_is_written(turn: Turn, loop: FakeLoop, log: list[str]) -> None:
    turn.put(FakeHandler(turn, "a", log), b"1")
    turn.put(FakeHandler(turn, "b", log), b"2")
    assert log == []
    loop.turn()
    assert log == ["a handles 1", "b handles 2", "a sends 1", "b sends 2"]
    assert loop.soon == [], "one turn, asked for once"


def test_what_comes_twice_from_one_connection_is_handled_at_once_and_as_one(
    turn: Turn, loop: FakeLoop, log: list[str]
) -> None:
    first = FakeHandler(turn, "a", log)
    turn.put(FakeHandler(turn, "b", log), b"2")
    turn.put(first, b"whole response")
    turn.put(first, b" and surplus")
    assert log == ["a handles whole response and surplus"], "nobody is served between the two"
    loop.turn()
    assert log[1:] == ["b handles 2", "a sends whole response and surplus", "b sends 2"]


def test_a_close_does_not_overtake_what_waits(turn: Turn, loop: FakeLoop, log: list[str]) -> None:
    handler = FakeHandler(turn, "a", log)
    turn.put(handler, b"1")
    turn.handle_now(handler)
    turn.flush()
    assert log == ["a handles 1", "a sends 1"]
    loop.turn()
    assert log == ["a handles 1", "a sends 1"], "once only"


def test_a_write_outside_of_a_turn_asks_for_one(turn: Turn, loop: FakeLoop, log: list[str]) -> None:
    turn.write(lambda data: log.append(data.decode()), b"late")
    assert log == []
    loop.turn()
    assert log == ["late"]
    turn.write(lambda data: log.append(data.decode()), b"later")
    loop.turn()
    assert log == ["late", "later"]


def test_what_comes_while_the_rest_is_handled_gets_a_turn_of_its_own(
    turn: Turn, loop: FakeLoop, log: list[str]
) -> None:
    late = FakeHandler(turn, "late", log)

    class Resuming(FakeHandler):
        def handle(self, data: bytes) -> None:
            turn.put(late, data)

    turn.put(Resuming(turn, "first", log), b"1")
    loop.turn()
    assert log == []
    loop.turn()
    assert log == ["late handles 1", "late sends 1"]


def test_a_bug_costs_the_connection_it_was_met_on_and_no_other(turn: Turn, loop: FakeLoop, log: list[str]) -> None:
    turn.put(FakeHandler(turn, "a", log), b"bug")
    turn.put(FakeHandler(turn, "b", log), b"2")
    loop.turn()
    assert log == ["a aborted", "b handles 2", "b sends 2"]
    assert isinstance(loop.reported[0]["exception"], ValueError)


def test_a_connection_that_was_closed_meanwhile_stops_no_other_write(
    turn: Turn, loop: FakeLoop, log: list[str]
) -> None:
    def closed(data: bytes) -> None:
        raise RuntimeError("the handler is closed")

    turn.write(closed, b"1")
    turn.write(lambda data: log.append(data.decode()), b"2")
    loop.turn()
    assert log == ["2"]


def test_a_handler_has_nothing_to_handle_when_nothing_waits(turn: Turn, log: list[str]) -> None:
    turn.handle_now(FakeHandler(turn, "a", log))
    assert log == []


def test_what_is_handled_before_its_turn_begins_now(turn: Turn, log: list[str]) -> None:
    handler = FakeHandler(turn, "a", log)
    handler.waiting = b"1"
    turn.now = 0
    turn.handle_now(handler)
    assert turn.now > 0, "and not when the last turn was, however long ago"


def test_a_bug_in_counting_does_not_stop_the_turns(turn: Turn, loop: FakeLoop, log: list[str]) -> None:
    def count() -> None:
        raise ValueError("a bug of ours")

    turn.put(FakeHandler(turn, "a", log), b"1")
    turn.finished.append(SimpleNamespace(count=count))
    with pytest.raises(ValueError, match="a bug of ours"):
        loop.turn()
    turn.put(FakeHandler(turn, "a", log), b"2")
    loop.turn()
    assert log[2:] == ["a handles 2", "a sends 2"]
