from __future__ import annotations

import datetime

import pytest

from bgproxy.config import kinds
from bgproxy.config.problems import Wrong
from bgproxy.core.model import GREEN


def refusal(kind: kinds.Kind, value: object) -> tuple[str, str]:
    with pytest.raises(Wrong) as caught:
        kind.read(value)
    return caught.value.wrong, caught.value.suggestion


def test_a_whole_number_keeps_to_its_range():
    kind = kinds.whole_number(1, 10)
    assert kind.read(1) == 1
    assert kind.read(10) == 10
    assert refusal(kind, 0) == ("is the number 0", "")
    assert refusal(kind, 11)[0] == "is the number 11"
    assert refusal(kind, 10**5000)[0] == "is a number far out of range"
    assert refusal(kind, True)[0] == "is true"
    assert refusal(kind, "3")[0] == "is the text '3'"


def test_a_few_numbers_mean_something_of_their_own():
    kind = kinds.number_of(1012, 1001)
    assert (kind.read(1001), kind.expected) == (1001, "1012 or 1001")
    assert kinds.number_of(7).expected == "7"
    assert refusal(kind, 1000) == ("is the number 1000", "")
    assert refusal(kind, "1012")[0] == "is the text '1012'"


def test_a_share_is_a_number_and_not_nan():
    kind = kinds.share(0.5)
    assert kind.read(0.5) == 0.5
    assert kind.read(0) == 0.0
    for bad in (0.6, -0.1, float("nan"), float("inf")):
        refusal(kind, bad)


def test_a_word_may_stand_for_a_number():
    kind = kinds.number_or("auto", 1, 8, lambda: 4)
    assert (kind.read("auto"), kind.read(2)) == (4, 2)
    assert refusal(kind, "auot") == ("is the text 'auot'", '"auto"')
    assert refusal(kind, 0)[0] == "is the number 0"


def test_a_choice_suggests_the_nearest_name():
    kind = kinds.choice("debug", "info", gone={"trace": "which is gone"})
    assert kind.read("info") == "info"
    assert kind.expected == '"debug" or "info"'
    assert refusal(kind, "Infos") == ("is the text 'Infos'", '"info"')
    assert refusal(kind, "quiet") == ("is the text 'quiet'", "")
    assert refusal(kind, "trace")[0] == "is the text 'trace', which is gone"
    assert kinds.choice("only").expected == '"only"'


def test_a_colour_is_named():
    assert kinds.colour().read("green") is GREEN
    assert refusal(kinds.colour(), "gren") == ("is the text 'gren'", '"green"')


def test_a_bare_number_gets_its_unit_suggested():
    assert refusal(kinds.duration(), 30) == ("is the number 30 without a unit", '"30s"')
    assert refusal(kinds.duration(), 0.5) == ("is the number 0.5 without a unit", '"500ms"')
    assert refusal(kinds.size("0", "1GiB"), 65536) == ("is the number 65536 without a unit", '"64KiB"')
    assert refusal(kinds.duration(), -5) == ("is the number -5", "")


def test_durations_and_sizes_keep_to_their_range():
    assert kinds.duration("1s", "1m").read("60s") == 60
    assert refusal(kinds.duration("1s", "1m"), "61s")[0] == "'61s' is out of range"
    assert kinds.size("1KiB", "1MiB").read("1KiB") == 1024
    assert refusal(kinds.size("1KiB", "1MiB"), "1B")[0] == "'1B' is out of range"


def test_a_secret_is_never_quoted():
    kind = kinds.text("hexadecimal digits", "[0-9a-f]+", secret=True)
    assert kind.read("ab") == "ab"
    assert refusal(kind, "hunter2") == ("is not acceptable", "")
    assert refusal(kind, 12345) == ("is not acceptable", "")


def test_statuses_are_single_or_ranges():
    kind = kinds.status_range()
    assert [kind.read(value) for value in ("200-299", "204", 404)] == [(200, 299), (204, 204), (404, 404)]
    for bad in ("299-200", "99", "600", "2xx", "200-", 42):
        refusal(kind, bad)


@pytest.mark.parametrize(
    ("text", "value"),
    [("5", 5), (" 5 ", 5), ("-5", -5), ("0.5", 0.5), ("true", True), ("false", False), ("auto", "auto"), ("٣", "٣")],
)
def test_text_becomes_a_number_only_where_numbers_are_taken(text, value):
    assert kinds.whole_number(1, 2).from_text(text) == value
    assert kinds.duration().from_text(text) == text


def test_every_kind_of_value_has_a_short_description():
    values = [True, 3, "x", {}, [], datetime.date(2020, 1, 1)]
    assert [kinds.describe(v) for v in values] == [
        "true",
        "the number 3",
        "the text 'x'",
        "a table",
        "a list",
        "a date or time",
    ]
    assert len(kinds.describe("x" * 10**6)) < 100


def test_the_version_is_one():
    assert kinds.number_of_version(1).read(1) == 1
    refusal(kinds.number_of_version(1), 2)
