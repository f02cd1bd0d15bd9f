from __future__ import annotations

import pytest

from bgproxy.wire import encode
from bgproxy.wire.framing import CHUNKED
from tests.support.heads import accepted, answered, request, response


def test_a_request_carries_what_the_proxy_adds_once():
    head = accepted(request("GET /x HTTP/1.1", "A: 1", "Connection: close"))
    assert encode.request(head, b"\r\nHost: h\r\nVia: v", b"\r\nX-Request-ID: 7") == (
        b"GET /x HTTP/1.1\r\nHost: h\r\nVia: v\r\nX-Request-ID: 7\r\nA: 1\r\n\r\n"
    )


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("more", [(), ("Connection: foo",)], ids=["plain", "judged"])
def test_a_response_of_known_length_goes_out_with_that_length_and_what_there_is_of_it(version, more):
    head = answered(response(f"HTTP/{version} 200 OK", "A: 1", "Content-Length: 5", *more, "B: 2"))
    assert encode.response(head, b"\r\nX-Added: 1", b"hel", chunked=False) == (
        b"HTTP/1.1 200 OK\r\nA: 1\r\nContent-Length: 5\r\nX-Added: 1\r\nB: 2\r\n\r\nhel"
    )


def test_a_response_of_unknown_length_goes_out_chunked_to_a_client_that_knows_it():
    head = answered(response("HTTP/1.1 200 OK", "A: 1"))
    assert encode.response(head, b"", b"", chunked=True) == (
        b"HTTP/1.1 200 OK\r\nA: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
    )


def test_a_response_of_unknown_length_ends_with_the_connection_for_an_old_client():
    head = answered(response("HTTP/1.1 200 OK", "Transfer-Encoding: chunked"))
    assert encode.response(head, b"\r\nConnection: close", b"", chunked=False) == (
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    )


def test_a_response_of_known_length_is_never_sent_chunked():
    head_answer = answered(response("HTTP/1.1 200 OK", "Transfer-Encoding: chunked"), b"HEAD")
    assert head_answer.body != CHUNKED


@pytest.mark.parametrize("fields", [(), ("Link: </a>",), ("Content-Length: 7",), ("X-BG-Epoch: 1", "Link: </a>")])
def test_an_interim_response_is_relayed_without_framing(fields):
    kept = b"Link: </a>\r\n" if "Link: </a>" in fields else b""
    head = answered(response("HTTP/1.1 103 Early Hints", *fields))
    assert encode.interim(head) == b"HTTP/1.1 103 Early Hints\r\n" + kept + b"\r\n"


def test_a_101_goes_out_with_the_protocol_that_was_offered():
    head = answered(response("HTTP/1.1 101 Switching Protocols", "Upgrade: WebSocket", "Connection: Upgrade", "A: 1"))
    assert encode.switching_protocols(head, b"websocket", b"\r\nX-Y: 4") == (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Y: 4\r\nA: 1\r\n\r\n"
    )


def test_all_that_came_at_once_is_one_chunk():
    assert encode.chunk([b"hello"]) == b"5\r\nhello\r\n"
    assert encode.chunk([b"a"] * 300) == b"12c\r\n" + b"a" * 300 + b"\r\n"


def test_the_last_chunk_carries_the_trailers():
    assert encode.last_chunk([]) == encode.LAST_CHUNK == b"0\r\n\r\n"
    assert encode.last_chunk([(b"A", b"1"), (b"B", b"")]) == b"0\r\nA: 1\r\nB: \r\n\r\n"


def test_a_plain_response_goes_out_whole_with_its_length_and_nothing_added():
    head = answered(response("HTTP/1.1 200 OK", "A: 1", "Content-Length: 3", "Connection: keep-alive", "B: 2"))
    assert (
        encode.plain_response(head, b"", b"hel") == b"HTTP/1.1 200 OK\r\nA: 1\r\nContent-Length: 3\r\nB: 2\r\n\r\nhel"
    )
