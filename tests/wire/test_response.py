"""What of an upstream's response is relayed, and what is a 502. RFC 9112 sections 4 and 6.3."""

from __future__ import annotations

import pytest

from bgproxy.wire.framing import CHUNKED, UNTIL_CLOSE
from bgproxy.wire.response import BadResponse, ResponseHead, ResponseReader
from tests.support.heads import answered, bad, response

OK = "HTTP/1.1 200 OK"


def lines(head: ResponseHead) -> list[bytes]:
    text = b"".join(head.pieces)
    assert text.endswith(b"\r\n\r\n")
    return text[:-4].split(b"\r\n")


def test_a_plain_response_is_relayed_with_its_fields_as_they_came():
    head = answered(response(OK, "A: 1", "Content-Length: 5", "SET-Cookie: a", "Set-Cookie: b", b"X:caf\xe9 "))
    assert (head.status, head.body, head.length, head.keep_alive) == (200, 5, b"5", True)
    assert lines(head) == [b"HTTP/1.1 200 OK", b"A: 1", b"SET-Cookie: a", b"Set-Cookie: b", b"X:caf\xe9 "]


@pytest.mark.parametrize(
    "fields",
    [
        ("Connection: keep-alive", "Content-Length: 5"),
        ("content-length: 5", "connection: Keep-Alive"),
        ("Content-Length: 5", "Keep-Alive: timeout=5", "Connection: keep-alive"),
        ("Content-Length: 5 ", "CONNECTION: Keep-Alive, foo", "Foo: 1"),
        ("CONTENT-LENGTH:5", "Proxy-Connection: x", "TE: y", "Upgrade: h2c"),
        ("Content-length: 5", "X-BG-Colour: mauve", "x_bg_epoch: 9", "Keep_Alive: 1"),
    ],
)
def test_fields_for_this_hop_and_our_own_are_not_relayed(fields):
    head = answered(response(OK, "A: 1", *fields, "B: 2"))
    assert lines(head) == [b"HTTP/1.1 200 OK", b"A: 1", b"B: 2"]
    assert (head.body, head.length, head.keep_alive) == (5, b"5", True)


def test_connection_removes_the_fields_it_names_but_not_the_framing():
    head = answered(response(OK, "Connection: X-Private, Content-Length", "Content-Length: 5", "X-Private: 1", "B: 2"))
    assert lines(head) == [b"HTTP/1.1 200 OK", b"B: 2"]
    assert head.body == 5


def test_a_response_without_any_field_is_read_until_the_upstream_closes():
    head = answered(response())
    assert (head.body, head.length, head.keep_alive) == (UNTIL_CLOSE, b"", False)
    assert lines(head) == [b"HTTP/1.1 200 OK"]
    assert len(head.pieces) >= 2


# --- where the body ends ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["0", "7", "007", " 7\t", "9" * 18])
def test_one_decimal_content_length_frames_the_body(value):
    head = answered(response(OK, f"Content-Length: {value}"))
    assert head.body == int(value)
    assert int(head.length) == head.body


@pytest.mark.parametrize(
    "value",
    [
        *("", "+5", "-5", "0x5", "5_0", "5 0", "5,", "5, 5", "5, 6", "5;", "a", "\v5", "5\v", "5\0", "\xb2", "\xa05"),
        *("9" * 19, str(2**64), "1" * 5000),
    ],
)
@pytest.mark.parametrize("line", [OK, "HTTP/1.0 200 OK", "HTTP/1.1 304 Not Modified", "HTTP/1.1 204 No Content"])
def test_any_other_content_length_is_bad(line, value):
    assert bad(response(line, f"Content-Length: {value}"))


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
@pytest.mark.parametrize("second", ["Content-Length: 5", "content-length: 6", "Transfer-Encoding: chunked"])
def test_two_framings_are_bad_even_when_they_agree(second, method):
    assert bad(response(OK, "Content-Length: 5", second), method)
    assert bad(response(OK, second, "A: 1", "Content-Length: 5"), method)


