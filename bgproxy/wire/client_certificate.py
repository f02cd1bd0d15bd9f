"""The verified subject of a client's certificate as a header field.

The distinguished name in the form of RFC 4514, most specific part first: `CN=robot 7,O=Example`. Everything but
printable ASCII is written as that form allows, a backslash and two hexadecimal digits per byte of UTF-8, so no subject
can bring a line break or a second field.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

FIELD = b"X-Client-Cert-Subject"
_Rdn: TypeAlias = Sequence[tuple[str, str]]
# RFC 4514 section 3; others keep the name that OpenSSL has for them.
_SHORT = {
    "commonName": "CN",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "streetAddress": "STREET",
    "domainComponent": "DC",
    "userId": "UID",
}
_TO_ESCAPE = re.compile(rb'[^\x20-\x7e]|[",+;<>\\=]|^[ #]| $')


def line(certificate: Mapping[str, Any] | None) -> bytes:
    """A whole line that begins with CRLF; b"" where there is no verified certificate. Takes what
    `SSLObject.getpeercert` gives."""
    if not certificate:
        return b""
    return b"\r\n%b: %b" % (FIELD, _name(certificate.get("subject", ())))


def _name(subject: Sequence[_Rdn]) -> bytes:
    return b",".join(b"+".join(_attribute(kind, value) for kind, value in rdn) for rdn in reversed(subject))


def _attribute(kind: str, value: str) -> bytes:
    escaped = _TO_ESCAPE.sub(_escape, value.encode("utf-8", "surrogatepass"))
    return re.sub(rb"[^A-Za-z0-9.-]", b"", _SHORT.get(kind, kind).encode()) + b"=" + escaped


def _escape(match: re.Match[bytes]) -> bytes:
    byte = match[0]
    return b"\\%02X" % byte[0]
