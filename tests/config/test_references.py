from __future__ import annotations

import pytest

from bgproxy.config.problems import Wrong, sentence
from bgproxy.config.references import expand, has_reference, read_bytes, reads_a_file


def test_a_variable_is_replaced_and_an_escape_stays_literal(tmp_path):
    env = {"HOST": "app", "PORT": "80"}
    assert expand("${HOST}:${PORT}", env, tmp_path) == "app:80"
    assert expand("$${HOST} $HOST $", env, tmp_path) == "${HOST} $HOST $"
    assert expand("${EMPTY}", {"EMPTY": ""}, tmp_path) == ""


def test_what_a_variable_holds_is_not_expanded_again(tmp_path):
    assert expand("${A}", {"A": "${B}", "B": "x"}, tmp_path) == "${B}"


def test_a_file_is_read_without_the_line_break_at_its_end(tmp_path):
    (tmp_path / "secret").write_text("s3cret\r\n")
    assert expand("Bearer ${file:secret}", {}, tmp_path) == "Bearer s3cret"
    assert expand(f"${{file:{tmp_path}/secret}}", {}, tmp_path / "elsewhere") == "s3cret"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${NOPE}", "the environment variable NOPE is not set"),
        ("${open", "has no '}'"),
        ("${a b}", "is not a reference"),
        ("${}", "is not a reference"),
        ("${file:}", "the path is missing"),
        ("${file:none}", "there is no such file"),
        ("${file:.}", "this is a directory"),
        ("${file:binary}", "the file is not UTF-8"),
        ("${file:huge}", "the file is larger than 65536 bytes"),
        ("${file:a\0b}", "null byte"),
    ],
)
def test_a_reference_that_leads_nowhere_says_so(tmp_path, text, message):
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "huge").write_bytes(b"x" * 70_000)
    with pytest.raises(Wrong) as caught:
        expand(text, {}, tmp_path)
    assert message in sentence(caught.value)
    assert "expected" in sentence(caught.value)


def test_references_are_recognised():
    assert has_reference("a ${B}")
    assert not has_reference("a $B")
    assert reads_a_file("${file:x}")
    assert not reads_a_file("${FILE}")


def test_a_file_that_may_not_be_read_is_named_for_that(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(ValueError, match="this user may not read the file"):
        read_bytes(tmp_path / "x", 10)


def test_any_other_error_of_the_disk_is_passed_on_in_words(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("pathlib.Path.open", fail)
    with pytest.raises(ValueError, match=r"cannot be read \(Input/output error\)"):
        read_bytes(tmp_path / "x", 10)
