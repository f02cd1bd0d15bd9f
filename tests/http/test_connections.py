"""Keep-alive, close, pipelining, half-closed and leaving clients, and our own answers. RFC 9112 section 9."""

from __future__ import annotations

import pytest

from bgproxy.shm import worker_slot as slot
from tests.support.plane import Plane, eventually, pool, settings
from tests.support.raw_http import chunked, request, response
from tests.support.through import SMUGGLED, Prompted, Through

PERSISTENCE = {
    "1.1": ("1.1", (), True),
    "1.1, keep-alive": ("1.1", ("Connection: keep-alive",), True),
    "1.1, close": ("1.1", ("Connection: close",), False),
    "1.1, Close": ("1.1", ("connection: Close",), False),
    "1.1, a list with close": ("1.1", ("Connection: x,, CLOSE ,y",), False),
    "1.1, keep-alive and close": ("1.1", ("Connection: keep-alive, close",), False),
    "1.1, two lines": ("1.1", ("Connection: keep-alive", "Connection: close"), False),
    "1.1, nearly close": ("1.1", ("Connection: closed, xclose",), True),
    "1.1, Proxy-Connection: close": ("1.1", ("Proxy-Connection: close",), True),
    "1.0": ("1.0", (), False),
    "1.0, keep-alive": ("1.0", ("Connection: Keep-Alive",), True),
    "1.0, a list with keep-alive": ("1.0", ("Connection: x, keep-alive",), True),
    "1.0, keep-alive and close": ("1.0", ("Connection: keep-alive, close",), False),
    "1.0, Proxy-Connection": ("1.0", ("Proxy-Connection: keep-alive",), False),
}


@pytest.mark.says("Keep-alive on both sides")
@pytest.mark.parametrize(("version", "fields", "kept"), PERSISTENCE.values(), ids=PERSISTENCE)
def test_a_connection_lasts_as_long_as_both_have_said(
    through: Through, version: str, fields: tuple[str, ...], kept: bool
) -> None:
    sent = request("GET", "/case", *fields, version=version) + request(target="/next")
    for client in (through.at_once(sent), *through.bit_by_bit({"": sent}).values()):
        answer = client.answer()
        said = {(True, "1.1"): [], (True, "1.0"): ["keep-alive"]}.get((kept, version), ["close"])
        assert (answer.body, answer.all("Connection")) == (b"/case", said)
        if kept:
            assert client.answer().body == b"/next"
        else:
            assert client.is_ended(), "nothing behind the last request is processed"
            client.close()
    # in any order: two clients at a time, and as many connections
    assert sorted(each.target for each in through.requests()) == ["/case", "/case", *(["/next"] * 2 if kept else [])]


@pytest.mark.says("Keep-alive on both sides")
def test_many_pipelined_requests_of_all_kinds_are_answered_in_order(through: Through) -> None:
    kinds = (
        lambda target: request(target=target),
        lambda target: request("POST", target, body=SMUGGLED),
        lambda target: request("PUT", target, "Transfer-Encoding: chunked") + chunked(SMUGGLED, b"x"),
        lambda target: b"\r\n" + request("OPTIONS", target, "Connection: keep-alive"),
        lambda target: request("GET", target, "Connection: keep-alive", version="1.0"),
        lambda target: request("GET", target, "Connection: Upgrade", "Upgrade: websocket"),
    )
    targets = [f"/{number}" for number in range(60)]
    sent = b"".join(kinds[number % len(kinds)](target) for number, target in enumerate(targets))
    for bit_by_bit in (False, True):
        client = through.bit_by_bit({"": sent})[""] if bit_by_bit else through.at_once(sent)
        assert [client.answer().body.decode() for _ in targets] == targets
    assert [each.target for each in through.requests()] == targets * 2


@pytest.mark.says("Half-closed clients")
def test_a_client_that_has_finished_gets_the_answers_to_what_it_asked(through: Through) -> None:
    client = through.at_once(
        request(target="/1") + request("POST", "/2", body=b"hello") + request(target="/3") + b"GET /"
    )
    client.finish_sending()
    assert [client.answer().body for _ in range(3)] == [b"/1", b"/2", b"/3"]
    assert client.is_ended()
    assert [each.target for each in through.requests()] == ["/1", "/2", "/3"]


