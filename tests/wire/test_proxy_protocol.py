"""PROXY headers of both versions, written here by the letter of the specification and read by the program."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bgproxy.wire.proxy_protocol import LONGEST, BadIntroduction, Introduction, crc32c, read
from tests.support.proxy_headers import CRC32C, LOCAL, SIGNATURE, TCP4, TCP6, UNIX, checksummed, tlv, v1, v2

REQUEST = b"GET / HTTP/1.1\r\n\r\n"
FOUR = v2("192.0.2.7", "203.0.113.1", 4711, 443)
SIX = v2("2001:db8::7", "2001:db8::1", 4711, 443)
examples = settings(max_examples=150, deadline=None, derandomize=True, database=None)


def outcome(data: bytes) -> object:
    """Comparable, and the same for data of which only the beginning has come."""
    answer = read(data)
    return answer.detail if isinstance(answer, BadIntroduction) else answer


def refused(data: bytes) -> str:
    """The reason. It must not need more bytes than these to be known, nor may more bytes change it."""
    answer = read(data)
    assert isinstance(answer, BadIntroduction), answer
    assert outcome(data + REQUEST) == answer.detail
    return answer.detail


# --- version 1 --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "source", "destination"),
    [
        (b"PROXY TCP4 192.0.2.7 203.0.113.1 4711 80\r\n", b"192.0.2.7", b"203.0.113.1:80"),
        (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", b"255.255.255.255", b"255.255.255.255:65535"),
        (b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", b"0.0.0.0", b"0.0.0.0:0"),
        (b"PROXY TCP6 2001:DB8:0:0::7 ::1 1 443\r\n", b"2001:db8::7", b"[::1]:443"),
        (b"PROXY TCP6 " + (b"ffff:" * 8)[:-1] + b" ::1 1 2\r\n", (b"ffff:" * 8)[:-1], b"[::1]:2"),
        (b"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:cb00:7101 1 80\r\n", b"192.0.2.7", b"203.0.113.1:80"),
        (b"PROXY UNKNOWN\r\n", b"", b""),
        (b"PROXY UNKNOWN ffff::1 \0 anything 1\r\n", b"", b""),
    ],
)
def test_a_line_says_who_the_client_is_and_what_it_asked(line, source, destination):
    assert read(line + REQUEST) == Introduction(len(line), False, source, destination)


@pytest.mark.says("Version 1 has at most 107")
@pytest.mark.parametrize(
    "line",
    [
        *(b"PROXY", b"PROXY ", b"PROXY TCP4", b"PROXY TCP4 1.2.3.4 1.2.3.4 1", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3"),
        *(b"PROXY  TCP4 1.2.3.4 1.2.3.4 1 2", b"PROXY TCP4 1.2.3.4  1.2.3.4 1 2", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 "),
        *(b"PROXY TCP4\t1.2.3.4 1.2.3.4 1 2", b"PROXY tcp4 1.2.3.4 1.2.3.4 1 2", b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2"),
        *(b"PROXY TCP4 01.2.3.4 1.2.3.4 1 2", b"PROXY TCP4 1.2.3 1.2.3.4 1 2", b"PROXY TCP4 1.2.3.256 1.2.3.4 1 2"),
        *(b"PROXY TCP4 1.2.3.4 ::1 1 2", b"PROXY TCP4 ::1 ::1 1 2", b"PROXY TCP6 1.2.3.4 1.2.3.4 1 2"),
        *(b"PROXY TCP6 ::1::2 ::1 1 2", b"PROXY TCP6 fe80::1%eth0 ::1 1 2", b"PROXY TCP6 [::1] ::1 1 2"),
        *(
            b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 2",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 99999",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 02",
        ),
        *(b"PROXY TCP4 1.2.3.4 1.2.3.4 -1 2", b"PROXY TCP4 1.2.3.4 1.2.3.4 +1 2", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 \xb2"),
        *(b"PROXY TCP4 \xd9\xa1.2.3.4 1.2.3.4 1 2", b"PROXY UNKNOWNX", b"PROXY unknown", b"PROXY TCP4 h h 1 2"),
        *(b"PROXY TCP4 1.2.3.4\0 1.2.3.4 1 2", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r"),
    ],
)
def test_a_line_that_says_it_otherwise_is_refused(line):
    assert refused(line + b"\r\n")


@pytest.mark.parametrize("line", [b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n", b"PROXY UNKNOWN\n", b"PROXY UNKNOWN x\ny\r\n"])
def test_a_line_ends_with_cr_and_lf(line):
    assert refused(line)


@pytest.mark.says("Version 1 has at most 107")
def test_a_line_has_107_bytes_at_most():
    longest = b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n"
    assert len(longest) == 107
    assert read(longest) == Introduction(107)
    assert read(longest[:106]) is None
    assert "within 107 bytes" in refused(b"PROXY UNKNOWN " + b"x" * 93)
    assert "within 107 bytes" in refused(b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n")


# --- version 2 --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "source", "destination"),
    [(FOUR, b"192.0.2.7", b"203.0.113.1:443"), (SIX, b"2001:db8::7", b"[2001:db8::1]:443")],
)
def test_a_binary_header_says_who_the_client_is_and_what_it_asked(header, source, destination):
    assert read(header + REQUEST) == Introduction(len(header), False, source, destination)


def test_ipv4_within_ipv6_is_ipv4():
    header = v2("::ffff:192.0.2.7", "::ffff:203.0.113.1", 1, 80)
    assert read(header) == Introduction(len(header), False, b"192.0.2.7", b"203.0.113.1:80")


@pytest.mark.parametrize(
    "header",
    [
        v2(family=0, block=b""),
        v2(family=0, block=b"\xff" * 30),  # addresses of a kind that this version does not know: skipped
        v2(family=UNIX, block=b"/run/a".ljust(108, b"\0") + b"/run/b".ljust(108, b"\0")),
        v2(family=UNIX, block=bytes(216) + tlv(1, b"h2")),
    ],
)
def test_a_connection_of_somebody_without_an_address(header):
    assert read(header) == Introduction(len(header))


@pytest.mark.parametrize("family", [0x12, 0x22, 0x32])
def test_datagrams_are_valid_and_say_nothing_here(family):
    header = v2(family=family, block=bytes(216))
    assert read(header) in (Introduction(len(header)), Introduction(len(header), False, b"0.0.0.0", b"0.0.0.0:0"))


@pytest.mark.parametrize(
    ("family", "block"), [(0, b""), (0, b"\xff" * 9), (TCP4, FOUR[16:]), (TCP6, b"short"), (0x77, b"x"), (UNIX, b"")]
)
def test_of_a_connection_of_the_proxy_itself_only_the_length_counts(family, block):
    header = v2(command=LOCAL, family=family, block=block)
    assert read(header + REQUEST) == Introduction(len(header), is_local=True)


@pytest.mark.parametrize("command", [0x00, 0x01, 0x10, 0x11, 0x22, 0x2F, 0x30, 0x31, 0xFF])
def test_another_version_or_command_is_refused(command):
    assert "LOCAL nor PROXY" in refused(v2(command=command, family=TCP4, block=FOUR[16:]))


@pytest.mark.parametrize("family", [0x01, 0x02, 0x10, 0x13, 0x20, 0x23, 0x30, 0x33, 0x41, 0xFF])
def test_a_family_or_transport_that_does_not_exist_is_refused(family):
    assert "does not exist" in refused(v2(family=family, block=bytes(216)))


@pytest.mark.parametrize(("family", "needed"), [(TCP4, 12), (TCP6, 36), (UNIX, 216), (0x12, 12)])
def test_a_header_holds_the_addresses_of_its_family(family, needed):
    assert "too short" in refused(v2(family=family, block=bytes(needed - 1)))
    assert isinstance(read(v2(family=family, block=bytes(needed))), Introduction)


@pytest.mark.says("Version 2 has at most 4096")
def test_a_header_is_as_long_as_the_bound_and_no_longer():
    fill = LONGEST - len(FOUR) - 3
    assert read(v2("192.0.2.7", "203.0.113.1", 1, 2, tlv(4, bytes(fill)))).length == LONGEST
    too_long = v2("192.0.2.7", "203.0.113.1", 1, 2, tlv(4, bytes(fill + 1)))
    assert "longer than 4096" in refused(too_long)
    assert "longer than 4096" in refused(too_long[:16])
    assert "longer than 4096" in refused(v2(command=LOCAL, family=0, block=bytes(LONGEST)))


# --- extensions of version 2 ------------------------------------------------------------------------------------------


@pytest.mark.says("Version 2 has at most 4096")
def test_extensions_are_skipped_and_a_checksum_is_checked():
    extensions = tlv(0x01, b"http/1.1") + tlv(0x02, b"app.example") + tlv(0x20, b"\x01" + bytes(4) + tlv(0x21, b"x"))
    for more in (extensions, tlv(0x04, b""), tlv(0xEA, b"\x01vpce-1"), tlv(0xFF, bytes(600))):
        plain = v2("192.0.2.7", "203.0.113.1", 1, 2, more)
        assert read(plain) == Introduction(len(plain), False, b"192.0.2.7", b"203.0.113.1:2")
        summed = checksummed(v2("192.0.2.7", "203.0.113.1", 1, 2, more + CRC32C + more))
        assert read(summed) == Introduction(len(summed), False, b"192.0.2.7", b"203.0.113.1:2")


def test_the_checksum_is_crc32c():
    assert crc32c(b"123456789") == 0xE3069283  # the check value that everybody publishes
    assert crc32c(b"") == 0
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 7143 appendix A.4
    assert crc32c(bytes(range(32))) == 0x46DD794E


def test_a_header_that_was_changed_on_its_way_is_refused():
    good = checksummed(v2("192.0.2.7", "203.0.113.1", 1, 2, CRC32C))
    assert isinstance(read(good), Introduction)
    kind = good.index(CRC32C[:3])
    for at in set(range(16, len(good))) - {kind}:  # an extension of another kind is no checksum
        changed = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
        assert isinstance(read(changed), BadIntroduction), at


@pytest.mark.parametrize(
    "extensions",
    [
        b"\x04",
        b"\x04\0",
        b"\x04\0\x01",
        tlv(4, b"x") + b"\x04",
        b"\x04\xff\xff" + bytes(9),
        tlv(3, bytes(3)),
        tlv(3, b""),
    ],
)
def test_an_extension_that_is_cut_short_is_refused(extensions):
    assert "extension" in refused(v2("192.0.2.7", "203.0.113.1", 1, 2, extensions))


# --- anything else ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"G",
        REQUEST,
        b"PROXX",
        b"proxy TCP4",
        b"PROXY\r\n",
        b"\r\nGET",
        b"\n",
        b"\x16\x03\x01\x02",
        b"\0",
        SIGNATURE[:-1] + b"\r",
    ],
)
def test_what_is_no_header_is_refused_at_its_first_wrong_byte(data):
    assert "does not begin" in refused(data)


addresses = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)), st.tuples(st.ip_addresses(v=6), st.ip_addresses(v=6))
)
ports = st.integers(0, 65535)
extensions = st.lists(
    st.builds(tlv, st.integers(0, 255).filter(lambda kind: kind != 3), st.binary(max_size=40)), max_size=4
)


def plain(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


@examples
@given(addresses, ports, ports, extensions, st.booleans())
def test_whatever_a_sender_can_say_is_read_as_it_was_meant(pair, from_port, to_port, more, sums):
    source, destination = map(str, pair)
    binary = v2(source, destination, from_port, to_port, b"".join(more) + (CRC32C if sums else b""))
    host = plain(pair[1])
    asked = f"[{host}]:{to_port}" if ":" in host else f"{host}:{to_port}"
    for header in (v1(source, destination, from_port, to_port), checksummed(binary) if sums else binary):
        assert read(header + REQUEST) == Introduction(len(header), False, plain(pair[0]).encode(), asked.encode())


noise = st.one_of(
    st.binary(max_size=40),
    st.builds(lambda rest: b"PROXY " + rest, st.binary(max_size=130)),
    st.builds(lambda words: b"PROXY " + b" ".join(words) + b"\r\n", st.lists(st.sampled_from(
        [b"TCP4", b"TCP6", b"UNKNOWN", b"1.2.3.4", b"::1", b"80", b"065", b"", b"x" * 50]), max_size=7)),
    st.builds(lambda c, f, size, rest: SIGNATURE + struct.pack(">BBH", c, f, size) + rest,
              st.sampled_from([0x20, 0x21, 0x22]), st.sampled_from([0, 0x11, 0x21, 0x31, 0x12, 0x41]),
              st.integers(0, 60), st.binary(max_size=80)),
    st.builds(lambda at, byte: FOUR[:at] + bytes([byte]) + FOUR[at + 1 :], st.integers(0, 27), st.integers(0, 255)),
    st.sampled_from([FOUR, SIX, checksummed(v2("::1", "::2", 1, 2, CRC32C)), b"PROXY UNKNOWN\r\n"]),
)  # fmt: skip


@examples
@given(noise, st.binary(max_size=20))
def test_however_it_is_cut_it_is_read_the_same(data, behind):
    """Byte by byte: nothing known, nothing known, then one answer that no further byte changes."""
    answers = [outcome((data + behind)[:end]) for end in range(len(data) + len(behind) + 1)]
    known = [answer for answer in answers if answer is not None]
    assert len(set(known)) <= 1
    assert answers == [None] * (len(answers) - len(known)) + known
    if known and isinstance(known[0], Introduction):
        assert answers.index(known[0]) == known[0].length
