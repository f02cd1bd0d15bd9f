"""Fields that are meant for the next hop only (RFC 9110 section 7.6.1), and trailers that may not pass (6.5.1)."""

from __future__ import annotations

from collections.abc import Iterable

from bgproxy.wire.fields import as_variable

# In a request. Transfer-Encoding, Content-Length, Host, Upgrade and Connection are rebuilt, never copied.
REQUEST = ("connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade", "http2-settings")
RESPONSE = ("connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade")

# A Connection option can't take these away from the message: they are ours to write, or they frame it.
NEVER_REMOVED = frozenset(
    (b"close", b"keep-alive", b"upgrade", b"host", b"content-length", b"transfer-encoding", b"te")
)

_TRAILERS_REFUSED = frozenset(
    b"""age authorization cache-control client-cert client-cert-chain connection content-encoding content-length
    content-range content-type
    cookie date expect expires forwarded host keep-alive location max-forwards pragma proxy-authenticate
    proxy-authorization proxy-connection range retry-after set-cookie te trailer transfer-encoding upgrade vary via
    warning www-authenticate x-real-ip x-request-id""".split()
)
_TRAILER_PREFIXES_REFUSED = (b"x-forwarded-", b"x-client-cert-", b"x-bg-")


def named_by_connection(options: list[bytes]) -> frozenset[bytes]:
    """The further fields that a Connection field removes."""
    return frozenset(options) - NEVER_REMOVED


def passing_trailers(trailers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Trailers without those that would frame, route, authenticate or modify if a recipient merged them."""
    return [(name, value) for name, value in trailers if _may_pass(as_variable(name))]


def _may_pass(name: bytes) -> bool:
    return name not in _TRAILERS_REFUSED and not name.startswith(_TRAILER_PREFIXES_REFUSED)
