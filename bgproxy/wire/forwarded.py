"""The fields by which an upstream learns who asked, for what and through whom.

From a peer that is not trusted nothing is kept. From a trusted proxy X-Forwarded-For and Forwarded are extended, and
X-Forwarded-Proto/-Host and the like and X-Real-IP are passed on.
"""

from __future__ import annotations

from bgproxy.wire.fields import as_variable

UNKNOWN = b"unknown"  # the address of a peer that has none: a unix socket's (RFC 7239 section 6.2)
VIA = b"\r\nVia: 1.1 bgproxy"
# Read from a head, so that what an untrusted peer sent can be left out.
FIELDS = ("forwarded", "x-real-ip", "client-cert", "client-cert-chain")
PREFIXES = ("x-forwarded-", "x-client-cert-")


def address_of(peername: object) -> bytes:
    """What a socket calls its peer, as networks and logs are written: IPv4 also where a dual-stack socket has put it
    into IPv6, and without the zone of a link-local address, which means nothing elsewhere."""
    if not isinstance(peername, tuple):
        return UNKNOWN
    address: str = peername[0].partition("%")[0]
    return address.removeprefix("::ffff:" if "." in address else "").encode()


def lines(peer: bytes, proto: bytes, host: bytes) -> bytes:
    """Host and forwarding fields for a request of an untrusted peer; each line begins with CRLF."""
    return (
        b"\r\nHost: %b\r\nX-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Host: %b"
        % (host, peer, proto, host)
        + VIA
    )


def lines_behind_proxy(peer: bytes, proto: bytes, host: bytes, found: dict[bytes, list[bytes]]) -> bytes:
    """The same for a request that a trusted proxy passed on; `found` holds its fields by lower-case name."""
    told = [value for value in found.get(b"x-forwarded-for", ()) if value]
    if not told or peer != UNKNOWN:  # a proxy on a unix socket has said all there is to say
        told.append(peer)
    out = [b"\r\nHost: ", host, b"\r\nX-Forwarded-For: ", b", ".join(told)]
    for name, own in ((b"X-Forwarded-Proto", proto), (b"X-Forwarded-Host", host)):
        out += [b"\r\n", name, b": ", (found.get(name.lower()) or [b""])[-1] or own]
    for name, values in found.items():
        if _is_further(name):
            out += [b"\r\n%b: %b" % (name, value) for value in values]
    if b"forwarded" in found and peer != UNKNOWN:
        # On a line of its own: a quote that is left open in theirs does not take ours in.
        out.append((b'\r\nForwarded: for="[%b]"' if b":" in peer else b"\r\nForwarded: for=%b") % peer)
    return b"".join(out) + VIA


def _is_further(name: bytes) -> bool:
    if name in (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host") or as_variable(name) != name:
        return False
    return name in (b"forwarded", b"x-real-ip", b"client-cert", b"client-cert-chain") or name.startswith(
        b"x-forwarded-"
    )
