"""Where the messages of a WebSocket end, from the headers of its frames alone, and the frame that ends it all.

RFC 6455 sections 5.2, 5.4 and 5.5. Payloads are counted, never looked at: extensions may have changed them.
"""

from __future__ import annotations

from typing import Final

_CLOSE: Final = 0x8
_CONTROL: Final = 0x8  # this bit of an opcode: the frame may stand within a fragmented message
_FIN, _OPCODE, _MASKED, _LENGTH = 0x80, 0x0F, 0x80, 0x7F
_LONGEST_HEADER: Final = 14
_EXTENDED: Final = {126: 2, 127: 8}  # bytes of the length, where seven bits do not hold it


def close_frame(code: int, reason: bytes) -> bytes:
    """What a server says last. `reason` is UTF-8, at most 123 bytes."""
    return bytes((_FIN | _CLOSE, 2 + len(reason))) + code.to_bytes(2, "big") + reason


class Frames:
    """Follows what one side sends, however it is cut. `has_closed` once that was a Close frame."""

    __slots__ = ("_header", "_left", "_opens", "_within_message", "has_closed")

    def __init__(self) -> None:
        self._header = b""  # the beginning of one
        self._left = 0  # payload bytes of the current frame that are still to come
        self._opens = False  # the current frame leaves a message open
        self._within_message = False
        self.has_closed = False

    @property
    def is_between_frames(self) -> bool:
        return not self._header and not self._left

    @property
    def is_between_messages(self) -> bool:
        return not self._within_message and self.is_between_frames

    def feed(self, data: bytes) -> None:
        position, end = 0, len(data)
        while position < end:
            position = self._take(data, position)

    def feed_to_end_of_message(self, data: bytes) -> int:
        """The index in `data` behind the first frame after which no message is open, -1 where there is none. What is
        behind it is not looked at."""
        position, end = 0, len(data)
        while position < end:
            position = self._take(data, position)
            if self.is_between_messages:
                return position
        return -1

    def _take(self, data: bytes, position: int) -> int:
        """On to the end of this frame, or of `data`."""
        if not self._left:
            known = len(self._header)
            header = self._header + data[position : position + _LONGEST_HEADER - known]
            size = _size_of_header(header)
            if len(header) < size:
                self._header = header
                return len(data)
            self._header = b""
            self._begin(header)
            position += size - known
        taken = min(self._left, len(data) - position)
        self._left -= taken
        if not self._left:
            self._within_message = self._opens
        return position + taken

    def _begin(self, header: bytes) -> None:
        opcode, length = header[0] & _OPCODE, header[1] & _LENGTH
        self._left = int.from_bytes(header[2 : 2 + _EXTENDED[length]], "big") if length in _EXTENDED else length
        if opcode & _CONTROL:
            self._opens = self._within_message
            self.has_closed = self.has_closed or opcode == _CLOSE
        else:
            self._opens = not header[0] & _FIN


def _size_of_header(header: bytes) -> int:
    """Of all of it, or more than there is where that cannot be said yet."""
    if len(header) < 2:
        return 2
    return 2 + _EXTENDED.get(header[1] & _LENGTH, 0) + (4 if header[1] & _MASKED else 0)
