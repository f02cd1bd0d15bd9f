"""An upstream's response head, from raw bytes to something that may be relayed, or to the reason why not.

The plain path is a final response with one Content-Length and perhaps `Connection: keep-alive`; everything else goes
through `_judge`. RFC 9112 sections 4 and 6.3.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import TypeAlias

from httptools import HttpParserError

from bgproxy.wire import hop_by_hop
from bgproxy.wire.fields import KEEP_ALIVE_SPELLINGS, NAMES, PIECES, collect, members, shapes, special_fields, without
from bgproxy.wire.framing import AMBIGUOUS, UNTIL_CLOSE, response_body
from bgproxy.wire.parser import response_grammar

_SPECIAL = (*hop_by_hop.RESPONSE, "content-length")
# llhttp would let control characters pass in the reason phrase.
_status_line = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: [\t\x20-\x7e\x80-\xff]*)?\r\n").match
_STATUSES = {b"%d" % status: status for status in range(100, 600)}
# Status lines as nearly everybody writes them, of responses that have a body. Others are judged.
_PLAIN_STATUS_LINES = {
    f"HTTP/1.1 {status.value} {status.phrase}".encode(): status.value
    for status in HTTPStatus
    if status.value >= 200 and status not in (204, 304)
}
_SHAPES = shapes("Content-Length", "Connection", "Keep-Alive")
_EVENT_STREAM = re.compile(rb"\r\ncontent-type:[ \t]*text/event-stream", re.IGNORECASE)


class BadResponse:
    """Not to be relayed; `detail` says why."""

    __slots__ = ("detail",)

    def __init__(self, detail: str) -> None:
        self.detail = detail


class ResponseHead:
    """One response head, ready to be encoded.

    `pieces` is the head, to be joined: what the proxy adds goes in behind the first of them, which begins with the
    status line; the last ends with the empty line. `body` is a number of bytes, framing.CHUNKED or framing.UNTIL_CLOSE;
    `length` is the Content-Length to be sent, b"" for none (a HEAD answer has one without a body).
    """

    __slots__ = ("body", "length", "pieces", "status")

    # What a plain response has in common with all others of its kind; JudgedResponse has its own.
    keep_alive: bool = True
    is_event_stream: bool = False
    options: list[bytes]
    upgrade: list[bytes]

    def __init__(self, status: int, body: int, length: bytes, pieces: list[bytes]) -> None:
        self.status = status
        self.body = body
        self.length = length
        self.pieces = pieces


class JudgedResponse(ResponseHead):
    """A response with anything unusual about it: no Content-Length, no body, `Connection: close`, HTTP/1.0."""

    __slots__ = ("is_event_stream", "keep_alive", "options", "upgrade")


ReadResponse: TypeAlias = ResponseHead | BadResponse


class ResponseReader:
    """Reads whole heads; one for all upstream connections of a worker."""

    __slots__ = ("_grammar", "_split")

    def __init__(self, *, without: Sequence[str] = ()) -> None:
        """`without` are names of further fields that are not relayed."""
        self._grammar = response_grammar()
        self._split = special_fields((*_SPECIAL, *without), ("x-bg-",)).split

    def read(self, head: bytes, data: bytes, method: bytes) -> ReadResponse:
        """`head` ends with its empty line; `data` is what came, from the head on; `method` is that of the request."""
        parts: list[bytes] = self._split(head)
        shape = _SHAPES.get(tuple(parts[NAMES]))
        if shape is not None:
            length_at, connection_at, _ = shape
            if parts[0][:17] == b"HTTP/1.1 200 OK\r\n":
                status = 200
            else:
                status = _PLAIN_STATUS_LINES.get(parts[0].partition(b"\r\n")[0], 0)
            length = parts[length_at]
            if (
                status
                and length.isdigit()  # of bytes: ASCII digits only
                and len(length) <= 18
                and (not connection_at or parts[connection_at] in KEEP_ALIVE_SPELLINGS)
                and method != b"HEAD"
            ):
                body = int(length)
                if len(head) + body == len(data):
                    try:
                        self._grammar.feed_whole(data)
                    except HttpParserError:
                        self._grammar.restart()
                        return BadResponse("the response head is not valid HTTP/1.1")
                elif not self._grammar.is_head(head):
                    return BadResponse("the response head is not valid HTTP/1.1")
                return ResponseHead(status, body, length, parts[PIECES])
        return self._judge(method, head)

    def _judge(self, method: bytes, head: bytes) -> ReadResponse:
        """Every rule, for responses with anything unusual about them."""
        status_line = _status_line(head)
        if status_line is None:
            return BadResponse("the status line is not 'HTTP/1.1 <code> <reason>'")
        status = _STATUSES[status_line[1]]
        if not self._grammar.is_head(head):
            return BadResponse("the response head is not valid HTTP/1.1")
        parts: list[bytes] = self._split(head)
        minor = head[7] - 0x30
        found = collect(parts)
        lengths = found.get(b"content-length", [])
        body = response_body(status, method, lengths, found.get(b"transfer-encoding", []), minor)
        if body == AMBIGUOUS:
            return BadResponse("Content-Length and Transfer-Encoding do not say clearly where the body ends")
        response = JudgedResponse(status, body, b"", [])
        if lengths and status >= 200 and status != 204:
            response.length = b"%d" % int(lengths[0])
        response.options = members(found.get(b"connection", []))
        response.upgrade = found.get(b"upgrade", [])
        response.keep_alive = (
            body != UNTIL_CLOSE
            and b"close" not in response.options
            and (minor == 1 or b"keep-alive" in response.options)
        )
        response.is_event_stream = not lengths and _EVENT_STREAM.search(head) is not None
        response.pieces = _rebuild(parts, response.options)
        return response


def _rebuild(parts: list[bytes], options: list[bytes]) -> list[bytes]:
    pieces = parts[::3]
    removed = hop_by_hop.named_by_connection(options)
    if removed:
        pieces = [without(piece, removed) for piece in pieces]
    pieces[0] = b"HTTP/1.1" + pieces[0][8:]
    if len(pieces) == 1:  # no special field at all: what is added goes before the empty line
        return [pieces[0][:-4], b"\r\n\r\n"]
    return pieces
