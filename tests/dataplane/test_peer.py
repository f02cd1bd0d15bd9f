"""Who a client is, from what its socket says. What upstreams are told is shown by test_exchange.py with real bytes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from bgproxy.dataplane.peer import Peer
from bgproxy.wire.proxy_protocol import Introduction
from bgproxy.wire.request import RequestHead, RequestReader


class FakePlane:
    """Trusts 10.0.0.1, and numbers its request ids."""

    def __init__(self) -> None:
        self.made = 0

    def is_trusted(self, address: bytes) -> bool:
        return address == b"10.0.0.1"

    def new_request_id_line(self) -> bytes:
        self.made += 1
        return b"X-Request-Id: new-%d" % self.made

    def request_id_line(self, given: bytes) -> bytes:
        return b"X-Request-Id: " + given


def peer_at(peername: object, sockname: object = ("192.0.2.9", 8080), introduction: Introduction | None = None) -> Peer:
    names = {"peername": peername, "sockname": sockname}
    return Peer(FakePlane(), SimpleNamespace(get_extra_info=names.get), introduction)  # type: ignore[arg-type]


def head(*lines: bytes, minor: int = 1) -> RequestHead:
    text = b"GET / HTTP/1.%d\r\n" % minor + b"".join(line + b"\r\n" for line in lines) + b"\r\n"
    read = RequestReader(header_count=100, target_bytes=8192, request_id="X-Request-Id").read(text)
    assert isinstance(read, RequestHead)
    return read


@pytest.mark.says("Addresses are compared and written as IPv4")
@pytest.mark.parametrize(
    ("peername", "address"),
    [
        (("192.0.2.1", 5), b"192.0.2.1"),
        (("2001:db8::1", 5, 0, 0), b"2001:db8::1"),
        (("::ffff:192.0.2.1", 5, 0, 0), b"192.0.2.1"),
        ("", b"unknown"),
        (None, b"unknown"),
    ],
)
def test_the_address_is_the_sockets_and_a_unix_socket_has_none(peername: object, address: bytes) -> None:
    assert peer_at(peername).address == address


def test_the_lines_for_a_host_are_kept_and_made_anew_for_another() -> None:
    peer = peer_at(("192.0.2.1", 5))
    first = peer.forwarding(head(b"Host: a.example"))
    assert (peer.usual_host, peer.usual_lines) == (b"a.example", first)
    assert b"Host: a.example\r\n" in first + b"\r\n"
    second = peer.forwarding(head(b"Host: b.example"))
    assert (peer.usual_host, peer.usual_lines) == (b"b.example", second)
    assert second != first


def test_what_a_stranger_says_of_where_it_comes_from_is_not_passed_on() -> None:
    lines = peer_at(("192.0.2.1", 5)).forwarding(head(b"Host: a", b"X-Forwarded-For: 203.0.113.7"))
    assert b"203.0.113.7" not in lines
    assert b"192.0.2.1" in lines


def test_what_a_trusted_proxy_says_is_passed_on_and_never_kept_for_the_next_request() -> None:
    peer = peer_at(("10.0.0.1", 5))
    assert b"203.0.113.7, 10.0.0.1" in peer.forwarding(head(b"Host: a", b"X-Forwarded-For: 203.0.113.7"))
    assert b"203.0.113.7" not in peer.forwarding(head(b"Host: a"))


@pytest.mark.parametrize(
    ("sockname", "host"),
    [(("192.0.2.9", 8080), b"192.0.2.9:8080"), (("::1", 81, 0, 0), b"[::1]:81"), ("/run/x.sock", b"localhost")],
)
def test_a_request_without_a_host_is_for_the_address_it_came_to(sockname: object, host: bytes) -> None:
    assert b"Host: " + host in peer_at(("192.0.2.1", 5), sockname).forwarding(head(minor=0))


def test_only_a_trusted_proxy_names_the_request() -> None:
    named = head(b"Host: a", b"X-Request-Id: theirs")
    assert peer_at(("192.0.2.1", 5)).request_id_line(named) == b"X-Request-Id: new-1"
    trusted = peer_at(("10.0.0.1", 5))
    assert trusted.request_id_line(named) == b"X-Request-Id: theirs"
    assert trusted.request_id_line(head(b"Host: a")) == b"X-Request-Id: new-1"


TRUSTED, STRANGER = ("10.0.0.1", 5), ("192.0.2.1", 5)


@pytest.mark.says("LOCAL (checks")
@pytest.mark.says("UNKNOWN, UNSPEC")
@pytest.mark.parametrize(
    ("peername", "introduction", "address", "is_trusted"),
    [
        (TRUSTED, None, b"10.0.0.1", True),
        (("::ffff:10.0.0.1", 5, 0, 0), None, b"10.0.0.1", True),
        (TRUSTED, Introduction(9, is_local=True), b"10.0.0.1", True),
        (TRUSTED, Introduction(9), b"10.0.0.1", False),
        (TRUSTED, Introduction(9, source=b"203.0.113.7"), b"203.0.113.7", False),
        (("10.0.0.2", 5), Introduction(9, source=b"10.0.0.1"), b"10.0.0.1", True),
    ],
)
def test_it_is_the_introduced_client_who_is_trusted_or_not(
    peername: object, introduction: Introduction | None, address: bytes, is_trusted: bool
) -> None:
    peer = peer_at(peername, introduction=introduction)
    assert (peer.address, peer.is_trusted) == (address, is_trusted)


def test_an_introduced_client_has_asked_the_address_that_the_introduction_says() -> None:
    told = Introduction(9, source=b"203.0.113.7", destination=b"198.51.100.1:80")
    assert b"Host: 198.51.100.1:80\r\n" in peer_at(TRUSTED, introduction=told).forwarding(head(minor=0))
    assert b"Host: 192.0.2.9:8080\r\n" in peer_at(TRUSTED, introduction=Introduction(9)).forwarding(head(minor=0))


def test_only_who_is_trusted_asks_for_https_without_tls() -> None:
    for scheme, trusted, stranger in ((b"", True, True), (b"http", True, True), (b"https", True, False)):
        assert peer_at(TRUSTED).may_ask_for(scheme) is trusted
        assert peer_at(STRANGER).may_ask_for(scheme) is stranger
