"""Whatever bytes a client sends, however cut, the upstream gets whole requests that h11, llhttp and a strict reader
read alike and as the client's own bytes say them, or gets none; and nothing raises.

An input is three bytes, how to send it, and behind them the stream: bit 0 of the first byte is a FIN at the end, bit 1
that all pieces come in one turn of the loop; the other two say where it is cut.
"""

from __future__ import annotations

from tests.support.desk import Desk
from tests.support.invariants import check_request

_desk = Desk()


def target(data: bytes) -> None:
    """Raises where the invariant does not hold."""
    global _desk
    if len(data) < 3:
        return
    how, first, second = data[:3]
    try:
        check_request(_desk, data[3:], [first, first + second], fin=bool(how & 1), at_once=bool(how & 2))
    except BaseException:
        _desk = Desk()  # what is left on this one says nothing about the next input
        raise
