from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgproxy.core.error_pages import KINDS
from bgproxy.wire.accept import LIMIT, accept_of, preferred
from tests.support.heads import request

CHROMIUM = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8"
FIREFOX = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.mark.says("The form follows `Accept`")
@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "txt"),
        ("*/*", "txt"),  # curl, wget, fetch() without more
        (CHROMIUM, "html"),
        (FIREFOX, "html"),
        ("image/avif,image/webp,*/*", "txt"),  # an <img>
        ("application/json", "json"),
        ("application/problem+json", "json"),
        ("application/*", "json"),
        ("application/json, text/plain, */*", "json"),  # axios
        ("application/json, text/javascript, */*; q=0.01", "json"),  # jQuery
        ("text/plain", "txt"),
        ("text/*", "txt"),
        ("text/html", "html"),
        ("TEXT/HTML", "html"),
        ("text/html;charset=utf-8", "html"),
        ("text/event-stream", "txt"),
        ("application/vnd.api+json", "txt"),
    ],
)
def test_clients_get_what_they_read(accept, kind):
    assert preferred(accept.encode()) == kind


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("text/html;q=0.5, application/json;q=0.6", "json"),
        ("text/html;q=0.6, application/json;q=0.5", "html"),
        ("text/html ; q=0.5 , */* ; q=0.8", "txt"),  # the more specific range is what counts for HTML
        ("text/*;q=0.9, text/plain;q=0.1, */*;q=0.2", "html"),
        ("*/*;q=0.1, text/*;q=0.2", "txt"),
        ("application/json;q=0.9, application/problem+json;q=0.1, text/html;q=0.5", "html"),
        ("application/problem+json;q=0, application/json", "txt"),
        ("text/plain;q=0, */*", "html"),
        ("text/plain;q=0, text/html;q=0, */*;q=0.001", "json"),
        ("*/*;q=0", "txt"),  # nothing is acceptable: an error in a wrong form says more than none
        ("text/html;Q=0.3, application/json;q=0.2", "html"),
        ("text/html;q=0.2, text/html;q=0.9, application/json;q=0.5", "html"),
        ("text/html;q=0.9, text/html;q=0.2, application/json;q=0.5", "html"),
        ("text/html;q=1.000, application/json;q=0.999", "html"),
        ("text/html;q=0., application/json;q=0.001", "json"),
    ],
)
def test_weights_and_precision_decide_as_rfc_9110_says(accept, kind):
    assert preferred(accept.encode()) == kind


@pytest.mark.says("Equal weights")
@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("application/json, text/html", "json"),
        ("text/html, application/json", "html"),
        ("text/plain, text/html", "txt"),
        ("*/*, text/html", "html"),
        ("application/*, text/html", "html"),
        ("text/*, application/json", "json"),
    ],
)
def test_of_equals_the_one_named_more_exactly_wins_and_then_the_first(accept, kind):
    assert preferred(accept.encode()) == kind


@pytest.mark.parametrize("weight", ["2", "1.1", "1.0001", "0.1234", "-0", "", "a", "0,5", "nan", "inf", "1e-9", "٠"])
def test_a_weight_that_is_none_takes_its_range_out(weight):
    assert preferred(f"text/html;q={weight}, application/json;q=0.1".encode()) == "json"


def test_a_comma_or_a_weight_inside_quotes_is_text():
    assert preferred(b'text/html;a=",application/json;q=1,";q=0.1, application/json;q=0.2') == "json"
    assert preferred(b'text/html;a="\\",application/json";q=0.5, application/json;q=0.2') == "html"
    assert preferred(b'application/json;q=0.5, text/plain;a="never closed, text/html') == "txt"


@pytest.mark.says("More than 1 KiB of `Accept`")
def test_no_more_than_a_bound_is_looked_at():
    assert preferred(b"text/html" + b" " * (LIMIT - 9)) == "html"
    assert preferred(b"text/html" + b" " * (LIMIT - 8)) == "txt"


@given(st.lists(st.sampled_from([*'";,=/ \\*q01.', "text/html", "*/*", "q=0.5", "\xff"]), max_size=200))
def test_whatever_comes_is_one_of_the_kinds(parts):
    assert preferred("".join(parts).encode("latin-1")) in KINDS


def test_accept_is_found_in_a_head_in_any_spelling_and_over_several_lines():
    head = request("GET / HTTP/1.1", "X-Accept: a/b", "ACCEPT:text/html;q=0.1", "Accept-Language: c", "accept: a/*")
    assert accept_of(head) == b"text/html;q=0.1, a/*"
    assert preferred(accept_of(head)) == "html"
    assert accept_of(request("GET / HTTP/1.1")) == b""


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"Accept: text/html\r\n",  # where a request line should be
        b"GET / HTTP/1.1\nAccept: text/html\n\n",
        b"GET / HTTP/1.1\r\nAccept : text/html\r\n\r\n",
        b"GET / HTTP/1.1\r\nAccept: text/html;q=0",  # perhaps more was to come
    ],
)
def test_in_a_broken_head_only_a_whole_line_counts(head):
    assert accept_of(head) == b""
    assert accept_of(b"GET / HTTP/1.1\r\nAccept: text/html\r\nCook") == b" text/html"
