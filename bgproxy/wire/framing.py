"""Where a message ends. The one owner of Content-Length, Transfer-Encoding and chunked (RFC 9112 sections 6 and 7).

One rule: ambiguous means refused. Nothing is repaired, and no body that ends short is ever called complete.
"""

from __future__ import annotations

import re
from typing import Final, Protocol

from bgproxy.wire.fields import as_variable, split_line

# A body is a number of bytes, or one of these.
CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2
AMBIGUOUS: Final = -3
UNSUPPORTED_CODING: Final = -4

_FRAMING = (b"content-length", b"transfer-encoding")
_NOT_IN_TRAILERS = (*_FRAMING, b"host")  # a second word on where the body ends, or where the message goes
_DIGITS = re.compile(rb"[0-9]{1,18}")
_CHUNK_LINE = re.compile(
    rb"([0-9A-Fa-f]{1,15})"
    rb"(?:;[ \t]*+[!#$%&'*+\-.^_`|~0-9A-Za-z]++"  # ;name
    rb"(?:=(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++"  # =token, or a quoted string
    rb"|\"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*+\"))?+"
    rb")*+"
)


def content_length(values: list[bytes]) -> int:
    """The one valid Content-Length, or AMBIGUOUS (RFC 9112 6.3(5)). Never `int()` of what was not matched as digits."""
    if len(values) != 1 or _DIGITS.fullmatch(values[0]) is None:
        return AMBIGUOUS
    return int(values[0])


def request_body(lengths: list[bytes], codings: list[bytes], minor: int) -> int:
    """Bytes to follow, CHUNKED, AMBIGUOUS (400) or UNSUPPORTED_CODING (501). RFC 9112 6.1, 6.3."""
    if not codings:
        return content_length(lengths) if lengths else 0
    if lengths or minor == 0 or len(codings) != 1:
        return AMBIGUOUS
    if codings[0].lower() == b"chunked":
        return CHUNKED
    return AMBIGUOUS if b"chunked" in codings[0].lower() else UNSUPPORTED_CODING


def looks_like_framing(name: bytes) -> bool:
    """Is this lower-case name none that frames, but one to a CGI-like server? Nobody sends `Content_Length` in good
    faith."""
    return name not in _FRAMING and as_variable(name) in _FRAMING


def response_body(status: int, method: bytes, lengths: list[bytes], codings: list[bytes], minor: int) -> int:
    """Bytes to follow, CHUNKED, UNTIL_CLOSE or AMBIGUOUS (502). RFC 9112 6.3."""
    if codings:
        if lengths or minor == 0 or len(codings) != 1 or codings[0].lower() != b"chunked":
            return AMBIGUOUS
    elif lengths and content_length(lengths) == AMBIGUOUS:
        return AMBIGUOUS
    if method == b"HEAD" or status in (204, 304) or status < 200:
        return 0
    if codings:
        return CHUNKED
    return content_length(lengths) if lengths else UNTIL_CLOSE


# What a decoder says of the bytes it was fed, where it does not name the end of the body.
MORE: Final = -1
BAD: Final = -2


class Decoder(Protocol):
    """Reads one body. `feed` appends payload to `pieces`, which the caller takes and clears."""

    pieces: list[bytes]
    trailers: list[tuple[bytes, bytes]]

    def feed(self, data: bytes) -> int:
        """MORE, BAD, or the index in `data` behind the last byte of the body."""


def decoder_of(body: int) -> Decoder:
    """For a number of bytes, CHUNKED or UNTIL_CLOSE."""
    if body == CHUNKED:
        return ChunkedDecoder()
    return UnframedDecoder() if body == UNTIL_CLOSE else LengthDecoder(body)


