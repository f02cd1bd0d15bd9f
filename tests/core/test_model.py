from __future__ import annotations

import pytest

from bgproxy.core.model import BLUE, COLOURS, GREEN, Address, Colour, Pool, PoolTable, Upstream, parse_address


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


# --- pools ------------------------------------------------------------------------------------------------------------


def test_a_table_holds_one_pool_per_colour():
    blue = Pool((Upstream("b1", 0, Address("a", 1)),))
    green = Pool((Upstream("g1", 0, Address("a", 2)), Upstream("g2", 1, Address("a", 3), weight=2)), release="v2")
    table = PoolTable(1, blue, green)
    assert table.pool(BLUE) is blue
    assert table.pool(GREEN) is green
    assert table.pool(1) is green


def test_values_never_change_in_place():
    with pytest.raises(AttributeError):
        Address("a", 1).port = 2
    with pytest.raises(AttributeError):
        Pool(()).release = "v3"
