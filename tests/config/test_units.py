from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgproxy.config.problems import Wrong
from bgproxy.config.units import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("0s", 0), ("250ms", 0.25), ("30s", 30), ("1.5s", 1.5), ("1m30s", 90), ("2h", 7200), ("1d", 86400)],
)
def test_durations_are_read_as_seconds(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("512B", 512), ("64KiB", 65536), ("1.5MiB", 1572864), ("1kB", 1000), ("2GB", 2 * 10**9)],
)
def test_sizes_are_read_as_bytes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "wrong", "suggestion"),
    [
        ("30", "'30' has no unit", '"30s"'),
        ("1m30", "'1m30' has no unit", '"1m30s"'),
        ("-5s", "'-5s' is negative", ""),
        ("10 s", "'10 s' has a space in it", '"10s"'),
        ("5sec", "'5sec': 'sec' is not a unit", '"5s"'),
        ("5minutes", "'5minutes': 'minutes' is not a unit", '"5m"'),
        ("5S", "'5S': 'S' is not a unit", '"5s"'),
        ("5w", "'5w': 'w' is not a unit", ""),
        ("", "'' is not a duration", ""),
        ("soon", "'soon' is not a duration", ""),
        ("1.5.5s", "'1.5.5s' is not a duration", ""),
        ("1e3s", "'1e3s': 'e' is not a unit", ""),
        ("٣s", "'٣s' is not a duration", ""),
        ("9" * 5000 + "s", "is not a duration", ""),
    ],
)
def test_a_text_that_is_no_duration_is_refused_with_a_suggestion(text, wrong, suggestion):
    with pytest.raises(Wrong) as caught:
        parse_duration(text)
    assert wrong in caught.value.wrong
    assert caught.value.suggestion == suggestion


@pytest.mark.parametrize(
    ("text", "wrong", "suggestion"),
    [
        ("65536", "'65536' has no unit", '"64KiB"'),
        ("1.5", "'1.5' has no unit", ""),
        ("-1KiB", "'-1KiB' is negative", ""),
        ("64 KiB", "'64 KiB' has a space in it", '"64KiB"'),
        ("64kib", "'64kib': 'kib' is not a unit", '"64KiB"'),
        ("10m", "'10m': 'm' is not a unit", '"10MiB"'),
        ("10K", "'10K': 'K' is not a unit", '"10KiB"'),
        ("1.5B", "'1.5B' is not a whole number of bytes", ""),
        ("", "'' is not a size", ""),
        ("big", "'big' is not a size", ""),
    ],
)
def test_a_text_that_is_no_size_is_refused_with_a_suggestion(text, wrong, suggestion):
    with pytest.raises(Wrong) as caught:
        parse_size(text)
    assert wrong in caught.value.wrong
    assert caught.value.suggestion == suggestion


@given(st.integers(min_value=0, max_value=10**12))
def test_every_duration_of_whole_milliseconds_survives_the_round_trip(milliseconds):
    assert parse_duration(format_duration(milliseconds / 1000)) == milliseconds / 1000


@given(st.integers(min_value=0, max_value=10**17))
def test_every_size_survives_the_round_trip(size):
    assert parse_size(format_size(size)) == size


def test_the_shortest_spelling_is_chosen():
    assert [format_duration(s) for s in (0, 0.25, 1.5, 60, 90, 86400)] == ["0s", "250ms", "1500ms", "1m", "90s", "1d"]
    assert [format_size(n) for n in (0, 1, 1024, 65536, 1 << 40)] == ["0", "1B", "1KiB", "64KiB", "1TiB"]


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text):
    for parse in (parse_duration, parse_size):
        try:
            assert parse(text) >= 0
        except Wrong:
            pass
