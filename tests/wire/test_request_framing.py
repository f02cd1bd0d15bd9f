"""Where a request ends: whatever could be read in two ways is refused. RFC 9112 sections 2.2, 5, 6 and 7.8 of 9110."""

from __future__ import annotations

import pytest

from bgproxy.wire.framing import CHUNKED
from tests.support.heads import accepted, fields_sent, refused, request, sent

POST = "POST / HTTP/1.1"
UPGRADE = "Connection: Upgrade", "Upgrade: websocket"


@pytest.mark.parametrize(
    ("value", "body"), [("5", 5), ("0", 0), ("0005", 5), ("5 ", 5), ("\t 5", 5), ("9" * 18, 10**18 - 1)]
)
def test_one_decimal_content_length_frames_the_body(value, body):
    head = request(POST, f"Content-Length:{value}")
    assert accepted(head).body == body
    assert fields_sent(head, b"content-length") == [b"%d" % body]


@pytest.mark.parametrize(
    "value",
    [
        *("", " ", "+5", "-5", "0x5", "5_0", "5 0", "5,", "5, 5", "5, 6", "5;", "5.0", "5e1", '"5"', "a", "5a"),
        *("\v5", "\f5", "5\v", "5\0", "\xa05", "\xb2", "9" * 19, str(2**64), str(2**64 + 5), "1" * 5000),
        *("Ù£".encode().decode("latin-1"), "\r5", "5\r", "\n5"),
    ],
)
@pytest.mark.parametrize("more", [(), UPGRADE], ids=["plain", "upgrade"])
def test_any_other_content_length_is_refused(value, more):
    assert refused(request(POST, f"Content-Length: {value}", *more)) in (400, 431)


@pytest.mark.parametrize("second", ["5", "6"])
@pytest.mark.parametrize("between", [(), ("A: 1",)])
def test_two_content_lengths_are_refused_even_when_they_agree(second, between):
    assert refused(request(POST, "Content-Length: 5", *between, f"content-length: {second}")) == 400


@pytest.mark.parametrize("coding", ["chunked", "Chunked", "CHUNKED", "\tchunked"])
def test_the_one_coding_chunked_frames_the_body(coding):
    head = request(POST, f"transfer-encoding: {coding}")
    assert accepted(head).body == CHUNKED
    assert fields_sent(head, b"transfer-encoding") == [b"chunked"]


@pytest.mark.parametrize(
    "coding",
    [
        *("", ",chunked", "chunked,", "chunked, chunked", "gzip, chunked", "chunked, gzip", "xchunked", "chunkedx"),
        *(
            "gzip",
            "identity",
            "chunked;q=1",
            '"chunked"',
            "chunked\v",
            "\vchunked",
            "chun ked",
            "chunked\0",
            "\xa0chunked",
        ),
        *("cow", "chunked, identity", "identity, chunked", "x chunked", "\rchunked", "chunked\r"),
        "chunKed".replace("K", "\u212a").encode().decode("latin-1"),
    ],
)
@pytest.mark.parametrize("more", [(), UPGRADE], ids=["plain", "upgrade"])
def test_any_other_transfer_coding_is_refused(coding, more):
    assert refused(request(POST, f"Transfer-Encoding: {coding}", *more)) in (400, 501)


def test_a_coding_that_is_only_unknown_is_named_as_such():
    assert refused(request("GET / HTTP/1.1", "Transfer-Encoding: gzip", *UPGRADE)) == 501


@pytest.mark.parametrize("codings", [("chunked", "chunked"), ("gzip", "chunked"), ("chunked", "identity")])
def test_two_transfer_encodings_are_refused(codings):
    assert refused(request(POST, *(f"Transfer-Encoding: {coding}" for coding in codings))) == 400


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
@pytest.mark.parametrize("more", [(), UPGRADE], ids=["plain", "upgrade"])
def test_content_length_beside_transfer_encoding_is_refused_in_either_order(version, more):
    line = f"POST / {version}"
    assert refused(request(line, "Content-Length: 5", "Transfer-Encoding: chunked", *more)) == 400
    assert refused(request(line, "Transfer-Encoding: chunked", "Content-Length: 5", *more)) == 400


