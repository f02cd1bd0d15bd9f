"""Error pages as templates: which file answers which status, what may stand in one, and how it is filled in.

A folder of an operator's own pages and the built-in ones are the same thing. Of the files of a kind the most specific
wins: `502.html`, then `5xx.html`, then `error.html`.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Mapping
from html import escape
from typing import Final

KINDS: Final = ("html", "json", "txt")
# Every status that the proxy itself answers with; what an application answers is never replaced.
STATUSES: Final = (400, 405, 408, 413, 414, 417, 421, 431, 501, 502, 503, 504, 505)
NAMES: Final = frozenset(
    f"{stem}.{kind}" for stem in (*map(str, STATUSES), *{f"{status // 100}xx" for status in STATUSES}, "error")
    for kind in KINDS
)  # fmt: skip
PLACEHOLDERS: Final = ("status", "phrase", "sentence", "advice", "detail", "reason", "request_id")

MAX_FILE: Final = 256 * 1024  # bytes; sent whole with every error, so already far more than is wise
MAX_ALL: Final = 512 * 1024  # bytes; all of them go to each worker in one message (core.messages.MAX_LINE)

_PLACEHOLDER = re.compile(r"\{\{([^{}\n]{0,64})\}\}")
_AWKWARD = dict.fromkeys(PLACEHOLDERS, '<&>"\\') | {"status": "502"}

_ESCAPES: Final[dict[str, Callable[[str], str]]] = {
    "html": escape,
    "json": lambda text: json.dumps(text)[1:-1],  # it stands inside quotes
    "txt": str,
}


class Template:
    """One page of a kind. ValueError is the half sentence that says what is wrong with it."""

    __slots__ = ("_escape", "_parts")

    def __init__(self, kind: str, text: str) -> None:
        self._escape = _ESCAPES[kind]
        # Literals, and between every two of them the name of a placeholder.
        self._parts = _PLACEHOLDER.split(text)
        self._parts[1::2] = [name.strip() for name in self._parts[1::2]]
        self._check()
        filled = self.fill(_AWKWARD).decode()
        if not filled.strip():
            raise ValueError("there is nothing in it; expected what a visitor is to see")
        if kind == "json":
            _check_json(filled)

    def _check(self) -> None:
        line = 1
        for number, part in enumerate(self._parts):
            if number % 2 and part not in PLACEHOLDERS:
                close = difflib.get_close_matches(part, PLACEHOLDERS, 1)
                raise ValueError(
                    f"line {line}: unknown placeholder {{{{{part}}}}}; expected one of {', '.join(PLACEHOLDERS)}"
                    + (f"; did you mean {{{{{close[0]}}}}}?" if close else "")
                )
            if not number % 2 and (opened := part.find("{{")) >= 0:
                line += part.count("\n", 0, opened)
                raise ValueError(f"line {line}: '{{{{' begins no placeholder; expected {{{{name}}}} on one line")
            line += part.count("\n")

    def fill(self, values: Mapping[str, str]) -> bytes:
        """In UTF-8, every value escaped for the kind; what does not print is replaced first."""
        parts = self._parts.copy()
        parts[1::2] = [self._escape(_printable(values[name])) for name in parts[1::2]]
        return "".join(parts).encode()


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _check_json(filled: str) -> None:
    expected = 'expected a JSON object, with text placeholders inside quotes, like "detail": "{{detail}}"'
    try:
        document = json.loads(filled)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}: not JSON once it is filled in ({error.msg}); {expected}") from None
    except RecursionError:
        raise ValueError(f"not JSON that anybody could read: nested too deeply; {expected}") from None
    if not isinstance(document, dict):
        raise ValueError(f"the JSON in it is not an object; {expected}")


def kind_of(name: str) -> str:
    """The kind of a file by its name; ValueError where no answer would ever use it."""
    if name in NAMES:
        return name.rpartition(".")[2]
    close = difflib.get_close_matches(name.lower(), sorted(NAMES), 1, 0.8)
    raise ValueError(
        "no answer would ever use it; expected 4xx, 5xx, error or a status that bgproxy itself answers with "
        f"({', '.join(map(str, STATUSES))}), and .html, .json or .txt"
        + (f"; did you mean {close[0]}?" if close else "")
    )
