"""Content-Length and Transfer-Encoding. The chunked decoder has a file of its own."""

from __future__ import annotations

import pytest

from bgproxy.wire.framing import (
    AMBIGUOUS,
    CHUNKED,
    UNSUPPORTED_CODING,
    UNTIL_CLOSE,
    content_length,
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
