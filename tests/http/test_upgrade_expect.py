"""Upgrade, Expect, interim and early answers: what may change the meaning of the bytes behind a head.

RFC 9110 sections 7.8, 10.1.1 and 15.2. The test speaks for the upstream.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.plane import eventually
from tests.support.raw_http import PATIENCE_S, Ended, chunked, request, response
from tests.support.through import SMUGGLED, Prompted, Through

if TYPE_CHECKING:
    from tests.support.plane import Plane
    from tests.support.raw_upstream import Conversation
    from tests.support.through import Prompt

UPGRADE = ("Connection: Upgrade", "Upgrade: websocket")


@pytest.fixture
def prompted(plane: Plane) -> Prompted:
    return Prompted(plane)


@pytest.fixture
def hesitant(plane: Plane) -> Prompted:
    """An upstream that reads the head of one request, and then whatever comes."""
    return Prompted(plane, reads_bodies=False)


def switching(*fields: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 101 Switching Protocols", *fields]) + b"\r\n\r\n"


AGREED = switching(b"Connection: Upgrade", b"Upgrade: websocket", b"X-Key: k")


def heard(prompt: Prompt) -> bytes:
    return bytes(prompt.conversation.heard or b"")


# --- Upgrade ----------------------------------------------------------------------------------------------------------


@pytest.mark.says("A tunnel begins with the 101")
@pytest.mark.says("**Tunnels.** Upgrades: GET")
@pytest.mark.parametrize(
    "early", [b"early", SMUGGLED, b"\0\r\n\r\n", b"x" * 20_000], ids=["text", "a request", "binary", "long"]
)
def test_a_tunnel_begins_with_the_101_and_not_before(hesitant: Prompted, early: bytes) -> None:
    client = hesitant.at_once(request("GET", "/case", *UPGRADE) + early)
    upstream = hesitant.prompt()
    hesitant.settle()
    assert heard(upstream).count(b"\r\n\r\n") == 1
    assert heard(upstream).endswith(b"\r\n\r\n"), "nothing behind the head before the 101"
    upstream.say(AGREED + b"welcome")
    answer = client.answer()
    assert (answer.status, answer.one("Connection"), answer.one("Upgrade")) == (101, "Upgrade", "websocket")
    assert client.take(7) == b"welcome"
    eventually(lambda: heard(upstream).endswith(b"\r\n\r\n" + early), "what was said early")
    client.send(b"\0late")
    eventually(lambda: heard(upstream).endswith(early + b"\0late"), "what was said late")
    upstream.say(b"HTTP/1.1 200 OK\r\n\r\n")
    assert client.take(19) == b"HTTP/1.1 200 OK\r\n\r\n", "raw, both ways"
    client.close()
    upstream.assert_dropped()


@pytest.mark.says("**Tunnels.** Upgrades: GET")
@pytest.mark.parametrize("end", ["finish", "close", "reset"])
def test_the_end_of_the_upstream_s_side_is_the_end_of_the_tunnel(prompted: Prompted, end: str) -> None:
    client, upstream = prompted.ask("/case", *UPGRADE)
    upstream.say(AGREED + b"bye")
    assert client.answer().status == 101
    assert client.take(3) == b"bye"
    getattr(upstream, end)()
    assert client.is_ended()


@pytest.mark.says("**Tunnels.** Upgrades: GET")
@pytest.mark.parametrize("status", [200, 204, 304, 400, 426, 502])
def test_what_is_pipelined_behind_a_declined_upgrade_is_http(prompted: Prompted, status: int) -> None:
    client = prompted.at_once(request("GET", "/case", *UPGRADE) + request(target="/next") + b"\x81\x05hello" + SMUGGLED)
    upstream = prompted.prompt()
    assert heard(upstream).endswith(b"\r\n\r\n")
    upstream.say(response(status, b"" if status in (204, 304) else b"no"))
    assert client.answer().status == status
    assert client.answer().body == b"/next"
    prompted.assert_refused(client, 400, "bad_request")
    assert [each.target for each in prompted.requests()] == ["/case", "/next"]


@pytest.mark.says("**Tunnels.** Upgrades: GET")
@pytest.mark.says("not valid HTTP/1.1, ambiguous framing, a head over 64 KiB")
@pytest.mark.parametrize(
    "answer",
    [
        switching(b"Connection: Upgrade", b"Upgrade: h2c"),
        switching(b"Connection: Upgrade", b"Upgrade: websocket, h2c"),
        switching(b"Connection: Upgrade", b"Upgrade: websocket", b"Upgrade: other"),
        switching(b"Connection: Upgrade", b"Upgrade: websocket/2"),
        switching(b"Connection: Upgrade", b"Upgrade:"),
        switching(b"Connection: Upgrade"),
        switching(b"Upgrade: websocket"),
        switching(b"Connection: close", b"Upgrade: websocket"),
        switching(),
    ],
    ids=[
        *("another", "two", "two lines", "another version", "empty", "no Upgrade", "no Connection", "no option"),
        "neither",
    ],
)
def test_a_101_that_does_not_agree_to_the_offer_makes_no_tunnel(prompted: Prompted, answer: bytes) -> None:
    client = prompted.at_once(request("GET", "/case", *UPGRADE) + request(target="/next"))
    upstream = prompted.prompt()
    upstream.say(answer + b"raw")
    refusal = client.answer()
    assert (refusal.status, refusal.one("X-BG-Reason")) == (502, "bad_response")
    assert client.answer().body == b"/next"
    upstream.assert_dropped()
    assert b"/next" not in heard(upstream)


BODIES = {
    "length": (f"Content-Length: {len(SMUGGLED)}", SMUGGLED),
    "chunked": ("Transfer-Encoding: chunked", chunked(SMUGGLED)),
}


@pytest.mark.says("an upgrade with a body, in HTTP/1.0")
@pytest.mark.says("**Tunnels.** Upgrades: GET")
@pytest.mark.parametrize("protocol", ["websocket", "h2c", "x", "TLS/1.0", ""])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
@pytest.mark.parametrize(("framing", "body"), BODIES.values(), ids=BODIES)
def test_an_upgrade_with_a_body_is_a_request_with_a_body(
    through: Through, method: str, protocol: str, framing: str, body: bytes
) -> None:
    fields = ("Connection: Upgrade, HTTP2-Settings", f"Upgrade: {protocol}", "HTTP2-Settings: AAMAAABk", framing)
    client = through.at_once(request(method, "/case", *fields) + body + request(target="/next"))
    assert (client.answer().body, client.answer().body) == (b"/case", b"/next")
    asked, following = through.requests()
    assert (asked.body, following.target) == (SMUGGLED, "/next")
    assert [asked.all(name) for name in ("upgrade", "connection", "http2-settings")] == [[], [], []]


OFFERS = {
    "websocket": (("Connection: Upgrade", "Upgrade: websocket"), "1.1", "websocket"),
    "in other case": (("connection: UPGRADE", "upgrade: WebSocket"), "1.1", "websocket"),
    "as a list member": (("Connection: keep-alive,, upgrade", "Upgrade: websocket"), "1.1", "websocket"),
    "another token": (("Connection: Upgrade", "Upgrade: custom/1"), "1.1", "custom/1"),
    "websocket among others": (("Connection: Upgrade", "Upgrade: h2c, websocket"), "1.1", "websocket"),
    "h2c": (("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMA"), "1.1", ""),
    "H2C": (("Connection: Upgrade", "Upgrade: H2C"), "1.1", ""),
    "HTTP/2.0": (("Connection: Upgrade", "Upgrade: HTTP/2.0"), "1.1", ""),
    "TLS": (("Connection: Upgrade", "Upgrade: TLS/1.0"), "1.1", ""),
    "two tokens": (("Connection: Upgrade", "Upgrade: a, b"), "1.1", ""),
    "no token": (("Connection: Upgrade", "Upgrade: a b"), "1.1", ""),
    "empty": (("Connection: Upgrade", "Upgrade:"), "1.1", ""),
    "without Connection": (("Upgrade: websocket",), "1.1", ""),
    "Connection without it": (("Connection: keep-alive", "Upgrade: websocket"), "1.1", ""),
    "Connection alone": (("Connection: Upgrade",), "1.1", ""),
    "HTTP/1.0": (("Connection: Upgrade", "Upgrade: websocket"), "1.0", ""),
}


@pytest.mark.says("an upgrade with a body, in HTTP/1.0")
@pytest.mark.says("several protocols in Upgrade")
@pytest.mark.says("**Tunnels.** Upgrades: GET")
@pytest.mark.parametrize(("fields", "version", "offered"), OFFERS.values(), ids=OFFERS)
def test_only_an_upgrade_that_can_be_tunnelled_is_offered(
    through: Through, fields: tuple[str, ...], version: str, offered: str
) -> None:
    assert through.at_once(request("GET", "/case", *fields, version=version)).answer().body == b"/case"
    (asked,) = through.requests()
    assert asked.end_to_end == ((("connection", "Upgrade"), ("upgrade", offered)) if offered else ())


@pytest.mark.says("an upgrade with a body, in HTTP/1.0")
@pytest.mark.parametrize("method", ["HEAD", "POST", "OPTIONS", "DELETE"])
def test_only_a_get_may_become_a_tunnel(through: Through, method: str) -> None:
    assert through.at_once(request(method, "/case", *UPGRADE)).answer(method).status == 200
    assert through.requests()[0].end_to_end == ()


# --- Expect -----------------------------------------------------------------------------------------------------------

EXPECT = "Expect: 100-continue"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.mark.says("who answers an expectation")
@pytest.mark.says("1xx answers are relayed")
@pytest.mark.parametrize(("framing", "body"), BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("spelled", ["100-continue", "100-Continue", " 100-CONTINUE\t"])
def test_the_upstream_decides_about_an_expected_continue(
    hesitant: Prompted, spelled: str, framing: str, body: bytes
) -> None:
    client = hesitant.at_once(request("POST", "/case", f"Expect:{spelled}", framing))
    upstream = hesitant.prompt()
    assert b"\r\nExpect: 100-continue\r\n" in heard(upstream)
    hesitant.settle()
    assert heard(upstream).endswith(b"\r\n\r\n")
    upstream.say(CONTINUE)
    assert client.answer().raw == CONTINUE
    client.send(body)
    eventually(lambda: heard(upstream).endswith(body if "Length" in framing else b"\r\n0\r\n\r\n"), "the body")
    upstream.say(response(200, b"thanks", "Connection: close"))
    assert client.answer().body == b"thanks"
    assert client.ask(target="/next").body == b"/next"


@pytest.mark.says("who answers an expectation")
@pytest.mark.says("1xx answers are relayed")
@pytest.mark.says("An early final answer during an upload is passed on")
@pytest.mark.parametrize(("framing", "body"), BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("status", [200, 204, 304, 401, 413, 417])
def test_a_final_answer_in_place_of_the_continue_ends_the_connection(
    hesitant: Prompted, status: int, framing: str, body: bytes
) -> None:
    """What the client sends now may be the body or the next request: it is taken as neither."""
    client = hesitant.at_once(request("POST", "/case", EXPECT, framing))
    upstream = hesitant.prompt()
    upstream.say(response(status, b"" if status in (204, 304) else b"no"))
    answer = client.answer()
    assert (answer.status, answer.one("Connection")) == (status, "close")
    client.send(body + SMUGGLED)
    assert client.is_ended()
    client.close()
    upstream.assert_dropped()
    assert heard(upstream).count(b"\r\n\r\n") == 1, "neither a body nor another request"
    assert [each.target for _, whole, _ in hesitant.conversations() for each in whole] == []


@pytest.mark.says("1xx answers are relayed")
@pytest.mark.parametrize(("framing", "body"), BODIES.values(), ids=BODIES)
def test_a_body_that_does_not_wait_for_the_continue_is_a_body(prompted: Prompted, framing: str, body: bytes) -> None:
    client = prompted.at_once(request("POST", "/case", EXPECT, framing) + body + request(target="/next"))
    upstream = prompted.prompt()
    upstream.say(CONTINUE + response(200, b"thanks"))
    assert [client.answer().status for _ in range(2)] == [100, 200]
    assert client.answer().body == b"/next"
    assert [(each.target, each.body) for each in prompted.requests()] == [("/case", SMUGGLED), ("/next", b"")]


REFUSED_EXPECTATIONS = {
    name: request("POST", "/case", *fields, "Content-Length: 5") + b"hello"
    for name, fields in {
        "another": ("Expect: 200-ok",),
        "with a space": ("Expect: 100 continue",),
        "with a parameter": ("Expect: 100-continue;q=1",),
        "longer": ("Expect: 100-continuex",),
        "behind a word": ("Expect: y 100-continue",),
        "quoted": ('Expect: "100-continue"',),
        "two in a list": ("Expect: 100-continue, 100-continue",),
        "another behind": ("Expect: 100-continue, x",),
        "another before": ("Expect: x, 100-continue",),
        "two lines": ("Expect: 100-continue", "Expect: 100-continue"),
        "two lines, differing": ("Expect: 100-continue", "Expect: x"),
        "underscore in the value": ("Expect: 100_continue",),
    }.items()
}
MALFORMED_EXPECTATIONS = {
    name: b"POST /case HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n" + line + b"\r\n\r\nhello"
    for name, line in {
        "space before the colon": b"Expect : 100-continue",
        "folded": b"Expect:\r\n 100-continue",
        "NUL": b"Expect: 100-continue\x00",
        "VT": b"Expect: \x0b100-continue",
        "LF": b"Expect: 100-continue\nX: 1",
    }.items()
}


@pytest.mark.says("`100-continue` more than once")
@pytest.mark.says("an expectation other than `100-continue`")
@pytest.mark.parametrize("sent", REFUSED_EXPECTATIONS.values(), ids=REFUSED_EXPECTATIONS)
def test_any_other_expectation_is_refused(through: Through, sent: bytes) -> None:
    through.assert_refused(through.at_once(sent + SMUGGLED), 417, "unsupported")
    through.assert_nothing_was_sent()


@pytest.mark.says("an expectation other than `100-continue`")
def test_any_other_expectation_is_refused_byte_by_byte_as_well(through: Through) -> None:
    through.assert_all_refused(REFUSED_EXPECTATIONS, 417, "unsupported")
    through.assert_all_refused(MALFORMED_EXPECTATIONS, 400, "bad_request")
    through.assert_nothing_was_sent()


@pytest.mark.says("an expectation without a body")
@pytest.mark.says("an expectation other than `100-continue`")
@pytest.mark.parametrize(
    ("fields", "version"),
    [(("Expect:",), "1.1"), (("Expect: ,",), "1.1"), ((EXPECT,), "1.0"), (("Ex_pect: x",), "1.1")],
)
def test_no_expectation_is_no_expectation(through: Through, fields: tuple[str, ...], version: str) -> None:
    sent = request("POST", "/case", *fields, body=b"hello", version=version)
    assert through.at_once(sent).answer().body == b"/case"
    (asked,) = through.requests()
    assert (asked.body, asked.all("expect")) == (b"hello", [])


# --- 1xx --------------------------------------------------------------------------------------------------------------

HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"
INTERIMS = {
    "103": (HINTS, [HINTS]),
    "102 and 103": (b"HTTP/1.1 102 Processing\r\n\r\n" + HINTS, [b"HTTP/1.1 102 Processing\r\n\r\n", HINTS]),
    "unknown": (b"HTTP/1.1 199 What\r\n\r\n", [b"HTTP/1.1 199 What\r\n\r\n"]),
    "unasked 100": (CONTINUE, []),
    "unasked 100 and 103": (CONTINUE + HINTS + CONTINUE, [HINTS]),
    "with a length": (HINTS[:-2] + b"Content-Length: 5\r\n\r\n", [HINTS]),
    "with a coding": (HINTS[:-2] + b"Transfer-Encoding: chunked\r\n\r\n", [HINTS]),
    "with fields for this hop": (HINTS[:-2] + b"Connection: X-A\r\nX-A: 1\r\nX-BG-Epoch: 6\r\n\r\n", [HINTS]),
    "as many as there may be": (HINTS * 16, [HINTS] * 16),
}


@pytest.mark.says("a 1xx that was not asked for")
@pytest.mark.says("Content-Length in a 204")
@pytest.mark.says("1xx answers are relayed")
@pytest.mark.parametrize(("sent", "relayed"), INTERIMS.values(), ids=INTERIMS)
@pytest.mark.parametrize("spelled", [False, True], ids=["at once", "byte by byte"])
def test_interim_answers_are_relayed_and_never_final(
    prompted: Prompted, sent: bytes, relayed: list[bytes], spelled: bool
) -> None:
    client, upstream = prompted.ask()
    old, other = prompted.ask("/case/old", version="1.0")
    for prompt in (upstream, other):
        whole = sent + response(200, b"final")
        prompted.spell({prompt: whole}) if spelled else prompt.say(whole)
    assert [client.answer().raw for _ in relayed] == relayed
    assert client.answer().body == b"final"
    assert client.ask(target="/next").body == b"/next"
    assert old.answer().body == b"final", "HTTP/1.0 knows no 1xx"


@pytest.mark.says("1xx answers are relayed")
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("interim", [HINTS, CONTINUE], ids=["103", "100"])
def test_a_flood_of_interim_answers_is_bounded(prompted: Prompted, interim: bytes, version: str) -> None:
    client, upstream = prompted.ask(version=version)
    upstream.say(interim * 1000 + response(200, b"final"))
    statuses = []
    while not statuses or statuses[-1] < 200:
        statuses.append(client.answer().status)
    assert statuses == ([103] * 16 if interim == HINTS and version == "1.1" else []) + [502]
    upstream.assert_dropped()


@pytest.mark.says("1xx answers are relayed")
@pytest.mark.parametrize(
    "rest",
    [b"hello" + response(200, b"final"), b"5\r\nhello\r\n0\r\n\r\n", b"HTTP/1.1 200"],
    ids=["a body", "chunks", "half a head"],
)
def test_what_is_behind_an_interim_answer_must_be_another_answer(prompted: Prompted, rest: bytes) -> None:
    client, upstream = prompted.ask()
    upstream.say(HINTS[:-2] + b"Content-Length: 5\r\n\r\n" + rest)
    prompted.settle()
    upstream.finish()
    assert client.answer().status == 103
    assert client.answer().one("X-BG-Reason") == "bad_response"
    upstream.assert_dropped()
    assert client.ask(target="/next").body == b"/next"


# --- answers that come early ------------------------------------------------------------------------------------------


@pytest.mark.says("an answer that is complete before the request is")
@pytest.mark.says("An early final answer during an upload is passed on")
@pytest.mark.parametrize("then", ["stay", "finish", "close"])
@pytest.mark.parametrize(
    "answer",
    [response(413, b"too much"), b"HTTP/1.1 413 X\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"too much")],
    ids=["length", "chunked"],
)
@pytest.mark.parametrize(("framing", "body"), BODIES.values(), ids=BODIES)
def test_an_answer_during_the_upload_is_passed_on_and_both_connections_end(
    hesitant: Prompted, framing: str, body: bytes, answer: bytes, then: str
) -> None:
    client = hesitant.at_once(request("POST", "/case", framing) + body[:7])
    upstream = hesitant.prompt()
    upstream.say(answer)
    if then != "stay":
        getattr(upstream, then)()
    got = client.answer()
    assert (got.status, got.body, got.one("Connection")) == (413, b"too much", "close")
    client.send(body[7:] + SMUGGLED)
    assert client.is_ended()
    client.close()
    upstream.assert_dropped()
    hesitant.assert_nothing_was_completed()


@pytest.mark.says("An early final answer during an upload is passed on")
def test_an_early_answer_reaches_who_is_still_sending_to_an_upstream_that_does_not_read(plane: Plane) -> None:
    """More than all buffers on the way hold: the client is held back when the answer comes."""
    is_full, over = threading.Event(), threading.Event()

    def does_not_read(conversation: Conversation) -> None:
        conversation.until(b"\r\n\r\n")
        is_full.wait(PATIENCE_S)
        conversation.send(response(413, b"too much"))
        over.wait(PATIENCE_S)

    through = Through(plane, script=does_not_read)
    client = through.at_once(request("POST", "/case", f"Content-Length: {32 << 20}"))
    client.sock.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.sock.sendall(bytes(32 << 20))
    client.sock.settimeout(PATIENCE_S)
    is_full.set()
    answer = client.answer()
    over.set()
    assert (answer.status, answer.body, answer.one("Connection")) == (413, b"too much", "close")


@pytest.mark.says("An early final answer during an upload is passed on")
def test_an_answer_may_end_behind_the_upload_it_began_in(hesitant: Prompted) -> None:
    client = hesitant.at_once(request("POST", "/case", "Content-Length: 5") + b"he")
    upstream = hesitant.prompt()
    upstream.say(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
    assert client.until(b"\r\n\r\nab")
    client.send(b"llo" + SMUGGLED)
    eventually(lambda: heard(upstream).endswith(b"\r\n\r\nhello"), "the rest of the body")
    upstream.say(b"cd")
    assert client.take(2) == b"cd"
    assert client.is_ended(), "as it was announced"
    assert b"smuggled" not in heard(upstream)


@pytest.mark.says("malformed chunk, extension or trailer")
def test_a_body_that_goes_wrong_behind_the_beginning_of_its_answer_cuts_the_answer(hesitant: Prompted) -> None:
    for version in ("1.1",):
        client = hesitant.at_once(request("POST", "/case", "Transfer-Encoding: chunked", version=version))
        upstream = hesitant.prompt()
        upstream.say(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        client.until(b"half")
        client.send(b"not a chunk\r\n" + SMUGGLED)
        with pytest.raises(Ended):
            client.take(1)
        upstream.assert_dropped()
    hesitant.assert_nothing_was_completed()
