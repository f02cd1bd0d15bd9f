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
    """`make` is one of the httptools parser types.

    `feed_whole` is public for the hot path: it takes a message that ends where its argument ends and neither upgrades
    nor closes (the caller has made sure of it), and raises HttpParserError, after which `restart` is due.
    """

    __slots__ = ("_make", "feed_whole")

    def __init__(self, make: Any) -> None:
        self._make = make
        self.restart()

    def restart(self) -> None:
        self.feed_whole = self._make(_Silent()).feed_data

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
