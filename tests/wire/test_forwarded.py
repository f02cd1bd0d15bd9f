from __future__ import annotations

import pytest

from bgproxy.wire.forwarded import UNKNOWN, address_of, lines, lines_behind_proxy


def split(text: bytes) -> list[bytes]:
    assert text.startswith(b"\r\n")
    return text[2:].split(b"\r\n")


def test_an_untrusted_peer_is_described_by_us_alone():
    assert split(lines(b"192.0.2.7", b"http", b"example.org:81")) == [
        b"Host: example.org:81",
        b"X-Forwarded-For: 192.0.2.7",
        b"X-Forwarded-Proto: http",
        b"X-Forwarded-Host: example.org:81",
        b"Via: 1.1 bgproxy",
    ]


def test_a_trusted_proxy_that_says_nothing_is_described_like_any_peer():
    assert lines_behind_proxy(b"10.0.0.1", b"http", b"a", {}) == lines(b"10.0.0.1", b"http", b"a")


def test_behind_a_trusted_proxy_the_address_list_is_extended_over_all_its_lines():
    found = {b"x-forwarded-for": [b"203.0.113.5, 198.51.100.1", b"198.51.100.2"]}
    told = split(lines_behind_proxy(b"10.0.0.1", b"http", b"a", found))
    assert b"X-Forwarded-For: 203.0.113.5, 198.51.100.1, 198.51.100.2, 10.0.0.1" in told


def test_behind_a_trusted_proxy_scheme_and_host_are_kept_once():
    found = {b"x-forwarded-proto": [b"gopher", b"https"], b"x-forwarded-host": [b"shop.example"]}
    told = split(lines_behind_proxy(b"10.0.0.1", b"http", b"inner", found))
    assert [line for line in told if line.startswith((b"Host", b"X-Forwarded-P", b"X-Forwarded-H"))] == [
        b"Host: inner",
        b"X-Forwarded-Proto: https",
        b"X-Forwarded-Host: shop.example",
    ]


def test_behind_a_trusted_proxy_its_other_forwarding_fields_pass():
    found = {b"forwarded": [b"for=1", b"for=2"], b"x-real-ip": [b"203.0.113.5"], b"x-forwarded-port": [b"443"]}
    told = split(lines_behind_proxy(b"10.0.0.1", b"http", b"a", found))
    assert told[-6:] == [
        b"forwarded: for=1",
        b"forwarded: for=2",
        b"x-real-ip: 203.0.113.5",
        b"x-forwarded-port: 443",
        b"Forwarded: for=10.0.0.1",
        b"Via: 1.1 bgproxy",
    ]


def test_a_look_alike_passes_from_nobody():
    found = {
        b"x_forwarded_for": [b"6.6.6.6"],
        b"x_real_ip": [b"6.6.6.6"],
        b"x-forwarded_port": [b"6"],
        b"x-forwarded-.": [b"6"],
    }
    found |= {b"x-forwarded-client_cert": [b"6"]}
    assert b"6" not in lines_behind_proxy(b"10.0.0.1", b"http", b"a", found)


def test_fields_that_are_not_about_forwarding_are_not_repeated():
    found = {b"host": [b"other"], b"connection": [b"close"], b"x-bg-epoch": [b"7"], b"": [b""]}
    assert lines_behind_proxy(b"10.0.0.1", b"http", b"a", found) == lines(b"10.0.0.1", b"http", b"a")


@pytest.mark.parametrize(
    ("peername", "address"),
    [
        (("192.0.2.1", 5), b"192.0.2.1"),
        (("2001:db8::1", 5, 0, 0), b"2001:db8::1"),
        (("::ffff:192.0.2.1", 5, 0, 0), b"192.0.2.1"),
        (("::ffff:0:c000:201", 5, 0, 0), b"::ffff:0:c000:201"),
        (("::192.0.2.1", 5, 0, 0), b"::192.0.2.1"),
        (("fe80::1%eth0", 5, 0, 3), b"fe80::1"),
        ("", UNKNOWN),
        ("/run/client.sock", UNKNOWN),
        (b"\0abstract", UNKNOWN),
        (None, UNKNOWN),
    ],
)
def test_an_address_is_written_as_networks_are(peername, address):
    assert address_of(peername) == address


def test_a_proxy_on_a_unix_socket_has_no_address_to_add():
    found = {b"x-forwarded-for": [b"203.0.113.5"], b"forwarded": [b"for=203.0.113.5"]}
    told = split(lines_behind_proxy(UNKNOWN, b"http", b"a", found))
    assert told[1] == b"X-Forwarded-For: 203.0.113.5"
    assert [line for line in told if line.lower().startswith(b"forwarded")] == [b"forwarded: for=203.0.113.5"]
    assert split(lines_behind_proxy(UNKNOWN, b"http", b"a", {}))[1] == b"X-Forwarded-For: unknown"


def test_an_ipv6_address_in_forwarded_is_quoted():
    told = split(lines_behind_proxy(b"2001:db8::1", b"http", b"a", {b"forwarded": [b'for="[::1]"']}))
    assert told[-2] == b'Forwarded: for="[2001:db8::1]"'


def test_empty_fields_of_a_trusted_proxy_say_nothing():
    found = {b"x-forwarded-for": [b"", b"203.0.113.5,,", b""], b"x-forwarded-proto": [b""], b"x-forwarded-host": [b""]}
    told = split(lines_behind_proxy(b"10.0.0.1", b"http", b"a", found))
    assert told[1:4] == [
        b"X-Forwarded-For: 203.0.113.5,,, 10.0.0.1",
        b"X-Forwarded-Proto: http",
        b"X-Forwarded-Host: a",
    ]
    assert split(lines_behind_proxy(b"10.0.0.1", b"http", b"a", {b"x-forwarded-for": [b""]}))[1].endswith(b": 10.0.0.1")
