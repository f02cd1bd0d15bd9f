"""Hostile near-valid streams through the real protocol objects: however they are cut, wherever they end, one outcome;
what is forwarded reads alike for everybody, is what was said, and is whole only where it was whole."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.response import ASKED
from tests.support.desk import Desk
from tests.support.invariants import FIN, OPEN, RST, check_request, check_response
from tests.support.odd_heads import request_heads, response_heads, some
from tests.support.strict import h11_responses

too_slow = [HealthCheck.too_slow]  # on a busy machine
examples = settings(max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=too_slow)

CHUNK_LINES = [
    *(b"5\r\nhello\r\n", b"1;n=v\r\nx\r\n", b"0\r\n\r\n", b"0\r\nA: 1\r\n\r\n", b"0\r\nCookie: 1\r\nB: 2\r\n\r\n") * 3,
    *(b"5\nhello\r\n", b"5\r\nhelloX\r\n", b"5 \r\nhello\r\n", b"+5\r\nhello\r\n", b"0x5\r\nhello\r\n", b"0\n\n"),
    *(b"5\r\nhello", b"0\r\n", b"0\r\nContent-Length: 1\r\n\r\n", b"1;\nx\r\n", b"ffffffffffffffff1\r\n"),
    *(b"0\r\n\n", b"1\r\n", b"\r\n"),
]  # fmt: skip
chunks = some(CHUNK_LINES, 4).map(b"".join)
bodies = st.one_of(st.just(b""), st.sampled_from([b"hello", b"hel", b"hello!", b"x" * 9]), chunks, chunks)
FRAMINGS = [
    *([b"Content-Length: 5"], [b"Transfer-Encoding: chunked"], [b"transfer-encoding:\tCHUNKED "], []) * 4,
    *([b"Content-Length: 5", b"Transfer-Encoding: chunked"], [b"Content-Length: 5", b"Content-Length: 5"]),
    *([b"Content-Length: 5, 5"], [b"Content-Length: +5"], [b"Content-Length: 5", b"Content_Length: 6"]),
    *([b"Transfer-Encoding: gzip, chunked"], [b"Transfer-Encoding: chunked", b"Transfer-Encoding: x"]),
    *([b"Transfer-Encoding : chunked"], [b"Transfer-Encoding:\r\n chunked"], [b"Transfer-Encoding: \x0bchunked"]),
    *([b"Content-Length: 5\n"], [b"A: 1\nContent-Length: 5"], [b"A: 1\rContent-Length: 5"], [b"A: \0"], [b" A: 1"]),
]
framings = st.sampled_from(FRAMINGS)
further = some([b"Connection: close", b"Connection: keep-alive", b"Expect: 100-continue", b"TE: trailers", b"A: b"], 2)


def joined(first: bytes, fields: list[bytes], body: bytes) -> bytes:
    return b"\r\n".join([first, *fields]) + b"\r\n\r\n" + body


with_bodies = st.builds(
    lambda first, fields, more, body: joined(first, [b"Host: a", *fields, *more], body),
    st.sampled_from([b"POST /p HTTP/1.1"] * 3 + [b"GET / HTTP/1.1", b"POST / HTTP/1.0"]),
    *(framings, further, bodies),
)
bodiless = st.builds(bytes.__add__, st.sampled_from([b"", b"", b"\r\n", b"\r\n\r\n"]), request_heads)
streams = st.lists(st.one_of(with_bodies, with_bodies, bodiless), min_size=1, max_size=3).map(b"".join)
places = st.lists(st.integers(0, 1000), max_size=4)
# Until its end, or broken off somewhere.
lengths = st.one_of(st.just(10_000), st.integers(0, 400))

answers = st.builds(
    joined,
    st.sampled_from([b"HTTP/1.1 200 OK"] * 5 + [b"HTTP/1.0 200 OK", b"HTTP/1.1 204 X", b"HTTP/1.1 304 X"]),
    st.builds(list.__add__, framings, some([b"Connection: close", b"Connection: keep-alive", b"A: b"], 2)),
    bodies,
)
interims = some([b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Hints\r\nLink: a\r\n\r\n"], 2).map(b"".join)
answer_streams = st.one_of(
    st.builds(
        lambda *parts: b"".join(parts), interims, answers, st.sampled_from([b"", b"", b"HTTP/1.1 200 OK\r\n\r\n"])
    ),
    st.builds(bytes.__add__, response_heads, bodies),
)


@pytest.fixture(scope="module")
def desk():
    return Desk()


@examples
@given(stream=streams, length=lengths, places=places, fin=st.booleans(), at_once=st.booleans())
def test_whatever_a_client_sends(desk, stream, length, places, fin, at_once):
    check_request(desk, stream[:length], places, fin=fin, at_once=at_once)


@examples
@given(
    asked=st.sampled_from(ASKED),
    stream=answer_streams,
    length=lengths,
    places=places,
    end=st.sampled_from([FIN, RST, OPEN]),
    at_once=st.booleans(),
)
def test_whatever_an_upstream_answers(desk, asked, stream, length, places, end, at_once):
    check_response(desk, asked, stream[:length], places, end=end, at_once=at_once)


GOOD_REQUESTS = [
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    b"POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: 1\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
]


@pytest.mark.parametrize("request_", GOOD_REQUESTS, ids=range(len(GOOD_REQUESTS)))
def test_a_request_that_ends_short_is_never_whole_to_the_upstream(desk, request_):
    for length in range(len(request_)):
        assert check_request(desk, request_[:length], [length // 2], fin=True, at_once=False).forwarded == ()
    assert len(check_request(desk, request_, [], fin=True, at_once=False).forwarded) == 1


OK = b"HTTP/1.1 200 OK\r\n"
GOOD_ANSWERS = [
    OK + b"Content-Length: 5\r\n\r\nhello",
    b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: 1\r\n\r\n",
    OK + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    OK + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
]


@pytest.mark.parametrize("end", [FIN, RST])
@pytest.mark.parametrize("asked", [ASKED[0], ASKED[2], ASKED[3], ASKED[7]])
@pytest.mark.parametrize("answer", GOOD_ANSWERS, ids=range(len(GOOD_ANSWERS)))
def test_an_answer_that_ends_short_is_never_whole_to_the_client(desk, asked, answer, end):
    for length in range(len(answer)):
        outcome = check_response(desk, asked, answer[:length], [length // 2], end=end, at_once=False)
        own = [whole for whole in outcome.answers if whole.all(b"x-bg-reason")]
        assert outcome.answers == tuple(own), f"{length} bytes are told as whole"
        assert own or (outcome.half and outcome.ended)
    outcome = check_response(desk, asked, answer, [], end=end, at_once=False)
    assert outcome.answers[0].body == b"hello"


@pytest.mark.parametrize("asked", [ASKED[0], ASKED[2], ASKED[3], ASKED[7]])
@pytest.mark.parametrize("head", [OK + b"\r\n", b"HTTP/1.0 200 OK\r\n\r\n", OK + b"Connection: close\r\n\r\n"])
def test_an_answer_that_ends_with_its_connection_is_whole_only_where_that_ends_in_order(desk, asked, head):
    for body in (b"", b"hello"):
        whole = check_response(desk, asked, head + body, [20], end=FIN, at_once=False)
        assert (whole.answers[0].body, whole.was_reset) == (body, False)
        cut = check_response(desk, asked, head + body, [20], end=RST, at_once=False)
        assert (cut.answers, cut.half) == ((), True)
        assert cut.was_reset or cut.ended


def test_what_ends_short_is_so_for_an_independent_reader(desk):
    """That `h11_responses`, on which these tests rely, does tell the one from the other."""
    for answer in GOOD_ANSWERS:
        assert len(h11_responses(answer, [b"GET"], ended=True)) == 1
        assert h11_responses(answer[:-1], [b"GET"], ended=True) == []
