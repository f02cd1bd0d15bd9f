"""Where in a TOML text a key or list item stands, so that an error can say file:line:col.

`tomllib` gives no positions. tomlkit has none either (asked for since 2019); spanned-toml and tomlkit-extras
do, but one is a single release of a forked parser and the other brings tomlkit along: both would parse the file that
`tomllib` has judged a second time, by other rules. This walks the tokens of a text that is known to be valid, keeps
nothing but offsets, and an odd corner costs precision (the section's line) and never an answer.
"""

from __future__ import annotations

import re
import tomllib
from typing import TypeAlias

Path: TypeAlias = tuple[str | int, ...]

_TRIVIA = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BLANK = re.compile(r"[ \t]*")
_REST_OF_LINE = re.compile(r"[^\n]*")
_STRING = re.compile(
    r"""
      "{3} (?: \\. | [^\\] )*? "{3,5}     # may end in two quotes of its own
    | '{3} .*? '{3,5}
    | " (?: \\. | [^"\\\n] )* "
    | ' [^'\n]* '
    """,
    re.DOTALL | re.VERBOSE,
)
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BARE_VALUE = re.compile(r"\d{4}-\d\d-\d\d \d\d[^\s,\]}#]*|[^\s,\]}#]+")


class Positions:
    """Line and column (both from 1) of the paths of one document."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._offsets = _scan(text)

    def of(self, path: Path) -> tuple[int, int]:
        """Of the path, else of the closest table or list around it, else the top of the file."""
        for length in range(len(path), 0, -1):
            if path[:length] in self._offsets:
                return self.at(self._offsets[path[:length]])
        return 1, 1

    def at(self, offset: int) -> tuple[int, int]:
        return self._text.count("\n", 0, offset) + 1, offset - self._text.rfind("\n", 0, offset)


def _scan(text: str) -> dict[Path, int]:
    scanner = _Scanner(text)
    try:
        scanner.document()
    except (_Lost, RecursionError):
        pass  # what was found up to here is right, the rest falls back to its section
    return scanner.offsets


class _Lost(Exception):
    """The text is not what the scanner expects."""


class _Scanner:
    def __init__(self, text: str) -> None:
        self.offsets: dict[Path, int] = {}
        self._text = text
        self._at = 0
        self._tables: dict[Path, int] = {}  # how many [[tables]] of an array were seen

    def document(self) -> None:
        table: Path = ()
        while self._peek_after(_TRIVIA):
            if self._peek() == "[":
                table = self._header()
            else:
                self._pair(table)
            self._skip(_REST_OF_LINE)

    def _header(self) -> Path:
        start, is_array = self._at, self._text.startswith("[[", self._at)
        self._at += 2 if is_array else 1
        path: Path = ()
        for name, _ in self._key():
            path = (*path, name)
            if path in self._tables:
                path = (*path, self._tables[path] - 1)
            self.offsets.setdefault(path, start)
        if not is_array:
            # A [a.b] before its [a] marked the way there; the header itself knows better.
            self.offsets[path] = start
            return path
        if path and isinstance(path[-1], int):
            path = path[:-1]
        number = self._tables.get(path, 0)
        self._tables[path] = number + 1
        self.offsets[(*path, number)] = start
        return (*path, number)

    def _pair(self, table: Path) -> None:
        path = table
        for name, offset in self._key():
            path = (*path, name)
            self.offsets.setdefault(path, offset)
        if self._peek_after(_BLANK) != "=":
            raise _Lost
        self._at += 1
        self._skip(_BLANK)
        self._value(path)

    def _key(self) -> list[tuple[str, int]]:
        parts: list[tuple[str, int]] = []
        while True:
            self._skip(_BLANK)
            start = self._at
            parts.append((self._key_part(), start))
            if self._peek_after(_BLANK) != ".":
                return parts
            self._at += 1

    def _key_part(self) -> str:
        if bare := _BARE_KEY.match(self._text, self._at):
            self._at = bare.end()
            return bare[0]
        if quoted := _STRING.match(self._text, self._at):
            self._at = quoted.end()
            return str(tomllib.loads(f"key = {quoted[0]}")["key"])
        raise _Lost

    def _value(self, path: Path) -> None:
        opening = self._peek()
        if opening == "[":
            return self._array(path)
        if opening == "{":
            return self._inline_table(path)
        token = _STRING.match(self._text, self._at) or _BARE_VALUE.match(self._text, self._at)
        if token is None:
            raise _Lost
        self._at = token.end()
        return None

    def _array(self, path: Path) -> None:
        self._at += 1
        index = 0
        while (char := self._peek_after(_TRIVIA)) != "]":
            if char == ",":
                self._at += 1
                continue
            self.offsets[(*path, index)] = self._at
            self._value((*path, index))
            index += 1
        self._at += 1

    def _inline_table(self, path: Path) -> None:
        self._at += 1
        while (char := self._peek_after(_TRIVIA)) != "}":
            if char == ",":
                self._at += 1
                continue
            self._pair(path)
        self._at += 1

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _peek_after(self, skipped: re.Pattern[str]) -> str:
        self._skip(skipped)
        return self._peek()

    def _skip(self, skipped: re.Pattern[str]) -> None:
        match = skipped.match(self._text, self._at)
        self._at = match.end() if match else self._at
