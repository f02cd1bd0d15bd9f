"""An upstream's response head, from raw bytes to something that may be relayed, or to the reason why not.

The plain path is a final response with one Content-Length and perhaps `Connection: keep-alive`; everything else goes
through `_judge`. RFC 9112 sections 4 and 6.3.
"""

from __future__ import annotations

import re
from typing import TypeAlias

from bgproxy.wire import hop_by_hop
from bgproxy.wire.fields import collect, members, special_fields, without
from bgproxy.wire.framing import AMBIGUOUS, UNTIL_CLOSE, response_body
from bgproxy.wire.parser import response_grammar

_split = special_fields((*hop_by_hop.RESPONSE, "content-length"), ("x-bg-",)).split
# llhttp would let control characters pass in the reason phrase.
_status_line = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: [\t\x20-\x7e\x80-\xff]*)?\r\n").match
_STATUSES = {b"%d" % status: status for status in range(100, 600)}
_STATUSES_WITH_BODY = frozenset(range(200, 600)) - {204, 304}
_LENGTH_SPELLINGS = frozenset((b"Content-Length", b"content-length", b"CONTENT-LENGTH"))
_EVENT_STREAM = re.compile(rb"\r\ncontent-type:[ \t]*text/event-stream", re.IGNORECASE)
_KEEP_ALIVE_SPELLINGS = frozenset((b"keep-alive", b"Keep-Alive"))
_CONNECTION_SPELLINGS = frozenset((b"Connection", b"connection", b"CONNECTION"))


class BadResponse:
    """Not to be relayed; `detail` says why."""

    __slots__ = ("detail",)

    def __init__(self, detail: str) -> None:
        self.detail = detail


class ResponseHead:
    """One response head, ready to be encoded.

    `parts` is the head in pieces, to be joined: parts[0] begins with the status line, parts[1] is free for what the
    proxy adds, the last piece ends with the empty line. `body` is a number of bytes, framing.CHUNKED or framing.UNTIL_CLOSE;
    `length` is the Content-Length to be sent, b"" for none (a HEAD answer has one without a body).
    """

    __slots__ = ("body", "is_event_stream", "keep_alive", "length", "options", "parts", "status", "upgrade")

    def __init__(self, status: int, body: int, length: bytes, parts: list[bytes]) -> None:
        self.status = status
        self.body = body
        self.length = length
        self.parts = parts
        self.keep_alive = True
        self.is_event_stream = False
        self.options: list[bytes] = []
        self.upgrade: list[bytes] = []


ReadResponse: TypeAlias = ResponseHead | BadResponse


class ResponseReader:
    """Reads whole heads; one for all upstream connections of a worker."""

    __slots__ = ("_grammar",)

    def __init__(self) -> None:
        self._grammar = response_grammar()

    def read(self, head: bytes, data: bytes, method: bytes) -> ReadResponse:
        """`head` ends with its empty line; `data` is what came, from the head on; `method` is that of the request."""
        parts: list[bytes] = _split(head)
        status_line = _status_line(head)
        if status_line is None:
            return BadResponse("the status line is not 'HTTP/1.1 <code> <reason>'")
        status = _STATUSES[status_line[1]]
        pieces = len(parts)
        if (
            (pieces == 4 or (pieces == 7 and _is_keep_alive(parts)))
            and parts[1] in _LENGTH_SPELLINGS
            and head[7] == 0x31  # HTTP/1.1
            and status in _STATUSES_WITH_BODY
            and method != b"HEAD"
        ):
            length = parts[2]
            if length.isdigit() and len(length) <= 18:  # bytes.isdigit() knows ASCII digits only
                body = int(length)
                whole = len(head) + body == len(data)
                if not (self._grammar.is_whole_message(data) if whole else self._grammar.is_head(head)):
                    return BadResponse("the response head is not valid HTTP/1.1")
                parts[1] = parts[2] = b""
                return ResponseHead(status, body, length, parts)
        return self._judge(status, method, head)

    def _judge(self, status: int, method: bytes, head: bytes) -> ReadResponse:
        if not self._grammar.is_head(head):
            return BadResponse("the response head is not valid HTTP/1.1")
        parts: list[bytes] = _split(head)
        minor = head[7] - 0x30
        found = collect(parts)
        lengths = found.get(b"content-length", [])
        body = response_body(status, method, lengths, found.get(b"transfer-encoding", []), minor)
        if body == AMBIGUOUS:
            return BadResponse("Content-Length and Transfer-Encoding do not say clearly where the body ends")
        response = ResponseHead(status, body, b"", [])
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
        response.parts = _rebuild(parts, response.options)
        return response


def _is_keep_alive(parts: list[bytes]) -> bool:
    """Is one of the two special fields `Connection: keep-alive`? Then it is taken out, and the other comes first."""
    if parts[4] in _CONNECTION_SPELLINGS and parts[5] in _KEEP_ALIVE_SPELLINGS:
        parts[4] = parts[5] = b""
        return True
    if parts[1] in _CONNECTION_SPELLINGS and parts[2] in _KEEP_ALIVE_SPELLINGS and parts[4] in _LENGTH_SPELLINGS:
        parts[1], parts[2] = parts[4], parts[5]
        parts[4] = parts[5] = b""
        return True
    return False


def _rebuild(parts: list[bytes], options: list[bytes]) -> list[bytes]:
    pieces = parts[0::3]
    removed = hop_by_hop.named_by_connection(options)
    if removed:
        pieces = [without(piece, removed) for piece in pieces]
    pieces[0] = b"HTTP/1.1" + pieces[0][8:]
    if len(pieces) == 1:  # no special field at all: the added lines go before the empty line
        return [pieces[0][:-4], b"", b"\r\n\r\n"]
    return [pieces[0], b"", *pieces[1:]]
