"""When streams have to go: a plane whose word, clock and dice are the test's."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from bgproxy.core.model import BLUE, GREEN, Colour
from bgproxy.core.settings import StreamPolicy, StreamRoute, StreamSettings
from bgproxy.dataplane.farewell import AT_ONCE, Farewells
from bgproxy.dataplane.leaving import Leaving
from bgproxy.shm import worker_slot as slot
from bgproxy.shm.live_pointer import Hold, pack

S = 1_000_000_000
KEEP = StreamPolicy()
NOW = StreamPolicy(policy="close-now", spread=10.0)
AFTER = StreamPolicy(policy="close-after", timeout=60.0, spread=10.0)


class Scene:
    """`tick(at)` is one at so many seconds; `chances` come one after the other, then 0.5 for ever."""

    def __init__(self, *chances: float) -> None:
        self.plane: Any = SimpleNamespace(
            live=[0], cells=[0] * slot.GAUGE_CELLS, deadlines=SimpleNamespace(now=0), loop=None
        )
        left = list(chances)
        self.farewells = Farewells(self.plane, chance=lambda: left.pop(0) if left else 0.5)
        self.gone: list[str] = []
        self.goto(BLUE, 1)

    def goto(self, colour: Colour, epoch: int, hold: Hold = Hold.OPEN) -> None:
        self.plane.live[0] = pack(epoch, colour, hold)

    def tick(self, at: float) -> list[str]:
        """Who was asked to go by then, since the last tick."""
        self.plane.deadlines.now = int(at * S)
        self.farewells.tick(int(at * S))
        gone, self.gone = self.gone, []
        return gone

    def stream(self, name: str, colour: Colour = BLUE, policy: StreamPolicy = NOW, *, again_s: float = 0) -> Stream:
        made = Stream(self, name, colour, policy, again_s)
        self.farewells.began(made)
        return made

    @property
    def planned(self) -> tuple[int, int]:
        return tuple(self.plane.cells[slot.STREAMS_LEAVING :][:2])  # type: ignore[return-value]


class Stream(Leaving):
    kind = slot.TUNNEL

    def __init__(self, scene: Scene, name: str, colour: Colour, policy: StreamPolicy, again_s: float) -> None:
        super().__init__(scene.plane, colour, policy)
        self._scene, self._name, self._again_s = scene, name, again_s

    def leave(self, now: int) -> int:
        self._scene.gone.append(self._name)
        self.is_asked = True
        if not self._again_s:
            self._scene.farewells.ended(self)
        return int(self._again_s * S)


def test_nothing_happens_while_their_colour_is_live():
    scene = Scene()
    scene.stream("a")
    assert [scene.tick(at) for at in (0, 100, 10_000)] == [[], [], []]
    scene.goto(BLUE, 1, Hold.ALL)
    assert scene.tick(20_000) == []
    assert scene.planned == (0, 0)


def test_close_now_spreads_the_ends_over_the_time_after_the_switch():
    scene = Scene(0.9, 0.0, 0.5)
    for name in "abc":
        scene.stream(name)
    scene.goto(GREEN, 2)
    assert len(scene.tick(100)) == 1
    assert scene.planned == (2, 0)
    assert [len(scene.tick(at)) for at in (104.9, 105, 108.9, 109)] == [0, 1, 0, 1]
    assert scene.planned == (0, 0)


def test_no_two_clients_of_many_come_back_as_a_herd():
    """With real dice: of a hundred streams no tenth of the spread gets more than a third, and none ends after it."""
    scene = Scene()
    scene.farewells.chance = random.Random(7).random
    for number in range(100):
        scene.stream(str(number))
    scene.goto(GREEN, 2)
    ends = [len(scene.tick(at)) for at in range(100, 111)]
    assert sum(ends) == 100
    assert max(ends) <= 33
    assert min(ends[1:]) > 0


def test_close_after_begins_its_spread_when_the_time_is_over():
    scene = Scene(0.25)
    scene.stream("a", policy=AFTER)
    scene.goto(GREEN, 2)
    assert scene.tick(100) == []
    assert scene.tick(162.4) == []
    assert scene.tick(162.5) == ["a"]


def test_a_rollback_cancels_and_the_next_switch_plans_anew():
    scene = Scene(0.0, 0.0)
    scene.stream("a", policy=AFTER)
    scene.goto(GREEN, 2)
    scene.tick(100)
    assert scene.planned == (1, 0)
    scene.goto(BLUE, 3)
    assert scene.tick(159) == []
    assert scene.planned == (0, 0)
    assert scene.tick(161) == []
    scene.goto(GREEN, 4)
    assert scene.tick(200) == []
    assert scene.tick(259.9) == []
    assert scene.tick(260) == ["a"]


def test_the_word_is_looked_at_in_the_very_moment():
    """The switch back is seen in the tick in which the stream is due."""
    scene = Scene(0.0)
    scene.stream("a", policy=AFTER)
    scene.goto(GREEN, 2)
    scene.tick(100)
    scene.goto(BLUE, 3)
    assert scene.tick(160) == []
    assert scene.planned == (0, 0)


def test_two_switches_between_two_looks_count_as_well():
    """Away and back: it is live as before. Away, back and away: it has to go."""
    scene = Scene(0.0)
    scene.stream("a")
    scene.tick(0)
    scene.goto(BLUE, 3)
    assert scene.tick(1) == []
    scene.goto(GREEN, 6)
    assert scene.tick(2) == ["a"]


def test_a_stream_that_begins_on_the_live_colour_is_left_alone():
    scene = Scene()
    scene.goto(GREEN, 2)
    scene.tick(0)
    scene.stream("a", GREEN)
    assert scene.tick(10_000) == []


def test_one_whose_request_came_before_the_switch_goes_too():
    scene = Scene(0.5, 0.5, 0.0)
    scene.goto(GREEN, 2)
    scene.tick(100)
    scene.tick(130)
    scene.stream("late", policy=AFTER)
    scene.stream("now")
    assert scene.tick(134.9) == []
    assert scene.tick(135) == ["now"]
    assert scene.tick(164.9) == []
    assert scene.tick(165) == ["late"]


def test_one_that_begins_between_the_switch_and_the_look_at_it_gets_all_of_its_time():
    scene = Scene(0.0)
    scene.tick(0)
    scene.tick(1000)
    scene.goto(GREEN, 2)
    scene.stream("a", policy=AFTER)
    assert scene.tick(1000.1) == []
    assert scene.tick(1059) == []
    assert scene.tick(1060) == ["a"]


def test_one_that_wants_more_time_is_asked_again():
    scene = Scene(0.0)
    scene.stream("a", again_s=5)
    scene.goto(GREEN, 2)
    assert scene.tick(100) == ["a"]
    assert scene.planned == (1, 0)
    assert scene.tick(104) == []
    assert scene.tick(105) == ["a"]


def test_a_rollback_while_it_waits_cancels_and_after_its_goodbye_does_not():
    scene = Scene(0.0, 0.0)
    waiting, gone = scene.stream("waiting", again_s=5), scene.stream("gone", again_s=5)
    scene.goto(GREEN, 2)
    assert sorted(scene.tick(100)) == ["gone", "waiting"]
    gone.has_gone = True
    scene.goto(BLUE, 3)
    scene.tick(101)
    assert (waiting.is_asked, gone.is_asked) == (False, True)
    assert scene.planned == (1, 0)
    assert scene.tick(105) == ["gone"]


def test_what_ended_by_itself_is_not_asked():
    scene = Scene(0.0)
    ended = scene.stream("a", policy=AFTER)
    scene.goto(GREEN, 2)
    scene.tick(100)
    scene.farewells.ended(ended)
    assert scene.planned == (0, 0)
    assert scene.tick(1000) == []


def test_what_is_over_is_not_remembered_until_its_instant():
    scene = Scene()
    scene.goto(GREEN, 2)
    for _ in range(10 * AT_ONCE):
        scene.farewells.ended(scene.stream("a", policy=AFTER))
    scene.tick(1)
    assert len(scene.farewells._due) <= AT_ONCE


def test_however_many_are_due_other_clients_are_served_in_between():
    scene = Scene()
    policy = StreamPolicy(policy="close-now", spread=0.0)
    for number in range(AT_ONCE + 1):
        scene.stream(str(number), policy=policy)
    scene.goto(GREEN, 2)
    assert [len(scene.tick(at)) for at in (1, 1.125, 1.25)] == [AT_ONCE, 1, 0]


def test_a_worker_that_leaves_asks_all_of_them_within_half_of_its_time():
    scene = Scene(0.0, 1.0)
    scene.stream("live", policy=AFTER)
    scene.goto(GREEN, 2)
    scene.tick(0)
    scene.stream("new", GREEN)
    scene.farewells.chance = lambda: 1.0
    scene.farewells.leave_all(int(5 * S), 4.0)
    assert scene.tick(6.9) == []
    assert sorted(scene.tick(7)) == ["live", "new"]


def test_the_longest_beginning_of_the_path_counts():
    farewells = Scene().farewells
    routes = [("/chat/", NOW), ("/chat/private/", KEEP), ("/chat/private/loud/", AFTER)]
    farewells.configure(StreamSettings(AFTER, tuple(StreamRoute(path, policy) for path, policy in routes)))
    chosen = {
        target: farewells.policy_of(target)
        for target in (
            b"/",
            b"/chat",
            b"/chat/",
            b"/chat/x?y",
            b"/chat/private/",
            b"/chat/private/loud/1",
            b"/a?/chat/",
        )
    }
    assert chosen == {
        b"/": AFTER,
        b"/chat": AFTER,
        b"/chat/": NOW,
        b"/chat/x?y": NOW,
        b"/chat/private/": None,
        b"/chat/private/loud/1": AFTER,
        b"/a?/chat/": AFTER,
    }


@pytest.mark.parametrize(("policy", "expected"), [(KEEP, None), (NOW, NOW)])
def test_without_a_route_the_default_counts(policy, expected):
    farewells = Scene().farewells
    farewells.configure(StreamSettings(policy))
    assert farewells.policy_of(b"/chat/?a") == expected


def test_an_order_to_keep_lets_all_live_until_the_next_switch():
    scene = Scene()
    scene.stream("a")
    scene.goto(GREEN, 2)
    scene.tick(0)  # planned before the order was heard
    scene.farewells.order("keep")
    assert scene.planned == (0, 0)
    assert scene.tick(1000) == []
    scene.stream("late")  # its request came before the switch
    assert scene.tick(2000) == []
    scene.goto(BLUE, 3)
    scene.goto(GREEN, 4)
    scene.tick(3000)
    assert sorted(scene.tick(3010)) == ["a", "late"]


def test_an_order_to_close_now_does_not_wait_for_the_time_that_the_policy_gives():
    scene = Scene()
    scene.stream("now", policy=NOW)
    scene.stream("after", policy=AFTER)
    scene.goto(GREEN, 2)
    scene.tick(0)
    scene.farewells.order("close-now")
    assert sorted(scene.tick(5)) == ["after", "now"]
    scene.stream("live", colour=GREEN)
    assert scene.tick(1000) == []


def test_an_order_changes_nothing_for_streams_of_the_live_colour_nor_for_who_is_asked_already():
    scene = Scene()
    scene.stream("slow", again_s=3)
    scene.stream("live", colour=GREEN)
    scene.goto(GREEN, 2)
    scene.tick(0)
    assert scene.tick(5) == ["slow"]
    scene.farewells.order("close-now")
    assert scene.tick(6) == []
    assert scene.tick(8) == ["slow"]
