"""The chunked decoder: RFC 9112 section 7.1. Every body is fed whole, byte by byte, and with the end alone."""

from __future__ import annotations

import pytest

from bgproxy.wire import framing
from bgproxy.wire.framing import ChunkedDecoder

MORE, BAD = framing.MORE, framing.BAD


def decode(pieces: list[bytes]) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
    """(the outcome, the payload, the trailers); the outcome counts bytes from the first piece on."""
    decoder, before = ChunkedDecoder(), 0
    for piece in pieces:
        outcome = decoder.feed(piece)
        if outcome == BAD or outcome >= 0:
            return outcome if outcome == BAD else before + outcome, b"".join(decoder.pieces), decoder.trailers
        before += len(piece)
    return MORE, b"".join(decoder.pieces), decoder.trailers


def ways(body: bytes) -> list[list[bytes]]:
    return [[body], [body[i : i + 1] for i in range(len(body))], [body[:-1], body[-1:]], [body[:1], body[1:]]]


def is_bad(body: bytes) -> bool:
    """The same in every way, and a last chunk behind it does not heal it."""
    outcomes = {decode(way)[0] for way in ways(body + b"\r\n0\r\n\r\n")}
    assert len(outcomes) == 1, outcomes
    return outcomes == {BAD}


@pytest.mark.parametrize(
    ("body", "payload"),
    [
        (b"0\r\n\r\n", b""),
        (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", b"0123456789" * 2),
        (b"2\r\n\r\n\r\n3\r\n0\r\n\r\n0\r\n\r\n", b"\r\n0\r\n"),
        (b"0005\r\nhello\r\n000\r\n\r\n", b"hello"),
        (b"1;a\r\nx\r\n1;a=b;c\r\ny\r\n1; a;\tb\r\nz\r\n0;last\r\n\r\n", b"xyz"),
        (b'1;a="q\\"\\\\;\t =\xff"\r\nx\r\n0\r\n\r\n', b"x"),
    ],
)
def test_a_whole_body_gives_its_payload_and_its_end(body, payload):
    for way in ways(body):
        assert decode(way) == (len(body), payload, [])


def test_what_follows_the_body_is_left_alone():
    body = b"5\r\nhello\r\n0\r\n\r\n"
    assert decode([body + b"GET / HTTP/1.1\r\n"])[0] == len(body)
    assert decode([body[:7], body[7:] + b"\r\nmore"])[0] == len(body)


@pytest.mark.parametrize("length", range(len(b"5\r\nhello\r\n0\r\nA: 1\r\n\r\n")))
def test_a_body_that_ends_short_is_never_called_complete(length):
    body = b"5\r\nhello\r\n0\r\nA: 1\r\n\r\n"[:length]
    for way in ways(body):
        assert decode(way)[0] == MORE


def test_no_bytes_change_nothing():
    decoder = ChunkedDecoder()
    assert decoder.feed(b"") == MORE
    assert decoder.feed(b"1\r\nx\r\n") == MORE
    assert decoder.feed(b"") == MORE
    assert decoder.feed(b"0\r\n\r\n") == 5


@pytest.mark.parametrize(
    "size",
    [
        *(
            b"",
            b"+5",
            b"-5",
            b"0x5",
            b"5_",
            b" 5",
            b"5 ",
            b"\t5",
            b"5\t",
            b"g",
            b"5g",
            b"5,",
            b"5.",
            b"\xb2",
            b"\x005",
            b"5\0",
        ),
        *("٣".encode(), b"5 ;a", b"f" * 16, b"f" * 17, b"1" + b"0" * 16, b"0" * 16, b"\n5", b"\r5", b"'5'"),
    ],
)
def test_a_size_that_is_not_a_hexadecimal_number_of_bounded_length_is_bad(size):
    assert is_bad(size + b"\r\nhello")


@pytest.mark.parametrize(
    "extension",
    [
        *(
            b";",
            b";;a",
            b";=a",
            b";a=",
            b";a b",
            b";a =b",
            b";a= b",
            b";a,b",
            b';a="',
            b';a="b',
            b';a="b"c',
            b';a="\\',
            b" a",
        ),
        *(
            b";a\nb",
            b';a="\n"',
            b";a\rb",
            b';a="\r"',
            b";a\0",
            b';a="\0"',
            b';a="\x7f"',
            b";a=\xe9",
            b";\xe9",
            b";a\x0b",
            b";a ",
        ),
    ],
)
def test_a_malformed_extension_is_bad(extension):
    assert is_bad(b"5" + extension + b"\r\nhello")


@pytest.mark.parametrize("line_end", [b"\n", b"\r", b"\r\r\n", b"\n\r\n", b"\r\n\n", b"", b" \r\n"])
def test_a_size_line_ends_with_crlf_alone(line_end):
    assert is_bad(b"5" + line_end + b"hello")


@pytest.mark.parametrize("surplus", [b"X", b"XX", b"\n", b"\r", b"0", b"\0", b" ", b"\r\n"])
def test_chunk_data_ends_where_its_size_said(surplus):
    assert is_bad(b"5\r\nhello" + surplus)


def test_chunk_data_followed_by_a_bare_lf_is_bad():
    assert decode([b"5\r\nhello\n0\r\n\r\n"])[0] == BAD
    assert decode([b"5\r\nhello", b"\n", b"0\r\n\r\n"])[0] == BAD
    assert decode([b"5\r\nhello", b"X"])[0] == BAD


@pytest.mark.parametrize(
    "beginning", [b"5\rX", b"5\r\r", b"5\r\nhello\rX", b"5\r\nhelloX", b"0\r\nA: 1\rB", b"0\r\n\rX"]
)
def test_a_line_that_can_no_longer_end_well_is_bad_before_its_end(beginning):
    assert decode([beginning])[0] == BAD
    assert decode([beginning[:-1], beginning[-1:]])[0] == BAD


# --- trailers ---------------------------------------------------------------------------------------------------------


def test_trailers_are_kept_apart_in_order():
    body = b"1\r\nx\r\n0\r\nA: 1\r\nb:2 \t\r\nA:\r\n\r\n"
    for way in ways(body):
        assert decode(way) == (len(body), b"x", [(b"A", b"1"), (b"b", b"2"), (b"A", b"")])


@pytest.mark.parametrize(
    "trailer",
    [
        b"A",
        b"A : 1",
        b" A: 1",
        b"A: 1\r\n b",
        b": 1",
        b"A: \0",
        b"A: 1\n",
        b"A: \r",
        b"A: 1\rB: 2",
        b"\xe9: 1",
        b"\n",
        b"\r",
        b" ",
        b"Content-Length: 1\r\n",
        b"transfer_encoding: chunked\r\n",
        b"HOST: a\r\n",
    ],
)
def test_a_malformed_trailer_or_one_that_frames_or_routes_is_bad(trailer):
    assert is_bad(b"0\r\n" + trailer)


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_a_line_of_bounded_length_is_read_and_a_longer_one_is_bad():
    room = ChunkedDecoder.LINE_BYTES - len(b"1;\r\n")
    assert decode([b"1;" + b"a" * room + b"\r\nx\r\n0\r\n\r\n"])[1] == b"x"
    assert decode([b"1;" + b"a" * (room + 1) + b"\r\nx\r\n0\r\n\r\n"])[0] == BAD


@pytest.mark.parametrize("beginning", [b"1;", b"0\r\nA: "])
def test_an_endless_line_is_bad_before_its_end(beginning):
    decoder = ChunkedDecoder()
    assert decoder.feed(beginning) == MORE
    outcomes = [decoder.feed(b"a" * 100) for _ in range(ChunkedDecoder.LINE_BYTES // 100)]
    assert set(outcomes[:-1]) == {MORE}
    assert BAD in (outcomes[-1], decoder.feed(b"a" * 100))


@pytest.mark.parametrize(("unit", "cost"), [(b"1;aaaa\r\nx\r\n", 5), (b"1;" + b"a" * 999 + b"\r\nx\r\n", 1000)])
def test_extensions_are_bounded_over_the_whole_message(unit, cost):
    allowed = ChunkedDecoder.OVERHEAD_BYTES // cost
    assert decode([unit * allowed])[0] == MORE
    assert decode([unit * (allowed + 1)])[0] == BAD


def test_trailers_are_bounded_over_the_whole_message():
    line = b"A: " + b"a" * 97 + b"\r\n"
    allowed = ChunkedDecoder.OVERHEAD_BYTES // 100
    assert decode([b"0\r\n" + line * allowed])[0] == MORE
    assert decode([b"0\r\n" + line * (allowed + 1)])[0] == BAD


def test_forty_thousand_chunks_of_one_byte_are_no_overhead():
    body = b"1\r\nx\r\n" * 40_000 + b"0\r\n\r\n"
    assert decode([body])[:2] == (len(body), b"x" * 40_000)
