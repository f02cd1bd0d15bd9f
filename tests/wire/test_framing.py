"""Content-Length and Transfer-Encoding. The chunked decoder has a file of its own."""

from __future__ import annotations

import pytest

from bgproxy.wire.framing import (
    AMBIGUOUS,
    CHUNKED,
    MORE,
    UNSUPPORTED_CODING,
    UNTIL_CLOSE,
    ChunkedDecoder,
    LengthDecoder,
    UnframedDecoder,
    content_length,
    decoder_of,
    request_body,
    response_body,
)


@pytest.mark.parametrize(("value", "length"), [(b"0", 0), (b"5", 5), (b"007", 7), (b"9" * 18, 10**18 - 1)])
def test_one_run_of_ascii_digits_is_a_length(value, length):
    assert content_length([value]) == length


@pytest.mark.parametrize(
    "value",
    [
        *(
            b"",
            b" 5",
            b"5 ",
            b"+5",
            b"-5",
            b"-0",
            b"0x5",
            b"5_0",
            b"5,5",
            b"5.0",
            b"\xb2",
            "٣".encode(),
            b"5\n",
            b"5\0",
        ),
        *(b"9" * 19, b"1" * 10_000, b"five", b'"5"'),
    ],
)
def test_anything_else_is_none(value):
    assert content_length([value]) == AMBIGUOUS


@pytest.mark.parametrize("values", [[], [b"5", b"5"], [b"5", b"6"]])
def test_no_length_or_several_are_ambiguous(values):
    assert content_length(values) == AMBIGUOUS


@pytest.mark.parametrize(
    ("lengths", "codings", "minor", "body"),
    [
        ([], [], 1, 0),
        ([], [], 0, 0),
        ([b"5"], [], 1, 5),
        ([b"5"], [], 0, 5),
        ([b"x"], [], 1, AMBIGUOUS),
        ([], [b"Chunked"], 1, CHUNKED),
        ([], [b"chunked"], 0, AMBIGUOUS),
        ([b"5"], [b"chunked"], 1, AMBIGUOUS),
        ([], [b"chunked", b"chunked"], 1, AMBIGUOUS),
        ([], [b"gzip, chunked"], 1, AMBIGUOUS),
        ([], [b""], 1, UNSUPPORTED_CODING),
        ([], [b"gzip"], 1, UNSUPPORTED_CODING),
    ],
)
def test_a_request_ends_where_its_fields_say_so_in_one_way_only(lengths, codings, minor, body):
    assert request_body(lengths, codings, minor) == body


@pytest.mark.parametrize(
    ("status", "method", "lengths", "codings", "minor", "body"),
    [
        (200, b"GET", [], [], 1, UNTIL_CLOSE),
        (200, b"GET", [], [], 0, UNTIL_CLOSE),
        (200, b"GET", [b"5"], [], 1, 5),
        (200, b"GET", [], [b"CHUNKED"], 1, CHUNKED),
        (200, b"GET", [], [b"chunked"], 0, AMBIGUOUS),
        (200, b"GET", [], [b"gzip"], 1, AMBIGUOUS),
        (200, b"GET", [], [b"chunked", b"chunked"], 1, AMBIGUOUS),
        (200, b"GET", [b"5"], [b"chunked"], 1, AMBIGUOUS),
        (200, b"GET", [b"5", b"5"], [], 1, AMBIGUOUS),
        (200, b"HEAD", [b"5"], [], 1, 0),
        (200, b"HEAD", [b"x"], [], 1, AMBIGUOUS),
        (204, b"GET", [], [b"chunked"], 1, 0),
        (304, b"GET", [b"5"], [], 1, 0),
        (101, b"GET", [], [], 1, 0),
        (199, b"GET", [b"5"], [], 1, 0),
    ],
)
def test_a_response_ends_where_its_fields_its_status_and_the_method_say(status, method, lengths, codings, minor, body):
    assert response_body(status, method, lengths, codings, minor) == body


# --- decoders of bodies that are not chunked --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "kind"),
    [(CHUNKED, ChunkedDecoder), (UNTIL_CLOSE, UnframedDecoder), (0, LengthDecoder), (5, LengthDecoder)],
)
def test_each_kind_of_body_has_its_decoder(body, kind):
    assert type(decoder_of(body)) is kind


def test_a_length_says_where_the_body_ends():
    decoder = LengthDecoder(5)
    assert [decoder.feed(piece) for piece in (b"he", b"", b"llo")] == [MORE, MORE, 3]
    assert decoder.pieces == [b"he", b"llo"]
    assert decoder.trailers == []


def test_what_is_behind_a_length_is_left_alone():
    decoder = LengthDecoder(5)
    assert decoder.feed(b"helloGET / HTTP/1.1") == 5
    assert decoder.pieces == [b"hello"]


def test_an_empty_body_ends_at_once_and_has_no_pieces():
    decoder = LengthDecoder(0)
    assert (decoder.feed(b""), decoder.feed(b"GET"), decoder.pieces) == (0, 0, [])


def test_a_body_without_framing_never_ends_by_itself():
    decoder = UnframedDecoder()
    assert [decoder.feed(piece) for piece in (b"0\r\n\r\n", b"more")] == [MORE, MORE]
    assert (decoder.pieces, decoder.trailers) == ([b"0\r\n\r\n", b"more"], [])
