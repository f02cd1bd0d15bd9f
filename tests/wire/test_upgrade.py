from __future__ import annotations

import pytest

from bgproxy.wire.upgrade import is_accepted, offered

ASKED = [b"upgrade"]


@pytest.mark.parametrize(
    ("values", "offer"),
    [
        ([b"websocket"], b"websocket"),
        ([b"WebSocket"], b"websocket"),
        ([b"h2c, websocket"], b"websocket"),
        ([b"h2c", b"websocket"], b"websocket"),
        ([b"foo"], b"foo"),
        ([b"foo/2.1"], b"foo/2.1"),
    ],
)
def test_one_protocol_is_offered(values, offer):
    assert offered(b"GET", 1, 0, ASKED, values) == offer


@pytest.mark.parametrize(
    "values",
    [[], [b""], [b"h2c"], [b"H2C"], [b"h2"], [b"HTTP/2.0"], [b"TLS/1.0"], [b"foo, bar"], [b"a b"], [b"a/b/c"], [b"/1"]],
)
def test_nothing_is_offered_that_is_http_or_tls_or_no_single_protocol(values):
    assert offered(b"GET", 1, 0, ASKED, values) == b""


@pytest.mark.parametrize(
    ("method", "minor", "body", "options"),
    [
        (b"POST", 1, 0, ASKED),
        (b"HEAD", 1, 0, ASKED),
        (b"GET", 0, 0, ASKED),
        (b"GET", 1, 5, ASKED),
        (b"GET", 1, -1, ASKED),
        (b"GET", 1, 0, []),
        (b"GET", 1, 0, [b"keep-alive"]),
    ],
    ids=["POST", "HEAD", "HTTP/1.0", "a body", "a chunked body", "no Connection", "Connection names something else"],
)
def test_a_request_whose_end_could_be_in_doubt_is_not_offered_as_a_tunnel(method, minor, body, options):
    assert offered(method, minor, body, options, [b"websocket"]) == b""


def test_a_101_is_accepted_when_it_names_what_was_offered():
    assert is_accepted(b"websocket", [b"upgrade"], [b"WebSocket"])


@pytest.mark.parametrize(
    ("offer", "options", "values"),
    [
        (b"", [b"upgrade"], [b"websocket"]),
        (b"", [b"upgrade"], []),
        (b"websocket", [], [b"websocket"]),
        (b"websocket", [b"upgrade"], []),
        (b"websocket", [b"upgrade"], [b"foo"]),
        (b"websocket", [b"upgrade"], [b"websocket, foo"]),
    ],
)
def test_a_101_that_was_not_asked_for_is_not_accepted(offer, options, values):
    assert not is_accepted(offer, options, values)
