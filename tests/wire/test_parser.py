from __future__ import annotations

import pytest
from httptools import HttpParserError

from bgproxy.wire.parser import GrammarCheck, request_grammar, response_grammar

PLAIN = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
INVALID = b"GET / HTTP/1.1\r\nHost : a\r\n\r\n"
# Each of these leaves llhttp somewhere else than at the beginning of a message.
UNSETTLING = {
    "a body to follow": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n",
    "a chunked body to follow": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a close": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "HTTP/1.0": b"GET / HTTP/1.0\r\nHost: a\r\n\r\n",
    "an upgrade": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    "an upgrade with a body": b"POST / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\n",
    "CONNECT": b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
}


def is_whole_message(checker: GrammarCheck, message: bytes) -> bool:
    """As the readers do it."""
    try:
        checker.feed_whole(message)
    except HttpParserError:
        checker.restart()
        return False
    return True


unsettling = pytest.mark.parametrize("before", UNSETTLING.values(), ids=UNSETTLING.keys())


@unsettling
def test_a_whole_valid_head_is_one_whatever_it_asks_for(before):
    assert request_grammar().is_head(before)


@unsettling
def test_a_head_with_consequences_leaves_no_trace_in_what_is_read_next(before):
    checker = request_grammar()
    for _ in range(3):
        checker.is_head(before)
        assert is_whole_message(checker, PLAIN)
        checker.is_head(before)
        assert checker.is_head(PLAIN)
        assert not checker.is_head(INVALID)
        assert not is_whole_message(checker, INVALID)


@pytest.mark.parametrize("before", [INVALID, b"\x16\x03\x01\x02\r\n\r\n", b"GET / HTTP/1.1\r\nA: b\x00\r\n\r\n"])
def test_an_invalid_message_leaves_no_trace_in_what_is_read_next(before):
    checker = request_grammar()
    for _ in range(3):
        assert not is_whole_message(checker, before)
        assert is_whole_message(checker, PLAIN)


def test_a_head_never_passes_as_the_body_of_the_head_before():
    checker = request_grammar()
    assert checker.is_head(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n")
    assert not checker.is_head(b"\x16\x03\x01 this would do as a body\r\n\r\n")
    assert not is_whole_message(checker, b"\x16\x03\x01 this would do as a body\r\n\r\n")


def test_whole_messages_follow_one_another_and_none_hides_an_invalid_one():
    requests, responses = request_grammar(), response_grammar()
    for _ in range(50):
        assert is_whole_message(requests, PLAIN)
        assert is_whole_message(responses, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
    assert not is_whole_message(requests, INVALID)
    assert not is_whole_message(responses, b"hello\r\n\r\n")


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
        b"HTTP/1.0 304 Not Modified\r\n\r\n",
    ],
)
def test_a_response_head_without_its_body_leaves_no_trace(head):
    checker = response_grammar()
    for _ in range(3):
        assert checker.is_head(head)
        assert is_whole_message(checker, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        assert not checker.is_head(b"HTTP/1.1 200 OK\r\nNo colon here\r\n\r\n")
