"""Is this head valid HTTP/1.1 grammar? llhttp says, at about 0.5 µs a head; what it lets through is judged elsewhere.

No callback per field is defined, so llhttp never calls into Python but once, at the end of a message.
A checker is shared by all connections of a worker: it is only ever fed whole heads, and starts afresh after any message
that llhttp does not call complete (a body is to follow), so no head can be mistaken for somebody's body.
"""

from __future__ import annotations

from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, HttpResponseParser


class _Ending:
    """All that llhttp tells us: the message is over."""

    __slots__ = ("complete",)

    def __init__(self) -> None:
        self.complete = False

    def on_message_complete(self) -> None:
        self.complete = True


class GrammarCheck:
    """`is_valid(message)`: a whole head, with its body only where the body is whole too."""

    __slots__ = ("_ending", "_feed", "_make")

    def __init__(self, make: Any) -> None:
        self._make = make
        self._ending = _Ending()
        self._restart()

    def is_valid(self, message: bytes) -> bool:
        ending = self._ending
        ending.complete = False
        try:
            self._feed(message)
        except HttpParserUpgrade:  # an upgrade or CONNECT: the head was valid
            self._restart()
            return True
        except HttpParserError:
            self._restart()
            return False
        if not ending.complete:
            self._restart()
        return True

    def _restart(self) -> None:
        parser = self._make(self._ending)
        # The checker outlives the connection that `Connection: close` speaks of. No message is read more leniently.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._feed = parser.feed_data


def request_grammar() -> GrammarCheck:
    return GrammarCheck(HttpRequestParser)


def response_grammar() -> GrammarCheck:
    return GrammarCheck(HttpResponseParser)
