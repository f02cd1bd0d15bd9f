"""Which certificate a name gets, and that keys are not shown."""

from __future__ import annotations

import msgspec
import pytest

from bgproxy.core.certificates import NameTable, Pair, TlsMaterial, host_of, normal_name, pairs_by_name
from bgproxy.core.messages import Certify, decode_to_worker, encode

TABLE = NameTable({"a.example": 1, "*.a.example": 2, "192.0.2.1": 3, "2001:db8::1": 4})


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("a.example", 1),
        ("A.Example.", 1),
        ("b.a.example", 2),
        ("B.A.EXAMPLE.", 2),
        ("c.b.a.example", None),  # a wildcard is one label
        (".a.example", None),
        ("example", None),
        ("", None),
        ("192.0.2.1", 3),
        ("[2001:DB8:0::1]", 4),
        ("999.0.2.1", None),
        ("1:2:x", None),
    ],
)
def test_a_name_is_found_as_rfc_6125_compares_names(asked, found):
    assert TABLE.find(normal_name(asked)) == found


def test_without_wildcards_only_exact_names_are_found():
    assert NameTable({"a.example": 1}).find("b.a.example") is None


@pytest.mark.parametrize(
    ("field", "host"),
    [
        (b"a.example", "a.example"),
        (b"A.example:8080", "a.example"),
        (b"a.example:", "a.example"),
        (b"192.0.2.1:80", "192.0.2.1"),
        (b"[2001:db8::1]", "2001:db8::1"),
        (b"[2001:db8:0::1]:443", "2001:db8::1"),
        (b"a.example.", "a.example"),
    ],
)
def test_the_host_in_a_field_is_taken_without_its_port(field, host):
    assert host_of(field) == host


def pair(names: tuple[str, ...], key_type: str = "rsa") -> Pair:
    return Pair(names, key_type, b"PRIVATE")


def test_pairs_of_both_kinds_for_a_name_are_used_together_and_the_first_of_a_kind_wins():
    pairs = [pair(("a", "b")), pair(("a",), "ecdsa"), pair(("a", "c"))]
    assert pairs_by_name(pairs) == {"a": (0, 1), "b": (0,), "c": (2,)}


def test_a_key_is_sent_and_never_shown():
    material = TlsMaterial(1, (pair(("a",)),), ticket_keys=(b"PRIVATE" * 10,))
    message = Certify(material)
    for shown in (repr(material), repr(message), str(material.pairs[0])):
        assert "PRIVATE" not in shown
        assert "a" in shown
    assert decode_to_worker(encode(message).rstrip()) == message
    assert msgspec.structs.replace(material, version=2).pairs == material.pairs
