"""What is wrong with a configuration: collected, so that an operator repairs a file in one go."""

from __future__ import annotations

from collections.abc import Callable

from bgproxy.config.locate import Path
from bgproxy.errors import ConfigError

_LONGEST = 400  # characters of one problem: a value of a megabyte is not worth a megabyte of complaint


class Wrong(ValueError):
    """One value is not acceptable: `wrong` is the half sentence that follows the key, `suggestion` what was meant."""

    def __init__(self, wrong: str, *, expected: str = "", suggestion: str = "") -> None:
        super().__init__(wrong)
        self.wrong = wrong
        self.expected = expected
        self.suggestion = suggestion


def sentence(error: ValueError, expected: str = "") -> str:
    """`what is wrong; expected …; did you mean …?`. Plain ValueErrors say themselves what they expected."""
    if not isinstance(error, Wrong):
        text = str(error)
        return text if "expected" in text or not expected else f"{text}; expected {expected}"
    expected = error.expected or expected
    parts = [error.wrong, expected and f"expected {expected}"]
    if error.suggestion:
        parts.append(f"did you mean {error.suggestion}?")
    return "; ".join(part for part in parts if part)


class Problems:
    """The problems of one load. `where` names the place of a path: (order, "file:line:col: [section] key")."""

    def __init__(self, where: Callable[[Path], tuple[tuple[int, int, int], str]]) -> None:
        self._where = where
        self._lines: list[tuple[tuple[int, int, int], str]] = []
        self._paths: set[Path] = set()
        self.texts: list[str] = []  # without their places

    def add(self, path: Path, text: str) -> None:
        order, place = self._where(path)
        self._paths.add(path)
        self.texts.append(text)
        self._lines.append((order, one_line(f"{place}: {text}")))

    def add_line(self, text: str) -> None:
        """A problem that has its own place, like a variable that names no key. Comes after those of the file."""
        self._lines.append(((1, 0, 0), one_line(text)))

    def touch(self, *paths: Path) -> bool:
        """Is something at, below or above one of these paths wrong already? Then more about it would only confuse."""
        return any(bad[: len(path)] == path[: len(bad)] for bad in self._paths for path in paths)

    def raise_if_any(self, hint: str = "") -> None:
        if self._lines:
            ordered = sorted(self._lines, key=lambda line: line[0])
            raise ConfigError("\n".join(text for _, text in ordered), hint=hint)


def one_line(text: str) -> str:
    """Printable and of bounded length, whatever came in."""
    # Values are quoted by repr, but a key or a file name may hold a line break too.
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
