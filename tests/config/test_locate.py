from __future__ import annotations

import json
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgproxy.config.locate import Positions

DOCUMENT = '''\
# a comment with [brackets] and key = 1
version = 1
"quoted key" = 'x'
a.b . c = 2

[server]   # trailing
listen = [
  "one",  # a comment, with a comma
  "two#not a comment",
  { host = "h", 'port' = [1, 2] },
]
text = """
[not.a.section]
key = "no" \\""" still inside"""
raw = \'\'\'
x = 1\'\'\'\'
when = 1979-05-27 07:32:00
last = true

[server.timeouts]
header = "5s"

[[token]]
name = "first"
[[token]]
name = "second"
[token.more]
deep = 1
'''


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (("version",), (2, 1)),
        (("quoted key",), (3, 1)),
        (("a",), (4, 1)),
        (("a", "b"), (4, 3)),
        (("a", "b", "c"), (4, 7)),
        (("server",), (6, 1)),
        (("server", "listen"), (7, 1)),
        (("server", "listen", 0), (8, 3)),
        (("server", "listen", 1), (9, 3)),
        (("server", "listen", 2), (10, 3)),
        (("server", "listen", 2, "host"), (10, 5)),
        (("server", "listen", 2, "port"), (10, 17)),
        (("server", "listen", 2, "port", 1), (10, 30)),
        (("server", "text"), (12, 1)),
        (("server", "raw"), (15, 1)),
        (("server", "when"), (17, 1)),
        (("server", "last"), (18, 1)),
        (("server", "timeouts"), (20, 1)),
        (("server", "timeouts", "header"), (21, 1)),
        (("token", 0, "name"), (24, 1)),
        (("token", 1), (25, 1)),
        (("token", 1, "name"), (26, 1)),
        (("token", 1, "more", "deep"), (28, 1)),
    ],
)
def test_every_key_and_item_is_found(path, place):
    assert Positions(DOCUMENT).of(path) == place


def test_what_looks_like_a_key_inside_a_text_is_none():
    tomllib.loads(DOCUMENT)
    assert Positions(DOCUMENT).of(("not", "a", "section")) == (1, 1)


def test_a_key_that_is_not_there_falls_back_to_its_section():
    assert Positions(DOCUMENT).of(("server", "timeouts", "keep_alive")) == (20, 1)


def test_a_section_is_where_its_own_header_is():
    assert Positions("[a.b]\nx = 1\n[a]\ny = 1\n").of(("a",)) == (3, 1)


def test_windows_line_ends_do_not_move_a_line():
    assert Positions("a = 1\r\n\r\n[s]\r\nb = 2\r\n").of(("s", "b")) == (4, 1)


def test_text_that_is_not_toml_is_located_as_far_as_it_goes():
    for broken in (
        "a = 1\nb",
        "a = 1\nb = [1, ",
        "a = 1\n[",
        "a = 1\n= 3",
        "a = 1\nb = ",
        "a = 1\nb = {c",
        "a = 1\nb = {,",
    ):
        assert Positions(broken).of(("a",)) == (1, 1)


def test_deep_nesting_costs_precision_only():
    assert Positions("a = 1\nb = " + "[" * 5000).of(("b",)) == (2, 1)


KEYS = st.text(alphabet="ab.#[]\"' \\=é", max_size=5)
VALUES = st.recursive(
    st.integers() | st.booleans() | st.text(alphabet="x,]}#\"'\\\n= ", max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ",\n # a, comment]\n".join(_toml(v) for v in value) + "]"
    return json.dumps(value)


@given(st.lists(st.tuples(KEYS, VALUES), min_size=1, max_size=5, unique_by=lambda pair: pair[0]))
def test_any_keys_are_found_on_the_line_they_were_written_on(pairs):
    text, lines = "", {}
    for key, value in pairs:
        lines[key] = text.count("\n") + 1
        text += f"{json.dumps(key)} = {_toml(value)}\n"
    assert tomllib.loads(text) == dict(pairs)
    positions = Positions(text)
    assert {key: positions.of((key,)) for key in lines} == {key: (line, 1) for key, line in lines.items()}


@given(st.text(alphabet="a=[]{}\"'.,#\n 1", max_size=60))
def test_no_text_hangs_or_breaks_it(text):
    assert Positions(text).of(("a", 0))[0] >= 1
