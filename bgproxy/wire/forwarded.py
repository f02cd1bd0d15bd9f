"""The fields by which an upstream learns who asked, for what and through whom.

From a peer that is not trusted nothing is kept. From a trusted proxy X-Forwarded-For is extended, and
X-Forwarded-Proto/-Host, X-Real-IP and Forwarded are passed on.
"""

from __future__ import annotations

VIA = b"\r\nVia: 1.1 bgproxy"
# Read from a head, so that what an untrusted peer sent can be left out.
FIELDS = ("forwarded", "x-real-ip", "client-cert", "client-cert-chain")
PREFIXES = ("x-forwarded-", "x-client-cert-")


def lines(peer: bytes, proto: bytes, host: bytes) -> bytes:
    """Host and forwarding fields for a request of an untrusted peer; each line begins with CRLF."""
    return (
        b"\r\nHost: %b\r\nX-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Host: %b"
        % (host, peer, proto, host)
        + VIA
    )


def lines_behind_proxy(peer: bytes, proto: bytes, host: bytes, found: dict[bytes, list[bytes]]) -> bytes:
    """The same for a request that a trusted proxy passed on; `found` holds its fields by lower-case name."""
    addresses = b", ".join((*found.get(b"x-forwarded-for", ()), peer))
    out = [b"\r\nHost: ", host, b"\r\nX-Forwarded-For: ", addresses]
    for name, own in ((b"X-Forwarded-Proto", proto), (b"X-Forwarded-Host", host)):
        out += [b"\r\n", name, b": ", (found.get(name.lower()) or [own])[-1]]
    for name, values in found.items():
        if _is_further(name):
            out += [b"\r\n%b: %b" % (name, value) for value in values]
    return b"".join(out) + VIA


def _is_further(name: bytes) -> bool:
    if name in (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host") or b"_" in name:
        return False
    return name in (b"forwarded", b"x-real-ip", b"client-cert", b"client-cert-chain") or name.startswith(
        b"x-forwarded-"
    )
