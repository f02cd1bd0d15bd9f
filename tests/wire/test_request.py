"""The reader as a whole: plain requests, bounds, one reader for all. Framing, targets, hops have their own files."""

from __future__ import annotations

import pytest

from bgproxy.wire.request import RequestHead
from tests.support.heads import (
    HEADER_COUNT,
    OWN_ID,
    PEER,
    TARGET_BYTES,
    accepted,
    outcome,
    refused,
    request,
    request_reader,
    sent,
)


def test_a_plain_request_is_forwarded_with_its_fields_as_they_came():
    head = request("GET /a?b=c HTTP/1.1", "ACCEPT:  */*  ", "X-a: 1", "x-A: 2", b"X-Text: caf\xe9\ttab", "Empty:")
    assert sorted(sent(head)) == sorted(
        [
            b"GET /a?b=c HTTP/1.1",
            b"Host: example.org",
            b"X-Forwarded-For: " + PEER,
            b"X-Forwarded-Proto: http",
            b"X-Forwarded-Host: example.org",
            b"Via: 1.1 bgproxy",
            b"X-Request-ID: " + OWN_ID,
            b"ACCEPT:  */*  ",
            b"X-a: 1",
            b"x-A: 2",
            b"X-Text: caf\xe9\ttab",
            b"Empty:",
        ]
    )
    assert [line for line in sent(head) if line.lower().startswith(b"x-a:")] == [b"X-a: 1", b"x-A: 2"]


@pytest.mark.parametrize(
    "head",
    [
        request("GET / HTTP/1.1", "Connection: keep-alive", "A: 1"),
        request("GET / HTTP/1.1", "connection: Keep-Alive", "A: 1"),
        request("GET / HTTP/1.1", "Connection: keep-alive", "A: 1", "host: example.org", host=None),
        request("GET / HTTP/1.1", "A: 1", "HOST: example.org", "CONNECTION: keep-alive", host=None),
    ],
)
def test_connection_keep_alive_goes_no_further_wherever_it_stands(head):
    answer = accepted(head)
    assert answer.keep_alive
    assert answer.host == b"example.org"
    assert sorted(sent(head)) == sorted(sent(request("GET / HTTP/1.1", "A: 1")))


def test_the_plain_path_is_taken_for_a_host_that_was_seen_and_judged_before():
    reader = request_reader()
    judged, plain = reader.read(request()), reader.read(request())
    assert isinstance(judged, RequestHead)
    assert isinstance(plain, RequestHead)
    assert judged.found is not None
    assert plain.found is None


def test_a_flood_of_host_names_is_not_remembered_for_ever():
    reader = request_reader()
    for number in range(3000):
        assert isinstance(reader.read(request(host=f"h{number}.example")), RequestHead)
    assert len(reader._hosts) <= 1024
    assert isinstance(reader.read(request(host="h0.example")), RequestHead)


# --- bounds ----------------------------------------------------------------------------------------------------------


def fields(count: int) -> list[str]:
    return ["A:"] * (count - 1)  # Host is one, too


def test_as_many_fields_as_allowed_are_read_and_one_more_is_refused_with_431():
    assert accepted(request("GET / HTTP/1.1", *fields(HEADER_COUNT)))
    assert refused(request("GET / HTTP/1.1", *fields(HEADER_COUNT + 1))) == 431


def test_fields_are_counted_in_the_judged_path_as_well():
    more = "Content-Length: 5"
    assert accepted(request("POST / HTTP/1.1", *fields(HEADER_COUNT - 1), more))
    assert refused(request("POST / HTTP/1.1", *fields(HEADER_COUNT), more)) == 431


def test_a_target_as_long_as_allowed_is_read_and_a_longer_one_is_refused_with_414():
    assert accepted(request(f"GET /{'a' * (TARGET_BYTES - 1)} HTTP/1.1"))
    assert refused(request(f"GET /{'a' * TARGET_BYTES} HTTP/1.1")) == 414


# --- one reader, many connections -------------------------------------------------------------------------------------

UNSETTLING = [
    request("POST / HTTP/1.1", "Content-Length: 1000000"),
    request("POST / HTTP/1.1", "Transfer-Encoding: chunked"),
    request("GET / HTTP/1.1", "Connection: close"),
    request("GET / HTTP/1.0"),
    request("GET / HTTP/1.1", "Connection: Upgrade", "Upgrade: websocket"),
    request("POST / HTTP/1.1", "Connection: Upgrade", "Upgrade: h2c", "Content-Length: 5"),
    request("CONNECT a:80 HTTP/1.1"),
    request("PRI * HTTP/2.0", host=None),
    request("GET / HTTP/1.1", "Bad : field"),
    request(f"GET /{'a' * TARGET_BYTES} HTTP/1.1"),
    request("GET / HTTP/1.1", *fields(HEADER_COUNT + 5)),
    request("GET / HTTP/3.0"),
    b"\r\n\r\n",
    b"\x16\x03\x01\x02\r\n\r\n",
]


@pytest.mark.parametrize("before", UNSETTLING)
def test_what_one_client_sends_changes_nothing_for_the_next(before):
    reader = request_reader()
    alone = outcome(request_reader().read(request()))
    bad = request("GET / HTTP/1.1", "No colon")
    for _ in range(3):
        reader.read(before)
        assert outcome(reader.read(request())) == alone
        reader.read(before)
        assert outcome(reader.read(bad))[0] == 400
