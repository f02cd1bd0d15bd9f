"""From the tree that TOML gave to typed values: every key judged, every problem collected."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

import msgspec

from bgproxy.config.kinds import Kind, describe
from bgproxy.config.locate import Path
from bgproxy.config.nodes import ListOf, MapOf, Node, Section, TextOrTable
from bgproxy.config.problems import Problems, Wrong, sentence
from bgproxy.config.references import has_reference, reads_a_file
from bgproxy.config.schema import keys, label
from bgproxy.config.sources import from_text

BAD = object()  # could not be read: the problem is noted, the key keeps its default


class Reader:
    """`expand` resolves `${…}` in the text at a path; None leaves all text as it is."""

    def __init__(self, problems: Problems, expand: Callable[[Path, str], str] | None) -> None:
        self._problems = problems
        self._expand = expand

    def read(self, node: Node, value: object, path: Path) -> Any:
        """The value of a node, or BAD."""
        if self._expand is None or not isinstance(value, str) or not has_reference(value):
            return self._read_plain(node, value, path)
        try:
            text = self._expand(path, value)
            plain = from_text(node, text)
        except Wrong as error:
            return self._bad(path, sentence(error))
        if text == value:
            return self._read_plain(node, value, path)
        return self._read_expanded(node, value, plain, path)

    def _read_plain(self, node: Node, value: object, path: Path) -> Any:
        match node:
            case Kind():
                return self._read_kind(node, value, path)
            case Section():
                return self._read_section(node, value, path)
            case ListOf():
                return self._read_list(node, value, path)
            case MapOf():
                return self._read_map(node, value, path)
        return self._read_text_or_table(node, value, path)

    def _read_text_or_table(self, node: TextOrTable, value: object, path: Path) -> Any:
        if isinstance(value, dict):
            return self._read_section(node.table, value, path)
        short = self._read_kind(node.short, value, path)
        return BAD if short is BAD else node.from_short(short)

    def _read_expanded(self, node: Node, written: str, value: object, path: Path) -> Any:
        """Judged apart: what was expanded is not expanded again, and what a file held is left out of the complaint."""
        apart = Problems(lambda _: ((0, 0, 0), ""))
        result = Reader(apart, None).read(node, value, path)
        if apart.texts and reads_a_file(written):
            self._bad(path, f"{written!r}: what the file holds is not acceptable{_expectation(node)}")
        elif apart.texts:
            self._bad(path, f"{written!r}: {'; '.join(apart.texts)}")
        return BAD if apart.texts else result

    def _read_kind(self, kind: Kind, value: object, path: Path) -> Any:
        try:
            return kind.read(value)
        except ValueError as error:
            return self._bad(path, sentence(error, kind.expected))

    def _read_section(self, section: Section, value: object, path: Path) -> Any:
        if not isinstance(value, dict):
            return self._bad(path, f"is {describe(value)}; expected a table")
        read = {}
        for name, inner in value.items():
            if name in section.keys:
                read[name] = self.read(section.keys[name], inner, (*path, name))
            else:
                self._bad((*path, name), _unknown(name, inner, section))
        missing = [f.name for f in msgspec.structs.fields(section.make) if f.required and f.name not in value]
        for name in missing:
            self._bad(path, f"{name} is missing{_expectation(section.keys[name])}")
        required = {f.name for f in msgspec.structs.fields(section.make) if f.required}
        if missing or any(read[name] is BAD for name in required):
            return BAD
        return section.make(**{name: inner for name, inner in read.items() if inner is not BAD})

    def _read_list(self, node: ListOf, value: object, path: Path) -> Any:
        if not isinstance(value, list):
            suggestion = f'["{value}"]' if isinstance(value, str) and len(value) < 80 else ""
            return self._bad(path, sentence(Wrong(f"is {describe(value)}", expected="a list", suggestion=suggestion)))
        if not node.at_least <= len(value) <= node.at_most:
            count = f"has {len(value)} items" if value else "is empty"
            return self._bad(path, f"{count}; expected {node.at_least} to {node.at_most} items")
        items = [self.read(node.item, item, (*path, number)) for number, item in enumerate(value)]
        self._note_duplicates(node, items, path)
        return tuple(item for item in items if item is not BAD)

    def _note_duplicates(self, node: ListOf, items: list[Any], path: Path) -> None:
        if node.identity is None:
            return
        first: dict[Any, int] = {}
        for number, item in enumerate(items):
            identity = None if item is BAD else node.identity(item)
            if identity is None:
                continue
            if identity in first:
                self._bad((*path, number), f"is the same as item {first[identity]}; expected each only once")
            first.setdefault(identity, number)

    def _read_map(self, node: MapOf, value: object, path: Path) -> Any:
        if not isinstance(value, dict):
            return self._bad(path, f"is {describe(value)}; expected a table")
        result = node.make()
        for name, inner in value.items():
            key = self._read_kind(node.key, name, (*path, name))
            item = self.read(node.item, inner, (*path, name))
            if key is not BAD and item is not BAD:
                result[key] = item
        return result

    def _bad(self, path: Path, text: str) -> object:
        self._problems.add(path, text)
        return BAD


def _expectation(node: Node) -> str:
    return f"; expected {node.expected}" if isinstance(node, Kind) else ""


def _unknown(name: str, value: object, section: Section) -> str:
    """A key nobody knows: a slip of the pen, or the right key in the wrong section."""
    is_table = isinstance(value, dict)
    kind = "section" if is_table else "key"
    alike = [known for known, node in section.keys.items() if isinstance(node, Section | MapOf) == is_table]
    if close := difflib.get_close_matches(name, alike, 1):
        return f"unknown {kind}; did you mean '{close[0]}'?"
    elsewhere = [label(other) for other, _ in keys() if other[-1] == name]
    if elsewhere:
        return f"unknown {kind}; did you mean {' or '.join(elsewhere)}?"
    return f"unknown {kind}; expected one of {', '.join(section.keys)}"
