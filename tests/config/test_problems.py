from __future__ import annotations

import pytest

from bgproxy.config.problems import Problems, Wrong, sentence
from bgproxy.errors import ConfigError


def problems() -> Problems:
    return Problems(lambda path: ((0, int(path[0]), 1), f"f:{path[0]}:1"))


def test_a_sentence_says_what_is_wrong_what_was_expected_and_what_was_meant():
    assert sentence(Wrong("is 5", suggestion='"6"'), "six") == 'is 5; expected six; did you mean "6"?'
    assert sentence(Wrong("is 5", expected="seven"), "six") == "is 5; expected seven"
    assert sentence(Wrong("is 5")) == "is 5"


def test_a_plain_error_that_says_what_it_expected_is_left_alone():
    assert sentence(ValueError("x; expected y"), "z") == "x; expected y"
    assert sentence(ValueError("x"), "z") == "x; expected z"
    assert sentence(ValueError("x")) == "x"


def test_all_problems_are_raised_at_once_in_the_order_of_the_file():
    found = problems()
    found.add_line("VARIABLE: no")
    found.add((9,), "late")
    found.add((2,), "early")
    with pytest.raises(ConfigError) as caught:
        found.raise_if_any("do this")
    assert str(caught.value) == "f:2:1: early\nf:9:1: late\nVARIABLE: no"
    assert caught.value.hint == "do this"
    assert found.texts == ["late", "early"]


def test_without_problems_nothing_is_raised():
    problems().raise_if_any()


def test_a_path_is_touched_by_a_problem_at_below_or_above_it():
    found = problems()
    found.add((1, "a", "b"), "bad")
    assert found.touch((1, "a"))
    assert found.touch((1, "a", "b"))
    assert found.touch((1, "a", "b", "c"))
    assert not found.touch((1, "a", "c"), (2,))


def test_a_problem_is_one_printable_line_of_bounded_length():
    found = problems()
    found.add((1,), "a\nb\x1b[31m" + "x" * 1000)
    with pytest.raises(ConfigError) as caught:
        found.raise_if_any()
    text = str(caught.value)
    assert "a\\nb\\x1b[31m" in text
    assert len(text) == 400