def test_transfer_encoding_in_http_1_0_is_refused():
    assert refused(request("POST / HTTP/1.0", "Transfer-Encoding: chunked")) == 400
    assert refused(request("POST / HTTP/1.0", "Transfer-Encoding: chunked", "Connection: keep-alive")) == 400


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "GET", "DELETE"])
def test_without_either_field_there_is_no_body(method):
    head = request(f"{method} / HTTP/1.1")
    assert accepted(head).body == 0
    assert fields_sent(head, b"content-length") == fields_sent(head, b"transfer-encoding") == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE"])
def test_a_body_is_framed_whatever_the_method(method):
    assert accepted(request(f"{method} / HTTP/1.1", "Content-Length: 5")).body == 5
    assert accepted(request(f"{method} / HTTP/1.1", "Transfer-Encoding: chunked")).body == CHUNKED


@pytest.mark.parametrize(
    "name",
    [
        "Content_Length",
        "content_length",
        "Transfer_Encoding",
        "TRANSFER_ENCODING",
        "Content.Length",
        "transfer~encoding",
    ],
)
def test_a_look_alike_of_a_framing_field_is_refused(name):
    assert refused(request("POST / HTTP/1.1", f"{name}: 5")) == 400
    assert refused(request("POST / HTTP/1.1", "Content-Length: 5", f"{name}: chunked")) == 400


# --- the grammar of lines ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        *(
            b"Content-Length : 5",
            b"Content-Length\t: 5",
            b" Content-Length: 5",
            b"\tA: 1",
            b"A\0: 1",
            b"A b: 1",
            b": 1",
            b"A",
        ),
        *(
            b"A\xe9: 1",
            b"A(: 1",
            b"A: 1\0",
            b"A: \x01",
            b"A: \x7f",
            b"A: \x0b",
            b"A: 1\rB: 2",
            b"A: 1\nB: 2",
            b"A: 1\r",
        ),
        *(b"A: 1\r\n folded", b"A: 1\r\n\tfolded", b"A: 1\r\n ", b"A: 1\n", b"\xef\xbb\xbfA: 1", b"A: 1\r\r\nB: 2"),
    ],
)
@pytest.mark.parametrize("more", [(), ("Connection: close",), UPGRADE], ids=["plain", "judged", "upgrade"])
def test_a_malformed_field_line_is_refused(line, more):
    assert refused(request("GET / HTTP/1.1", line, *more)) == 400


def test_a_folded_line_behind_the_request_line_is_refused():
    assert refused(b"GET / HTTP/1.1\r\n Host: a\r\nHost: b\r\n\r\n") == 400
    assert refused(b"GET / HTTP/1.1\r\n \r\nHost: b\r\n\r\n") == 400


def test_a_request_line_that_ends_without_its_cr_is_refused():
    assert refused(b"GET / HTTP/1.1\nHost: a\r\n\r\n") == 400
    assert refused(b"GET / HTTP/1.1\rHost: a\r\n\r\n") == 400


def test_an_empty_line_before_the_request_is_ignored():
    assert sent(b"\r\n" + request()) == sent(request())


@pytest.mark.parametrize(
    "before", [b"\n", b"\r", b"\n\n", b"\r\r\n", b"\n\r\n", b"\r\n\n", b" ", b"\0", b"\t", b"\r\n "]
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "TRACE", "CONNECT"])
def test_anything_else_before_the_request_is_refused(before, method):
    assert refused(before + request(f"{method} / HTTP/1.1")) in (400, 501)


@pytest.mark.parametrize(
    "line", ["GET /\r\nA: HTTP/1.1", "GET /\r\nA: HTTP/1.1: b", "GET\r\nA: / HTTP/1.1", "HEAD /\r\nA: HTTP/1.1 "]
)
def test_a_request_line_does_not_go_on_in_the_next_line(line):
    assert refused(request(line)) in (400, 505)


@pytest.mark.parametrize(
    "head", [b"\r\n\r\n", b"\n\r\n\r\n", b" \r\n\r\n", b"GET\r\n\r\n", b"GET /\r\n\r\n", b":\r\n\r\n"]
)
def test_a_head_without_a_whole_request_line_is_refused(head):
    assert refused(head) == 400


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
def test_a_body_that_old_servers_do_not_look_for_is_refused(method):
    assert refused(request(f"{method} / HTTP/1.0", "Content-Length: 1")) == 400
    assert accepted(request(f"{method} / HTTP/1.0", "Content-Length: 0")).body == 0
    assert accepted(request(f"{method} / HTTP/1.1", "Content-Length: 1")).body == 1
    assert accepted(request("POST / HTTP/1.0", "Content-Length: 1")).body == 1
