"""Durations and sizes as operators write them: "30s", "1m30s", "64KiB". A number without a unit is never guessed at."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from fractions import Fraction

from bgproxy.config.problems import Wrong

_SECONDS = {"ms": Fraction(1, 1000), "s": Fraction(1), "m": Fraction(60), "h": Fraction(3600), "d": Fraction(86400)}
_BYTES = {
    "B": Fraction(1),
    "KiB": Fraction(1 << 10),
    "MiB": Fraction(1 << 20),
    "GiB": Fraction(1 << 30),
    "TiB": Fraction(1 << 40),
    "kB": Fraction(10**3),
    "MB": Fraction(10**6),
    "GB": Fraction(10**9),
    "TB": Fraction(10**12),
}
# How other programs spell them, in lower case.
_ALIASES = {
    "sec": "s",
    "secs": "s",
    "second": "s",
    "seconds": "s",
    "min": "m",
    "mins": "m",
    "minute": "m",
    "minutes": "m",
    "hour": "h",
    "hours": "h",
    "day": "d",
    "days": "d",
    "msec": "ms",
    "k": "KiB",
    "ki": "KiB",
    "m": "MiB",
    "mi": "MiB",
    "g": "GiB",
    "gi": "GiB",
    "t": "TiB",
    "bytes": "B",
}
# So few digits that a float holds the seconds exactly; nobody means more.
_DURATION_PART = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)([^0-9.\s]*)")
_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)([^0-9.\s]*)")
_SPACED = re.compile(r"(?=.*\s)\s*[0-9.]+\s*[A-Za-z]+\s*")


def parse_duration(text: str) -> float:
    """Seconds; units ms, s, m, h, d, also one after another as in "1m30s". Wrong says what does not fit."""
    if text == "0":
        return 0.0
    _refuse_sign_and_space(text)
    total, at = Fraction(0), 0
    for part in _DURATION_PART.finditer(text):
        if part.start() != at:
            break
        if not part[2] and part.end() == len(text):
            raise Wrong(f"{text!r} has no unit", suggestion=f'"{text}s"')
        if not part[2]:
            break
        total += Fraction(part[1]) * _factor(part[2], _SECONDS, text)
        at = part.end()
    if at != len(text) or not text:
        raise Wrong(f"{text!r} is not a duration")
    return float(total)


def parse_size(text: str) -> int:
    """Bytes; units B, KiB, MiB, GiB, TiB and the decimal kB, MB, GB, TB. Wrong says what does not fit."""
    if text == "0":
        return 0
    _refuse_sign_and_space(text)
    match = _SIZE.fullmatch(text)
    if match is None:
        raise Wrong(f"{text!r} is not a size")
    if not match[2]:
        raise Wrong(f"{text!r} has no unit", suggestion=f'"{format_size(int(match[1]))}"' if text.isdigit() else "")
    size = Fraction(match[1]) * _factor(match[2], _BYTES, text)
    if size.denominator != 1:
        raise Wrong(f"{text!r} is not a whole number of bytes")
    return int(size)


def _refuse_sign_and_space(text: str) -> None:
    if text.startswith("-"):
        raise Wrong(f"{text!r} is negative")
    if _SPACED.fullmatch(text):
        raise Wrong(f"{text!r} has a space in it", suggestion=f'"{"".join(text.split())}"')


def _factor(unit: str, factors: Mapping[str, Fraction], text: str) -> Fraction:
    if unit in factors:
        return factors[unit]
    known = {name.lower(): name for name in factors}
    near = known.get(unit.lower(), _ALIASES.get(unit.lower(), ""))
    near = near if near in factors else next(iter(difflib.get_close_matches(unit, factors, 1)), "")
    suggestion = f'"{text.replace(unit, near)}"' if near else ""
    raise Wrong(f"{text!r}: {unit!r} is not a unit (units are {', '.join(factors)})", suggestion=suggestion)


def format_duration(seconds: float) -> str:
    """The shortest spelling that `parse_duration` reads back as the same value, to the millisecond."""
    milliseconds = round(seconds * 1000)
    if not milliseconds:
        return "0s"
    for unit in ("d", "h", "m", "s"):
        whole = int(_SECONDS[unit] * 1000)
        if milliseconds % whole == 0:
            return f"{milliseconds // whole}{unit}"
    return f"{milliseconds}ms"


def format_size(size: int) -> str:
    """The shortest spelling that `parse_size` reads back as the same value."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        factor = int(_BYTES[unit])
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return f"{size}B" if size else "0"
