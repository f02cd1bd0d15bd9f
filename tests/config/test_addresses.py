from __future__ import annotations

import pytest

from bgproxy.config.addresses import address, network, same_address
from bgproxy.config.problems import Wrong
from bgproxy.core.model import Address, parse_address


@pytest.mark.parametrize("text", ["127.0.0.1:80", "[::1]:80", "app-1.example:8080", "my_app:1", "unix:/run/app.sock"])
def test_addresses_are_read(text):
    assert str(address().read(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "host",
            ":80",
            "host:",
            "host:70000",
            "256.1.1.1:80",
            "1.2.3:80",
            "[::g]:80",
            "::1:80",
            "-h:1",
            "ho st:1",
        ),
        *("https://h:1", "unix:relative", "h:1/path", "*:80", "h\x00:1", "unix:/" + "x" * 200),
    ],
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ValueError, match=r"\S"):
        address().read(text)


def test_a_url_gets_the_address_in_it_suggested():
    for text, suggestion in [("http://h:80/", '"h:80"'), ("http://h:80/app", "")]:
        with pytest.raises(Wrong) as caught:
            address().read(text)
        assert caught.value.suggestion == suggestion


def test_port_zero_and_the_empty_address_are_for_those_who_ask():
    assert address(port_zero=True).read("127.0.0.1:0") == Address(host="127.0.0.1")
    with pytest.raises(ValueError, match="between 1 and 65535"):
        address().read("127.0.0.1:0")
    assert address(empty=True).read("") is None


def test_a_unix_socket_is_refused_where_only_tcp_fits():
    with pytest.raises(Wrong) as caught:
        address(tcp_only="use another key").read("unix:/run/x.sock")
    assert "use another key" in caught.value.expected


def test_two_spellings_of_one_address_are_the_same():
    def same(one: str, other: str) -> bool:
        return same_address(parse_address(one)) == same_address(parse_address(other))

    assert same("[::1]:80", "[0:0::1]:80")
    assert same("App.example.:80", "app.example:80")
    assert same("unix:/a", "unix:/a")
    assert not same("a:80", "a:81")
    assert not same("unix:/a", "unix:/b")


def test_port_zero_is_a_new_port_each_time():
    assert same_address(Address(host="127.0.0.1", port=0)) is None


def test_networks_are_written_in_their_canonical_form():
    assert [network().read(text) for text in ("10.0.0.0/8", "192.0.2.1", "fe80::0/10")] == [
        "10.0.0.0/8",
        "192.0.2.1/32",
        "fe80::/10",
    ]


def test_ipv4_networks_in_ipv6_are_ipv4_networks():
    mapped = ("::ffff:10.0.0.0/104", "::ffff:192.0.2.1", "::ffff:0:0/96", "::ffff:0:0/95", "::/0")
    with pytest.raises(Wrong, match="bits set"):
        network().read(mapped[3])
    assert [network().read(text) for text in (*mapped[:3], mapped[4])] == [
        *("10.0.0.0/8", "192.0.2.1/32", "0.0.0.0/0", "::/0")
    ]


def test_a_word_may_stand_among_networks_and_no_other():
    kind = network("unix")
    assert (kind.read("unix"), kind.read("::1")) == ("unix", "::1/128")
    assert kind.expected == 'a network in CIDR form, like "10.0.0.0/8", or "unix"'
    with pytest.raises(Wrong, match="is not a network"):
        kind.read("socket")


def test_a_network_with_host_bits_gets_its_network_suggested():
    with pytest.raises(Wrong) as caught:
        network().read("10.1.2.3/8")
    assert caught.value.suggestion == '"10.0.0.0/8"'
    for bad in ("10.0.0.0/33", "example", ""):
        with pytest.raises(Wrong, match="is not a network"):
            network().read(bad)
