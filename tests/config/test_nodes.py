from __future__ import annotations

from bgproxy.config.kinds import Kind
from bgproxy.config.nodes import ListOf, MapOf, Node, Section, TextOrTable
from bgproxy.config.schema import ROOT


def leaves(node: Node) -> list[Kind]:
    match node:
        case Section():
            return [leaf for inner in node.keys.values() for leaf in leaves(inner)]
        case ListOf():
            return leaves(node.item)
        case MapOf():
            return [node.key, node.item]
        case TextOrTable():
            return [node.short, *leaves(node.table)]
        case Kind():
            return [node]


def test_the_schema_ends_in_kinds_that_say_what_they_expect():
    kinds = leaves(ROOT)
    assert len(kinds) > 50
    assert all(kind.expected and not kind.expected.endswith(".") for kind in kinds)
