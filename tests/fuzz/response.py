"""Whatever bytes an upstream answers, however cut and however ended, the client gets an answer that h11, llhttp and a
strict reader read alike and as the upstream's own bytes say it, or one that no reader takes for whole; and nothing
raises.

An input is three bytes and the stream: bits 0 and 1 of the first byte say how the upstream ends (not, FIN, RST, FIN),
bit 2 that all pieces come in one turn of the loop, bits 3 to 5 what was asked; the other two say where it is cut.
"""

from __future__ import annotations

from tests.support.desk import Desk
from tests.support.invariants import FIN, OPEN, RST, check_response

ENDS = (OPEN, FIN, RST, FIN)
ASKED = (
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.0\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nhi",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: foo\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf",  # answered before the body is there
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
)
_desk = Desk()


def target(data: bytes) -> None:
    """Raises where the invariant does not hold."""
    global _desk
    if len(data) < 3:
        return
    how, first, second = data[:3]
    places = [first, first + second]
    try:
        check_response(_desk, ASKED[how >> 3 & 7], data[3:], places, end=ENDS[how & 3], at_once=bool(how & 4))
    except BaseException:
        _desk = Desk()  # what is left on this one says nothing about the next input
        raise