@pytest.mark.says("A client that leaves aborts its upstream request at once")
@pytest.mark.parametrize("stage", ["before the answer", "within its head", "within its body", "behind an interim one"])
def test_a_client_that_leaves_takes_the_upstream_request_with_it(plane: Plane, stage: str) -> None:
    prompted = Prompted(plane)
    client, upstream = prompted.ask(method="POST", body=b"hello")
    if stage == "within its head":
        upstream.say(b"HTTP/1.1 200 OK\r\nContent-Le")
    elif stage == "within its body":
        upstream.say(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        client.until(b"half")
    elif stage == "behind an interim one":
        upstream.say(b"HTTP/1.1 102 Processing\r\n\r\n")
        assert client.answer().status == 102
    prompted.settle()
    client.reset()
    upstream.assert_dropped()
    status = 200 if stage == "within its body" else 499
    eventually(lambda: plane.answered("POST", status) == 1, "it to be counted")
    assert plane.failed("client_gone") == 1
    assert prompted.conversations()


@pytest.mark.says("A connection is parked only where it stands")
def test_a_connection_whose_request_body_was_not_taken_is_never_parked(plane: Plane) -> None:
    """The whole answer is there, the whole body is not."""
    prompted = Prompted(plane, reads_bodies=False)
    for framing in ("Content-Length: 10", "Transfer-Encoding: chunked"):
        client = prompted.at_once(request("POST", "/case", framing))
        upstream = prompted.prompt()
        upstream.say(response(200, b"early"))
        assert client.answer().body == b"early"
        upstream.assert_dropped()
        assert client.is_ended()


# --- our own answers --------------------------------------------------------------------------------------------------


@pytest.mark.says("It shows no address, path, version or traceback")
@pytest.mark.says("Every answer of bgproxy itself")
@pytest.mark.says("our own answer to a request whose body was not read")
@pytest.mark.says("connection refused, unreachable")
@pytest.mark.says("nobody in the pool may take traffic")
def test_our_own_answers_are_framed_and_give_nothing_away(plane: Plane) -> None:
    gone = plane.upstream()
    gone.close()
    for upstreams, status, reason in (
        ([gone], 502, "connect_refused"),
        (["unix:/nonexistent/secret.sock"], 502, "connect_failed"),
        ([], 503, "no_healthy_upstream"),
    ):
        plane.configure(settings(upstream={"retries": 0}), blue=pool(upstreams))
        client = plane.client()
        for method, body in (("GET", b""), ("HEAD", b""), ("DELETE", b""), ("POST", b"x")):
            answer = client.ask(method, "/secret-path", "Cookie: secret", body=body)
            assert (answer.status, answer.one("X-BG-Reason")) == (status, reason)
            assert (answer.one("Server"), answer.one("Cache-Control")) == ("bgproxy", "no-store")
            assert (int(answer.one("Content-Length")) == len(answer.body)) is (method != "HEAD")
            assert (answer.one("Retry-After") == "1") is (status == 503)
            assert answer.all("Connection") == (["close"] if body else []), "a body that was not read ends it"
            for told in (b"127.0.0.1", b"secret", b"Traceback", b"Errno", b"/nonexistent", b".py"):
                assert told not in answer.raw
        assert client.is_ended()
    plane.configure()
    old = plane.client()
    old.send(b"HEAD / HTTP/1.1\r\n\r\n")
    assert old.answer("HEAD").status == 400
    assert old.is_ended(), "a refused HEAD has no body either"


@pytest.mark.says("one connection over `connections`")
def test_one_connection_too_many_is_told_so(plane: Plane) -> None:
    prompted = Prompted(plane, settings(limits={"connections": 2}))
    eventually(lambda: plane.cells[slot.CLIENT_CONNECTIONS] == 0, "nobody")
    busy = [prompted.ask(target) for target in ("/case/1", "/case/2")]
    for _ in range(3):
        over = plane.client()
        over.send(SMUGGLED)
        answer = over.answer()
        assert (answer.status, answer.one("X-BG-Reason"), answer.one("Connection")) == (503, "connections", "close")
        assert over.is_ended()
        over.close()
    for client, upstream in busy:
        upstream.say(response(200, b"held"))
        assert client.answer().body == b"held"
    beat = plane.worker.cells[slot.HEARTBEAT_NS]
    eventually(
        lambda: plane.worker.cells[slot.HEARTBEAT_NS] > beat, "the next tick: there is one look for room in each"
    )
    assert plane.client().ask(target="/room").body == b"/room", "one of the two is idle now, and makes room"
    assert (plane.counted(slot.closed_cell("make_room")), plane.rejected("connections")) == (1, 3)
    assert sorted(each.target for each in prompted.requests()) == ["/case/1", "/case/2", "/room"]
