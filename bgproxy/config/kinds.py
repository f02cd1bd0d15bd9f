"""What kinds of value a key can have. msgspec judges the TOML type and the range, `refine` what the text means."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from typing import Annotated, Any

import msgspec

from bgproxy.config.problems import Wrong
from bgproxy.config.units import format_duration, format_size, parse_duration, parse_size
from bgproxy.core.model import Colour


def _as_it_is(value: Any) -> Any:
    return value


def _no_suggestion(_: float) -> str:
    return ""


class Kind(msgspec.Struct, frozen=True):
    """One value. `expected` ends every complaint about it; `unit_for` spells a bare number with its unit."""

    shape: Any
    expected: str
    refine: Callable[[Any], Any] = _as_it_is
    unit_for: Callable[[float], str] = _no_suggestion
    takes_numbers: bool = False
    secret: bool = False  # never quoted in an error

    def read(self, value: object) -> Any:
        """The resolved value; Wrong (or a ValueError of core) says what does not fit."""
        try:
            typed = msgspec.convert(value, self.shape)
        except msgspec.ValidationError:
            raise self._wrong_type(value) from None
        return self.refine(typed)

    def _wrong_type(self, value: object) -> Wrong:
        if self.secret:
            return Wrong("is not acceptable")
        number = value if isinstance(value, int | float) and not isinstance(value, bool) else None
        suggestion = "" if number is None or not 0 <= number < 10**15 else self.unit_for(number)
        return Wrong(f"is {describe(value)}" + (" without a unit" if suggestion else ""), suggestion=suggestion)

    def from_text(self, text: str) -> object:
        """What a variable, a flag or `${…}` says, as the TOML value it stands for."""
        text = text.strip() if self.takes_numbers else text
        if not self.takes_numbers or not text.isascii():
            return text
        if text in ("true", "false"):
            return text == "true"
        if re.fullmatch(r"[+-]?[0-9]{1,18}", text):
            return int(text)
        if re.fullmatch(r"[+-]?[0-9]{1,18}\.[0-9]{1,18}", text):
            return float(text)
        return text


def describe(value: object) -> str:
    """A TOML value in words, short enough for a sentence."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"the number {value}" if abs(value) < 10**18 else "a number far out of range"
    if isinstance(value, str):
        return f"the text {value!r}" if len(value) <= 80 else f"the text {value[:79]!r}…"
    if isinstance(value, dict):
        return "a table"
    return "a list" if isinstance(value, list) else "a date or time"


# --- numbers, names, text -------------------------------------------------------------------------------------------


def whole_number(low: int, high: int) -> Kind:
    shape = Annotated[int, msgspec.Meta(ge=low, le=high)]
    return Kind(shape, f"a whole number from {low} to {high}", takes_numbers=True)


def number_of(*numbers: int) -> Kind:
    """One of a few numbers that each mean something of their own."""

    def refine(value: int) -> int:
        if value not in numbers:
            raise Wrong(f"is {describe(value)}")
        return value

    *first, last = map(str, numbers)
    return Kind(int, f"{', '.join(first)} or {last}" if first else last, refine, takes_numbers=True)


def share(high: float) -> Kind:
    return Kind(Annotated[float, msgspec.Meta(ge=0, le=high)], f"a number from 0 to {high:g}", takes_numbers=True)


def number_or(word: str, low: int, high: int, meaning: Any) -> Kind:
    """A whole number, or one word that stands for `meaning`."""

    def refine(value: int | str) -> Any:
        if isinstance(value, str) and value != word:
            raise Wrong(f"is {describe(value)}", suggestion=_nearest(value, (word,)))
        if value == word:
            return meaning() if callable(meaning) else meaning
        return value

    shape = Annotated[int, msgspec.Meta(ge=low, le=high)] | str
    return Kind(shape, f'a whole number from {low} to {high}, or "{word}"', refine, takes_numbers=True)


def true_or_false() -> Kind:
    return Kind(bool, "true or false", takes_numbers=True)


def choice(*names: str, gone: dict[str, str] | None = None) -> Kind:
    """One of `names`. `gone` explains names that mean something to readers but cannot be chosen."""
    explained = gone or {}

    def refine(value: str) -> str:
        if value in names:
            return value
        if value in explained:
            raise Wrong(f"is {describe(value)}, {explained[value]}")
        raise Wrong(f"is {describe(value)}", suggestion=_nearest(value, names))

    return Kind(str, _either(names), refine)


def colour() -> Kind:
    names = choice("blue", "green")
    return Kind(str, names.expected, lambda value: Colour.named(names.refine(value)))


def text(expected: str, pattern: str, *, secret: bool = False) -> Kind:
    """Text that a regular expression covers as a whole. Control characters only where the pattern names them."""
    compiled = re.compile(pattern)

    def refine(value: str) -> str:
        if compiled.fullmatch(value):
            return value
        raise Wrong("is not acceptable" if secret else f"is {describe(value)}")

    return Kind(str, expected, refine, secret=secret)


def _nearest(value: str, names: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(value.lower(), names, 1)
    return f'"{close[0]}"' if close else ""


def _either(names: tuple[str, ...]) -> str:
    *first, last = (f'"{name}"' for name in names)
    return f"{', '.join(first)} or {last}" if first else last


# --- durations and sizes --------------------------------------------------------------------------------------------


def duration(low: str = "1ms", high: str = "30d") -> Kind:
    least, most = parse_duration(low), parse_duration(high)

    def refine(value: str) -> float:
        seconds = parse_duration(value)
        if not least <= seconds <= most:
            raise Wrong(f"{value!r} is out of range")
        return seconds

    return Kind(str, f'a duration from "{low}" to "{high}", like "30s"', refine, lambda n: f'"{_seconds(n)}"')


def _seconds(number: float) -> str:
    """What a bare number most likely means: `30` → 30s, `0.5` → 500ms."""
    return f"{int(number)}s" if number == int(number) else format_duration(number)


def size(low: str, high: str) -> Kind:
    least, most = parse_size(low), parse_size(high)

    def refine(value: str) -> int:
        amount = parse_size(value)
        if not least <= amount <= most:
            raise Wrong(f"{value!r} is out of range")
        return amount

    return Kind(str, f'a size from "{low}" to "{high}", like "64KiB"', refine, lambda n: f'"{format_size(int(n))}"')


def status_range() -> Kind:
    """An inclusive range of status codes; a single code is a range of one."""

    def refine(value: int | str) -> tuple[int, int]:
        match = re.fullmatch(r"([1-5][0-9]{2})(?:-([1-5][0-9]{2}))?", str(value))
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise Wrong(f"is {describe(value)}")
        return int(match[1]), int(match[2] or match[1])

    return Kind(int | str, 'a status or a range from 100 to 599, like "200-299"', refine)


def number_of_version(only: int) -> Kind:
    return Kind(Annotated[int, msgspec.Meta(ge=only, le=only)], f"{only}, the one format that this program reads")
