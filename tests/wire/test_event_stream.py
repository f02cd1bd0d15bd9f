from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgproxy.wire.event_stream import Events, retry_hint


def between(*pieces: bytes) -> bool:
    events = Events()
    for piece in pieces:
        events.feed(piece)
    return events.is_between_events


def test_the_hint_is_a_block_of_its_own():
    assert retry_hint(3250) == b"retry: 3250\n\n"


@pytest.mark.parametrize(
    ("pieces", "is_between"),
    [
        ((), True),
        ((b"",), True),
        ((b"data: a",), False),
        ((b"data: a\n",), False),
        ((b"data: a\n\n",), True),
        ((b"data: a\r\n\r\n",), True),
        ((b"data: a\r\r",), True),
        ((b"data: a\n", b"\n"), True),
        ((b"data: a\r", b"\n"), False),
        ((b"data: a\r", b"\n", b"\r", b"\n"), True),
        ((b"data: a\r", b"\r"), True),
        ((b"data: a\n", b"data: b\n"), False),
        ((b": ping\n",), True),
        ((b": pi",), False),
        ((b": pi", b"ng\n"), True),
        ((b"id: 7\n", b": ping\n"), False),
        ((b"data: a\n\nid: 8\n",), False),
        ((b"data: a\n\n", b"d", b"ata: b\n"), False),
        ((b"data", b": a\n", b"\ndata: b\n\n"), True),
        ((b"da", b"\n", b"\n"), True),
    ],
)
def test_between_two_events(pieces, is_between):
    assert between(*pieces) is is_between


LINES = st.lists(
    st.tuples(st.sampled_from([b"", b"data: x", b":", b": c", b"id", b" "]), st.sampled_from([b"\n", b"\r", b"\r\n"])),
    max_size=12,
)


def by_the_grammar(data: bytes) -> bool:
    """Slowly, from the whole: the last line is complete, and since the last empty one there were comments alone."""
    lines = re.split(rb"\r\n|\n|\r", data)
    if lines.pop():
        return False
    while lines and lines[-1].startswith(b":"):
        lines.pop()
    return not lines or not lines[-1]


@given(LINES, st.data())
def test_any_cut_gives_the_same_answer(lines, data):
    stream = b"".join(line + end for line, end in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    events, fed = Events(), 0
    for cut in [*cuts, len(stream)]:
        events.feed(stream[fed:cut])
        fed = cut
        if stream[cut - 1 : cut + 1] != b"\r\n":  # in the middle of one end of line it is not known yet
            assert events.is_between_events == by_the_grammar(stream[:cut])
