"""Where the events of a text/event-stream end, and the hint when to come back (WHATWG HTML, server-sent events)."""

from __future__ import annotations

from typing import Final

_COMMENT: Final = 0x3A  # a line that begins with a colon
_ENDS = (b"\n", b"\r")


def retry_hint(milliseconds: int) -> bytes:
    """A block of its own: it tells a client when to reconnect, and is no event."""
    return b"retry: %d\n\n" % milliseconds


class Events:
    """Follows what was sent, however it is cut.

    Between two events is where an empty line was the last, or nothing but comments came since. Behind a field a block
    of our own would end the sender's event short, and the client would take it for whole.
    """

    __slots__ = ("_after_cr", "_within_event", "_within_line")

    def __init__(self) -> None:
        self._within_line = False
        self._within_event = False
        self._after_cr = False  # the last byte was a CR: a LF would belong to it

    @property
    def is_between_events(self) -> bool:
        return not self._within_line and not self._within_event

    def feed(self, data: bytes) -> None:
        if self._after_cr and data.startswith(b"\n"):
            data = data[1:]
            self._after_cr = False
        if not data:
            return
        self._after_cr = data.endswith(b"\r")
        lines = data.splitlines()
        whole = len(lines) - (not data.endswith(_ENDS))
        for number, line in enumerate(lines):
            if not self._within_line:  # else its beginning was looked at before
                if line:
                    self._within_event = self._within_event or line[0] != _COMMENT
                else:
                    self._within_event = False
            self._within_line = number >= whole
