"""Room for one more client: who goes first, who is refused, and what happens when descriptors run out."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from bgproxy.core.descriptors import SPARE
from bgproxy.core.messages import OutOfDescriptors
from bgproxy.dataplane.room import FEW, HEARD_NS, MAX_REFUSED, Room
from bgproxy.shm import worker_slot as slot
from tests.support.plane import eventually, settings
from tests.support.raw_http import request, response
from tests.support.raw_upstream import answering

if TYPE_CHECKING:
    from tests.support.plane import Plane
    from tests.support.raw_client import RawClient
    from tests.support.raw_upstream import Conversation


# --- through a worker -------------------------------------------------------------------------------------------------


def limited(plane: Plane, connections: int) -> None:
    """Once no client of an earlier test is left."""
    eventually(lambda: plane.cells[slot.CLIENT_CONNECTIONS] == plane.cells[slot.BUFFERED_BYTES] == 0, "no client")
    plane.configure(settings(limits={"connections": connections}))


def in_order(plane: Plane, count: int) -> list[RawClient]:
    """Clients that are idle each for longer than the next: the clock of deadlines goes by ticks."""
    clients = []
    for _ in range(count):
        clients.append(plane.client())
        assert clients[-1].ask().status == 200
        beat = plane.worker.cells[slot.HEARTBEAT_NS]
        eventually(lambda beat=beat: plane.worker.cells[slot.HEARTBEAT_NS] > beat, "the next tick")
    return clients


@pytest.mark.says("one connection over `connections`")
def test_the_longest_idle_makes_room(plane: Plane) -> None:
    limited(plane, 3)
    first, second, third = in_order(plane, 3)
    assert first.ask().status == 200
    assert plane.client().ask().body == b"hello"
    assert second.is_ended(), "it was idle for longest"
    assert first.ask().status == third.ask().status == 200
    assert plane.counted(slot.closed_cell("make_room")) == 1
    assert plane.rejected("connections") == 0


def test_a_head_that_does_not_come_makes_room(plane: Plane) -> None:
    limited(plane, 2)
    half = plane.client()
    half.send(b"GET / HTTP/1.1\r\nX-A: b")
    eventually(lambda: plane.cells[slot.BUFFERED_BYTES] > 0, "the half head")
    (idle,) = in_order(plane, 1)
    assert plane.client().ask().body == b"hello"
    assert half.rest() == b""
    assert idle.ask().status == 200


@pytest.mark.says("one connection over `connections`")
def test_where_all_are_busy_one_more_is_answered_and_closed(plane: Plane) -> None:
    release = threading.Event()

    def script(conversation: Conversation) -> None:
        while True:
            conversation.request()
            release.wait(10)
            conversation.send(response(200, b"hello"))

    plane.blue.script = script
    limited(plane, 2)
    busy = [plane.client(), plane.client()]
    for client in busy:
        client.send(request())
    eventually(lambda: plane.cells[slot.IN_FLIGHT] == 2, "both to be busy")
    refused = [plane.client() for _ in range(3)]
    for client in refused:
        answer = client.answer()
        assert (answer.status, answer.one("X-BG-Reason"), answer.one("Retry-After")) == (503, "connections", "1")
        assert client.is_ended()
    assert plane.rejected("connections") == 3
    assert plane.counted(slot.closed_cell("make_room")) == 0
    release.set()
    assert [client.answer().body for client in busy] == [b"hello"] * 2
    busy[0].close()
    eventually(lambda: plane.summed(slot.CONNECTIONS_TOTAL) and plane.cells[slot.CLIENT_CONNECTIONS] == 1, "one client")
    assert plane.client().ask().body == b"hello", "who was refused takes no place"


def test_who_was_answered_and_does_not_leave_makes_room(plane: Plane) -> None:
    limited(plane, 1)
    lingering = plane.client()
    lingering.send(b"nonsense\r\n\r\n")
    assert lingering.answer().status == 400
    assert plane.client().ask().body == b"hello"
    assert plane.counted(slot.closed_cell("make_room")) == 1


def test_who_does_not_take_its_answers_makes_room_for_who_would(plane: Plane) -> None:
    limited(plane, 1)
    plane.blue.script = answering(response(200, bytes(8000)))
    slow = plane.client(receive_buffer=4096)
    slow.send(request() * 1000)
    eventually(lambda: plane.cells[slot.BUFFERED_BYTES] > 0 and stands_still(plane), "answers to be held back")
    plane.client().send(b"G")
    eventually(lambda: plane.counted(slot.closed_cell("make_room")) == 1, "the slow one to go")


def stands_still(plane: Plane) -> bool:
    """Nobody is asked any more."""
    before = len(plane.blue.requests)
    return before > 0 and not threading.Event().wait(0.3) and len(plane.blue.requests) == before and plane.is_idle()


def test_a_worker_keeps_to_the_clients_that_its_descriptors_have_room_for(plane: Plane) -> None:
    with plane.worker.descriptors(SPARE + 20):
        limited(plane, 10_000)  # of the 20, half are kept for upstreams
        clients = in_order(plane, 2) + [plane.client() for _ in range(18)]
        assert clients[-1].ask().status == 200
        assert clients[0].is_ended()
        eventually(lambda: plane.cells[slot.CLIENT_CONNECTIONS] == 10, "ten clients")
        assert plane.counted(slot.closed_cell("make_room")) == 10


def test_a_worker_without_descriptors_serves_on_and_says_so_once(plane: Plane) -> None:
    release = threading.Event()

    def script(conversation: Conversation) -> None:
        while True:
            conversation.request()
            release.wait(10)
            conversation.send(response(200, b"hello"))

    plane.blue.script = script
    limited(plane, 10_000)
    busy = plane.client()
    busy.send(request())
    eventually(lambda: plane.cells[slot.IN_FLIGHT] == 1, "the request")
    idle = [plane.client() for _ in range(3)]
    eventually(lambda: plane.cells[slot.CLIENT_CONNECTIONS] == 4, "all clients")
    with plane.worker.descriptors(3):  # those of the standard streams: every new one is too many
        assert plane.worker.hear(OutOfDescriptors).limit == 3
        assert all(client.is_ended() for client in idle), "they made room"
    release.set()
    assert busy.answer().body == b"hello"
    assert plane.client().ask().body == b"hello"
    beat = plane.worker.cells[slot.HEARTBEAT_NS]
    eventually(lambda: plane.worker.cells[slot.HEARTBEAT_NS] > beat, "the next tick")
    assert not [said for said in plane.worker._unheard if isinstance(said, OutOfDescriptors)]


# --- by itself --------------------------------------------------------------------------------------------------------


class FakeClient:
    """`since` is what idle_since says: 0 for a busy one."""

    def __init__(self, plane: FakePlane, since: int = 0) -> None:
        self.plane, self.since = plane, since
        self.made_room = self.was_ended = self.was_refused = False
        self.asked = 0
        plane.clients.add(self)

    def idle_since(self) -> int:
        self.asked += 1
        return self.since

    def make_room(self) -> None:
        self.made_room = True

    def refuse(self, refusal: object) -> None:
        self.was_refused = True
        self.linger()

    def linger(self) -> None:
        self.plane.room.lingering[self] = SimpleNamespace(since=self.plane.time, end=self.end)  # type: ignore[index, assignment]

    def end(self) -> None:
        self.was_ended = True


class FakePlane:
    def __init__(self) -> None:
        self.time = 10**12
        self.clients: set[FakeClient] = set()
        self.cells = [0] * slot.SLOT_CELLS
        self.deadlines = SimpleNamespace(now=1)
        self.reports: list[object] = []
        self.report = self.reports.append
        self.room = Room(self)  # type: ignore[arg-type]

    def clock(self) -> int:
        return self.time

    def comes(self) -> bool:
        return self.room.make(FakeClient(self))  # type: ignore[arg-type]


@pytest.fixture
def fake() -> FakePlane:
    return FakePlane()


def test_one_look_at_all_clients_serves_many_newcomers(fake: FakePlane) -> None:
    clients = [FakeClient(fake, since) for since in range(1, 16 * FEW * 2 + 1)]
    for _ in range(FEW):
        assert fake.comes()
    assert [client.made_room for client in clients[: FEW + 1]] == [True] * FEW + [False]
    assert clients[-1].asked == 1


def test_who_has_been_busy_since_the_look_is_spared(fake: FakePlane) -> None:
    first, second, third = (FakeClient(fake, since) for since in (1, 2, 3))
    assert fake.comes()
    second.since = 0
    assert fake.comes()
    assert (first.made_room, second.made_room, third.made_room) == (True, False, True)


def test_where_all_are_busy_there_is_one_look_a_tick(fake: FakePlane) -> None:
    busy = FakeClient(fake)
    assert [fake.comes() for _ in range(5)] == [False] * 5
    assert busy.asked == 1
    fake.deadlines.now += 1
    busy.since = 7
    assert fake.comes()
    assert busy.made_room


def test_the_newcomer_is_not_the_one_to_go(fake: FakePlane) -> None:
    newcomer = FakeClient(fake, 1)
    assert not fake.room.make(newcomer)  # type: ignore[arg-type]


def test_who_has_had_an_answer_goes_first_but_is_given_time_to_read_it(fake: FakePlane) -> None:
    idle, heard = FakeClient(fake, 1), FakeClient(fake)
    heard.linger()
    assert fake.comes()
    assert (idle.made_room, heard.was_ended) == (True, False)
    idle = FakeClient(fake, 1)
    fake.time += HEARD_NS
    assert fake.comes()
    assert (idle.made_room, heard.was_ended) == (False, True)
    heard = FakeClient(fake)
    heard.linger()
    fake.clients.discard(idle)
    assert fake.comes(), "rather that than nobody"
    assert heard.was_ended


def test_those_who_are_refused_do_not_pile_up(fake: FakePlane) -> None:
    refused = [FakeClient(fake) for _ in range(MAX_REFUSED + 2)]
    for client in refused:
        fake.room.turn_away(client)  # type: ignore[arg-type]
    assert all(client.was_refused for client in refused)
    assert [client.was_ended for client in refused] == [True, True] + [False] * MAX_REFUSED
    assert not fake.clients


def test_being_out_of_descriptors_is_said_once_a_minute(fake: FakePlane) -> None:
    for _ in range(3):
        fake.room.out_of_descriptors()
    assert len(fake.reports) == 1
    fake.time += 60 * 10**9
    fake.room.out_of_descriptors()
    assert len(fake.reports) == 2


def test_at_most_a_few_go_at_once_where_descriptors_have_run_out(fake: FakePlane) -> None:
    clients = [FakeClient(fake, 1) for _ in range(2 * FEW)]
    fake.room.out_of_descriptors()
    assert sum(client.made_room for client in clients) == FEW
