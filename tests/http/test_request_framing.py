"""Where a request ends: every doubt is refused before an upstream hears of it, or never completed there.

RFC 9112 sections 6 and 7. Each case comes at once and byte by byte, always with a further request behind it that no
upstream may ever see.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.support.plane import settings
from tests.support.raw_http import chunked, request
from tests.support.through import SMUGGLED, Through

if TYPE_CHECKING:
    from tests.support.plane import Plane

LAST = b"0\r\n\r\n"


def post(*fields: bytes, version: bytes = b"1.1") -> bytes:
    return b"\r\n".join([b"POST /case HTTP/" + version, b"Host: a.example", *fields]) + b"\r\n\r\n"


def cases(table: dict[str, bytes]) -> list[object]:
    return [pytest.param(sent, id=name) for name, sent in table.items()]


def length(value: bytes) -> bytes:
    return post(b"Content-Length: " + value) + b"hello"


def coding(value: bytes) -> bytes:
    return post(b"Transfer-Encoding: " + value) + b"5\r\nhello\r\n" + LAST


# --- both, or neither clearly -----------------------------------------------------------------------------------------

BOTH = {
    "length then coding": post(b"Content-Length: 5", b"Transfer-Encoding: chunked") + LAST,
    "coding then length": post(b"Transfer-Encoding: chunked", b"Content-Length: 5") + LAST,
    "coding with length 0": post(b"Transfer-Encoding: chunked", b"Content-Length: 0") + LAST,
    "coding with an empty length": post(b"Transfer-Encoding: chunked", b"Content-Length:") + LAST,
    "length with an empty coding": post(b"Content-Length: 5", b"Transfer-Encoding:") + b"hello",
    "length with an unknown coding": post(b"Content-Length: 5", b"Transfer-Encoding: x") + b"hello",
    "lower case": post(b"content-length: 5", b"transfer-encoding: chunked") + LAST,
    "in a GET": b"GET /case HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + LAST,
}
LENGTHS = {
    "twice, differing": post(b"Content-Length: 5", b"Content-Length: 6") + b"hello",
    "twice, identical": post(b"Content-Length: 5", b"Content-Length: 5") + b"hello",
    "twice, in other case": post(b"Content-Length: 5", b"CONTENT-LENGTH: 0") + b"hello",
    "twice, first empty": post(b"Content-Length:", b"Content-Length: 5") + b"hello",
    "a list, identical": length(b"5, 5"),
    "a list, differing": length(b"5,6"),
    "a list with an empty member": length(b"5,"),
    "empty": length(b""),
    "blank": length(b" \t"),
    "plus": length(b"+5"),
    "minus": length(b"-5"),
    "minus zero": length(b"-0"),
    "hexadecimal": length(b"0x5"),
    "hexadecimal digit": length(b"a"),
    "underscore": length(b"5_0"),
    "space inside": length(b"5 5"),
    "tab inside": length(b"5\t5"),
    "suffix": length(b"5x"),
    "semicolon": length(b"5;"),
    "fraction": length(b"5.0"),
    "exponent": length(b"1e1"),
    "quoted": length(b'"5"'),
    "single-quoted": length(b"'5'"),
    "VT before": length(b"\x0b5"),
    "FF behind": length(b"5\x0c"),
    "NUL behind": length(b"5\x00"),
    "NBSP": length(b"\xa05"),
    "NEL": length(b"5\x85"),
    "superscript": length("²".encode()),
    "full-width digit": length("５".encode()),
    "arabic digit": length("٥".encode()),
    "2**64": length(b"18446744073709551616"),
    "2**64 + 5": length(b"18446744073709551621"),
    "2**63": length(b"9223372036854775808"),
    "19 digits": length(b"0000000000000000005"),
    "5000 digits": length(b"1" * 5000),
}
CODINGS = {
    "comma before": coding(b",chunked"),
    "comma behind": coding(b"chunked,"),
    "comma and space before": coding(b" , chunked"),
    "twice in a list": coding(b"chunked, chunked"),
    "twice in lines": post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked") + LAST,
    "identity behind": coding(b"chunked, identity"),
    "identity before": coding(b"identity, chunked"),
    "gzip before": coding(b"gzip, chunked"),
    "gzip behind": coding(b"chunked, gzip"),
    "gzip in a line before": post(b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked") + LAST,
    "identity in a line behind": post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity") + LAST,
    "prefix": coding(b"xchunked"),
    "suffix": coding(b"chunkedx"),
    "parameter": coding(b"chunked;q=1"),
    "quoted": coding(b'"chunked"'),
    "single-quoted": coding(b"'chunked'"),
    "space inside": coding(b"chun ked"),
    "VT before": coding(b"\x0bchunked"),
    "VT behind": coding(b"chunked\x0b"),
    "FF before": coding(b"\x0cchunked"),
    "NUL behind": coding(b"chunked\x00"),
    "NEL behind": coding(b"chunked\x85"),
    "NBSP before": coding(b"\xa0chunked"),
    "kelvin sign for k": coding("chun\u212aed".encode()),
    "HTTP/1.0": post(b"Transfer-Encoding: chunked", version=b"1.0") + LAST,
    "HTTP/1.0, kept alive": post(b"Connection: keep-alive", b"Transfer-Encoding: chunked", version=b"1.0") + LAST,
    "HTTP/1.0 with a length": post(b"Transfer-Encoding: chunked", b"Content-Length: 5", version=b"1.0") + LAST,
}
OTHER_CODINGS = {
    "gzip": coding(b"gzip"),
    "identity": coding(b"identity"),
    "empty": coding(b""),
    "unknown": coding(b"cow"),
    "cut short": coding(b"chunke"),
}
NAMES = {
    "space before the colon of a length": post(b"Content-Length : 5") + b"hello",
    "tab before the colon of a length": post(b"Content-Length\t: 5") + b"hello",
    "space before the colon of a coding": post(b"Transfer-Encoding : chunked") + LAST,
    "space before the colon of any field": post(b"X-A : 1"),
    "space in a name": post(b"Content Length: 5"),
    "NBSP in a name": post(b"Content-Length\xa0: 5") + b"hello",
    "NUL in a name": post(b"Transfer-Encoding\x00: chunked") + LAST,
    "CR in a name": post(b"Transfer-Encoding\r: chunked") + LAST,
    "DEL in a name": post(b"X\x7f: 1"),
    "quote in a name": post(b'"Content-Length": 5') + b"hello",
    "obs-text in a name": post(b"\xe9: 1"),
    "no name": post(b": 1"),
    "no colon": post(b"Content-Length 5"),
    "only blanks": post(b" "),
    "folded length": post(b"Content-Length:\r\n 5") + b"hello",
    "folded coding": post(b"Transfer-Encoding:\r\n\tchunked") + LAST,
    "folded field": post(b"X-A: 1\r\n 2"),
    "folded into the length": post(b"X-A: 1\r\n Content-Length: 5") + b"hello",
    "blank line start behind the request line": b"POST /case HTTP/1.1\r\n Host: a\r\n\r\n",
    "blank line start, length": b"GET /case HTTP/1.1\r\n Content-Length: 40\r\nHost: a\r\n\r\n",
}
LINE_ENDS = {
    "LF behind a field": b"POST /case HTTP/1.1\r\nHost: a\nTransfer-Encoding: chunked\r\n\r\n" + LAST,
    "LF behind the request line": b"GET /case HTTP/1.1\nHost: a\r\n\r\n",
    "LF everywhere": b"GET /case HTTP/1.1\nHost: a\n\n",
    "LF at the end": b"GET /case HTTP/1.1\r\nHost: a\r\n\n",
    "LF before the end": b"GET /case HTTP/1.1\r\nHost: a\n\r\n",
    "CR behind a field": b"POST /case HTTP/1.1\r\nHost: a\rTransfer-Encoding: chunked\r\n\r\n" + LAST,
    "CR in a value": post(b"X-A: 1\r2"),
    "CR CR LF": b"GET /case HTTP/1.1\r\nHost: a\r\r\n\r\n",
    "CR LF CR X": b"GET /case HTTP/1.1\r\nHost: a\r\n\rX: 1\r\n\r\n",
    "CR everywhere": b"GET /case HTTP/1.1\rHost: a\r\r",
    "CR before the request line": b"\rGET /case HTTP/1.1\r\nHost: a\r\n\r\n",
    "LF before the request line": b"\nGET /case HTTP/1.1\r\nHost: a\r\n\r\n",
    "LF behind an empty line": b"\r\n\nGET /case HTTP/1.1\r\nHost: a\r\n\r\n",
    "CR behind two empty lines": b"\r\n\r\n\rGET /case HTTP/1.1\r\nHost: a\r\n\r\n",
    "NUL in a value": post(b"X-A: a\x00b"),
    "control character in a value": post(b"X-A: a\x01b"),
    "escape in a value": post(b"X-A: \x1b[2J"),
    "DEL in a value": post(b"X-A: a\x7fb"),
}


LOOK_ALIKES = {
    "Content_Length": post(b"Content_Length: 5") + b"hello",
    "Content_Length beside ours": post(b"Content-Length: 5", b"Content_Length: 9") + b"hello",
    "content.length": post(b"content.length: 5") + b"hello",
    "Transfer_Encoding": post(b"Transfer_Encoding: chunked") + LAST,
    "Transfer_Encoding beside a length": post(b"Content-Length: 5", b"Transfer_Encoding: chunked") + b"hello",
    "TRANSFER.ENCODING of nothing": post(b"TRANSFER.ENCODING:"),
    "Transfer~Encoding beside the same": post(b"Transfer-Encoding: chunked", b"Transfer~Encoding: chunked") + LAST,
    "in a GET": b"GET /case HTTP/1.1\r\nHost: a\r\nContent_Length: 0\r\n\r\n",
}
BODIES_OF_1_0 = {
    method: f"{method} /case HTTP/1.0\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello".encode()
    for method in ("GET", "DELETE")
}
REFUSED = {
    "look-alike": LOOK_ALIKES,
    "HTTP/1.0": BODIES_OF_1_0,
    "both framings": BOTH,
    "length": LENGTHS,
    "coding": CODINGS,
    "other coding": OTHER_CODINGS,
    "field line": NAMES,
    "line end": LINE_ENDS,
}


@pytest.mark.says("One rule: **ambiguous means refused**")
@pytest.mark.says("what some servers take for either of them")
@pytest.mark.says("GET, HEAD or DELETE with a body in HTTP/1.0")
@pytest.mark.says("After a refusal no further byte")
@pytest.mark.says("Content-Length twice with the same number")
@pytest.mark.says("Transfer-Encoding in an HTTP/1.0 message")
@pytest.mark.says("a transfer coding we do not know")
@pytest.mark.says("Content-Length and Transfer-Encoding together")
@pytest.mark.says("Transfer-Encoding that names chunked but is not exactly")
@pytest.mark.says("another transfer coding")
@pytest.mark.says("not valid HTTP/1.1: bare CR or LF")
@pytest.mark.parametrize(
    "sent",
    [pytest.param(sent, id=f"{kind}: {name}") for kind, table in REFUSED.items() for name, sent in table.items()],
)
def test_what_leaves_a_doubt_is_refused_and_never_sent_on(through: Through, sent: bytes) -> None:
    through.assert_refused(through.at_once(sent + SMUGGLED), 400, "bad_request")
    through.assert_nothing_was_sent()
    assert through.plane.rejected("bad_request") == 1


@pytest.mark.says("A request meets the same answer however it is cut")
@pytest.mark.parametrize("table", REFUSED.values(), ids=REFUSED)
def test_what_leaves_a_doubt_is_refused_byte_by_byte_as_well(through: Through, table: dict[str, bytes]) -> None:
    through.assert_all_refused(table, 400, "bad_request")
    through.assert_nothing_was_sent()
    assert through.plane.rejected("bad_request") == len(table)


# --- chunks -----------------------------------------------------------------------------------------------------------

CHUNKED = post(b"Transfer-Encoding: chunked")
BAD_CHUNKS = {
    "size is no number": b"x\r\nhello\r\n",
    "size empty": b"\r\nhello\r\n",
    "size 0x5": b"0x5\r\nhello\r\n",
    "size +5": b"+5\r\nhello\r\n",
    "size -5": b"-5\r\nhello\r\n",
    "size with underscore": b"1_0\r\n0123456789abcdef\r\n",
    "size with a space before": b" 5\r\nhello\r\n",
    "size with a space behind": b"5 \r\nhello\r\n",
    "size with a tab behind": b"5\t\r\nhello\r\n",
    "size with VT behind": b"5\x0b\r\nhello\r\n",
    "size with NUL behind": b"5\x00\r\nhello\r\n",
    "size with a comma": b"5,5\r\nhello\r\n",
    "size with a fraction": b"5.0\r\nhello\r\n",
    "size in full-width digits": "５\r\nhello\r\n".encode(),
    "size of 2**64": b"10000000000000000\r\nhello\r\n",
    "size of 2**64 + 5": b"10000000000000005\r\nhello\r\n",
    "size of 16 digits": b"0000000000000005\r\nhello\r\n",
    "size of many digits": b"f" * 300 + b"\r\nhello\r\n",
    "size behind LF": b"5\nhello\r\n",
    "size behind CR": b"5\rhello\r\n",
    "size behind CR CR LF": b"5\r\r\nhello\r\n",
    "data not followed by CRLF": b"5\r\nhelloX\r\n",
    "data followed by LF": b"5\r\nhello\n",
    "data followed by CR": b"5\r\nhello\rX",
    "data followed by LF CR": b"5\r\nhello\n\r",
    "data followed by two other bytes": b"5\r\nhelloXX5\r\nhello\r\n",
    "data longer than the size": b"5\r\nhello world\r\n",
    "data shorter than the size": b"5\r\nhell\r\n",
    "extension with LF": b"5;a\nb\r\nhello\r\n",
    "extension with CR": b"5;a\rb\r\nhello\r\n",
    "extension with NUL": b"5;a\x00\r\nhello\r\n",
    "extension with LF in quotes": b'5;a="\n"\r\nhello\r\n',
    "extension with CRLF in quotes": b'5;a="\r\n"\r\nhello\r\n',
    "extension with an escaped LF": b'5;a="\\\n"\r\nhello\r\n',
    "extension that opens a quote": b'5;a="b\r\nhello\r\n',
    "extension without a name": b"5;\r\nhello\r\n",
    "extension without a value": b"5;a=\r\nhello\r\n",
    "space before an extension": b"5 ;a=b\r\nhello\r\n",
    "last chunk with LF": b"0\n\r\n",
    "last chunk with LF at the end": b"0\r\n\n",
    "last chunk with CR at the end": b"0\r\n\rX\r\n\r\n",
    "last chunk signed": b"-0\r\n\r\n",
    "last chunk in hexadecimal prefix": b"0x0\r\n\r\n",
    "trailer without colon": b"0\r\nX-A\r\n\r\n",
    "trailer with a space before the colon": b"0\r\nX-A : 1\r\n\r\n",
    "trailer with LF": b"0\r\nX-A: 1\nX-B: 2\r\n\r\n",
    "trailer with CR": b"0\r\nX-A: 1\rX-B: 2\r\n\r\n",
    "trailer with NUL": b"0\r\nX-A: \x00\r\n\r\n",
    "trailer folded": b"0\r\nX-A: 1\r\n 2\r\n\r\n",
    "trailer without a name": b"0\r\n: 1\r\n\r\n",
    **{
        f"trailer {name}": b"0\r\nX-A: 1\r\n%b: 5\r\n\r\n" % name.encode()
        for name in ("Content-Length", "Transfer-Encoding", "Host", "hOST", "content_length", "TRANSFER.ENCODING")
    },
    "request in place of a trailer": b"0\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
    "extension of 9 KiB": b"5;a=" + b"x" * 9000 + b"\r\nhello\r\n",
    "endless extension": b"5;a=" + b"x" * 9000,
    "extensions of 17 KiB in all": b"".join(b"1;a=%b\r\nx\r\n" % (b"y" * 1000) for _ in range(17)),
    "trailer of 9 KiB": b"0\r\nX-A: " + b"x" * 9000 + b"\r\n\r\n",
    "endless trailer": b"0\r\nX-A: " + b"x" * 9000,
    "trailers of 17 KiB in all": b"0\r\n" + b"".join(b"X-%d: %b\r\n" % (i, b"y" * 1000) for i in range(17)) + b"\r\n",
}


@pytest.mark.says("a chunk size of more than 15 digits")
@pytest.mark.says("malformed chunk, extension or trailer")
@pytest.mark.parametrize("sent", cases(BAD_CHUNKS))
def test_a_malformed_chunked_body_is_never_completed(through: Through, sent: bytes) -> None:
    for begin in (b"", b"3\r\nabc\r\n"):
        client = through.at_once(CHUNKED + begin + sent + LAST + SMUGGLED)
        through.assert_refused(client, 400, "bad_request", method="POST")
    through.assert_nothing_was_completed()


@pytest.mark.says("malformed chunk, extension or trailer")
def test_a_malformed_chunked_body_is_never_completed_byte_by_byte_either(through: Through) -> None:
    table = {name: CHUNKED + b"3\r\nabc\r\n" + sent + LAST for name, sent in BAD_CHUNKS.items()}
    through.assert_all_refused(table, 400, "bad_request", method="POST")
    through.assert_nothing_was_completed()


GOOD_CHUNKS = {
    "one": (b"5\r\nhello\r\n", b"hello"),
    "none": (b"", b""),
    "upper-case size": (b"A\r\n0123456789\r\n", b"0123456789"),
    "leading zeros": (b"005\r\nhello\r\n", b"hello"),
    "15 digits": (b"000000000000005\r\nhello\r\n", b"hello"),
    "extension": (b"5;a\r\nhello\r\n", b"hello"),
    "extension with a value": (b"5;a=b;c=d\r\nhello\r\n", b"hello"),
    "extension with a quoted value": (b'5;a="b\\";c \xe9"\r\nhello\r\n', b"hello"),
    "space behind the semicolon": (b"5; a=b\r\nhello\r\n", b"hello"),
    "data that looks like a request": (b"%x\r\n%b\r\n" % (len(SMUGGLED), SMUGGLED), SMUGGLED),
    "data that looks like the end": (b"7\r\n\r\n0\r\n\r\n\r\n", b"\r\n0\r\n\r\n"),
    "several": (b"1\r\na\r\n2\r\nbc\r\n", b"abc"),
}


@pytest.mark.says("Extensions are dropped")
@pytest.mark.says("Framing written anew")
def test_a_chunked_body_is_framed_anew_and_its_extensions_end_here(through: Through) -> None:
    table = {name: CHUNKED + sent + LAST + request(target="/next") for name, (sent, _) in GOOD_CHUNKS.items()}
    for clients in ({name: through.at_once(sent) for name, sent in table.items()}, through.bit_by_bit(table)):
        for name, client in clients.items():
            assert (client.answer().body, client.answer().body) == (b"/case", b"/next"), name
    asked = [each for each in through.requests() if each.target == "/case"]
    assert sorted(each.body for each in asked) == sorted(2 * [body for _, body in GOOD_CHUNKS.values()])
    assert {(each.end_to_end, each.trailers) for each in asked} == {((("transfer-encoding", "chunked"),), ())}
    for conversation in through.upstream.conversations:
        assert b"hello" not in (conversation.heard or b"") or b"5\r\nhello" in (conversation.heard or b"")
        assert not re.search(rb"[0-9A-F];", conversation.heard or b""), "an extension"


@pytest.mark.says("case and blanks around")
@pytest.mark.says("Framing written anew")
@pytest.mark.parametrize("spelled", [b"chunked", b"CHUNKED", b"Chunked", b" chunked  ", b"\tchunked"])
def test_case_and_blanks_do_not_matter_in_a_transfer_encoding(through: Through, spelled: bytes) -> None:
    assert through.at_once(coding(spelled)).answer().body == b"/case"
    assert [(each.all("transfer-encoding"), each.body) for each in through.requests()] == [(["chunked"], b"hello")]


@pytest.mark.says("leading zeros in a Content-Length")
@pytest.mark.says("Framing written anew")
@pytest.mark.parametrize(("value", "sent"), [(b"5", "5"), (b"0", "0"), (b"005", "5"), (b" 5\t", "5"), (b"0" * 18, "0")])
def test_a_content_length_is_a_decimal_number_written_anew(through: Through, value: bytes, sent: str) -> None:
    client = through.at_once(post(b"Content-Length: " + value) + b"hello"[: int(value)] + request(target="/next"))
    assert (client.answer().body, client.answer().body) == (b"/case", b"/next")
    (asked, _) = through.requests()
    assert (asked.all("content-length"), asked.body) == ([sent], b"hello"[: int(sent)])


UNSAFE_TRAILERS = (
    *("Connection", "Content-Encoding", "Content-Type", "Trailer", "TE"),
    *("Authorization", "Cookie", "Set-Cookie", "Proxy-Authorization", "Cache-Control", "Expect", "Range", "Upgrade"),
    *("X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Forwarded", "X-Request-ID", "X-BG-Colour", "Via"),
    *("x_forwarded_for", "X.Real.IP", "CONTENT_TYPE", "x_bg_epoch"),
)


@pytest.mark.says("trailers")
@pytest.mark.says("Extensions are dropped; trailers pass")
@pytest.mark.says("Framing written anew")
def test_trailers_pass_as_trailers_unless_they_would_authenticate_describe_or_vouch(through: Through) -> None:
    unsafe = b"".join(b"%b: 6\r\n" % name.encode() for name in UNSAFE_TRAILERS)
    sent = CHUNKED + b"5\r\nhello\r\n0\r\nX-Sum: 1\r\n" + unsafe + b"x-last:  2 \r\n\r\n"
    for client in (through.at_once(sent), *through.bit_by_bit({"": sent}).values()):
        assert client.answer().body == b"/case"
    for asked in through.requests():
        assert (asked.body, asked.trailers) == (b"hello", (("x-sum", "1"), ("x-last", "2")))
        assert asked.end_to_end == (("transfer-encoding", "chunked"),), "nothing is merged into the head"


@pytest.mark.says("Framing written anew")
def test_forty_thousand_chunks_of_a_byte_leave_as_fewer(through: Through) -> None:
    assert through.at_once(CHUNKED + chunked(*[b"x"] * 40_000)).answer().body == b"/case"
    (asked,) = through.requests()
    assert len(asked.body) == 40_000
    heard = sum(len(each.heard or b"") for each in through.upstream.conversations)
    assert heard < 80_000, "of 240 000 that came"


# --- bodies where nobody expects them, and none where one might ---------------------------------------------------


@pytest.mark.says("A request without Content-Length")
@pytest.mark.says("Empty lines before a request line are ignored")
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS"])
def test_without_a_framing_there_is_no_body_whatever_the_method(through: Through, method: str) -> None:
    client = through.at_once(request(method, "/case") + request(target="/next"))
    assert (client.answer().body, client.answer().body) == (b"/case", b"/next")
    assert [(each.target, each.body) for each in through.requests()] == [("/case", b""), ("/next", b"")]


@pytest.mark.says("Empty lines before a request line are ignored")
@pytest.mark.parametrize("empty", [b"\r\n" * count for count in (1, 2, 3)], ids=["one", "two", "three"])
def test_empty_lines_before_a_request_are_ignored(through: Through, empty: bytes) -> None:
    sent = empty + request(target="/1") + empty + request(target="/2")
    for client in (through.at_once(sent), *through.bit_by_bit({"": sent}).values()):
        assert (client.answer().body, client.answer().body) == (b"/1", b"/2")
    assert sorted(each.target for each in through.requests()) == ["/1", "/1", "/2", "/2"]  # two clients at a time


@pytest.mark.says("a body with GET, HEAD, DELETE or OPTIONS")
@pytest.mark.says("Framing written anew")
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE", "PROPFIND"])
def test_a_body_of_any_method_is_forwarded_and_never_left_on_the_wire(through: Through, method: str) -> None:
    length_framed = request(method, "/case", body=SMUGGLED)
    in_chunks = request(method, "/case", "Transfer-Encoding: chunked") + chunked(SMUGGLED)
    for sent in (length_framed, in_chunks):
        client = through.at_once(sent + request(target="/next"))
        assert client.answer(method).status == 200
        assert client.answer().body == b"/next"
    assert [(each.target, each.body) for each in through.requests()] == [("/case", SMUGGLED), ("/next", b"")] * 2


# --- a client that leaves in the middle -------------------------------------------------------------------------------


@pytest.mark.says("FIN within a body aborts")
@pytest.mark.says("Half-closed clients")
@pytest.mark.parametrize("end", ["finish_sending", "reset"])
@pytest.mark.parametrize(
    "sent",
    cases({"length": post(b"Content-Length: 5") + b"hello", "chunked": CHUNKED + b"5\r\nhello\r\n0\r\nX-A: 1\r\n\r\n"}),
)
def test_a_body_that_breaks_off_anywhere_is_never_completed(through: Through, sent: bytes, end: str) -> None:
    """One connection for every place at which it may break off."""
    for cut in range(len(sent)):
        client = through.plane.client()
        client.send(sent[:cut])
        getattr(client, end)()
        if end == "finish_sending":
            assert client.is_ended(), "without an answer that nobody waits for"
    through.assert_nothing_was_completed()


# --- a body's limits --------------------------------------------------------------------------------------------------


@pytest.mark.says("body over `body_bytes`")
def test_a_body_over_the_limit(plane: Plane) -> None:
    through = Through(plane, settings(limits={"body_bytes": 5}))
    client = through.at_once(length(b"5") + CHUNKED + chunked(b"hel", b"lo") + request(target="/next"))
    assert [client.answer().body for _ in range(3)] == [b"/case", b"/case", b"/next"]
    assert [each.body for each in through.requests()] == [b"hello", b"hello", b""]
    through = Through(plane, settings(limits={"body_bytes": 5}))
    for announced in (post(b"Content-Length: 6") + b"hello!", request("GET", "/case", body=b"hello!")):
        through.assert_refused(through.at_once(announced + SMUGGLED), 413, "body_too_large")
    through.assert_nothing_was_sent()
    in_chunks = CHUNKED + chunked(b"hello", b"!")
    through.assert_refused(through.at_once(in_chunks + SMUGGLED), 413, "body_too_large")
    through.assert_all_refused({"chunked": in_chunks}, 413, "body_too_large")
    through.assert_nothing_was_completed()


@pytest.mark.says("body silent for `body_idle`")
def test_a_body_that_stays_away(plane: Plane) -> None:
    through = Through(plane, settings(timeouts={"body_idle": 0.2}))
    beginnings = [
        post(b"Content-Length: 5"),
        post(b"Content-Length: 5") + b"hell",
        CHUNKED,
        CHUNKED + b"5\r\nhello\r\n",
    ]
    waiting = [plane.client() for _ in beginnings]
    for client, sent in zip(waiting, beginnings, strict=True):
        client.send(sent)
    for client in waiting:
        through.assert_refused(client, 408, "body_timeout")
    through.assert_nothing_was_completed()