@pytest.mark.parametrize("coding", ["chunked", "Chunked", "CHUNKED"])
def test_the_one_coding_chunked_frames_the_body(coding):
    head = answered(response(OK, f"Transfer-Encoding: {coding}"))
    assert (head.body, head.length, head.keep_alive) == (CHUNKED, b"", True)


@pytest.mark.parametrize(
    "coding", ["", "gzip", "gzip, chunked", "chunked, gzip", ",chunked", "identity", "x", "chunked\0"]
)
def test_any_other_transfer_coding_is_bad(coding):
    assert bad(response(OK, f"Transfer-Encoding: {coding}"))


def test_two_transfer_encodings_are_bad():
    assert bad(response(OK, "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"))


def test_transfer_encoding_in_http_1_0_is_bad():
    assert bad(response("HTTP/1.0 200 OK", "Transfer-Encoding: chunked"))


@pytest.mark.parametrize("framing", ["Content-Length: 5", "Transfer-Encoding: chunked", "A: 1"])
@pytest.mark.parametrize(
    ("status", "method"), [(200, b"HEAD"), (204, b"GET"), (304, b"GET"), (404, b"HEAD"), (100, b"GET"), (103, b"POST")]
)
def test_a_response_that_never_has_a_body_has_none_whatever_it_says(status, method, framing):
    head = answered(response(f"HTTP/1.1 {status} X", framing), method)
    assert head.body == 0
    assert head.keep_alive


@pytest.mark.parametrize(
    ("status", "method", "length"),
    [(200, b"HEAD", b"5"), (304, b"GET", b"5"), (204, b"GET", b""), (103, b"GET", b""), (204, b"HEAD", b"")],
)
def test_only_an_answer_to_head_and_a_304_keep_a_length_without_a_body(status, method, length):
    assert answered(response(f"HTTP/1.1 {status} X", "Content-Length: 5"), method).length == length


# --- status lines and fields ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line", ["HTTP/1.1 200", "HTTP/1.1 200 ", "HTTP/1.1 599 a\tb", "HTTP/1.0 404 Nicht \xfcblich", OK]
)
def test_a_status_line_is_relayed_in_our_own_version(line):
    head = answered(response(line, "Content-Length: 0"))
    assert lines(head)[0] == b"HTTP/1.1" + line.encode("latin-1")[8:]


@pytest.mark.parametrize(
    "line",
    [
        *("hello", "", "HTTP/1.1", "HTTP/1.1 ", "HTTP/1.1 20", "HTTP/1.1 2000 OK", "HTTP/1.1 099 X", "HTTP/1.1 600 X"),
        *(
            "HTTP/1.1 999 X",
            "HTTP/1.1 +20 X",
            "HTTP/1.1  200 OK",
            "HTTP/1.1\t200 OK",
            "HTTP/1.1 200OK",
            "HTTP/2 200 OK",
        ),
        *("HTTP/2.0 200 OK", "HTTP/0.9 200 OK", "HTTP/1.2 200 OK", "http/1.1 200 OK", " HTTP/1.1 200 OK", "ICY 200 OK"),
        *(
            "HTTP/1.1 200 O\0K",
            "HTTP/1.1 200 O\rK",
            "HTTP/1.1 200 OK\r",
            "HTTP/1.1 200 O\nA: b",
            "HTTP/1.1 200 \x1b[31m",
        ),
        *("HTTP/1.1 20\xb2 OK", "HTTP/1.1 2_0 OK", "\r\nHTTP/1.1 200 OK", "HTTP/1.1 200 \x7f"),
    ],
)
@pytest.mark.parametrize("fields", [("Content-Length: 2",), ()], ids=["plain", "judged"])
def test_a_bad_status_line_is_bad(line, fields):
    assert bad(response(line, *fields))


