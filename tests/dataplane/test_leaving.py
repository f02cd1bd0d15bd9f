"""How a stream ends because a switch has left it and its policy says so, by what both of its sides see."""

from __future__ import annotations

import msgspec
import pytest
from websockets.frames import Frame, Opcode

from bgproxy.core.model import BLUE, GREEN
from bgproxy.core.settings import StreamPolicy, StreamSettings
from bgproxy.shm import worker_slot as slot
from tests.support.desk import Desk
from tests.support.plane import Plane, eventually
from tests.support.raw_client import RawClient
from tests.support.raw_http import Ended, request
from tests.support.streams import CLOSE_1012, EVENTS, NOW, Puppet, leaving, next_tick
from tests.support.tunnels import SWITCHING, UPGRADE, tunnelled

LATER = StreamPolicy(policy="close-after", timeout=3600.0, spread=0.0)
HELLO = Frame(Opcode.TEXT, b"hello").serialize(mask=False)
ANSWER = Frame(Opcode.CLOSE, b"\x03\xf4").serialize(mask=True)


def websocket(plane: Plane, policy: StreamPolicy = NOW, *early: bytes) -> tuple[Puppet, RawClient]:
    plane.blue.script = puppet = Puppet(SWITCHING + b"".join(early))
    plane.configure(leaving(policy))
    return puppet, tunnelled(plane)


def event_stream(plane: Plane, head: bytes = EVENTS, policy: StreamPolicy = NOW) -> tuple[Puppet, RawClient]:
    plane.blue.script = puppet = Puppet(head)
    plane.configure(leaving(policy))
    client = plane.client()
    client.send(request(target="/events"))
    client.until(b"\r\n\r\n")
    return puppet, client


def waits_for_its_place(plane: Plane, kind: int) -> None:
    """Asked to go, which it will once it can: the second look is five seconds away."""
    eventually(lambda: plane.worker.cells[slot.STREAMS_LEAVING + BLUE] == 1, "a stream that has to go")
    next_tick(plane)
    assert plane.counted(slot.closed_stream_cell(BLUE, kind)) == 0


# --- WebSockets -------------------------------------------------------------------------------------------------------


@pytest.mark.says("a switch leaves its colour")
def test_without_a_policy_nothing_happens_and_nothing_is_looked_at(plane: Plane) -> None:
    puppet, client = websocket(plane, StreamPolicy())
    plane.publish(GREEN)
    next_tick(plane)
    next_tick(plane)
    assert plane.cells[slot.STREAMS_LEAVING + BLUE] == 0
    puppet.say(HELLO)
    assert client.take(len(HELLO)) == HELLO
    client.send(b"and back")
    eventually(lambda: puppet.heard == b"and back", "the other direction")


def test_a_websocket_is_told_and_its_answer_is_passed_on(plane: Plane) -> None:
    puppet, client = websocket(plane)
    puppet.say(HELLO)
    assert client.take(len(HELLO)) == HELLO
    plane.publish(GREEN)
    assert client.take(len(CLOSE_1012)) == CLOSE_1012
    puppet.say(HELLO)  # what is said behind the close is not passed on
    client.send(ANSWER)
    eventually(lambda: puppet.heard == ANSWER, "the client's answer at its upstream")
    client.finish_sending()
    assert client.rest() == b""
    eventually(plane.is_idle, "the end of the tunnel")
    assert plane.counted(slot.closed_stream_cell(BLUE, slot.TUNNEL)) == 1
    assert plane.cells[slot.STREAMS_LEAVING + BLUE] == 0


def test_the_code_is_the_one_of_its_policy(plane: Plane) -> None:
    _, client = websocket(plane, msgspec.structs.replace(NOW, close_code=1001))
    plane.publish(GREEN)
    assert client.take(len(CLOSE_1012)) == CLOSE_1012.replace(b"\x03\xf4", b"\x03\xe9")


@pytest.mark.parametrize("cut", [1, 2, 40, 5003])
def test_a_message_on_its_way_is_finished_first(plane: Plane, cut: int) -> None:
    message = (
        Frame(Opcode.TEXT, b"a" * 20, fin=False).serialize(mask=False)
        + Frame(Opcode.PING, b"?").serialize(mask=False)
        + Frame(Opcode.CONT, b"b" * 5000).serialize(mask=False)
    )
    puppet, client = websocket(plane)
    puppet.say(message[:cut])
    assert client.take(cut) == message[:cut]
    plane.publish(GREEN)
    waits_for_its_place(plane, slot.TUNNEL)
    puppet.say(message[cut:] + HELLO)
    assert client.take(len(message) - cut) == message[cut:]
    assert client.take(len(CLOSE_1012)) == CLOSE_1012


