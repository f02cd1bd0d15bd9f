"""Bounds in size and time, at the limit and one over it, and that nobody can take more than a share."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from bgproxy.shm import worker_slot as slot
from tests.support.plane import eventually, settings
from tests.support.raw_http import PATIENCE_S, chunked, request, response
from tests.support.through import SMUGGLED, Prompted, Through

if TYPE_CHECKING:
    from tests.support.plane import Plane
    from tests.support.raw_upstream import Conversation

MIB = 1 << 20
HEAD_BYTES, FIELDS, TARGET_BYTES = 2048, 10, 200
SMALL = settings(limits={"head_bytes": HEAD_BYTES, "header_count": FIELDS, "target_bytes": TARGET_BYTES})


def of_size(size: int) -> bytes:
    """A head of exactly so many bytes."""
    head = request("GET", "/case", "X-Long: ")
    return head[:-4] + b"x" * (size - len(head)) + b"\r\n\r\n"


def of_fields(count: int) -> bytes:
    """With Host, so many field lines."""
    return request("GET", "/case", *(f"X-{number}: 1" for number in range(count - 1)))


def of_target(size: int, *fields: str) -> bytes:
    return request("GET", "/case".ljust(size, "x"), *fields)


FITTING = {
    "head": of_size(HEAD_BYTES),
    "fields": of_fields(FIELDS),
    "target": of_target(TARGET_BYTES),
    "target of a request that is looked at": of_target(TARGET_BYTES, "Connection: x"),
}
TOO_LARGE = {
    "a byte more": of_size(HEAD_BYTES + 1),
    "much more": of_size(20 * HEAD_BYTES),
    "endless field": b"GET /case HTTP/1.1\r\nX-Long: " + b"x" * 2 * HEAD_BYTES,
    "endless name": b"GET /case HTTP/1.1\r\n" + b"x" * 2 * HEAD_BYTES,
    "endless fields": b"GET /case HTTP/1.1\r\n" + b"X-A: 1\r\n" * HEAD_BYTES,
    "behind an empty line": b"\r\n" + of_size(HEAD_BYTES + 1),
}
TOO_MANY = {
    "a field more": of_fields(FIELDS + 1),
    "a field more, of a request that is looked at": of_fields(FIELDS + 1)[:-2] + b"Connection: x\r\n\r\n",
    "many small fields": request("GET", "/case", *["A:"] * 300),
}
TOO_LONG = {
    "a byte more": of_target(TARGET_BYTES + 1),
    "a byte more, of a request that is looked at": of_target(TARGET_BYTES + 1, "Connection: x"),
    "a query": request("GET", "/case?" + "x" * TARGET_BYTES),
    "absolute": request("GET", "http://a.example/" + "x" * TARGET_BYTES),
    "endless": b"GET /" + b"x" * 2 * HEAD_BYTES,
    "endless method": b"G" * 2 * HEAD_BYTES,
}


@pytest.mark.says("head over `head_bytes`")
@pytest.mark.says("target over `target_bytes`")
def test_a_head_may_be_as_large_as_its_limits(plane: Plane) -> None:
    through = Through(plane, SMALL)
    for client in (*map(through.at_once, FITTING.values()), *through.bit_by_bit(FITTING).values()):
        assert client.answer().status == 200
    assert len(through.requests()) == 2 * len(FITTING)


@pytest.mark.says("head over `head_bytes`")
@pytest.mark.says("target over `target_bytes`")
@pytest.mark.parametrize(
    ("table", "status", "reason"),
    [(TOO_LARGE, 431, "head_too_large"), (TOO_MANY, 431, "too_many_fields"), (TOO_LONG, 414, "target_too_long")],
    ids=["head", "fields", "target"],
)
def test_a_head_over_a_limit_is_refused(plane: Plane, table: dict[str, bytes], status: int, reason: str) -> None:
    through = Through(plane, SMALL)
    for name, sent in table.items():
        client = through.at_once(sent + SMUGGLED)
        assert client.sock, name
        through.assert_refused(client, status, reason)
    through.assert_all_refused(table, status, reason)
    through.assert_nothing_was_sent()
    assert plane.rejected(reason) == 2 * len(table)


# --- time -------------------------------------------------------------------------------------------------------------

BEGINNINGS = (b"G", b"GET /case HTTP/1.1", b"GET /case HTTP/1.1\r\n", request()[:-1], b"\r\nGET", b"\r\n\r")


@pytest.mark.says("head not complete within `header`")
@pytest.mark.says("Timeouts are kept to within about a second")
def test_a_head_has_so_much_time_as_a_whole(plane: Plane) -> None:
    """Beginnings that stay away, and one to which a byte comes again and again."""
    through = Through(plane, settings(timeouts={"header": 0.3}))
    begun = time.monotonic()
    waiting = [through.at_once(sent) for sent in BEGINNINGS]
    dripping = through.at_once(b"GET /case HTTP/1.1\r\nX-A: ")

    def is_refused() -> bool:
        with contextlib.suppress(OSError):
            dripping.send(b"x")
        dripping.sock.setblocking(False)
        try:
            return bool(dripping.sock.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return False
        finally:
            dripping.sock.settimeout(10)

    eventually(is_refused, "an answer to the dripping one")
    assert time.monotonic() - begun >= 0.3 - 0.125
    for client in (dripping, *waiting):
        through.assert_refused(client, 408, "header_timeout")
    through.assert_nothing_was_sent()


@pytest.mark.says("head not complete within `header`")
def test_who_says_nothing_is_left_without_a_word(plane: Plane) -> None:
    through = Through(plane, settings(timeouts={"keep_alive": 0.3, "header": 0.3}))
    quiet, untidy = through.at_once(b""), through.at_once(b"\r\n")
    served = through.at_once(request(target="/next"))
    assert served.answer().body == b"/next"
    assert [client.rest() for client in (quiet, untidy, served)] == [b"", b"", b""]
    assert plane.rejected("header_timeout") == 0


# --- memory -----------------------------------------------------------------------------------------------------------


def pushed(client: socket.socket, piece: bytes, count: int) -> threading.Thread:
    """Somebody who sends without end, until nobody listens."""

    def push() -> None:
        with contextlib.suppress(OSError):
            for _ in range(count):
                client.sendall(piece)

    thread = threading.Thread(target=push)
    thread.start()
    return thread


@pytest.mark.says("Backpressure both ways")
def test_what_is_sent_without_end_is_not_kept_without_end(plane: Plane) -> None:
    """Endless lines, fields, empty lines, extensions and chunks, and what is behind a refusal: 8 MiB of each."""
    over = threading.Event()

    def reads_no_body(conversation: Conversation) -> None:
        while conversation.until(b"\r\n\r\n").startswith(b"GET /next"):
            conversation.send(response(200, b"/next"))
        over.wait(PATIENCE_S)

    through = Through(plane, script=reads_no_body)
    endless = {
        "line": (b"GET /", b"x" * MIB),
        "fields": (b"GET / HTTP/1.1\r\n", b"X-A: 1\r\n" * (MIB // 8)),
        "empty lines": (b"", b"\r\n" * (MIB // 2)),
        "extension": (request("POST", "/case/1", "Transfer-Encoding: chunked") + b"1;a=", b"x" * MIB),
        "trailers": (request("POST", "/case/2", "Transfer-Encoding: chunked") + b"0\r\n", b"X: 1\r\n" * (MIB // 6)),
        "behind a refusal": (b"GET / HTTP/1.1\r\n\r\n", SMUGGLED * (MIB // len(SMUGGLED))),
        "body that is not read": (request("POST", "/case/3", f"Content-Length: {64 * MIB}"), bytes(MIB)),
        "pipelined": (request(target="/case/4"), request(target="/case/5") * (MIB // 50)),
    }
    before = largest = plane.worker.resident_bytes()
    clients = {name: plane.client() for name in endless}
    pushing = []
    for name, (begin, piece) in endless.items():
        clients[name].send(begin)
        pushing.append(pushed(clients[name].sock, piece, 8))
    fellow = plane.client()
    for _ in range(30):
        assert fellow.ask(target="/next").body == b"/next", "others are served meanwhile"
        largest = max(largest, plane.worker.resident_bytes())
    for client in clients.values():
        with contextlib.suppress(OSError):
            client.sock.shutdown(socket.SHUT_RDWR)
    over.set()
    for thread in pushing:
        thread.join()
    assert largest - before < 24 * MIB
    assert all(b"smuggled" not in (each.heard or b"") for each in through.upstream.conversations)


# --- a crowd ----------------------------------------------------------------------------------------------------------


CROWD = {"slow heads": 300, "slow bodies": 100, "slow readers": 40, "idle": 300, "hanging": 60}


@pytest.mark.says("A client that leaves aborts its upstream request at once")
def test_a_crowd_that_is_slow_or_silent_does_not_keep_others_from_being_served(plane: Plane) -> None:
    large = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (4 * MIB) + bytes(4 * MIB)
    prompted = Prompted(plane, settings(timeouts={"header": 120, "body_idle": 120}))
    begun = {
        "slow heads": b"GET /slow HTTP/1.1\r\nHost: a\r\n",
        "slow bodies": b"POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhell",
        "slow readers": request(target="/case"),
        "idle": b"",
        "hanging": request(target="/case"),
    }
    before = plane.worker.resident_bytes()
    everybody = []
    for kind, count in CROWD.items():
        for number in range(count):
            client = plane.client(receive_buffer=4096 if kind == "slow readers" else 0)
            client.send(begun[kind].replace(b"/case", f"/case/{kind[0]}{number}".encode()))
            everybody.append(client)
    for number in range(CROWD["slow readers"]):
        threading.Thread(target=prompted.prompt(f"/case/s{number}").say, args=(large,)).start()
    for number in range(CROWD["hanging"]):
        prompted.prompt(f"/case/h{number}")
    fellow = plane.client()
    for _ in range(20):
        assert fellow.ask(target="/next").body == b"/next"
        assert plane.client().ask(target="/next").body == b"/next"
    assert plane.cells[slot.IN_FLIGHT] == CROWD["slow bodies"] + CROWD["slow readers"] + CROWD["hanging"]
    assert plane.worker.resident_bytes() - before < 48 * MIB
    for client in everybody:
        client.reset()
    eventually(plane.is_idle, "all requests to be aborted")


# --- amplification ----------------------------------------------------------------------------------------------------


@pytest.mark.says("**Token by token.** A piece")
def test_what_leaves_is_never_much_more_than_what_came(plane: Plane) -> None:
    """Small heads and small chunks, in both directions: a few hundred bytes per request are added, and no more."""
    through = Through(plane)
    heads = request(target="/") * 200
    client = through.at_once(heads)
    answers = sum(len(client.answer().raw) for _ in range(200))
    assert answers <= 200 * len(response(200, b"/"))
    heard = sum(len(each.heard or b"") for each in through.upstream.conversations)
    assert heard < len(heads) + 200 * 250
    poster = through.at_once(request("POST", "/", "Transfer-Encoding: chunked"))
    body = chunked(*[b"x"] * 5000)
    for at in range(0, len(body), 500):
        poster.send(body[at : at + 500])
    assert poster.answer().status == 200
    heard = sum(len(each.heard or b"") for each in through.upstream.conversations) - heard
    assert heard < len(body)
