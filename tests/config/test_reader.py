from __future__ import annotations

import msgspec
import pytest

from bgproxy.config.kinds import text, whole_number
from bgproxy.config.nodes import ListOf, MapOf, Node, Section, TextOrTable
from bgproxy.config.problems import Problems, Wrong
from bgproxy.config.reader import BAD, Reader


class Point(msgspec.Struct, frozen=True):
    x: int
    y: int = 7


POINT = Section(Point, {"x": whole_number(0, 9), "y": whole_number(0, 9)})
WORD = text("a word", "[a-z]+")


def read(node: Node, value: object, values: dict[str, str] | None = None) -> tuple[object, list[str]]:
    def expand(_: object, written: str) -> str:
        for name, held in (values or {}).items():
            written = written.replace(name, held)
        if "NOPE" in written:
            raise Wrong("NOPE is not set")
        return written

    problems = Problems(lambda path: ((0, 0, 0), ".".join(map(str, path))))
    return Reader(problems, expand).read(node, value, ()), problems.texts


def test_a_section_is_read_and_what_is_not_written_keeps_its_default():
    assert read(POINT, {"x": 1}) == (Point(1, 7), [])


def test_every_bad_key_is_noted_and_a_good_one_still_counts():
    assert read(POINT, {"x": 1, "y": 10, "z": 1}) == (
        Point(1, 7),
        ["is the number 10; expected a whole number from 0 to 9", "unknown key; expected one of x, y"],
    )


def test_a_required_key_that_is_missing_or_bad_spoils_the_section():
    assert read(POINT, {"y": 1}) == (BAD, ["x is missing; expected a whole number from 0 to 9"])
    assert read(POINT, {"x": 10})[0] is BAD


def test_something_else_than_a_table_is_no_section():
    assert read(POINT, [1]) == (BAD, ["is a list; expected a table"])


def test_a_list_keeps_what_is_good_and_notes_what_is_not():
    value, problems = read(ListOf(whole_number(0, 9)), [1, 10, 2])
    assert value == (1, 2)
    assert len(problems) == 1


def test_a_list_has_a_length_and_an_element_is_no_list():
    assert read(ListOf(WORD, at_least=1), []) == (BAD, ["is empty; expected 1 to 1000 items"])
    assert read(ListOf(WORD, at_most=1), ["a", "b"]) == (BAD, ["has 2 items; expected 0 to 1 items"])
    assert read(ListOf(WORD), "a") == (BAD, ["""is the text 'a'; expected a list; did you mean ["a"]?"""])
    assert read(ListOf(WORD), 5) == (BAD, ["is the number 5; expected a list"])


def test_what_is_there_twice_is_noted_unless_it_has_no_identity():
    node = ListOf(WORD, identity=lambda word: None if word == "free" else word)
    assert read(node, ["a", "b", "a", "free", "free", "A", "A"])[1] == [
        "is the text 'A'; expected a word",
        "is the text 'A'; expected a word",
        "is the same as item 0; expected each only once",
    ]


def test_a_map_judges_names_and_values():
    node = MapOf(dict, key=WORD, item=whole_number(0, 9))
    assert read(node, {"a": 1, "B": 2, "c": 10})[0] == {"a": 1}
    assert len(read(node, {"B": 10})[1]) == 2
    assert read(node, "x") == (BAD, ["is the text 'x'; expected a table"])


def test_the_short_form_and_the_long_form_read_the_same():
    node = TextOrTable(whole_number(0, 9), Point, POINT)
    assert read(node, 3)[0] == read(node, {"x": 3})[0] == Point(3)
    assert read(node, 10)[0] is BAD


def test_a_reference_is_read_as_the_value_it_stands_for():
    assert read(whole_number(0, 9), "${N}", {"${N}": "3"}) == (3, [])
    assert read(ListOf(WORD), "${L}", {"${L}": "a,b"}) == (("a", "b"), [])
    assert read(TextOrTable(WORD, str.upper, POINT), "${W}", {"${W}": "w"}) == ("W", [])
    assert read(text("anything", ".*"), "${W}", {"${W}": "${X}", "${X}": "!"}) == ("!", [])


def test_what_a_reference_held_is_named_where_it_came_from():
    assert read(WORD, "${W}", {"${W}": "5"}) == (BAD, ["'${W}': is the text '5'; expected a word"])
    assert read(WORD, "${NOPE}") == (BAD, ["NOPE is not set"])
    assert read(MapOf(dict, WORD, WORD), "${M}", {"${M}": "x"}) == (
        BAD,
        ["is not valid JSON; expected a table in JSON"],
    )


@pytest.mark.parametrize("node", [WORD, ListOf(WORD)])
def test_what_a_file_held_is_never_quoted(node):
    value, problems = read(node, "${file:secret}", {"${file:secret}": "S3CRET"})
    assert value is BAD
    assert "S3CRET" not in problems[0]
    assert problems[0].startswith("'${file:secret}': what the file holds is not acceptable")


def test_text_that_the_expander_leaves_alone_is_read_as_it_is():
    assert read(text("anything", ".*"), "a ${b}") == ("a ${b}", [])


def test_an_unknown_key_is_suggested_from_its_section_or_from_another():
    class Outer(msgspec.Struct):
        point: Point = Point(0)

    outer = Section(Outer, {"point": POINT})
    assert read(outer, {"piont": {}})[1] == ["unknown section; did you mean 'point'?"]
    assert read(outer, {"retries": 1})[1] == ["unknown key; did you mean [upstream] retries?"]
    assert read(outer, {"point_": 1})[1] == ["unknown key; expected one of point"]
    assert read(outer, {"qqq": {}})[1] == ["unknown section; expected one of point"]
