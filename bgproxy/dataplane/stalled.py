"""Connections to an upstream that are kept busy by clients that do nothing.

An upstream is given so many connections and no more. A client that sends a body drop by drop, or does not take its
answer, holds one of them for as long as it likes; a few hundred of these shut everybody else out. So where a request
would have to wait, the connection that has waited for its client for longest is taken away from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from bgproxy.dataplane.upstream import UpstreamConnection

# Less is a hiccup of the network. Ten times the round trip of a continent: who works at all is not caught by it.
STALLED_NS: Final = 250_000_000


class Stalled:
    """Of one upstream: who waits for its client, the longest first."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        # Since when (ns), and what the client had not taken then; no body is "taken".
        self._waiting: dict[UpstreamConnection, tuple[int, Callable[[], int] | None, int]] = {}

    def begin(self, connection: UpstreamConnection, now: int, untaken: Callable[[], int] | None = None) -> None:
        """From now on the client is to send its body, or to take what is `untaken` of its answer."""
        self._waiting.pop(connection, None)
        self._waiting[connection] = (now, untaken, untaken() if untaken else 0)

    def end(self, connection: UpstreamConnection) -> None:
        self._waiting.pop(connection, None)

    def take_longest(self, now: int, patience: int) -> UpstreamConnection | None:
        """Who has waited for longest for a client that does nothing; it is forgotten here. None where nobody has waited
        for so long (ns)."""
        for connection, (since, untaken, before) in tuple(self._waiting.items()):
            if since > now - patience:
                break
            if untaken is None or untaken() >= before:
                del self._waiting[connection]
                return connection
            self.begin(connection, now, untaken)  # slow, but it takes something
        return None
