"""Which of a few media types a client would rather have: proactive negotiation (RFC 9110 section 12.5.1).

Only the proxy's own answers are negotiated, so nothing here is asked before one of them is made. A wrong guess costs
readability and nothing else: every choice is one of our own texts. That is why a head that could not be read, or not to
its end, may be searched as well.
"""

from __future__ import annotations

import functools
import re
from typing import Final, TypeAlias

Kind: TypeAlias = str  # one of core.error_pages.KINDS

LIMIT: Final = 1024  # bytes of all Accept lines; browsers send up to 150
_LINE = re.compile(rb"\r\naccept:([^\r\n]*)(?=\r\n)", re.IGNORECASE)
_QUOTED = re.compile(r'"(?:[^"\\]|\\.?)*"?')  # matches whatever follows a quote, so a hostile one costs no second look
_WEIGHT = re.compile(r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")

# The ranges that cover each kind, the most specific last. Who asks for application/json can read a problem document.
_RANGES: Final[dict[Kind, tuple[str, ...]]] = {
    "txt": ("*/*", "text/*", "text/plain"),
    "html": ("*/*", "text/*", "text/html"),
    "json": ("*/*", "application/*", "application/json", "application/problem+json"),
}
_KNOWN = frozenset(name for ranges in _RANGES.values() for name in ranges)


def accept_of(head: bytes) -> bytes:
    """The value of all Accept lines together, b"" for none. `head` may be broken, or the beginning of one."""
    lines = _LINE.findall(head)
    return b",".join(lines) if lines else b""


@functools.lru_cache(256)  # an outage answers the same few clients again and again
def preferred(accept: bytes) -> Kind:
    """The kind with the highest weight; of several the one that is named most exactly, then the one named first.

    Text where nothing was said, where everything is equal (`*/*`: curl), and where nothing of ours is acceptable: an
    error that the client did not ask for in this form still says more than a 406.
    """
    if not accept or len(accept) > LIMIT:
        return "txt"
    weights = _weights(accept.decode("latin-1").lower())
    best, chosen = (0.0, 0, 0), "txt"
    for kind, ranges in _RANGES.items():
        exactness = max((number for number, name in enumerate(ranges, 1) if name in weights), default=0)
        if exactness:
            weight, place = weights[ranges[exactness - 1]]
            if weight and (rank := (weight, min(exactness, 3), -place)) > best:
                best, chosen = rank, kind
    return chosen


def _weights(accept: str) -> dict[str, tuple[float, int]]:
    """Range → its weight and its place in the list. Parameters other than the weight are not ours to match: left out.
    A range with a weight that is none is dropped; of one that is there twice the higher weight counts."""
    weights: dict[str, tuple[float, int]] = {}
    for place, member in enumerate(_QUOTED.sub("", accept).split(",")):
        if "/" not in member:  # a thousand commas fit into the bound
            continue
        name, *parameters = (part.strip(" \t") for part in member.split(";"))
        if name not in _KNOWN:
            continue
        given = next((value.removeprefix("q=") for value in parameters if value.startswith("q=")), "1")
        if _WEIGHT.fullmatch(given) and float(given) > weights.get(name, (-1.0, 0))[0]:
            weights[name] = float(given), place
    return weights