def test_what_came_with_the_101_counts_as_well(plane: Plane) -> None:
    puppet, client = websocket(plane, NOW, HELLO[:3])
    assert client.take(3) == HELLO[:3]
    plane.publish(GREEN)
    waits_for_its_place(plane, slot.TUNNEL)
    puppet.say(HELLO[3:])
    assert client.take(4 + len(CLOSE_1012)) == HELLO[3:] + CLOSE_1012


def test_an_upstream_that_has_said_goodbye_itself_is_not_interrupted(plane: Plane) -> None:
    goodbye = Frame(Opcode.CLOSE, b"\x03\xe8").serialize(mask=False)
    puppet, client = websocket(plane)
    puppet.say(goodbye)
    assert client.take(len(goodbye)) == goodbye
    plane.publish(GREEN)
    eventually(lambda: plane.counted(slot.closed_stream_cell(BLUE, slot.TUNNEL)) == 1, "the look at it")
    client.send(ANSWER)
    eventually(lambda: puppet.heard == ANSWER, "the client's answer at its upstream")
    client.finish_sending()
    assert client.rest() == b"", "no second Close"


def test_a_tunnel_that_is_no_websocket_is_cut(plane: Plane) -> None:
    plane.blue.script = puppet = Puppet(SWITCHING.replace(b"websocket", b"custom"))
    plane.configure(leaving())
    client = tunnelled(plane, protocol="custom")
    puppet.say(b"half a sen")
    client.take(10)
    plane.publish(GREEN)
    assert client.is_ended()
    assert puppet.has_ended.wait(10)
    eventually(plane.is_idle, "the end of the tunnel")
    assert plane.counted(slot.closed_stream_cell(BLUE, slot.TUNNEL)) == 1


# --- event streams ----------------------------------------------------------------------------------------------------


def test_an_event_stream_gets_a_hint_and_its_proper_end(plane: Plane) -> None:
    puppet, client = event_stream(plane)
    puppet.event(b"data: 1\n\n")
    assert client.until(b"\n\n\r\n") == b"9\r\ndata: 1\n\n\r\n"
    plane.publish(GREEN)
    assert client.until(b"0\r\n\r\n") == b"d\r\nretry: 2000\n\n\r\n0\r\n\r\n"
    assert puppet.has_ended.wait(10), "its upstream is told by the end of the connection"
    assert client.ask().status == 200, "the connection goes on, on the new colour"
    assert len(plane.green.requests) == 1
    assert plane.counted(slot.closed_stream_cell(BLUE, slot.EVENT_STREAM)) == 1


def test_the_hint_is_at_least_what_is_asked_for_and_spread(plane: Plane) -> None:
    seen = set()
    for _ in range(3):
        plane.publish(BLUE)
        _, client = event_stream(plane, policy=msgspec.structs.replace(NOW, policy="close-now", spread=0.25))
        plane.publish(GREEN)
        hint = client.until(b"0\r\n\r\n")
        seen.add(int(hint.split(b"retry: ")[1].split(b"\n")[0]))
    assert len(seen) > 1
    assert all(2000 <= each <= 2250 for each in seen)


def test_a_client_of_http_1_0_gets_the_hint_and_the_end_of_the_connection(plane: Plane) -> None:
    plane.blue.script = Puppet(EVENTS)
    plane.configure(leaving())
    client = plane.client()
    client.send(request(version="1.0"))
    client.until(b"\r\n\r\n")
    plane.publish(GREEN)
    assert client.rest() == b"retry: 2000\n\n"


def test_an_event_on_its_way_is_finished_first(plane: Plane) -> None:
    puppet, client = event_stream(plane)
    puppet.event(b"data: 1\nda")
    client.until(b"da\r\n")
    plane.publish(GREEN)
    waits_for_its_place(plane, slot.EVENT_STREAM)
    puppet.event(b"ta: 2\n")
    client.until(b"ta: 2\n\r\n")
    waits_for_its_place(plane, slot.EVENT_STREAM)
    puppet.event(b"\n")
    assert client.until(b"0\r\n\r\n") == b"1\r\n\n\r\n" + b"d\r\nretry: 2000\n\n\r\n0\r\n\r\n"


