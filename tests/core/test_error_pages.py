from __future__ import annotations

import json
from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgproxy.core import failure as failures
from bgproxy.core.error_pages import KINDS, MAX_ALL, NAMES, PLACEHOLDERS, STATUSES, Template, kind_of
from bgproxy.core.messages import MAX_LINE, Configure, encode
from bgproxy.core.model import Pool, PoolTable
from bgproxy.core.settings import WorkerSettings

VALUES = {name: name.upper() for name in PLACEHOLDERS} | {"status": "502"}


def problem_of(kind: str, text: str) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        Template(kind, text)
    return str(caught.value)


def test_placeholders_are_filled_in_wherever_they_stand():
    template = Template("txt", "{{status}}{{ phrase }}\n{{\trequest_id}} { {{reason}} }} {x}")
    assert template.fill(VALUES) == b"502PHRASE\nREQUEST_ID { REASON }} {x}"
    assert template.fill(VALUES | {"phrase": "{{status}}"}).startswith(b"502{{status}}\n"), "what is filled in is text"
    assert Template("txt", "só\n").fill(VALUES) == "só\n".encode()


@given(st.text())
def test_no_value_leaves_its_place(value):
    printable = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in value)
    values = VALUES | {"detail": value}
    page = Template("html", "<p title='{{detail}}'>{{detail}}</p>").fill(values).decode()
    escaped = page[len("<p title='") : (len(page) - len("<p title=''></p>")) // 2 + len("<p title='")]
    assert page == f"<p title='{escaped}'>{escaped}</p>"
    assert not set("<>'\"") & set(escaped)
    assert unescape(escaped.replace("&#x27;", "'")) == printable
    document = json.loads(Template("json", '{"a": "{{detail}}", "status": {{status}}}').fill(values))
    assert document == {"a": printable, "status": 502}
    assert Template("txt", "{{detail}}").fill(values).decode() == printable


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a\n\n{{upstream}}", "line 3: unknown placeholder {{upstream}}; expected one of status, phrase,"),
        ("{{request-id}}", "did you mean {{request_id}}?"),
        ("{{}}", "line 1: unknown placeholder {{}}; expected one of"),
        ("{{status}}\n{{detail\n}}", "line 2: '{{' begins no placeholder; expected {{name}} on one line"),
        ("{{" + "x" * 65 + "}}", "line 1: '{{' begins no placeholder"),
        ("{{" * 100_000, "line 1: '{{' begins no placeholder"),
        ("", "there is nothing in it"),
        (" \n\t", "there is nothing in it"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_page_that_would_not_say_what_it_should_is_refused(kind, text, said):
    assert said in problem_of(kind, text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": {{detail}}}', "line 1: not JSON once it is filled in"),
        ('{\n"a": "{{detail}}",\n}', "line 3: not JSON once it is filled in"),
        ('["{{detail}}"]', "the JSON in it is not an object"),
        ('{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_a_json_page_has_to_be_a_json_object_once_it_is_filled_in(text, said):
    problem = problem_of("json", text)
    assert said in problem
    assert 'like "detail": "{{detail}}"' in problem


def test_a_file_is_of_the_kind_that_its_name_says():
    assert [kind_of(name) for name in ("502.html", "5xx.json", "error.txt", "4xx.html")] == [
        *("html", "json", "txt", "html")
    ]


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("404.html", ""),  # an application's
        ("200.html", ""),
        ("499.txt", ""),  # only ever logged
        ("3xx.html", ""),
        ("index.html", ""),
        ("README.md", ""),
        ("502.htm", "502.html"),
        ("5XX.html", "5xx.html"),
        ("errors.json", "error.json"),
        ("502.html~", "502.html"),
    ],
)
def test_a_name_that_no_answer_would_use_is_refused(name, suggestion):
    with pytest.raises(ValueError, match="no answer would ever use it; expected 4xx, 5xx, error or") as caught:
        kind_of(name)
    found = str(caught.value).partition("did you mean ")[2]
    if suggestion:
        assert found == f"{suggestion}?"


def test_every_status_of_a_failure_can_have_a_page():
    assert {failure.status for failure in failures.ALL} - {failures.CLIENT_GONE.status} <= set(STATUSES)
    assert len(NAMES) == (len(STATUSES) + 3) * len(KINDS)


def test_as_many_pages_as_may_be_fit_into_one_message():
    pages = {"error.html": "\x01" * MAX_ALL}  # JSON needs six bytes for each of these
    empty = PoolTable(1, Pool(()), Pool(()))
    assert len(encode(Configure(WorkerSettings(error_pages=pages), empty))) < MAX_LINE - 500_000
