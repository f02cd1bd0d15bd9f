"""Chunked bodies: however they are cut, whoever reads them."""

from __future__ import annotations

from itertools import pairwise

import h11
from hypothesis import given, settings
from hypothesis import strategies as st

from bgproxy.wire import encode, framing
from bgproxy.wire.framing import ChunkedDecoder

MORE, BAD = framing.MORE, framing.BAD
examples = settings(max_examples=120, deadline=None, derandomize=True, database=None)

LINES = [
    *(
        b"5\r\nhello\r\n",
        b"1\r\nx\r\n",
        b"a;b=c\r\n0123456789\r\n",
        b'2;q="\\""\r\n\r\n\r\n',
        b"0\r\n",
        b"\r\n",
        b"A: 1\r\n",
    )
    * 2,
    *(
        b"0\r\n\r\n",
        b"5\nhello\r\n",
        b"5\r\nhelloX\r\n",
        b"x\r\n",
        b"5 \r\n",
        b"A : 1\r\n",
        b"\n",
        b"\r",
        b"",
        b"5",
        b"B: \0\r\n",
    ),
]
bodies = st.one_of(
    st.builds(lambda lines: b"".join(lines) + b"0\r\n\r\n", st.lists(st.sampled_from(LINES[:10]), max_size=6)),
    st.builds(b"".join, st.lists(st.sampled_from(LINES), max_size=8)),
    st.binary(max_size=60),
)


def outcome(pieces: list[bytes]) -> tuple[object, ...]:
    decoder, before = ChunkedDecoder(), 0
    for piece in pieces:
        end = decoder.feed(piece)
        if end == BAD:
            return (BAD,)
        if end >= 0:
            return before + end, b"".join(decoder.pieces), decoder.trailers
        before += len(piece)
    return MORE, b"".join(decoder.pieces), decoder.trailers


def cut(body: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(place % (len(body) + 1) for place in cuts), len(body)]
    return [body[start:end] for start, end in pairwise(places)]


@examples
@given(bodies, st.lists(st.integers(0, 200), max_size=6))
def test_a_body_cut_anywhere_is_read_as_if_it_came_whole(body, cuts):
    whole = outcome([body])
    assert outcome(cut(body, cuts)) == whole
    assert outcome([body[i : i + 1] for i in range(len(body))]) == whole


@examples
@given(bodies, st.integers(0, 200))
def test_no_beginning_of_a_body_is_complete_before_its_end(body, length):
    whole = outcome([body])
    if whole[0] not in (MORE, BAD):
        assert outcome([body[: min(length, whole[0] - 1)]])[0] == MORE


def read_by_h11(body: bytes) -> bytes:
    server = h11.Connection(h11.SERVER)
    server.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
    assert isinstance(server.next_event(), h11.Request)
    payload = b""
    while isinstance(event := server.next_event(), h11.Data):
        payload += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage), event
    assert server.trailing_data == (b"", False)
    return payload


trailer_lists = st.lists(
    st.tuples(st.sampled_from([b"Digest", b"X-Sum"]), st.sampled_from([b"", b"1", b"a\tb", b"\xe9"])), max_size=3
)
piece_lists = st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=4)


@examples
@given(st.lists(piece_lists, max_size=4), trailer_lists)
def test_what_we_send_as_chunks_is_read_back_by_others_and_by_ourselves(chunks, trailers):
    payload = b"".join(map(b"".join, chunks))
    body = b"".join(map(encode.chunk, chunks)) + encode.last_chunk(trailers)
    assert read_by_h11(body) == payload
    assert outcome([body]) == (len(body), payload, trailers)


@examples
@given(bodies)
def test_what_we_accept_reads_the_same_for_an_independent_reader(body):
    whole = outcome([body])
    # h11 keeps to fewer characters in chunk extensions and trailers, so only plain ones are compared.
    if whole[0] not in (MORE, BAD) and b"\\" not in body and not whole[2]:
        assert read_by_h11(body[: whole[0]]) == whole[1]


@examples
@given(st.lists(st.binary(max_size=30), max_size=10))
def test_no_bytes_whatever_raise_an_exception(pieces):
    decoder, length = ChunkedDecoder(), 0
    for piece in pieces:
        end = decoder.feed(piece)
        length += len(piece)
        assert BAD <= end <= len(piece)
        assert sum(map(len, decoder.pieces)) <= length
        if end != MORE:
            break
