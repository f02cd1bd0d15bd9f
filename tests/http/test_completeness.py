"""Every sentence of docs/http.md is shown by a test, and every test names a sentence that is there."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Advice and figures: no test can show them, and each must still be there.
NOTHING_TO_SHOW = (
    "Trust a proxy only if it sets or removes each of these fields itself",
    "Many load balancers set `X-Forwarded-For`",
    "The permissions of the socket's directory",
    "Behind a TCP load balancer",
    "A handshake costs a worker about a millisecond",
    "Sessions are not resumed",
)
PAGE = (ROOT / "docs" / "http.md").read_text()


def sentences(page: str) -> list[str]:
    """The first cell of each table row, and each sentence of bullets and paragraphs, as they are written."""
    text = page.partition("\n## Clients that were run through it")[0]
    rows = re.findall(r"^\| (.+?) \|(?!.*\n\|---)", text, re.MULTILINE)
    rest = re.sub(r"^(#|\|).*\n", "\n", text.partition("\n## What we chose")[0], flags=re.MULTILINE)
    found = list(rows)
    for block in re.split(r"\n\n+|^- ", rest, flags=re.MULTILINE):
        found += re.split(r"(?<=[.)]) (?=[A-Z`])(?<!9112 )", " ".join(block.split()))
    return [sentence for sentence in found if sentence]


@functools.cache
def named() -> dict[str, str]:
    """What `pytest.mark.says` names: sentence → one of the places."""
    places = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        source = path.read_text()
        for node in ast.walk(ast.parse(source)) if "mark.says(" in source else ():
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "says":
                (said,) = (argument.value for argument in node.args if isinstance(argument, ast.Constant))
                places[str(said)] = f"{path.relative_to(ROOT)}:{node.lineno}"
    return places


def without_test(page: str, said: dict[str, str]) -> list[str]:
    known = (*said, *NOTHING_TO_SHOW)
    return [sentence for sentence in sentences(page) if not sentence.startswith(known)]


def test_every_sentence_has_its_test() -> None:
    assert without_test(PAGE, named()) == []


def test_every_test_names_the_beginning_of_one_sentence() -> None:
    there = sentences(PAGE)
    said = named() | dict.fromkeys(NOTHING_TO_SHOW, "here")
    wrong = {each: place for each, place in said.items() if sum(one.startswith(each) for one in there) != 1}
    assert wrong == {}


@pytest.mark.parametrize(
    ("page", "found"),
    [
        ("| what | answer |\n|---|---|\n| an `x` | 400 |\n", ["an `x`"]),
        ("# H\n\nOne. Two\nlines (RFC 1 2.2). Three.\n", ["One.", "Two lines (RFC 1 2.2).", "Three."]),
        ("## H\n\n- One: a;\n  b. Two.\n- Three.\n\nFour.\n", ["One: a; b.", "Two.", "Three.", "Four."]),
        ("One.\n\n## Clients that were run through it\n\nTwo.\n", ["One."]),
    ],
)
def test_sentences_are_found(page: str, found: list[str]) -> None:
    assert sentences(page) == found
    assert without_test(page, {found[0][:-1]: "here"}) == found[1:]
