from __future__ import annotations

import h11
import pytest

from bgproxy.wire.replies import redirection, reply

DATE = b"Sun, 22 Nov 2026 12:00:00 GMT"


def parsed(raw: bytes, method: str = "GET") -> tuple[h11.Response, bytes, bool]:
    """(the head, the body, whether the connection stays) as an independent client sees them."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(raw)
    head = client.next_event()
    assert isinstance(head, h11.Response)
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    return head, body, client.their_state is h11.DONE


@pytest.mark.parametrize("status", [400, 405, 408, 413, 414, 417, 431, 501, 502, 503, 504, 505])
def test_a_reply_is_one_whole_framed_response(status):
    head, body, stays = parsed(reply(status, "bad_request", "why", date=DATE, close=False))
    assert head.status_code == status
    assert body.endswith(b": why\n")
    assert stays
    assert dict(head.headers)[b"x-bg-reason"] == b"bad_request"
    assert dict(head.headers)[b"date"] == DATE


def test_a_reply_says_when_the_connection_is_over():
    assert not parsed(reply(400, "bad_request", "why", date=DATE, close=True))[2]


def test_a_reply_to_head_has_the_length_of_a_body_that_is_not_sent():
    with_body = reply(502, "bad_response", "why", date=DATE, close=False)
    without = reply(502, "bad_response", "why", date=DATE, close=False, with_body=False)
    assert with_body.startswith(without)
    head, body, stays = parsed(without, "HEAD")
    assert body == b""
    assert stays
    assert int(dict(head.headers)[b"content-length"]) == len(with_body) - len(without)


def test_a_reply_names_the_request_it_answers():
    assert parsed(reply(502, "x", "why", date=DATE, request_id=b"id\xe9", close=False))[1] == (
        "502 Bad Gateway: why (request idé)\n".encode("latin-1")
    )


def test_only_an_overload_says_when_to_come_again():
    assert b"\r\nRetry-After: 1\r\n" in reply(503, "x", "why", date=DATE, close=False)
    assert b"Retry-After" not in reply(502, "x", "why", date=DATE, close=False)


def test_only_a_refused_method_is_told_which_are_allowed():
    assert b"\r\nAllow: GET, HEAD," in reply(405, "x", "why", date=DATE, close=False)
    assert b"Allow" not in reply(400, "x", "why", date=DATE, close=False)


def test_a_detail_outside_latin_1_is_replaced_and_counted_right():
    assert parsed(reply(400, "x", "sn☃w", date=DATE, close=False))[1].endswith(b"sn?w\n")


@pytest.mark.parametrize("with_body", [True, False])
def test_a_redirection_is_whole_and_ends_the_connection(with_body):
    answer = redirection(308, b"https://a.example/", date=b"today", with_body=with_body)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 308 Permanent Redirect\r\n")
    assert b"\r\nLocation: https://a.example/\r\n" in head
    assert head.endswith(b"\r\nConnection: close")
    whole = b"308 Permanent Redirect: https://a.example/\n"
    assert body == (whole if with_body else b"")
    assert b"\r\nContent-Length: %d\r\n" % len(whole) in head
