from __future__ import annotations

import pytest

from bgproxy.core.model import (
    BLUE,
    COLOURS,
    GREEN,
    Address,
    Colour,
    Pool,
    PoolTable,
    Upstream,
    parse_address,
    parse_upstream,
)


def test_a_colour_is_the_lowest_bit_of_the_live_word():
    assert (int(BLUE), int(GREEN)) == (0, 1)
    assert COLOURS == (BLUE, GREEN)


@pytest.mark.parametrize("colour", COLOURS)
def test_the_other_colour_of_the_other_is_the_colour(colour):
    assert colour.other is not colour
    assert colour.other.other is colour


@pytest.mark.parametrize("colour", COLOURS)
def test_a_colour_is_found_by_its_label(colour):
    assert Colour.named(colour.label) is colour


@pytest.mark.parametrize("text", ["", "red", "Blue", "GREEN", " green", "0", "other"])
def test_any_other_name_is_no_colour_and_the_error_says_what_is(text):
    with pytest.raises(ValueError, match="is not a colour: expected 'blue' or 'green'") as caught:
        Colour.named(text)
    assert repr(text) in str(caught.value)


# --- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", Address("127.0.0.1", 8080)),
        ("app.internal:1", Address("app.internal", 1)),
        ("0.0.0.0:65535", Address("0.0.0.0", 65535)),
        ("[::1]:80", Address("::1", 80)),
        ("[fe80::1]:443", Address("fe80::1", 443)),
        ("unix:/run/app.sock", Address(path="/run/app.sock")),
        ("unix:/with:colon:80", Address(path="/with:colon:80")),
    ],
)
def test_an_address_is_read_and_written_alike(text, address):
    assert parse_address(text) == address
    assert str(address) == text
    assert address.is_unix is text.startswith("unix:")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "the port is missing"),
        ("localhost", "the port is missing"),
        ("http://a:80", "http:// is not supported here"),
        ("unix:run/app.sock", "needs an absolute path"),
        ("unix:", "needs an absolute path"),
        ("unix:/" + "a" * 107, "at most 107 bytes, this one has 108"),
        ("unix:/" + "é" * 54, "at most 107 bytes, this one has 109"),
        (":80", "the host is missing; expected 'host:port', for every interface '0.0.0.0:80'"),
        ("[]:80", "the host is missing"),
        ("::1:80", "in brackets, like '[::1]:8080'"),
        ("a b:80", "'a b' is not a host name or address"),
        ("a/b:80", "is not a host name or address"),
        ("u@a:80", "is not a host name or address"),
        ("a:", "'' is not a port number"),
        ("a:http", "'http' is not a port number"),
        ("a:-1", "'-1' is not a port number"),
        ("a:+1", "'+1' is not a port number"),
        ("a:٨٠", "is not a port number"),
        ("a:123456", "'123456' is not a port number"),
        ("a:65536", "the port must be between 1 and 65535"),
        ("a:0", "the port must be between 1 and 65535"),
    ],
)
def test_what_is_wrong_with_an_address_is_said_with_the_address(text, complaint):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the sentence is compared below
        parse_address(text)
    assert complaint in str(caught.value)
    assert str(caught.value).startswith(repr(text))


def test_port_zero_is_for_those_who_can_choose_one():
    assert parse_address("127.0.0.1:0", port_zero=True).port == 0
    with pytest.raises(ValueError, match="between 0 and 65535"):
        parse_address("127.0.0.1:70000", port_zero=True)


# --- upstreams --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address", "written"),
    [
        ("https://app.internal:8443", Address("app.internal", 8443, server_name="app.internal"), ""),
        ("https://[::1]:8443", Address("::1", 8443, server_name="::1"), ""),
        ("https://app/", Address("app", 443, server_name="app"), "https://app:443"),
        ("https://[::1]", Address("::1", 443, server_name="::1"), "https://[::1]:443"),
        ("https://app.:1", Address("app.", 1, server_name="app"), ""),
        ("https://[fe80::1%eth0]:1", Address("fe80::1%eth0", 1, server_name="fe80::1"), ""),
        ("HTTP://app/", Address("app", 80), "app:80"),
        ("http://app:81", Address("app", 81), "app:81"),
        ("app:81", Address("app", 81), ""),
        ("unix:/run/a.sock", Address(path="/run/a.sock"), ""),
    ],
)
def test_an_upstream_may_be_written_as_a_url(text, address, written):
    assert parse_upstream(text) == address
    assert str(address) == (written or text)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("https://", "the port is missing"),
        ("https://a:0", "between 1 and 65535"),
        ("https://a:1/b", "a path cannot be part of an upstream"),
        ("https://a:1//", "a path cannot"),
        ("http://a?b", "a query cannot"),
        ("http://a#b", "a fragment cannot"),
        ("https://u:p@a:1", "a user name cannot"),
        ("ws://a:1", "ws:// is not supported here"),
    ],
)
def test_what_is_no_url_of_an_upstream_is_said(text, complaint):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the sentence is compared below
        parse_upstream(text)
    assert complaint in str(caught.value)


# --- pools ------------------------------------------------------------------------------------------------------------


def test_a_table_holds_one_pool_per_colour():
    blue = Pool((Upstream("b1", 0, Address("a", 1)),))
    green = Pool((Upstream("g1", 0, Address("a", 2)), Upstream("g2", 1, Address("a", 3), weight=2)), release="v2")
    table = PoolTable(1, blue, green)
    assert table.pool(BLUE) is blue
    assert table.pool(GREEN) is green
    assert table.pool(1) is green


def test_a_table_knows_whether_any_upstream_is_reached_over_tls():
    def pool(*addresses: str) -> Pool:
        return Pool(tuple(Upstream(text, index, parse_upstream(text)) for index, text in enumerate(addresses)))

    assert not PoolTable(1, pool("a:1", "unix:/a"), pool("b:1")).over_tls
    assert PoolTable(1, pool("a:1"), pool("b:1", "https://c:1")).over_tls
    assert PoolTable(1, pool("https://c:1"), pool()).over_tls


def test_values_never_change_in_place():
    with pytest.raises(AttributeError):
        Address("a", 1).port = 2
    with pytest.raises(AttributeError):
        Pool(()).release = "v3"
