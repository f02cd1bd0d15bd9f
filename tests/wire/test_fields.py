from __future__ import annotations

import pytest

from bgproxy.wire.fields import collect, is_token, members, special_fields, split_line, without

SPLIT = special_fields(("host", "content-length"), ("x-bg-",)).split


def test_a_split_head_joined_again_is_the_head_that_came():
    head = b"GET / HTTP/1.1\r\nA: 1\r\nHost: \t x \r\nB: 2\r\nX-BG-Y:z\r\n\r\n"
    assert SPLIT(head) == [b"GET / HTTP/1.1\r\nA: 1", b"Host", b"x ", b"\r\nB: 2", b"X-BG-Y", b"z", b"\r\n\r\n"]


@pytest.mark.parametrize("name", [b"Content-Length", b"content-length", b"CONTENT_LENGTH", b"cOnTeNt_LeNgTh"])
def test_a_special_field_is_found_in_any_case_and_spelled_with_an_underscore(name):
    assert SPLIT(b"X\r\n" + name + b": 5\r\n\r\n")[1:3] == [name, b"5"]


@pytest.mark.parametrize("name", [b"X-BG-Colour", b"x_bg_colour", b"X-BG-"])
def test_a_prefix_finds_every_field_that_begins_with_it(name):
    assert SPLIT(b"X\r\n" + name + b": 5\r\n\r\n")[1:3] == [name, b"5"]


@pytest.mark.parametrize("name", [b"Content-Lengthy", b"XHost", b"Hos", b"X-B-G", b"Content--Length"])
def test_a_field_that_only_looks_similar_is_left_in_its_piece(name):
    assert SPLIT(b"X\r\n" + name + b": 5\r\n\r\n") == [b"X\r\n" + name + b": 5\r\n\r\n"]


def test_a_special_name_inside_a_value_is_not_a_field():
    assert len(SPLIT(b"X\r\nA: Host: b\r\n\r\n")) == 1


def test_a_name_with_a_character_that_expressions_use_stands_for_itself():
    split = special_fields(("a.b",)).split
    assert len(split(b"X\r\na.b: 1\r\n\r\n")) == 4
    assert len(split(b"X\r\naxb: 1\r\n\r\n")) == 1


def test_values_are_collected_in_order_under_the_lower_case_name_without_blanks():
    parts = [b"", b"A", b"1 \t", b"", b"b", b"2", b"", b"a", b"", b""]
    assert collect(parts) == {b"a": [b"1", b""], b"b": [b"2"]}


def test_members_of_a_list_over_several_lines_are_lower_case_and_never_empty():
    assert members([b"Close, ,\tKeep-Alive ", b",", b"", b"X"]) == [b"close", b"keep-alive", b"x"]


@pytest.mark.parametrize(("text", "expected"), [(b"websocket", True), (b"a!#$%&'*+-.^_`|~9", True), (b"", False)])
def test_a_token_is_one_or_more_token_characters(text, expected):
    assert is_token(text) is expected


@pytest.mark.parametrize("text", [b"a b", b"a\n", b"a,b", b"a/b", b"\xe9", b"a\0", b'"a"'])
def test_text_with_any_other_character_is_no_token(text):
    assert not is_token(text)


def test_named_fields_are_taken_out_of_a_piece_and_nothing_else():
    piece = b"HTTP/1.1 200 OK\r\nKeep: 1\r\nX-Gone: 2\r\nx-gone: 3\r\nX-Gone-Not: 4"
    assert without(piece, frozenset((b"x-gone",))) == b"HTTP/1.1 200 OK\r\nKeep: 1\r\nX-Gone-Not: 4"


def test_a_piece_that_begins_with_a_field_loses_it_too():
    assert without(b"\r\nA: 1\r\nB: 2", frozenset((b"a",))) == b"\r\nB: 2"
    assert without(b"", frozenset((b"a",))) == b""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"Name: value", (b"Name", b"value")),
        (b"Name:value \t", (b"Name", b"value")),
        (b"Name:", (b"Name", b"")),
        (b"Name: a\tb \xe9", (b"Name", b"a\tb \xe9")),
    ],
)
def test_a_field_line_is_split_at_its_colon(line, expected):
    assert split_line(line) == expected


@pytest.mark.parametrize(
    "line",
    [
        b"Name : value",
        b" Name: value",
        b": value",
        b"Name",
        b"N\xe9: v",
        b"Name: a\rb",
        b"Name: a\0b",
        b"A: \x7f",
        b"A: \n",
    ],
)
def test_a_malformed_field_line_is_no_field(line):
    assert split_line(line) is None
