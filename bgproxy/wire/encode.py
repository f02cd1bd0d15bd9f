"""What leaves the proxy: heads joined from their pieces, bodies in our own framing."""

from __future__ import annotations

from collections.abc import Iterable

from bgproxy.wire.request import RequestHead
from bgproxy.wire.response import ResponseHead

LAST_CHUNK = b"0\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def request(head: RequestHead, forwarding: bytes, request_id_line: bytes) -> bytes:
    """The head for the upstream. `forwarding` and `request_id_line` are whole lines that begin with CRLF."""
    pieces = head.pieces
    pieces[1:1] = (forwarding, request_id_line)
    return b"".join(pieces)


def response(head: ResponseHead, added: bytes, body: bytes, *, chunked: bool) -> bytes:
    """The head for the client, and what there is of the body. `added` are whole lines that begin with CRLF, or b""."""
    pieces = head.pieces
    if chunked:
        pieces.insert(1, b"\r\nTransfer-Encoding: chunked" + added)
    elif head.length:
        pieces.insert(1, b"\r\nContent-Length: " + head.length + added)
    else:
        pieces.insert(1, added)
    pieces.append(body)
    return b"".join(pieces)


def plain_response(head: ResponseHead, added: bytes, body: bytes) -> bytes:
    """A whole response with its Content-Length. `added` as above."""
    pieces = head.pieces
    pieces.insert(1, b"\r\nContent-Length: " + head.length + added)
    pieces.append(body)
    return b"".join(pieces)


def interim(head: ResponseHead) -> bytes:
    """A 1xx response, relayed."""
    return b"".join(head.pieces)


def switching_protocols(head: ResponseHead, protocol: bytes, added: bytes) -> bytes:
    """A 101, relayed."""
    head.pieces.insert(1, b"\r\nConnection: Upgrade\r\nUpgrade: " + protocol + added)
    return b"".join(head.pieces)


def chunk(pieces: list[bytes]) -> bytes:
    """All that came at once as one chunk: forty thousand one-byte chunks of a sender do not become as many of ours."""
    return b"%x\r\n%b\r\n" % (sum(map(len, pieces)), b"".join(pieces) if len(pieces) != 1 else pieces[0])


def last_chunk(trailers: Iterable[tuple[bytes, bytes]]) -> bytes:
    lines = b"".join(b"%b: %b\r\n" % trailer for trailer in trailers)
    return b"0\r\n" + lines + b"\r\n" if lines else LAST_CHUNK