class LengthDecoder:
    """A body of so many bytes. What is fed is passed on as it is where all of it belongs to the body."""

    __slots__ = ("_left", "pieces", "trailers")

    def __init__(self, length: int) -> None:
        self._left = length
        self.pieces: list[bytes] = []
        self.trailers: list[tuple[bytes, bytes]] = []

    def feed(self, data: bytes) -> int:
        """MORE, or the index in `data` behind the last byte of the body."""
        end = min(self._left, len(data))
        self._left -= end
        if end:
            self.pieces.append(data if end == len(data) else data[:end])
        return MORE if self._left else end


class UnframedDecoder:
    """A body that ends where the connection ends (RFC 9112 6.3(8)): it never says so itself."""

    __slots__ = ("pieces", "trailers")

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.trailers: list[tuple[bytes, bytes]] = []

    def feed(self, data: bytes) -> int:
        """MORE."""
        self.pieces.append(data)
        return MORE


class ChunkedDecoder:
    """A chunked body.

    Chunk extensions are dropped (RFC 9112 7.1.1). Trailers are kept apart in `trailers`, never merged into a head.
    Bounds: `LINE_BYTES` for one line, `OVERHEAD_BYTES` for all extensions and trailers of one message.
    """

    __slots__ = ("_left", "_line", "_overhead", "_state", "pieces", "trailers")

    LINE_BYTES: Final = 8 * 1024
    OVERHEAD_BYTES: Final = 16 * 1024

    _SIZE, _DATA, _DATA_END, _TRAILERS, _DONE = range(5)

    def __init__(self) -> None:
        self._state = self._SIZE
        self._left = 0  # payload bytes of the current chunk that are still to come
        self._line = b""  # the beginning of a line whose end has not come yet
        self._overhead = 0
        self.pieces: list[bytes] = []
        self.trailers: list[tuple[bytes, bytes]] = []

    def feed(self, data: bytes) -> int:
        """MORE, BAD, or the index in `data` behind the last byte of the body."""
        position, end = 0, len(data)
        while position < end:
            if self._state == self._DATA:
                position = self._take_payload(data, position, end)
                continue
            line_end = data.find(b"\n", position)
            if line_end < 0:
                return self._keep_beginning(data[position:])
            line = self._line + data[position : line_end + 1] if self._line else data[position : line_end + 1]
            self._line = b""
            position = line_end + 1
            if len(line) > self.LINE_BYTES or line[-2:] != b"\r\n" or not self._take_line(line[:-2]):
                return BAD
            if self._state == self._DONE:
                return position
        return MORE

    def _take_payload(self, data: bytes, position: int, end: int) -> int:
        taken = min(self._left, end - position)
        self.pieces.append(data if taken == len(data) else data[position : position + taken])
        self._left -= taken
        if self._left == 0:
            self._state = self._DATA_END
        return position + taken

    def _keep_beginning(self, beginning: bytes) -> int:
        self._line += beginning
        if len(self._line) > self.LINE_BYTES:
            return BAD
        if self._state == self._DATA_END and self._line != b"\r":
            return BAD
        # A CR anywhere but before the LF that is still to come; what follows can't make it right.
        return BAD if b"\r" in self._line[:-1] else MORE

    def _take_line(self, line: bytes) -> bool:
        if self._state == self._DATA_END:
            self._state = self._SIZE
            return line == b""
        return self._take_size(line) if self._state == self._SIZE else self._take_trailer(line)

    def _take_size(self, line: bytes) -> bool:
        match = _CHUNK_LINE.fullmatch(line)
        if match is None:
            return False
        digits = match[1]
        self._overhead += len(line) - len(digits)
        self._left = int(digits, 16)
        self._state = self._DATA if self._left else self._TRAILERS
        return self._overhead <= self.OVERHEAD_BYTES

    def _take_trailer(self, line: bytes) -> bool:
        if not line:
            self._state = self._DONE
            return True
        self._overhead += len(line)
        field = split_line(line)
        if field is None or self._overhead > self.OVERHEAD_BYTES:
            return False
        if as_variable(field[0]) in _NOT_IN_TRAILERS:
            return False
        self.trailers.append(field)
        return True
