"""Where values come from: the file, the environment, the flags. This is the only reader of files and environment."""

from __future__ import annotations

import difflib
import hashlib
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath
from typing import Any, NamedTuple

import msgspec

from bgproxy.config.kinds import Kind
from bgproxy.config.locate import Path, Positions
from bgproxy.config.nodes import ListOf, MapOf, Node, Section, TextOrTable
from bgproxy.config.problems import Wrong, one_line, sentence
from bgproxy.config.references import read_bytes
from bgproxy.config.schema import ROOT, keys, label
from bgproxy.errors import ConfigError

_MAX_FILE = 4 * 1024 * 1024  # bytes; `-c /dev/zero` is a slip, not a configuration
PREFIX = "BGPROXY_"


class Flags(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line said. None (or an empty tuple) is a flag that was not given."""

    listen: tuple[str, ...] = ()
    admin: str | None = None
    blue: tuple[str, ...] = ()
    green: tuple[str, ...] = ()
    workers: int | str | None = None
    state_dir: str | FilePath | None = None
    health_path: str | None = None


_FLAG_PATHS: dict[str, Path] = {
    "listen": ("server", "listen"),
    "admin": ("admin", "listen"),
    "blue": ("pools", "blue", "upstreams"),
    "green": ("pools", "green", "upstreams"),
    "workers": ("server", "workers"),
    "state_dir": ("state", "dir"),
    "health_path": ("health", "path"),
}


class Setting(NamedTuple):
    """One value from outside the file; `origin` is the flag or variable that an error names."""

    path: Path
    value: object
    origin: str


class Document(msgspec.Struct):
    """A configuration file. Without one: no name, no text, an empty tree."""

    name: str = ""
    tree: dict[str, Any] = {}
    positions: Positions = Positions("")
    sha256: str = ""


# --- the file -------------------------------------------------------------------------------------------------------


def read_document(path: FilePath) -> Document:
    """ConfigError names the file, and the line and column where there is one."""
    try:
        data = read_bytes(path, _MAX_FILE)
    except ValueError as error:
        raise ConfigError(
            one_line(f"{path}: {error}; expected a TOML file"), hint="give the path of a file with -c FILE"
        ) from None
    text = _decode(path, data)
    return Document(str(path), _parse(path, text), Positions(text), hashlib.sha256(data).hexdigest())


def _decode(path: FilePath, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        start = data.rfind(b"\n", 0, error.start) + 1
        line = data.count(b"\n", 0, error.start) + 1
        column = len(data[start : error.start].decode("utf-8-sig", "replace")) + 1
        byte = data[error.start]
        raise ConfigError(
            one_line(f"{path}:{line}:{column}: the byte 0x{byte:02x} is not UTF-8; expected a TOML file in UTF-8"),
            hint="save the file as UTF-8",
        ) from None


_AT = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


def _parse(path: FilePath, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError(
            one_line(f"{path}: lists or tables are nested too deeply; expected the keys of bgproxy")
        ) from None
    except ValueError as error:  # tomllib lets some plain ones through, like a number of 5000 digits
        message = str(error)
    match = _AT.search(message)
    line, column = (match[1], match[2]) if match and match[1] else Positions(text).at(len(text.rstrip()))
    what = _AT.sub("", message)
    if what.startswith("Cannot overwrite a value") or "twice" in what:
        what = f"{what}: the same key or table is there twice"
    raise ConfigError(
        one_line(f"{path}:{line}:{column}: this is not valid TOML: {what[:1].lower()}{what[1:]}")
    ) from None


# --- environment and flags ------------------------------------------------------------------------------------------


def from_flags(flags: Flags) -> Iterator[Setting]:
    for name, path in _FLAG_PATHS.items():
        value = getattr(flags, name)
        if value is None or value == ():
            continue
        if isinstance(value, tuple):
            value = list(value)
        elif isinstance(value, str | FilePath):
            value = from_text(_node(path), str(value))
        yield Setting(path, value, f"--{name.replace('_', '-')}")


def from_env(env: Mapping[str, str]) -> Iterator[Setting | str]:
    """Settings of BGPROXY_SECTION__KEY variables; a variable that names no key is a str, the problem.

    Variables without a double underscore are left alone: BGPROXY_ADMIN belongs to the client commands, and a service
    called bgproxy in Kubernetes puts BGPROXY_PORT and a dozen more into every container.
    """
    known = {_variable(path): path for path, _ in keys()}
    single = {name.replace("__", "_"): name for name in known if "__" in name}
    for name in sorted(name for name in env if name.startswith(PREFIX)):
        if "__" in name and name in known:
            try:
                yield Setting(known[name], from_text(_node(known[name]), env[name]), name)
            except Wrong as error:
                yield f"{name}: {sentence(error)}"
        elif "__" in name:
            yield _unknown_variable(name, list(known))
        elif name in single:
            yield f"{name}: names no key; expected two underscores before the key; did you mean {single[name]}?"


def _variable(path: Path) -> str:
    return PREFIX + "__".join(map(str, path)).upper()


def _unknown_variable(name: str, known: list[str]) -> str:
    inside = [other for other in known if other.startswith(f"{name}__")]
    close = inside[:1] or difflib.get_close_matches(name.upper(), known, 1)
    what = "names a section" if inside else "names no key of the configuration"
    return f"{name}: {what}; expected BGPROXY_SECTION__KEY" + (f"; did you mean {close[0]}?" if close else "")


def _node(path: Path) -> Node:
    node: Node = ROOT
    for name in path:
        assert isinstance(node, Section)
        node = node.keys[str(name)]
    return node


def from_text(node: Node, text: str) -> object:
    """The TOML value that a text stands for: lists are comma-separated or JSON, tables are JSON. Wrong: broken JSON."""
    stripped = text.strip()
    if isinstance(node, Kind):
        return node.from_text(text)
    if isinstance(node, Section):
        return text
    if isinstance(node, ListOf) and not stripped.startswith("["):
        return [from_text(node.item, part.strip()) for part in stripped.split(",")] if stripped else []
    if isinstance(node, MapOf) and not stripped:
        return {}
    if isinstance(node, TextOrTable) and not stripped.startswith("{"):
        return text
    try:
        return msgspec.json.decode(stripped)
    except (ValueError, RecursionError):
        kind = "a list in JSON or separated by commas" if isinstance(node, ListOf) else "a table in JSON"
        raise Wrong("is not valid JSON", expected=kind) from None


def overlay(tree: dict[str, Any], settings: list[Setting]) -> dict[str, Any]:
    """The tree with the settings laid over it, later ones over earlier ones. The given tree stays as it is."""
    result = dict(tree)
    for path, value, _ in settings:
        *sections, last = map(str, path)
        table: Any = result
        for section in sections:
            inner = table.get(section, {})
            if not isinstance(inner, dict):
                break  # `server = 1` is an error of the file, reported there
            table[section] = table = dict(inner)
        else:
            table[last] = value
    return result


def place(path: Path, document: Document, origins: Mapping[Path, str]) -> tuple[tuple[int, int, int], str]:
    """Where a path was set, and what sorts it among other problems: the file by lines, then variables and flags."""
    for length in range(len(path), 0, -1):
        if path[:length] in origins:
            items = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path[length:])
            origin = origins[path[:length]]
            return (2 if origin.startswith("--") else 1, 0, 0), origin + items
    if not document.name:
        return (0, 0, 0), label(path)
    line, column = document.positions.of(path)
    return (0, line, column), f"{document.name}:{line}:{column}: {label(path)}"
