"""Certificates as the rest of the house knows them: names, PEM, and which of them a host name gets.

A pair is a certificate chain with its private key. What holds a key never shows it: not in repr, not in a log.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")


class Pair(msgspec.Struct, frozen=True):
    """`names` as in the certificate, normalized: host names in lower case, `*.` before a wildcard, IP addresses.
    `pem` is the chain and then the key; `key_type` is rsa, ecdsa or whatever else the key is."""

    names: tuple[str, ...]
    key_type: str
    pem: bytes

    def __repr__(self) -> str:
        return f"Pair(names={self.names!r}, key_type={self.key_type!r}, pem=***)"


class TlsMaterial(msgspec.Struct, frozen=True):
    """One set of certificates, whole, and how they are shown. `client_ca` is PEM, b"" for none; `min_version` is 1.2 or
    1.3, `client_auth` is off, optional or required.

    `ticket_keys` are 80 bytes each, the present one first: with them a session is resumed by every worker. Empty
    where that is not possible here; then each worker resumes its own only.
    """

    version: int
    pairs: tuple[Pair, ...]
    min_version: str = "1.2"
    client_auth: str = "off"
    client_ca: bytes = b""
    ticket_keys: tuple[bytes, ...] = ()

    def __repr__(self) -> str:
        return f"TlsMaterial(version={self.version}, pairs={self.pairs!r}, …)"


def normal_name(name: str) -> str:
    """A host name or address as names are compared: lower case, no final dot, no brackets, addresses in short form."""
    bare = name.removeprefix("[").removesuffix("]").removesuffix(".").lower()
    if ":" in bare or bare.replace(".", "").isdecimal():
        try:
            return str(ipaddress.ip_address(bare))
        except ValueError:
            return bare
    return bare


def host_of(field: bytes) -> str:
    """The name in a Host field, normalized; the field has been found valid."""
    text = field.decode("latin-1")
    host, colon, port = text.rpartition(":")
    return normal_name(host if colon and (not port or port.isdecimal()) and not host.endswith(":") else text)


class NameTable(Generic[T]):
    """What a host name gets: an exact name first, then a wildcard, which stands for exactly one label."""

    __slots__ = ("_exact", "_wildcard")

    def __init__(self, entries: Mapping[str, T]) -> None:
        self._exact = {name: value for name, value in entries.items() if not name.startswith("*.")}
        self._wildcard = {name[2:]: value for name, value in entries.items() if name.startswith("*.")}

    def find(self, name: str) -> T | None:
        """`name` is normalized."""
        found = self._exact.get(name)
        if found is None and self._wildcard:
            label, _, rest = name.partition(".")
            found = self._wildcard.get(rest) if label else None
        return found


def pairs_by_name(pairs: Sequence[Pair]) -> dict[str, tuple[int, ...]]:
    """Every name with the pairs that serve it: of each key type the first, because OpenSSL keeps one of each."""
    chosen: dict[str, dict[str, int]] = {}
    for number, pair in enumerate(pairs):
        for name in pair.names:
            chosen.setdefault(name, {}).setdefault(pair.key_type, number)
    return {name: tuple(of_type.values()) for name, of_type in chosen.items()}