def test_one_that_ends_by_itself_meanwhile_has_one_end(plane: Plane) -> None:
    puppet, client = event_stream(plane)
    puppet.event(b"data: 1\n")
    client.until(b"1\n\r\n")
    plane.publish(GREEN)
    waits_for_its_place(plane, slot.EVENT_STREAM)
    puppet.say(b"1\r\n\n\r\n0\r\n\r\n")
    assert client.until(b"0\r\n\r\n") == b"1\r\n\n\r\n0\r\n\r\n"
    assert client.ask().body == b"hello", "nothing more was said"
    assert plane.counted(slot.closed_stream_cell(BLUE, slot.EVENT_STREAM)) == 0


@pytest.mark.parametrize("coding", [b"gzip", b"br"])
def test_what_is_compressed_is_cut_and_gets_no_hint(plane: Plane, coding: bytes) -> None:
    head = EVENTS.replace(b"\r\n\r\n", b"\r\nContent-Encoding: %b\r\n\r\n" % coding)
    puppet, client = event_stream(plane, head)
    puppet.event(b"\x1f\x8b\n\n")
    client.until(b"\n\n\r\n")
    plane.publish(GREEN)
    with pytest.raises(Ended) as ended:
        client.until(b"0\r\n\r\n")
    assert b"retry" not in ended.value.so_far
    assert plane.counted(slot.closed_stream_cell(BLUE, slot.EVENT_STREAM)) == 1


def test_identity_is_no_compression(plane: Plane) -> None:
    _, client = event_stream(plane, EVENTS.replace(b"\r\n\r\n", b"\r\nContent-Encoding: identity\r\n\r\n"))
    plane.publish(GREEN)
    assert client.until(b"0\r\n\r\n") == b"d\r\nretry: 2000\n\n\r\n0\r\n\r\n"


# --- rollbacks --------------------------------------------------------------------------------------------------------


def test_a_rollback_lets_them_live(plane: Plane) -> None:
    puppet, client = websocket(plane, LATER)
    plane.publish(GREEN)
    eventually(lambda: plane.worker.cells[slot.STREAMS_LEAVING + BLUE] == 1, "the plan")
    plane.publish(BLUE)
    eventually(lambda: plane.worker.cells[slot.STREAMS_LEAVING + BLUE] == 0, "no plan any more")
    puppet.say(HELLO)
    assert client.take(len(HELLO)) == HELLO


def test_a_rollback_also_stops_one_that_only_waits_for_its_place(plane: Plane) -> None:
    puppet, client = event_stream(plane)
    puppet.event(b"data: 1\n")
    client.until(b"1\n\r\n")
    plane.publish(GREEN)
    waits_for_its_place(plane, slot.EVENT_STREAM)
    plane.publish(BLUE)
    eventually(lambda: plane.worker.cells[slot.STREAMS_LEAVING + BLUE] == 0, "no plan any more")
    puppet.event(b"\n")
    assert client.until(b"\r\n\n\r\n") == b"1\r\n\n\r\n"
    puppet.event(b"data: 2\n\n")
    assert client.until(b"2\n\n\r\n") == b"9\r\ndata: 2\n\n\r\n"


# --- those whom nobody answers ----------------------------------------------------------------------------------------


S = 1_000_000_000


class Scene:
    """One stream on a desk, whose clock stands still: `look` is a tick, so many seconds after the switch."""

    def __init__(self, answer: bytes, *fields: str) -> None:
        self.desk = Desk()
        self.desk.plane.clock = lambda: self.now
        self.now = self.desk.plane.deadlines.now
        self.desk.plane.farewells.configure(StreamSettings(NOW))
        self.client = self.desk.open(lambda number: answer)
        self.desk.say(self.client, [request("GET", "/ws", *fields)])
        self._head = len(self.client.written)

    @property
    def told(self) -> bytes:
        return self.client.written[self._head :]

    def upstream_says(self, data: bytes) -> None:
        self.desk.say(self.desk.upstreams[0], [data])

    def switch(self) -> None:
        self.desk.segment.live.store(self.desk.segment.live.load().epoch + 1, GREEN)
        self.look(0)

    def look(self, seconds: float) -> None:
        self.now += int(seconds * S)
        self.desk.plane.farewells.tick(self.now)
        self.desk.loop.run()

    def closed(self) -> list[int]:
        return [self.desk.plane.cells[slot.closed_stream_cell(BLUE, kind)] for kind in (slot.TUNNEL, slot.EVENT_STREAM)]


