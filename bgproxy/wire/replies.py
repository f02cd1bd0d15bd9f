"""The proxy's own answers: small, framed, and plain about who answered and why."""

from __future__ import annotations

from http import HTTPStatus


def reply(
    status: int, reason: str, detail: str, *, date: bytes, request_id: bytes = b"", with_body: bool = True, close: bool
) -> bytes:
    """A whole response. `reason` is a stable word, `detail` a sentence that gives away no address and no path."""
    phrase = HTTPStatus(status).phrase
    about = f" (request {request_id.decode('latin-1')})" if request_id else ""
    body = f"{status} {phrase}: {detail}{about}\n".encode("latin-1", "replace")
    head = (
        f"HTTP/1.1 {status} {phrase}\r\n"
        f"Server: bgproxy\r\n"
        f"Date: {date.decode()}\r\n"
        f"X-BG-Reason: {reason}\r\n"
        f"Content-Type: text/plain; charset=utf-8\r\n"
        f"Cache-Control: no-store\r\n"
        f"Content-Length: {len(body)}\r\n"
        + ("Retry-After: 1\r\n" if status == 503 else "")
        + ("Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n" if status == 405 else "")
        + ("Connection: close\r\n" if close else "")
        + "\r\n"
    ).encode()
    return head + body if with_body else head


def redirection(status: int, location: bytes, *, date: bytes, with_body: bool = True) -> bytes:
    """A whole response that ends the connection. `location` is an absolute URL of visible ASCII."""
    phrase = HTTPStatus(status).phrase.encode()
    body = b"%d %b: %b\n" % (status, phrase, location)
    head = (
        b"HTTP/1.1 %d %b\r\nServer: bgproxy\r\nDate: %b\r\nLocation: %b\r\nContent-Type: text/plain; charset=utf-8\r\n"
        b"Content-Length: %d\r\nConnection: close\r\n\r\n" % (status, phrase, date, location, len(body))
    )
    return head + body if with_body else head
