"""Broken upstreams: what is not relayed, what is cut and looks cut, and what no later request may see.

RFC 9112 sections 4, 6.3, 7 and 8. The test speaks for the upstream; behind every case a further request on the same and
on another connection must get its own answer.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from bgproxy.shm import worker_slot as slot
from tests.support.plane import eventually, settings
from tests.support.raw_http import Ended, chunked, request, response
from tests.support.through import Prompted, Through

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.plane import Plane
    from tests.support.raw_client import RawClient
    from tests.support.raw_upstream import Conversation
    from tests.support.through import Prompt

POISON = response(200, b"poison")
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def prompted(plane: Plane) -> Prompted:
    return Prompted(plane)


def head(*fields: bytes, status: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"\r\n".join([status, *fields]) + b"\r\n\r\n"


def length(value: bytes, *fields: bytes) -> bytes:
    return head(b"Content-Length: " + value, *fields) + b"hello"


def coding(value: bytes, *fields: bytes) -> bytes:
    return head(b"Transfer-Encoding: " + value, *fields) + chunked(b"hello")


def assert_unharmed(prompted: Through, client: RawClient | None = None) -> None:
    """Later requests get their own answers."""
    if client is not None:
        assert client.ask(target="/next").body == b"/next"
    for whole, rest in ((whole, rest) for _, whole, rest in prompted.conversations()):
        assert rest == b""
        assert all(each.target.startswith(("/case", "/next")) for each in whole)


# --- not relayed at all -----------------------------------------------------------------------------------------------

STATUS_LINES = {
    name: line + b"\r\nContent-Length: 5\r\n\r\nhello"
    for name, line in {
        "HTTP/2": b"HTTP/2 200 OK",
        "HTTP/2.0": b"HTTP/2.0 200 OK",
        "HTTP/1.2": b"HTTP/1.2 200 OK",
        "HTTP/0.9": b"HTTP/0.9 200 OK",
        "HTTP/1.10": b"HTTP/1.10 200 OK",
        "lower case": b"http/1.1 200 OK",
        "ICY": b"ICY 200 OK",
        "space before": b" HTTP/1.1 200 OK",
        "empty line before": b"\r\nHTTP/1.1 200 OK",
        "two spaces": b"HTTP/1.1  200 OK",
        "tab": b"HTTP/1.1\t200 OK",
        "no space behind the code": b"HTTP/1.1 200OK",
        "two digits": b"HTTP/1.1 99 Low",
        "leading zero": b"HTTP/1.1 099 Low",
        "four digits": b"HTTP/1.1 2000 OK",
        "600": b"HTTP/1.1 600 High",
        "999": b"HTTP/1.1 999 High",
        "000": b"HTTP/1.1 000 Zero",
        "no number": b"HTTP/1.1 abc OK",
        "signed": b"HTTP/1.1 +20 OK",
        "arabic digits": "HTTP/1.1 \u0662\u0660\u0660 OK".encode(),
        "no code": b"HTTP/1.1",
        "no code but a space": b"HTTP/1.1 ",
        "NUL in the reason": b"HTTP/1.1 200 O\x00K",
        "CR in the reason": b"HTTP/1.1 200 O\rK",
        "escape in the reason": b"HTTP/1.1 200 \x1b[2J",
        "DEL in the reason": b"HTTP/1.1 200 \x7f",
    }.items()
}
RESPONSE_HEADS = {
    "LF behind the status line": b"HTTP/1.1 200 OK\nContent-Length: 5\r\n\r\nhello",
    "LF everywhere": b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello\r\n\r\n",
    "LF behind a field": head(b"X-A: 1\nX-B: 2", b"Content-Length: 5") + b"hello",
    "LF at the end": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\nhello\r\n\r\n",
    "CR in a value": head(b"X-A: 1\rSet-Cookie: admin", b"Content-Length: 5") + b"hello",
    "CR CR LF": b"HTTP/1.1 200 OK\r\r\nContent-Length: 5\r\n\r\nhello",
    "CR behind the last field": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\r\n\r\nhello",
    "folded": head(b"X-A: 1\r\n 2", b"Content-Length: 5") + b"hello",
    "folded with a tab": head(b"X-A: 1\r\n\t2", b"Content-Length: 5") + b"hello",
    "folded length": head(b"Content-Length:\r\n 5") + b"hello",
    "fold behind the status line": head(b" X-A: 1", b"Content-Length: 5") + b"hello",
    "NUL in a value": head(b"X-A: a\x00b", b"Content-Length: 5") + b"hello",
    "control character in a value": head(b"X-A: a\x01b", b"Content-Length: 5") + b"hello",
    "escape in a value": head(b"X-A: \x1b[2J", b"Content-Length: 5") + b"hello",
    "DEL in a value": head(b"X-A: a\x7fb", b"Content-Length: 5") + b"hello",
    "no colon": head(b"no colon", b"Content-Length: 5") + b"hello",
    "no name": head(b": 1", b"Content-Length: 5") + b"hello",
    "space before the colon": head(b"X-A : 1", b"Content-Length: 5") + b"hello",
    "space before the colon of the length": head(b"Content-Length : 5") + b"hello",
    "space before the colon of the coding": head(b"Transfer-Encoding : chunked") + chunked(b"hello"),
    "space in a name": head(b"X A: 1", b"Content-Length: 5") + b"hello",
    "NUL in a name": head(b"X\x00A: 1", b"Content-Length: 5") + b"hello",
    "obs-text in a name": head(b"X\xe9: 1", b"Content-Length: 5") + b"hello",
    "over 64 KiB": head(b"X-A: " + b"x" * 65_600, b"Content-Length: 5") + b"hello",
    "over 64 KiB in many fields": head(*[b"X-A: " + b"x" * 1000] * 66, b"Content-Length: 5") + b"hello",
    "endless line": b"HTTP/1.1 200 OK\r\nX-A: " + b"x" * 65_600,
    "endless fields": b"HTTP/1.1 200 OK\r\n" + b"X-A: 1\r\n" * 8_300,
    "endless status line": b"HTTP/1.1 200 " + b"x" * 65_600,
}
RESPONSE_FRAMINGS = {
    "length: empty": length(b""),
    "length: plus": length(b"+5"),
    "length: minus": length(b"-5"),
    "length: minus one": length(b"-1"),
    "length: hexadecimal": length(b"0x5"),
    "length: underscore": length(b"0_5"),
    "length: suffix": length(b"5x"),
    "length: space inside": length(b"5 5"),
    "length: fraction": length(b"5.0"),
    "length: full-width digit": length("５".encode()),
    "length: VT": length(b"5\x0b"),
    "length: NBSP": length(b"\xa05"),
    "length: quoted": length(b'"5"'),
    "length: 2**64": length(b"18446744073709551616"),
    "length: 2**64 + 5": length(b"18446744073709551621"),
    "length: many digits": length(b"1" * 3000),
    "length: list, differing": length(b"5, 6"),
    "length: list, identical": length(b"5, 5"),
    "length: twice, differing": length(b"5", b"Content-Length: 6"),
    "length: twice, identical": length(b"5", b"Content-Length: 5"),
    "length: twice, other case": length(b"5", b"content-length: 0"),
    "length: invalid for a 304": head(b"Content-Length: x", status=b"HTTP/1.1 304 Not Modified"),
    "both": length(b"5", b"Transfer-Encoding: chunked"),
    "both, coding first": coding(b"chunked", b"Content-Length: 5"),
    "both, length 0": coding(b"chunked", b"Content-Length: 0"),
    "coding: twice in lines": coding(b"chunked", b"Transfer-Encoding: chunked"),
    "coding: twice in a list": coding(b"chunked, chunked"),
    "coding: gzip before": coding(b"gzip, chunked"),
    "coding: gzip": coding(b"gzip"),
    "coding: identity": coding(b"identity"),
    "coding: empty": coding(b""),
    "coding: prefix": coding(b"xchunked"),
    "coding: comma before": coding(b",chunked"),
    "coding: VT before": coding(b"\x0bchunked"),
    "coding: kelvin sign": coding("chun\u212aed".encode()),
    "coding: in HTTP/1.0": head(b"Transfer-Encoding: chunked", status=b"HTTP/1.0 200 OK") + chunked(b"hello"),
}
NO_HTTP = {
    "bare text": b"hello, world\n",
    "HTTP/0.9": b"<html><body>hello</body></html>\r\n\r\n",
    "HTTP/2 preface": b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0d",
    "TLS alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "zeros": b"\0" * 100,
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a request": request(),
    "empty line": b"\r\n\r\n",
    "many empty lines": b"\r\n" * 1000,
}
NOT_RELAYED = {
    f"{kind}: {name}": sent
    for kind, table in {
        "status line": STATUS_LINES,
        "head": RESPONSE_HEADS,
        "framing": RESPONSE_FRAMINGS,
        "protocol": NO_HTTP,
        "101": {
            "unasked": head(b"Connection: upgrade", b"Upgrade: websocket", status=b"HTTP/1.1 101 Switching Protocols"),
            "bare": head(status=b"HTTP/1.1 101 Switching Protocols"),
            "to h2c": head(b"Connection: upgrade", b"Upgrade: h2c", status=b"HTTP/1.1 101 Switching Protocols"),
        },
    }.items()
    for name, sent in table.items()
}


@pytest.mark.says("One rule: **ambiguous means refused**")
@pytest.mark.says("Content-Length twice with the same number")
@pytest.mark.says("Transfer-Encoding in an HTTP/1.0 message")
@pytest.mark.says("a status code outside 100–599")
@pytest.mark.says("an empty line before a status line")
@pytest.mark.says("folded fields from an upstream")
@pytest.mark.says("not valid HTTP/1.1, ambiguous framing, a head over 64 KiB")
@pytest.mark.parametrize("sent", NOT_RELAYED.values(), ids=NOT_RELAYED)
def test_what_is_not_clear_http_is_not_relayed(prompted: Prompted, sent: bytes) -> None:
    client, upstream = prompted.ask()
    upstream.say(sent)
    assert_bad_response(prompted, client, upstream)
    assert prompted.plane.failed("bad_response") == 1
    assert_unharmed(prompted, client)


@pytest.mark.says("not valid HTTP/1.1, ambiguous framing, a head over 64 KiB")
def test_what_is_not_clear_http_is_not_relayed_byte_by_byte_either(prompted: Prompted) -> None:
    asked = {name: prompted.ask(f"/case/{number}") for number, name in enumerate(NOT_RELAYED)}
    prompted.spell({upstream: NOT_RELAYED[name] for name, (_, upstream) in asked.items()})
    for name, (client, upstream) in asked.items():
        try:
            assert_bad_response(prompted, client, upstream)
        except (AssertionError, Ended) as error:
            raise AssertionError(f"{name}: {error}") from error
    assert_unharmed(prompted)


def assert_bad_response(prompted: Prompted, client: RawClient, upstream: Prompt, method: str = "GET") -> None:
    answer = client.answer(method)
    assert (answer.status, answer.one("X-BG-Reason")) == (502, "bad_response"), answer.raw
    assert answer.all("Connection") == [], "the client is not to blame"
    assert prompted.upstream.address.encode() not in answer.raw
    assert b"hello" not in answer.raw
    upstream.assert_dropped()


@pytest.mark.says("not valid HTTP/1.1, ambiguous framing, a head over 64 KiB")
@pytest.mark.parametrize("method", ["HEAD", "POST", "OPTIONS"])
def test_it_is_the_same_for_every_method(prompted: Prompted, method: str) -> None:
    for sent in (b"hello\r\n\r\n", length(b"5, 6"), coding(b"chunked", b"Content-Length: 5")):
        client, upstream = prompted.ask(method=method, body=b"x" if method == "POST" else b"")
        upstream.say(sent)
        assert_bad_response(prompted, client, upstream, method)
        assert_unharmed(prompted, client)


ODD_BUT_CLEAR = {
    "no reason": b"HTTP/1.1 200",
    "an empty reason": b"HTTP/1.1 200 ",
    "obs-text in the reason": b"HTTP/1.1 200 \xe9\t!",
    "a long reason": b"HTTP/1.1 200 " + b"x" * 2000,
    "an unknown code": b"HTTP/1.1 599 What",
    "HTTP/1.0": b"HTTP/1.0 200 OK",
}


@pytest.mark.says("a status line without a reason")
@pytest.mark.says("Status line, fields and order as they came")
@pytest.mark.parametrize("line", ODD_BUT_CLEAR.values(), ids=ODD_BUT_CLEAR)
def test_an_odd_status_line_that_is_clear_passes(prompted: Prompted, line: bytes) -> None:
    for spelled in (False, True):
        client, upstream = prompted.ask()
        sent = line + b"\r\nContent-Length: 5\r\n\r\nhello"
        prompted.spell({upstream: sent}) if spelled else upstream.say(sent)
        answer = client.answer()
        assert answer.raw.startswith(line.replace(b"HTTP/1.0", b"HTTP/1.1") + b"\r\n")
        assert answer.body == b"hello"
        assert_unharmed(prompted, client)


# --- the end of a body ------------------------------------------------------------------------------------------------

WHOLE = {
    "length": (length(b"5"), "GET", b"hello"),
    "length with blanks": (length(b" 5\t "), "GET", b"hello"),
    "length with zeros": (length(b"005"), "GET", b"hello"),
    "length of 0": (head(b"Content-Length: 0"), "GET", b""),
    "chunked": (CHUNKED + chunked(b"hel", b"lo"), "GET", b"hello"),
    "chunked in capitals": (head(b"TRANSFER-ENCODING: CHUNKED") + chunked(b"hello"), "GET", b"hello"),
    "chunked with extensions": (CHUNKED + b'5;a=b;c="d"\r\nhello\r\n0;x\r\n\r\n', "GET", b"hello"),
    "chunked with trailers": (CHUNKED + chunked(b"hello", trailers=b"X-Sum: 1\r\n"), "GET", b"hello"),
    "chunked and empty": (CHUNKED + chunked(), "GET", b""),
    "204": (head(status=b"HTTP/1.1 204 No Content"), "GET", b""),
    "204 with a length": (head(b"Content-Length: 5", status=b"HTTP/1.1 204 No Content"), "GET", b""),
    "204 with a coding": (head(b"Transfer-Encoding: chunked", status=b"HTTP/1.1 204 No Content"), "GET", b""),
    "304": (head(status=b"HTTP/1.1 304 Not Modified"), "GET", b""),
    "304 with a length": (head(b"Content-Length: 5", status=b"HTTP/1.1 304 Not Modified"), "GET", b""),
    "304 with a coding": (head(b"Transfer-Encoding: chunked", status=b"HTTP/1.1 304 Not Modified"), "GET", b""),
    "HEAD": (head(), "HEAD", b""),
    "HEAD with a length": (head(b"Content-Length: 5"), "HEAD", b""),
    "HEAD with a coding": (head(b"Transfer-Encoding: chunked"), "HEAD", b""),
}
SURPLUS = {
    "a second response": POISON,
    "one byte": b"x",
    "an empty line": b"\r\n",
    "a body": b"hello",
    "chunks": chunked(b"hello"),
    "an interim response": b"HTTP/1.1 103 Early Hints\r\n\r\n",
    "64 KiB": b"x" * 65_536,
}


@pytest.mark.says("HEAD, 204 and 304 have none")
@pytest.mark.says("Content-Length in a 204")
@pytest.mark.says("Content-Length in a 304")
@pytest.mark.says("A connection is parked only where it stands")
@pytest.mark.says("A body of unknown length goes out chunked")
@pytest.mark.parametrize(("sent", "method", "body"), WHOLE.values(), ids=WHOLE)
def test_a_whole_response_leaves_both_connections_in_use(
    prompted: Prompted, sent: bytes, method: str, body: bytes
) -> None:
    client, upstream = prompted.ask(method=method)
    upstream.say(sent)
    answer = client.answer(method)
    assert (answer.status // 100, answer.body) == (int(sent[9:10]), body)
    for name in ("Content-Length", "Transfer-Encoding"):
        if answer.status == 204:
            assert answer.all(name) == []
        elif answer.status == 304:
            assert answer.one(name) in ("", "5")
    assert_unharmed(prompted, client)
    assert len(prompted.upstream.conversations) == 1
    again, upstream = prompted.ask(method=method)
    prompted.spell({upstream: sent})
    assert again.answer(method).body == body


@pytest.mark.says("Bytes behind the end of an answer are dropped")
@pytest.mark.parametrize("surplus", SURPLUS.values(), ids=SURPLUS)
def test_bytes_behind_a_response_reach_nobody(prompted: Prompted, surplus: bytes) -> None:
    """In one piece with it, right behind it, and on a connection that is parked."""
    number = 0
    for together in ("in one piece", "in two", "when parked"):
        asked = []
        for sent, method, body in WHOLE.values():
            number += 1
            asked.append((*prompted.ask(f"/case/{number}", method=method), sent, method, body))
        for client, upstream, sent, method, body in asked:
            upstream.say(sent + surplus if together == "in one piece" else sent)
            if together == "in two":
                upstream.say(surplus)
            assert client.answer(method).body == body
        if together == "when parked":
            for _, upstream, *_ in asked:
                upstream.say(surplus)
        for client, upstream, *_ in asked:
            upstream.assert_dropped()
            assert client.ask(target="/next").body == b"/next"
        assert_unharmed(prompted)


@pytest.mark.says("Bytes behind the end of an answer are dropped")
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("first", ["request", "poison"])
def test_bytes_that_come_with_the_next_request_are_not_its_answer(
    prompted: Prompted, stopped: Callable[[int], contextlib.AbstractContextManager[None]], method: str, first: str
) -> None:
    """The worker sleeps while both happen: it finds a request and bytes on the parked connection at once."""
    client, upstream = prompted.ask()
    upstream.say(response(200, b"hello"))
    assert client.answer().body == b"hello"
    with stopped(prompted.plane.worker.process.pid):
        if first == "request":
            client.send(request(method, "/next"))
        upstream.say(POISON)
        if first == "poison":
            client.send(request(method, "/next"))
    assert client.answer(method).body == b"/next"
    upstream.assert_dropped()


@pytest.mark.says("Bytes behind the end of an answer are dropped")
def test_a_connection_whose_end_was_announced_is_not_parked(prompted: Prompted) -> None:
    announced = (
        length(b"5", b"Connection: close"),
        length(b"5", b"connection: Keep-Alive, CLOSE"),
        length(b"5", b"Connection: x", b"Connection: close"),
        head(b"Content-Length: 5", status=b"HTTP/1.0 200 OK") + b"hello",
        coding(b"chunked", b"Connection: close"),
    )
    for sent in announced:
        client, upstream = prompted.ask()
        upstream.say(sent)
        answer = client.answer()
        assert (answer.body, answer.all("Connection")) == (b"hello", []), "the client's connection goes on"
        upstream.assert_dropped()
        assert_unharmed(prompted, client)
    client, upstream = prompted.ask()
    kept = head(b"Content-Length: 5", b"Connection: keep-alive", status=b"HTTP/1.0 200 OK") + b"hello"
    upstream.say(kept)
    assert client.answer().body == b"hello"
    assert_unharmed(prompted, client)
    assert not upstream.is_ended


# --- what breaks off looks broken -------------------------------------------------------------------------------------

BREAKABLE = {
    "length": head(b"Content-Length: 5", b"X-A: 1") + b"hello",
    "chunked": CHUNKED + b"3;x\r\nhel\r\n2\r\nlo\r\n0\r\nX-Sum: 1\r\n\r\n",
    "behind an interim response": b"HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n" + length(b"5"),
}


@pytest.mark.says("An answer that breaks off **looks broken**")
@pytest.mark.says("closed before any answer")
@pytest.mark.says("not valid HTTP/1.1, ambiguous framing, a head over 64 KiB")
@pytest.mark.parametrize(("method", "end"), [("GET", "finish"), ("GET", "close"), ("GET", "reset"), ("POST", "close")])
@pytest.mark.parametrize("sent", BREAKABLE.values(), ids=BREAKABLE)
def test_a_response_that_breaks_off_anywhere(prompted: Prompted, sent: bytes, method: str, end: str) -> None:
    """One connection for every place at which it may break off: never a whole answer, and never two."""
    body = b"x" if method == "POST" else b""
    asked = [prompted.ask(f"/case/{cut}", method=method, body=body) for cut in range(len(sent))]
    for cut, (_, upstream) in enumerate(asked):
        upstream.say(sent[:cut])
    prompted.settle()
    for _, upstream in asked:
        getattr(upstream, end)()
    interim = sent.startswith(b"HTTP/1.1 103")
    head_end = sent.index(b"\r\n\r\n", sent.index(b"HTTP/1.1 200")) + 4
    for cut, (client, upstream) in enumerate(asked):
        broken = Seen(client, interim and cut >= sent.index(b"HTTP/1.1 200"))
        if cut < head_end:
            assert (broken.status, broken.is_whole) == (502, True), cut
            nothing = cut == 0 or (interim and cut == sent.index(b"HTTP/1.1 200"))
            assert broken.reason == ("closed_before_response" if nothing else "bad_response"), cut
        else:
            assert (broken.status, broken.is_whole) == (200, False), cut
        upstream.assert_dropped()
    eventually(lambda: prompted.plane.cells[slot.IN_FLIGHT] == 0, "no request")
    assert_unharmed(prompted)
    assert len([each for each in prompted.requests() if each.target.startswith("/case")]) == len(sent), "none twice"


def broken(client: RawClient) -> bool:
    """Does the answer end short of its framing, or with a reset?"""
    try:
        client.answer()
    except (Ended, ConnectionResetError):
        return True
    return False


class Seen:
    """What a client understands of an answer."""

    def __init__(self, client: RawClient, after_interim: bool) -> None:
        self.reason, self.is_whole = "", False
        try:
            answer = client.answer()
            if after_interim:
                assert answer.status == 103
                answer = client.answer()
            self.status, self.reason, self.is_whole = answer.status, answer.one("X-BG-Reason"), True
        except Ended as ended:
            final = ended.so_far[ended.so_far.rindex(b"HTTP/1.1 ") :]
            self.status = int(final[9:12])


BAD_CHUNKS = {
    "size is no number": b"x\r\nhello\r\n",
    "size empty": b"\r\nhello\r\n",
    "size 0x5": b"0x5\r\nhello\r\n",
    "size -5": b"-5\r\nhello\r\n",
    "size with a space behind": b"5 \r\nhello\r\n",
    "size of 2**64 + 5": b"10000000000000005\r\nhello\r\n",
    "size behind LF": b"5\nhello\r\n",
    "size behind CR CR LF": b"5\r\r\nhello\r\n",
    "data not followed by CRLF": b"5\r\nhelloX\r\n",
    "data followed by LF": b"5\r\nhello\n",
    "data longer than the size": b"4\r\nhello\r\n",
    "data shorter than the size": b"6\r\nhello\r\n",
    "extension with LF": b"5;a\nb\r\nhello\r\n",
    "extension with NUL": b"5;a\x00\r\nhello\r\n",
    "extension with CRLF in quotes": b'5;a="\r\n"\r\nhello\r\n',
    "extension of 9 KiB": b"5;a=" + b"x" * 9000 + b"\r\nhello\r\n",
    "extensions of 17 KiB in all": b"".join(b"1;a=%b\r\nx\r\n" % (b"y" * 1000) for _ in range(17)),
    "last chunk with LF": b"0\n\r\n",
    "trailer without colon": b"0\r\nX-A\r\n\r\n",
    "trailer with LF": b"0\r\nX-A: 1\nX-B: 2\r\n\r\n",
    "trailer folded": b"0\r\nX-A: 1\r\n 2\r\n\r\n",
    "response in place of a trailer": b"0\r\nHTTP/1.1 200 OK\r\n\r\n",
    "trailers of 17 KiB in all": b"0\r\n" + b"".join(b"X-%d: %b\r\n" % (i, b"y" * 1000) for i in range(17)) + b"\r\n",
    "endless trailer": b"0\r\nX-A: " + b"x" * 9000,
}


@pytest.mark.says("An answer that breaks off **looks broken**")
@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("spelled", [False, True], ids=["at once", "byte by byte"])
def test_a_malformed_chunk_of_a_response_cuts_it(prompted: Prompted, spelled: bool, version: str) -> None:
    asked = {name: prompted.ask(f"/case/{n}", version=version) for n, name in enumerate(BAD_CHUNKS)}
    said = {
        upstream: CHUNKED + b"3\r\nabc\r\n" + BAD_CHUNKS[name] + b"0\r\n\r\n" for name, (_, upstream) in asked.items()
    }
    if spelled:
        prompted.spell(said)
    else:
        for upstream, sent in said.items():
            upstream.say(sent)
    for name, (client, upstream) in asked.items():
        assert broken(client), name
        upstream.assert_dropped()
    assert prompted.plane.failed("response_truncated") == len(BAD_CHUNKS)
    assert_unharmed(prompted)


# --- without a length -------------------------------------------------------------------------------------------------

UNTIL_CLOSE = {
    "HTTP/1.1": head(b"X-A: 1"),
    "no fields at all": head(),
    "HTTP/1.0": head(b"X-A: 1", status=b"HTTP/1.0 200 OK"),
    "with Connection: close": head(b"Connection: close"),
    "that says keep-alive": head(b"Connection: keep-alive", status=b"HTTP/1.0 200 OK"),
}


@pytest.mark.says("A body of unknown length goes out chunked")
@pytest.mark.parametrize("sent", UNTIL_CLOSE.values(), ids=UNTIL_CLOSE)
@pytest.mark.parametrize("body", [b"", b"hello", POISON], ids=["empty", "hello", "like a response"])
def test_a_body_that_ends_with_its_connection_is_framed_anew(prompted: Prompted, sent: bytes, body: bytes) -> None:
    client, upstream = prompted.ask()
    upstream.say(sent + body)
    upstream.close()
    answer = client.answer()
    assert (answer.body, answer.all("Transfer-Encoding"), answer.all("Connection")) == (body, ["chunked"], [])
    assert_unharmed(prompted, client)
    old, upstream = prompted.ask(version="1.0")
    upstream.say(sent + body)
    upstream.close()
    answer = old.answer()
    assert (answer.body, answer.all("Transfer-Encoding"), answer.one("Connection")) == (body, [], "close")
    eventually(lambda: prompted.plane.cells[slot.IN_FLIGHT] == 0, "no request")


@pytest.mark.says("An answer that breaks off **looks broken**")
def test_a_reset_in_place_of_the_end_of_such_a_body_looks_broken(prompted: Prompted) -> None:
    for version in ("1.1", "1.0"):
        client, upstream = prompted.ask(version=version)
        upstream.say(head() + b"hello")
        client.until(b"hello")
        upstream.reset()
        if version == "1.1":
            assert client.rest() == b"\r\n", "no last chunk"
        else:
            with pytest.raises(ConnectionResetError):
                client.rest()
    assert_unharmed(prompted)


@pytest.mark.says("A body of unknown length goes out chunked")
def test_a_chunked_response_for_a_1_0_client_ends_with_its_connection(prompted: Prompted) -> None:
    for spelled in (False, True):
        client, upstream = prompted.ask("/case", "Connection: keep-alive", version="1.0")
        sent = CHUNKED + chunked(b"hel", b"lo", trailers=b"X-Sum: 1\r\n")
        prompted.spell({upstream: sent}) if spelled else upstream.say(sent)
        answer = client.answer()
        assert (answer.body, answer.all("Transfer-Encoding"), answer.one("Connection")) == (b"hello", [], "close")
    assert_unharmed(prompted)


UNSAFE_TRAILERS = ("Set-Cookie", "Location", "Connection", "X-BG-Epoch", "Cache-Control", "set_cookie", "X.BG.Epoch")


@pytest.mark.says("A body of unknown length goes out chunked")
def test_trailers_of_a_response_pass_unless_they_would_change_what_was_said(prompted: Prompted) -> None:
    unsafe = b"".join(b"%b: 6\r\n" % name.encode() for name in UNSAFE_TRAILERS)
    client, upstream = prompted.ask()
    upstream.say(head(b"Transfer-Encoding: chunked", b"Trailer: X-Sum"))
    upstream.say(chunked(b"hello", trailers=b"X-Sum: 1\r\n" + unsafe))
    answer = client.answer()
    assert (answer.body, answer.trailers) == (b"hello", [("x-sum", "1")])
    assert answer.fields == [("transfer-encoding", "chunked"), ("trailer", "X-Sum")]
    assert_unharmed(prompted, client)


@pytest.mark.says("a trailer that frames or routes")
@pytest.mark.says("An answer that breaks off **looks broken**")
@pytest.mark.parametrize("name", ["Content-Length", "Transfer-Encoding", "Host", "content_length"])
def test_an_answer_with_trailers_that_frame_or_route_looks_broken(prompted: Prompted, name: str) -> None:
    client, upstream = prompted.ask()
    upstream.say(head(b"Transfer-Encoding: chunked"))
    upstream.say(chunked(b"hello", trailers=b"X-Sum: 1\r\n%b: 6\r\n" % name.encode()))
    with pytest.raises(Ended):
        client.answer()
    assert_unharmed(prompted)


@pytest.mark.says("**Token by token.** A piece")
def test_forty_thousand_chunks_of_a_byte_leave_as_fewer(prompted: Prompted) -> None:
    client, upstream = prompted.ask()
    upstream.say(CHUNKED + chunked(*[b"x"] * 40_000))
    answer = client.answer()
    assert answer.body == b"x" * 40_000
    assert len(answer.raw) < 80_000, "of 240 000 that came"


# --- before anybody asked ---------------------------------------------------------------------------------------------

UNASKED: dict[str, Callable[[Conversation], object]] = {
    "closes": lambda conversation: None,
    "resets": lambda conversation: conversation.reset(),
    "greets": lambda conversation: (conversation.send(b"220 mail.example ESMTP\r\n"), conversation.rest()),
    "greets and closes": lambda conversation: conversation.send(b"SSH-2.0-x\r\n"),
}


@pytest.mark.says("an upstream that speaks or closes before it is asked")
@pytest.mark.parametrize("script", UNASKED.values(), ids=UNASKED)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_upstream_that_does_not_wait_to_be_asked(
    plane: Plane, script: Callable[[Conversation], object], method: str
) -> None:
    """What listens where an app should: another service, or a forwarder with nobody behind it."""
    plane.configure(settings(upstream={"passive_failures": 0}), blue=[plane.upstream(script)])
    clients = [plane.client() for _ in range(10)]
    for client in clients:
        client.send(request(method, body=b"x" if method == "POST" else b""))
    for client in clients:
        answer = client.answer()
        assert answer.status == 502
        assert answer.one("X-BG-Reason") in ("bad_response", "closed_before_response", "connect_failed")
    through = Through(plane)
    assert_unharmed(through)


# --- the size of a head -----------------------------------------------------------------------------------------------


@pytest.mark.says("not valid HTTP/1.1, ambiguous framing, a head over 64 KiB")
@pytest.mark.parametrize("spelled", [False, True], ids=["at once", "bit by bit"])
def test_a_head_may_be_as_large_as_its_limit(prompted: Prompted, spelled: bool) -> None:
    for size, status in ((65_536, 200), (65_537, 502)):
        start = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: "
        sent = start + b"x" * (size - len(start) - 4) + b"\r\n\r\n" + b"hello"
        client, upstream = prompted.ask()
        prompted.spell({upstream: sent}) if spelled else upstream.say(sent)
        assert client.answer().status == status
        assert_unharmed(prompted, client)


# --- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.says("no head within `response_timeout`")
def test_a_head_that_drips_is_given_up_like_one_that_never_begins(plane: Plane) -> None:
    prompted = Prompted(plane, settings(upstream={"response_timeout": 0.4}))
    asked = {name: prompted.ask(f"/case/{name}") for name in ("silent", "drips", "interim")}
    asked["drips"][1].say(b"HTTP/1.1 200 OK\r\n")

    def all_are_over() -> bool:
        asked["drips"][1].say(b"X")
        asked["interim"][1].say(next(interims, b""))
        return all(upstream.is_ended for _, upstream in asked.values())

    interims = iter([b"HTTP/1.1 102 Processing\r\n\r\n"] * 10)
    eventually(all_are_over, "the end of all three")
    for client, _ in asked.values():
        answer = client.answer()
        while answer.status == 102:
            answer = client.answer()
        assert (answer.status, answer.one("X-BG-Reason")) == (504, "response_timeout")
    assert_unharmed(prompted)


@pytest.mark.says("An answer that breaks off **looks broken**")
def test_a_body_that_stays_away_is_cut(plane: Plane) -> None:
    prompted = Prompted(plane, settings(upstream={"body_idle": 0.3}))
    asked = [prompted.ask(f"/case/{n}") for n in range(3)]
    for (_, upstream), sent in zip(asked, (length(b"6"), CHUNKED + b"5\r\nhello\r\n", head() + b"hello"), strict=True):
        upstream.say(sent)
    for client, upstream in asked:
        with pytest.raises(Ended):
            client.answer()
        upstream.assert_dropped()
    assert plane.failed("response_idle") == 3


# --- again, or never again --------------------------------------------------------------------------------------------


@pytest.mark.says("A connection that was **reused**")
@pytest.mark.says("Nothing else is ever sent twice")
@pytest.mark.parametrize("end", ["close", "reset"])
def test_what_had_been_sent_is_sent_again_only_where_that_is_harmless(prompted: Prompted, end: str) -> None:
    """A connection that was reused, and breaks before any byte of an answer."""
    again = {("GET", b""), ("HEAD", b""), ("OPTIONS", b""), ("PUT", b""), ("DELETE", b"")}
    never = {("POST", b""), ("PATCH", b""), ("PROPFIND", b""), ("GET", b"x"), ("PUT", b"x"), ("DELETE", b"x")}
    for method, body in sorted(again | never):
        client = prompted.plane.client()
        assert client.ask(target="/next").body == b"/next", "a parked connection"
        before = len(prompted.upstream.requests)
        client.send(request(method, "/case", body=body))
        getattr(prompted.prompt(), end)()
        if (method, body) in again:
            prompted.prompt().say(response(200, b""))
        answer = client.answer(method)
        assert (answer.status, answer.one("X-BG-Reason")) == (
            (200, "") if (method, body) in again else (502, "closed_before_response")
        )
        assert len(prompted.upstream.requests) - before == (2 if (method, body) in again else 1), (method, body)
        with contextlib.closing(client):
            assert client.ask(target="/next").body == b"/next"


@pytest.mark.says("Nothing else is ever sent twice")
def test_nothing_is_sent_again_once_an_answer_has_begun(prompted: Prompted) -> None:
    for begun in (b"H", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"):
        client = prompted.plane.client()
        assert client.ask(target="/next").body == b"/next", "a parked connection"
        before = len(prompted.upstream.requests)
        client.send(request(target="/case"))
        upstream = prompted.prompt()
        upstream.say(begun)
        prompted.settle()
        upstream.close()
        assert client.answer().status == 502
        assert len(prompted.upstream.requests) - before == 1
