"""The proxy's own answers: small, framed, and plain about who answered and why, in the form that the client reads."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from bgproxy.wire.accept import accept_of, preferred
from bgproxy.wire.error_pages import CONTENT_TYPES, ErrorPages, words


class Replies:
    """Makes whole responses; one for all connections of a worker. `pages` are an operator's own, name → text."""

    __slots__ = ("_pages",)

    def __init__(self, pages: Mapping[str, str] | None = None) -> None:
        self._pages = ErrorPages(pages)

    def reply(
        self,
        status: int,
        reason: str,
        detail: str,
        *,
        asked: bytes,
        date: bytes,
        request_id_line: bytes,
        close: bool,
        added: bytes = b"",
    ) -> bytes:
        """`reason` is a stable word, `detail` a sentence that gives away no address and no path.

        `asked` is the head that is answered, or what there is of it: only Accept and whether it is a HEAD are looked
        for. `request_id_line` is a whole field line that begins with CRLF; `added` are
        further ones, or b"".
        """
        kind = preferred(accept_of(asked))
        template, policy = self._pages.page(kind, status)
        phrase = HTTPStatus(status).phrase
        sentence, advice = words(status)
        body = template.fill(
            {
                "status": str(status),
                "phrase": phrase,
                "sentence": sentence,
                "advice": advice,
                "detail": detail,
                "reason": reason,
                "request_id": request_id_line.partition(b":")[2].strip().decode("latin-1"),
            }
        )
        lines = [
            b"HTTP/1.1 %d %b\r\nServer: bgproxy\r\nDate: %b" % (status, phrase.encode(), date),
            request_id_line,
            added,
            b"\r\nX-BG-Reason: " + reason.encode(),
            b"\r\nContent-Type: " + CONTENT_TYPES[kind],
            b"\r\nContent-Length: %d" % len(body),
            b"\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nContent-Security-Policy: " + policy,
        ]
        if asked:  # to who had not said anything yet, everybody would have got the same
            lines.append(b"\r\nVary: Accept")
        if status == 503:
            lines.append(b"\r\nRetry-After: 1")
        if status in (200, 405):  # 200 is the end of an OPTIONS with Max-Forwards
            lines.append(b"\r\nAllow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
        if close:
            lines.append(b"\r\nConnection: close")
        lines.append(b"\r\n\r\n")
        if not asked.lstrip(b"\r\n").startswith(b"HEAD "):
            lines.append(body)
        return b"".join(lines)


def redirection(status: int, location: bytes, *, date: bytes, with_body: bool = True) -> bytes:
    """A whole response that ends the connection. `location` is an absolute URL of visible ASCII."""
    phrase = HTTPStatus(status).phrase.encode()
    body = b"%d %b: %b\n" % (status, phrase, location)
    head = (
        b"HTTP/1.1 %d %b\r\nServer: bgproxy\r\nDate: %b\r\nLocation: %b\r\nContent-Type: text/plain; charset=utf-8\r\n"
        b"Content-Length: %d\r\nConnection: close\r\n\r\n" % (status, phrase, date, location, len(body))
    )
    return head + body if with_body else head
