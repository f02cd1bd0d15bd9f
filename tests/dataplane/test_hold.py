"""Requests that are held, through a real worker: that they wait, in which order they go, what ends their waiting."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING

import pytest

from bgproxy.core.messages import Cut, Drain, Drained
from bgproxy.core.model import BLUE, GREEN, Pool
from bgproxy.core.settings import AccessLogSettings, HoldSettings, WorkerSettings
from bgproxy.dataplane.hold import SLICE
from bgproxy.shm import worker_slot as slot
from bgproxy.shm.live_pointer import Hold
from tests.support.certificates import client_context, material, pair
from tests.support.plane import Plane, WorkerProcess, eventually, settings
from tests.support.raw_http import chunked, request, response
from tests.support.raw_upstream import answering, silent
from tests.support.tunnels import switching, tunnelled

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.raw_client import RawClient
    from tests.support.raw_upstream import Conversation, RawUpstream, Script

NO_POOLS = (Pool(()), Pool(()))
PATIENT = WorkerSettings(hold=HoldSettings(timeout=60))
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n"


@pytest.fixture
def plane(worker: WorkerProcess) -> Iterator[Plane]:
    made = Plane(worker)
    made.configure(PATIENT)
    made.blue.script, made.green.script = labelled(b"blue"), labelled(b"green")
    yield made
    made.hold(Hold.OPEN)
    made.close()


@pytest.fixture
def own_worker() -> Iterator[WorkerProcess]:
    """For what a worker does only once."""
    made = WorkerProcess()
    made.start(NO_POOLS, PATIENT)
    yield made
    complaints = made.end()
    assert not complaints, complaints


def labelled(label: bytes) -> Script:
    return answering(response(200, label))


def held(plane: Plane, count: int) -> None:
    eventually(lambda: plane.worker.cells[slot.HELD] == count, f"{count} held requests")


def asking(plane: Plane, *requests: bytes) -> list[RawClient]:
    """A client for each; they are held by the time this returns, in this order."""
    clients = []
    before = plane.worker.cells[slot.HELD]
    for number, data in enumerate(requests, start=before + 1):
        clients.append(plane.client())
        clients[-1].send(data)
        held(plane, number)
    return clients


def targets(upstream: RawUpstream) -> list[str]:
    return [asked.target for asked in upstream.requests]


# --- waiting, and who is served by whom -------------------------------------------------------------------------------


@pytest.mark.says("While the live word says so, a new request is held")
@pytest.mark.says("It is served by the colour that is live when it is let go")
@pytest.mark.parametrize("colour", [GREEN, BLUE])
def test_a_held_request_is_served_by_the_colour_that_is_live_when_it_is_let_go(plane: Plane, colour: int) -> None:
    running = threading.Event()

    def slow(conversation: Conversation) -> None:
        conversation.request()
        running.wait(10)
        conversation.send(response(200, b"blue"))

    plane.blue.script = slow
    old = plane.client()
    old.send(request("GET", "/old"))
    eventually(lambda: plane.cells[slot.IN_FLIGHT] == 1, "the old request")
    plane.hold(Hold.ALL)
    clients = asking(plane, request("GET", "/get"), request("POST", "/post", body=b"abc"))
    assert (plane.cells[slot.IN_FLIGHT], plane.cells[slot.IN_FLIGHT + GREEN]) == (1, 0), "what is held is not in flight"
    running.set()
    assert old.answer().body == b"blue", "what runs goes on"
    eventually(lambda: plane.cells[slot.IN_FLIGHT] == 0, "the old colour to be empty")
    assert targets(plane.blue) == ["/old"]
    assert targets(plane.green) == []
    plane.blue.script = labelled(b"blue")
    plane.hold(Hold.OPEN, GREEN if colour else None)
    label = (b"blue", b"green")[colour]
    assert [client.answer().body for client in clients] == [label, label]
    assert plane.answered("GET", 200, colour) == 1 + (colour is BLUE)
    assert plane.answered("POST", 200, colour) == 1
    assert plane.counted(slot.HELD_TOTAL) == 2
    assert plane.counted(slot.HELD_NS) > 0
    assert [client.ask().body for client in clients] == [label, label], "the connection stays"


@pytest.mark.says("Held requests go in the order in which they came")
def test_held_requests_go_in_the_order_in_which_they_came(plane: Plane) -> None:
    """Through one connection to the upstream, so that it sees the order; and more than one turn dispatches."""
    plane.configure(settings(upstream={"max_connections": 1}, hold=HoldSettings(timeout=60)))
    plane.hold(Hold.ALL)
    names = [f"/{number}" for number in range(SLICE + 5)]
    clients = asking(plane, *(request("GET", name) for name in names))
    plane.hold(Hold.OPEN, GREEN)
    assert {client.answer().status for client in clients} == {200}
    assert targets(plane.green) == names


@pytest.mark.says("They are let go as fast as the pool takes them")
def test_a_pool_is_not_given_more_at_once_than_it_takes(plane: Plane) -> None:
    plane.configure(settings(upstream={"max_connections": 2, "max_waiting": 2}, hold=HoldSettings(timeout=60)))
    plane.hold(Hold.ALL)
    clients = asking(plane, *[request()] * 12)
    plane.hold(Hold.OPEN, GREEN)
    assert [client.answer().status for client in clients] == [200] * 12
    assert plane.failed("queue_full", GREEN) == 0


def test_where_nobody_can_serve_them_held_requests_are_told_at_once(plane: Plane) -> None:
    plane.configure(PATIENT, green=[])
    plane.hold(Hold.ALL)
    (client,) = asking(plane, request())
    plane.hold(Hold.OPEN, GREEN)
    assert client.answer().one("X-BG-Reason") == "no_healthy_upstream"


def test_a_word_that_nobody_was_told_of_is_found_all_the_same(plane: Plane) -> None:
    plane.hold(Hold.ALL)
    (client,) = asking(plane, request())
    live = plane.worker.segment.live
    live.store(live.load().epoch + 1, GREEN, Hold.ALL)
    held(plane, 1)
    live.store(live.load().epoch, GREEN)
    assert client.answer().body == b"green"


@pytest.mark.says("Where only writes are held, GET, HEAD, OPTIONS and TRACE pass")
def test_where_only_writes_are_held_reads_pass(plane: Plane) -> None:
    plane.hold(Hold.WRITES)
    writes = asking(plane, *(request(method, f"/{method}") for method in ("POST", "PUT", "PATCH", "DELETE")))
    for method in ("GET", "HEAD", "OPTIONS"):
        assert plane.client().ask(method, f"/{method}").status == 200
    assert targets(plane.blue) == ["/GET", "/HEAD", "/OPTIONS"]
    held(plane, 4)
    plane.hold(Hold.OPEN, GREEN)
    assert [client.answer().body for client in writes] == [b"green"] * 4


def test_from_all_to_writes_the_reads_are_let_go(plane: Plane) -> None:
    plane.hold(Hold.ALL)
    post, get, delete = asking(plane, request("POST", "/1"), request("GET", "/2"), request("DELETE", "/3"))
    plane.hold(Hold.WRITES)
    assert get.answer().body == b"blue"
    held(plane, 2)
    plane.hold(Hold.OPEN)
    assert [client.answer().status for client in (post, delete)] == [200, 200]


def test_writes_in_flight_are_counted_apart_until_they_become_a_stream(plane: Plane) -> None:
    go_on = threading.Event()

    def script(conversation: Conversation) -> None:
        conversation.request()
        go_on.wait(10)
        conversation.send(EVENTS)
        conversation.rest()

    plane.blue.script = script
    for method in ("GET", "POST"):
        plane.client().send(request(method))
    eventually(lambda: plane.cells[slot.IN_FLIGHT] == 2, "both requests")
    assert (plane.cells[slot.WRITES], plane.cells[slot.WRITES + GREEN]) == (1, 0)
    go_on.set()
    eventually(lambda: plane.cells[slot.EVENT_STREAMS] == 2, "both streams")
    assert (plane.cells[slot.IN_FLIGHT], plane.cells[slot.WRITES]) == (0, 0)


# --- what a client may do meanwhile -----------------------------------------------------------------------------------


@pytest.mark.says("What had come of its body is kept")
@pytest.mark.parametrize(
    ("head", "pieces"),
    [
        (b"Content-Length: 6", [b"abc", b"def"]),
        (b"Transfer-Encoding: chunked", [chunked(b"abc", b"def")[:9], chunked(b"abc", b"def")[9:]]),
    ],
)
@pytest.mark.parametrize("early", [0, 1, 2])
def test_a_body_waits_with_its_request(plane: Plane, head: bytes, pieces: list[bytes], early: int) -> None:
    plane.hold(Hold.ALL)
    (client,) = asking(plane, b"POST / HTTP/1.1\r\nHost: a\r\n" + head + b"\r\n\r\n" + b"".join(pieces[:early]))
    plane.hold(Hold.OPEN, GREEN)
    client.send(*pieces[early:])
    assert client.answer("POST").body == b"green"
    assert plane.green.requests[0].body == b"abcdef"


def test_who_waits_for_a_100_is_told_by_who_serves_it(plane: Plane) -> None:
    def script(conversation: Conversation) -> None:
        conversation.until(b"\r\n\r\n")
        conversation.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert conversation.take(4) == b"body"
        conversation.send(response(200, b"green"))

    plane.green.script = script
    plane.hold(Hold.ALL)
    (client,) = asking(plane, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
    plane.hold(Hold.OPEN, GREEN)
    assert client.answer("POST").status == 100
    client.send(b"body")
    assert client.answer("POST").body == b"green"


@pytest.mark.says("Its client is not read from")
def test_a_client_that_is_held_is_not_read_from(plane: Plane) -> None:
    size = 16 << 20

    def script(conversation: Conversation) -> None:
        conversation.until(b"\r\n\r\n")
        for _ in range(16):
            conversation.take(1 << 20)
            conversation.forget()
        conversation.send(response(200, b"green"))

    plane.green.script = script
    plane.hold(Hold.ALL)
    (client,) = asking(plane, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
    body = memoryview(bytes(size))
    taken = sent_until_it_blocks(client.sock, body)
    assert taken < size, "the kernel cannot hold all of it"
    assert plane.worker.cells[slot.HELD_BYTES] < 1 << 20
    plane.hold(Hold.OPEN, GREEN)
    client.send(body[taken:])
    assert client.answer("POST").body == b"green"


def sent_until_it_blocks(sock: socket.socket, data: memoryview) -> int:
    """How much went in before a tenth of a second passed in which nothing did."""
    sent = 0
    sock.settimeout(0.1)
    try:
        while sent < len(data):
            sent += sock.send(data[sent:])
    except TimeoutError:
        pass
    sock.settimeout(10)
    return sent


def test_pipelined_requests_wait_for_the_first_and_are_answered_in_order(plane: Plane) -> None:
    plane.green.script = answering(lambda asked: response(200, asked.target.encode()))
    plane.hold(Hold.ALL)
    (client,) = asking(plane, request("GET", "/1") + request("POST", "/2", body=b"x") + request("GET", "/3"))
    client.send(request("GET", "/4"))
    plane.hold(Hold.OPEN, GREEN)
    assert [client.answer().body for _ in range(4)] == [b"/1", b"/2", b"/3", b"/4"]
    assert plane.counted(slot.HELD_TOTAL) == 1


def test_a_connection_is_held_again_and_again(plane: Plane) -> None:
    client = plane.client()
    for round_ in range(3):
        assert client.ask().status == 200
        plane.hold(Hold.ALL)
        client.send(request("GET", f"/{round_}"))
        held(plane, 1)
        plane.hold(Hold.OPEN, GREEN if round_ == 1 else None)
        assert client.answer().body == (b"blue" if round_ == 0 else b"green")


def test_a_client_of_http_1_0_is_held_like_any_other(plane: Plane) -> None:
    plane.hold(Hold.ALL)
    (client,) = asking(plane, request("GET", "/", version="1.0"))
    plane.hold(Hold.OPEN, GREEN)
    assert client.rest().endswith(b"green")


@pytest.mark.says("Whose client has left is not served any more")
@pytest.mark.parametrize("data", [request(), b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf"])
def test_a_request_whose_client_has_left_is_not_served(plane: Plane, data: bytes) -> None:
    plane.hold(Hold.ALL)
    left, stays = asking(plane, data, request("GET", "/stays"))
    left.reset()
    held(plane, 1)
    plane.hold(Hold.OPEN, GREEN)
    assert stays.answer().body == b"green"
    assert targets(plane.green) == ["/stays"]
    assert plane.rejected("hold_abandoned") == 1


def test_once_let_go_a_client_that_leaves_is_noticed(plane: Plane) -> None:
    plane.green.script = silent
    plane.hold(Hold.ALL)
    (client,) = asking(plane, request("POST"))
    plane.hold(Hold.OPEN, GREEN)
    eventually(lambda: plane.cells[slot.IN_FLIGHT + GREEN] == 1, "the request")
    client.reset()
    eventually(lambda: plane.cells[slot.IN_FLIGHT + GREEN] == 0, "the end of it")
    assert plane.failed("client_gone", GREEN) == 1
    assert plane.green.conversations[0].ended.wait(10)


@pytest.mark.says("A FIN alone may be half of a close")
def test_a_client_that_has_half_closed_still_gets_its_answer(plane: Plane) -> None:
    plane.hold(Hold.ALL)
    clients = asking(plane, request(), request("POST", body=b"whole"))
    for client in clients:
        client.finish_sending()
    plane.hold(Hold.OPEN, GREEN)
    assert [client.answer().body for client in clients] == [b"green", b"green"]
    assert plane.green.requests[-1].method in ("GET", "POST")
    assert all(client.is_ended() for client in clients)


def test_over_tls_it_is_the_same() -> None:
    worker = WorkerProcess(material=material(pair("app.example")))
    try:
        worker.start(NO_POOLS, PATIENT)
        plane = Plane(worker)
        plane.configure(PATIENT)
        plane.green.script = labelled(b"green")
        clients = [plane.tls_client(client_context()) for _ in range(3)]
        plane.hold(Hold.ALL)
        clients[0].send(request() + request())
        clients[1].send(request("POST", body=b"whole"))
        clients[2].send(request("POST", body=b"whole"))
        held(plane, 3)
        clients[1].finish_sending()
        clients[2].reset()
        held(plane, 2)
        plane.hold(Hold.OPEN, GREEN)
        assert [client.answer().body for client in (clients[0], clients[0], clients[1])] == [b"green"] * 3
        assert len(plane.green.requests) == 3
        plane.close()
    finally:
        complaints = worker.end()
    assert not complaints, complaints


# --- bounds -----------------------------------------------------------------------------------------------------------


@pytest.mark.says("a request that would have to be held, with `hold_max` of them")
@pytest.mark.parametrize("bounds", [HoldSettings(max=2, timeout=60), HoldSettings(bytes=2200, timeout=60)])
def test_no_more_are_held_than_may_be(plane: Plane, bounds: HoldSettings) -> None:
    plane.configure(WorkerSettings(hold=bounds))
    plane.hold(Hold.ALL)
    data = request("POST", "/", "A: " + "x" * 500, body=b"y" * 500)
    clients = asking(plane, data, data)
    assert 2000 < plane.worker.cells[slot.HELD_BYTES] < 2500
    refused, reading = plane.client(), plane.client()
    refused.send(data)
    answer = refused.answer("POST")
    assert (answer.status, answer.one("X-BG-Reason"), answer.one("Retry-After")) == (503, "hold_full", "1")
    reading.send(request("GET", "/", "A: " + "x" * 1000))
    assert reading.answer().one("X-BG-Reason") == "hold_full"
    assert plane.rejected("hold_full") == 2
    plane.hold(Hold.OPEN, GREEN)
    assert [client.answer("POST").body for client in clients] == [b"green", b"green"]
    assert reading.ask().body == b"green", "it may ask again on the same connection"
    assert plane.cells[slot.HELD_BYTES] == 0


@pytest.mark.says("held for `hold_timeout`")
def test_nobody_is_held_for_too_long(plane: Plane) -> None:
    plane.configure(WorkerSettings(hold=HoldSettings(timeout=0.1)))
    plane.hold(Hold.ALL)
    get, post = plane.client(), plane.client()
    get.send(request())
    post.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf")
    for client in (get, post):
        answer = client.answer()
        assert (answer.status, answer.one("X-BG-Reason"), answer.one("Retry-After")) == (503, "hold_timeout", "1")
    assert post.is_ended(), "the rest of its body is not a request"
    assert plane.rejected("hold_timeout") == 2
    plane.hold(Hold.OPEN)
    assert get.ask().body == b"blue"


def test_bodies_that_wait_count_towards_what_is_held_for_slow_peers(plane: Plane) -> None:
    plane.configure(settings(limits={"buffered_bytes": 20_000}, hold=HoldSettings(timeout=60)))
    plane.hold(Hold.ALL)
    client = plane.client()
    client.send(request("POST", body=b"x" * 50_000))
    assert client.answer("POST").one("X-BG-Reason") == "buffered_bytes"
    assert plane.rejected("buffered_bytes") == 1
    held(plane, 0)


# --- maintenance ------------------------------------------------------------------------------------------------------


@pytest.mark.says("any request during maintenance")
def test_in_maintenance_the_proxy_answers_itself(plane: Plane) -> None:
    plane.hold(Hold.ALL)
    (waiting,) = asking(plane, request())
    plane.hold(Hold.MAINTENANCE)
    client, uploading = plane.client(), plane.client()
    uploading.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf")
    for answer in (waiting.answer(), client.ask(), client.ask("POST"), uploading.answer("POST")):
        assert (answer.status, answer.one("X-BG-Reason"), answer.one("Retry-After")) == (503, "maintenance", "1")
    assert uploading.is_ended()
    assert plane.rejected("maintenance") == 4
    assert [plane.answered(method, 503) for method in ("GET", "POST")] == [0, 0], "no colour has refused it"
    plane.hold(Hold.OPEN)
    assert [each.ask().body for each in (client, waiting)] == [b"blue", b"blue"]


# --- the end of a worker, or of its supervisor ------------------------------------------------------------------------


@pytest.mark.says("Without a supervisor nobody would let them go")
def test_without_a_supervisor_a_hold_ends_by_itself_but_maintenance_does_not(own_worker: WorkerProcess) -> None:
    plane = Plane(own_worker)
    plane.configure(PATIENT)
    plane.blue.script = labelled(b"blue")
    plane.hold(Hold.ALL)
    clients = asking(plane, request(), request("POST"))
    own_worker.control.close()
    assert [client.answer().body for client in clients] == [b"blue", b"blue"]
    assert plane.client().ask().body == b"blue"
    live = own_worker.segment.live
    live.store(live.load().epoch, BLUE, Hold.WRITES)
    assert plane.client().ask("DELETE").body == b"blue"
    live.store(live.load().epoch, BLUE, Hold.MAINTENANCE)
    assert plane.client().ask().one("X-BG-Reason") == "maintenance"
    plane.close_surroundings()


def test_a_worker_that_leaves_waits_for_the_end_of_the_hold(own_worker: WorkerProcess) -> None:
    plane = Plane(own_worker)
    plane.configure(PATIENT)
    plane.green.script = labelled(b"green")
    plane.hold(Hold.ALL)
    (client,) = asking(plane, request())
    own_worker.tell(Drain(60))
    plane.hold(Hold.OPEN, GREEN)
    assert client.answer().body == b"green"
    assert own_worker.hear(Drained) == Drained(0, 0)
    plane.close_surroundings()


@pytest.mark.says("held, where the worker leaves and has no more time")
def test_a_worker_that_must_leave_says_so_to_who_is_held(own_worker: WorkerProcess) -> None:
    plane = Plane(own_worker)
    plane.configure(PATIENT)
    plane.hold(Hold.ALL)
    (client,) = asking(plane, request())
    own_worker.tell(Drain(0.05))
    answer = client.answer()
    assert (answer.status, answer.one("X-BG-Reason"), answer.one("Connection")) == (503, "draining", "close")
    assert own_worker.hear(Drained) == Drained(0, 0)
    plane.close_surroundings()


# --- the cut ----------------------------------------------------------------------------------------------------------


@pytest.mark.says("in flight on the old colour, where a fence has no more patience")
def test_what_is_cut_before_its_answer_is_told_so_and_never_sent_again(plane: Plane) -> None:
    plane.configure(settings(upstream={"max_connections": 2}, hold=HoldSettings(timeout=60)))
    plane.blue.script = silent
    clients = [plane.client() for _ in range(4)]
    clients[0].send(request("GET", "/1"))
    eventually(lambda: plane.cells[slot.IN_FLIGHT] == 1, "the first")
    clients[1].send(b"POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf")
    eventually(lambda: plane.cells[slot.IN_FLIGHT] == 2, "the second")
    clients[2].send(request("GET", "/3"))
    eventually(lambda: plane.cells[slot.IN_FLIGHT] == 3, "one that waits for a connection")
    plane.hold(Hold.ALL)
    clients[3].send(request("GET", "/held"))
    held(plane, 1)
    plane.worker.tell(Cut(GREEN))
    assert plane.cells[slot.IN_FLIGHT] == 3, "that is the other colour"
    plane.worker.tell(Cut(BLUE))
    for client in clients[:3]:
        answer = client.answer()
        assert (answer.status, answer.one("X-BG-Reason"), answer.one("Retry-After")) == (503, "fence_cut", "1")
    assert plane.cells[slot.IN_FLIGHT] == 0
    assert plane.rejected("fence_cut") == 3
    assert all(conversation.ended.wait(10) for conversation in plane.blue.conversations), "the upstream was told"
    held(plane, 1)
    plane.hold(Hold.OPEN, GREEN)
    assert clients[3].answer().body == b"green"
    assert targets(plane.green) == ["/held"]


def test_what_is_cut_within_its_answer_looks_broken(plane: Plane) -> None:
    def script(conversation: Conversation) -> None:
        asked = conversation.request()
        length = b"" if asked.target == "/unframed" else b"Content-Length: 9\r\n"
        conversation.send(b"HTTP/1.1 200 OK\r\n" + length + b"\r\nhalf")
        conversation.rest()

    plane.blue.script = script
    framed, unframed = plane.client(), plane.client()
    framed.send(request())
    unframed.send(request("GET", "/unframed", version="1.0"))
    for client in (framed, unframed):
        client.until(b"half")
    plane.worker.tell(Cut(BLUE))
    assert framed.rest() == b""
    with pytest.raises(ConnectionResetError):
        unframed.rest()
    assert plane.rejected("fence_cut") == 2
    assert plane.answered("GET", 200) == 2


def test_streams_are_not_cut(plane: Plane) -> None:
    more = threading.Event()

    def events(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(EVENTS)
        more.wait(10)
        conversation.send(b"data: 2\n\n")

    plane.blue.script = events
    listening = plane.client()
    listening.send(request())
    eventually(lambda: plane.cells[slot.EVENT_STREAMS] == 1, "the stream")
    plane.blue.script = switching()
    tunnel = tunnelled(plane)
    plane.worker.tell(Cut(BLUE))
    assert plane.rejected("fence_cut") == 0
    more.set()
    assert b"data: 2" in listening.until(b"data: 2")
    tunnel.send(b"x")
    assert tunnel.take(3) == b"<x>"


def test_only_writes_are_cut_where_only_writes_may_not_go_on(plane: Plane) -> None:
    go_on = threading.Event()

    def script(conversation: Conversation) -> None:
        if conversation.request().method == "GET":
            go_on.wait(10)
            conversation.send(response(200, b"blue"))
        conversation.rest()

    plane.blue.script = script
    get, delete = plane.client(), plane.client()
    get.send(request())
    delete.send(request("DELETE"))
    eventually(lambda: plane.cells[slot.IN_FLIGHT] == 2, "both")
    plane.worker.tell(Cut(BLUE, writes=True))
    assert delete.answer().one("X-BG-Reason") == "fence_cut"
    assert (plane.cells[slot.IN_FLIGHT], plane.cells[slot.WRITES]) == (1, 0)
    go_on.set()
    assert get.answer().body == b"blue"


# --- the log ----------------------------------------------------------------------------------------------------------


def test_the_log_tells_when_each_came_was_dispatched_and_ended(own_worker: WorkerProcess, tmp_path: Path) -> None:
    path = tmp_path / "log"
    plane = Plane(own_worker)
    log = AccessLogSettings(format="json", file=str(path))
    plane.configure(WorkerSettings(access_log=log, hold=HoldSettings(max=3, timeout=60)))
    plane.blue.script, plane.green.script = silent, labelled(b"green")
    cut = plane.client()
    cut.send(request("GET", "/cut"))
    eventually(lambda: plane.cells[slot.IN_FLIGHT] == 1, "the first")
    plane.hold(Hold.ALL)
    served, left, _ = asking(plane, *(request("GET", name) for name in ("/served", "/left", "/third")))
    assert plane.client().ask("GET", "/full").status == 503
    left.reset()
    held(plane, 2)
    plane.worker.tell(Cut(BLUE))
    cut.answer()
    eventually(lambda: plane.cells[slot.IN_FLIGHT] == 0, "the old colour to be empty")
    plane.hold(Hold.OPEN, GREEN)
    served.answer()
    eventually(lambda: path.read_text().count("\n") == 5, "five records")
    records = {record["path"]: record for record in map(json.loads, path.read_text().splitlines())}
    outcome = {name: (r["status"], r["termination"], r["colour"]) for name, r in records.items()}
    assert outcome == {
        "/cut": (503, "cut", "blue"),
        "/served": (200, "ok", "green"),
        "/third": (200, "ok", "green"),
        "/left": (499, "client_abort", None),
        "/full": (503, "refused", None),
    }
    for record in records.values():
        assert record["arrive_ns"] <= (record["dispatch_ns"] or record["end_ns"]) <= record["end_ns"]
        assert (record["dispatch_ns"] is None) == (record["colour"] is None) == (record["epoch"] is None)
    assert records["/cut"]["end_ns"] <= records["/served"]["dispatch_ns"], "at no instant do both colours serve"
    waited = (records["/served"]["dispatch_ns"] - records["/served"]["arrive_ns"]) / 1e9
    assert 0 < records["/served"]["held_s"] <= waited
    assert (records["/cut"]["held_s"], records["/full"]["held_s"]) == (0, 0)
    assert records["/left"]["held_s"] > 0
    plane.close()