def test_a_frame_that_does_not_end_is_waited_for_five_seconds_and_then_cut() -> None:
    scene = Scene(SWITCHING, *UPGRADE)
    scene.upstream_says(HELLO[:4])
    scene.switch()
    scene.look(4.9)
    assert not scene.client.ended
    scene.look(0.2)
    assert scene.told == HELLO[:4]
    assert scene.client.ended
    assert scene.closed() == [1, 0]
    scene.desk.close(scene.client)


def test_in_a_message_that_does_not_end_a_close_may_stand_between_two_frames() -> None:
    scene = Scene(SWITCHING, *UPGRADE)
    part = Frame(Opcode.TEXT, b"x", fin=False).serialize(mask=False)
    scene.upstream_says(part)
    scene.switch()
    scene.look(4.9)
    assert scene.told == part
    scene.look(0.2)
    assert scene.told == part + CLOSE_1012
    assert not scene.client.ended
    scene.look(4.9)
    assert not scene.client.ended
    scene.look(0.2)
    assert scene.client.ended
    assert scene.closed() == [1, 0]
    scene.desk.close(scene.client)


def test_a_client_that_does_not_answer_has_five_seconds_from_when_it_was_told() -> None:
    scene = Scene(SWITCHING, *UPGRADE)
    scene.upstream_says(HELLO[:4])
    scene.switch()
    scene.look(3)
    scene.upstream_says(HELLO[4:])
    assert scene.told == HELLO + CLOSE_1012
    scene.look(4.9)
    assert not scene.client.ended
    scene.look(0.2)
    assert scene.client.ended
    scene.desk.close(scene.client)


def test_a_client_that_is_still_taking_what_came_before_is_waited_for() -> None:
    scene = Scene(SWITCHING, *UPGRADE)
    waiting = [300, 200, 200]
    scene.client.get_write_buffer_size = lambda: waiting[0]  # type: ignore[method-assign]
    scene.switch()
    assert scene.told == CLOSE_1012
    del waiting[0]
    scene.look(5)
    assert not scene.client.ended, "it has taken a hundred bytes"
    del waiting[0]
    scene.look(5)
    assert scene.client.ended, "it has taken nothing more"
    assert scene.client.was_reset
    scene.desk.close(scene.client)


def test_an_event_that_does_not_end_is_waited_for_five_seconds_and_then_cut() -> None:
    scene = Scene(EVENTS)
    scene.upstream_says(b"8\r\ndata: 1\n\r\n")
    scene.switch()
    scene.look(4.9)
    assert not scene.client.ended
    scene.look(0.2)
    assert scene.told == b"8\r\ndata: 1\n\r\n", "neither a hint nor an end"
    assert scene.client.ended
    assert scene.closed() == [0, 1]
    scene.desk.close(scene.client)


@pytest.mark.soak
def test_places_that_never_come_are_not_waited_for_without_end(plane: Plane) -> None:
    """A WebSocket in a frame that does not end, one in a message that does not, one whose client does not answer, and
    an event stream in the middle of an event."""
    endless = Frame(Opcode.TEXT, b"x" * 20).serialize(mask=False)[:9]
    open_ = Frame(Opcode.TEXT, b"x", fin=False).serialize(mask=False)
    clients = []
    for said in (endless, open_, b""):
        puppet, client = websocket(plane)
        puppet.say(said)
        client.take(len(said))
        clients.append(client)
    puppet, client = event_stream(plane)
    puppet.event(b"data: 1\n")
    client.until(b"1\n\r\n")
    plane.publish(GREEN)
    assert clients[2].take(len(CLOSE_1012)) == CLOSE_1012
    assert clients[1].take(len(CLOSE_1012)) == CLOSE_1012, "between two frames, where it may stand"
    assert clients[0].is_ended()
    assert clients[2].is_ended()
    assert client.rest() == b"", "cut: neither a hint nor an end"
    clients[1].close()
    assert plane.counted(slot.closed_stream_cell(BLUE, slot.TUNNEL)) == 3
    assert plane.counted(slot.closed_stream_cell(BLUE, slot.EVENT_STREAM)) == 1
