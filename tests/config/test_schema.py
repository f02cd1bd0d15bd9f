from __future__ import annotations

import msgspec
import pytest

from bgproxy.config.nodes import ListOf, Section, TextOrTable
from bgproxy.config.schema import ROOT, keys, label


def sections(section: Section = ROOT) -> list[Section]:
    found = [section]
    for node in section.keys.values():
        inner = node.item if isinstance(node, ListOf) else node
        inner = inner.table if isinstance(inner, TextOrTable) else inner
        if isinstance(inner, Section):
            found += sections(inner)
    return found


def test_every_key_is_a_field_of_the_struct_its_section_makes_and_vice_versa():
    for section in sections():
        fields = {field.name for field in msgspec.structs.fields(section.make)}
        # [health] passive_* is where operators look for it, the workers get it with the rest of the upstream side.
        assert fields - {"passive_failures", "passive_eject"} == set(section.keys) - {
            "passive_failures",
            "passive_eject",
        }
        assert set(section.keys) <= fields


def test_keys_lists_every_key_once():
    paths = [path for path, _ in keys()]
    assert len(paths) == len(set(paths))
    assert ("server", "timeouts", "header") in paths
    assert ("server", "timeouts") not in paths


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (("version",), "version"),
        (("server",), "[server]"),
        (("server", "timeouts", "header"), "[server.timeouts] header"),
        (("pools", "blue", "upstreams", 1, "weight"), "[pools.blue] upstreams[1].weight"),
        (("nonsense", "x"), "nonsense.x"),
        ((), ""),
    ],
)
def test_a_path_is_labelled_as_it_is_written_in_the_file(path, text):
    assert label(path) == text
