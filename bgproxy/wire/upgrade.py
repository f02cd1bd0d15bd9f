"""Which upgrade is passed on. RFC 9110 section 7.8.

A request may become a tunnel only where nothing about its framing is in doubt: GET, HTTP/1.1, no body, one protocol.
`h2c`, TLS and HTTP itself would be another HTTP parser behind the proxy's back: they are not forwarded, and the
request is served as the HTTP/1.1 request that it also is.
"""

from __future__ import annotations

from bgproxy.wire.fields import is_token, members

_NEVER = (b"h2", b"http", b"tls")


def offered(method: bytes, minor: int, body: int, options: list[bytes], values: list[bytes]) -> bytes:
    """The protocol to offer the upstream, b"" for none."""
    if method != b"GET" or minor == 0 or body != 0 or b"upgrade" not in options:
        return b""
    protocols = members(values)
    if b"websocket" in protocols:
        return b"websocket"
    if len(protocols) != 1 or protocols[0].startswith(_NEVER):
        return b""
    name, _, version = protocols[0].partition(b"/")
    return protocols[0] if is_token(name) and (not version or is_token(version)) else b""


def is_accepted(offer: bytes, options: list[bytes], values: list[bytes]) -> bool:
    """Does this 101 agree to what was offered, and to nothing else?"""
    return bool(offer) and b"upgrade" in options and members(values) == [offer]
