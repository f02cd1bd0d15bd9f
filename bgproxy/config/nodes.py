"""What the schema is made of: sections, lists, maps, and kinds of single values at the leaves."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeAlias

import msgspec

from bgproxy.config.kinds import Kind


class Section(msgspec.Struct, frozen=True):
    """A table with fixed keys, read into `make`; what is not written keeps the default of `make`."""

    make: Any
    keys: dict[str, Node]


class ListOf(msgspec.Struct, frozen=True):
    """A list; `identity` names what must not be there twice (None equals nothing)."""

    item: Node
    at_least: int = 0
    at_most: int = 1000
    identity: Callable[[Any], Hashable] | None = None


class MapOf(msgspec.Struct, frozen=True):
    """A table with free keys, read into `make`."""

    make: Any
    key: Kind
    item: Kind


class TextOrTable(msgspec.Struct, frozen=True):
    """The short form and the long form of the same thing; `from_short` makes the long one."""

    short: Kind
    from_short: Callable[[Any], Any]
    table: Section


Node: TypeAlias = Kind | Section | ListOf | MapOf | TextOrTable