@pytest.mark.parametrize(
    "line",
    [
        *(
            b"No colon",
            b": x",
            b"A : 1",
            b" A: 1",
            b"A: \0",
            b"A: \x01",
            b"A: \x7f",
            b"A\xe9: 1",
            b"A: 1\rB: 2",
            b"A: 1\nB: 2",
        ),
        *(b"A: 1\r\n folded", b"A: 1\r", b"A\0: 1", b"Content-Length : 2"),
    ],
)
@pytest.mark.parametrize("fields", [("Content-Length: 2",), ("Transfer-Encoding: chunked",), ()])
def test_a_malformed_field_line_is_bad(line, fields):
    assert bad(response(OK, line, *fields))
    assert bad(response(OK, *fields, line))


# --- connections, streams, upgrades -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "connection", "stays"),
    [
        ("1.1", "close", False),
        ("1.1", "foo, CLOSE", False),
        ("1.1", "keep-alive", True),
        ("1.0", None, False),
        ("1.0", "keep-alive", True),
        ("1.0", "Keep-Alive, close", False),
    ],
)
def test_the_connection_stays_as_its_version_and_options_say(version, connection, stays):
    fields = [f"Connection: {connection}"] if connection else []
    assert answered(response(f"HTTP/{version} 200 OK", "Content-Length: 2", *fields)).keep_alive is stays
    assert answered(response(f"HTTP/{version} 200 OK", *fields, "Content-Length: 2")).keep_alive is stays


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (("Content-Type: text/event-stream", "Transfer-Encoding: chunked"), True),
        (("content-type:TEXT/Event-Stream; charset=utf-8",), True),
        (("Content-Type: text/event-stream", "Content-Length: 5"), False),
        (("Content-Type: text/html", "Transfer-Encoding: chunked"), False),
        (("X-Content-Type: text/event-stream", "Transfer-Encoding: chunked"), False),
    ],
)
def test_an_event_stream_is_known_by_its_type_and_its_open_end(fields, expected):
    assert answered(response(OK, *fields)).is_event_stream is expected


def test_a_101_tells_what_it_switches_to():
    head = answered(response("HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", "Upgrade: websocket", "A: 1"))
    assert (head.status, head.body, head.options, head.upgrade) == (101, 0, [b"upgrade"], [b"websocket"])
    assert lines(head) == [b"HTTP/1.1 101 Switching Protocols", b"A: 1"]


# --- one reader, many upstreams ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "rest"),
    [
        (response(OK, "Content-Length: 5"), b""),
        (response(OK, "Content-Length: 5"), b"hello"),
        (response(OK, "Content-Length: 5"), b"hello and more"),
        (response(OK, "Content-Length: 5", "Connection: close"), b"hello"),
        (response(OK, "Content-Length: 5", "A : 1"), b"hello"),
        (response(OK, "Transfer-Encoding: chunked"), b"5\r\n"),
        (response("HTTP/1.1 101 X", "Connection: Upgrade", "Upgrade: websocket"), b"\x81\x00"),
        (response("HTTP/1.0 200 OK"), b"text"),
        (response("HTTP/1.1 304 X", "Content-Length: 5"), b""),
        (response("what?"), b""),
    ],
)
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_what_one_upstream_sends_changes_nothing_for_the_next(head, rest, method):
    reader = ResponseReader()
    whole = response(OK, "Content-Length: 2")
    for _ in range(3):
        reader.read(head, head + rest, method)
        answer = reader.read(whole, whole + b"ok", b"GET")
        assert isinstance(answer, ResponseHead)
        assert (answer.status, answer.body, lines(answer)) == (200, 2, [b"HTTP/1.1 200 OK"])
        reader.read(head, head + rest, method)
        assert isinstance(reader.read(response(OK, "A"), response(OK, "A"), b"GET"), BadResponse)


def test_a_field_that_is_not_relayed_leaves_no_trace():
    head = b"HTTP/1.1 200 OK\r\nA: 1\r\nstrict_transport-Security: x\r\nContent-Length: 0\r\nB: 2\r\n\r\n"
    kept = ResponseReader().read(head, head, b"GET")
    left_out = ResponseReader(without=("strict-transport-security",)).read(head, head, b"GET")
    assert b"x" in b"".join(kept.pieces)
    assert b"".join(left_out.pieces) == b"HTTP/1.1 200 OK\r\nA: 1\r\nB: 2\r\n\r\n"
