"""Is this head valid HTTP/1.1 grammar? llhttp says, at about 0.5 µs a head; what it lets through is judged elsewhere.

No callback is defined, so llhttp never calls into Python. One parser is shared by all connections of a worker for
messages that are known to be whole and to leave the connection open; every other head gets a parser of its own. So
nothing that one message sets going in llhttp (a body to follow, an upgrade, a closed connection) can reach another
message.
"""

from __future__ import annotations

from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, HttpResponseParser


class _Silent:
    """Defines none of the callbacks."""

    __slots__ = ()


class GrammarCheck:
    """`make` is one of the httptools parser types."""

    __slots__ = ("_feed_shared", "_make")

    def __init__(self, make: Any) -> None:
        self._make = make
        self._feed_shared = make(_Silent()).feed_data

    def is_whole_message(self, message: bytes) -> bool:
        """For a message that ends where `message` ends, neither upgrades nor closes: the caller has made sure of it."""
        try:
            self._feed_shared(message)
        except HttpParserError:
            self._feed_shared = self._make(_Silent()).feed_data
            return False
        return True

    def is_head(self, head: bytes) -> bool:
        """For any head, whatever is to follow it."""
        try:
            self._make(_Silent()).feed_data(head)
        except HttpParserUpgrade:  # an upgrade or CONNECT: the head was valid
            return True
        except HttpParserError:
            return False
        return True


def request_grammar() -> GrammarCheck:
    return GrammarCheck(HttpRequestParser)


def response_grammar() -> GrammarCheck:
    return GrammarCheck(HttpResponseParser)
