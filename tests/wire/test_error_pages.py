from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from bgproxy.core.error_pages import KINDS, PLACEHOLDERS, STATUSES
from bgproxy.wire.error_pages import BUILT_IN, ErrorPages, words

VALUES = dict.fromkeys(PLACEHOLDERS, "-") | {"status": "502"}


class Outline(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: dict[str, str] = {}
        self.feed(page)
        self.close()
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.text[self.open[-1]] = self.text.get(self.open[-1], "") + data


def test_the_built_in_page_is_readable_for_everybody_and_needs_nothing_from_elsewhere():
    template, _ = ErrorPages().page("html", 502)
    page = template.fill(VALUES | {"phrase": "Bad Gateway", "sentence": "So it is.", "advice": "Wait."}).decode()
    outline = Outline(page)
    attributes = {name: value for _, given in outline.tags for name, value in given.items()}
    assert page.startswith("<!doctype html>\n")
    assert outline.tags[0] == ("html", {"lang": "en"})
    assert [tag for tag, _ in outline.tags].count("h1") == 1
    assert outline.text["title"] == outline.text["h1"] == "502 Bad Gateway"
    assert "So it is." in outline.text["p"]
    assert "Wait." in outline.text["p"]
    assert "width=device-width" in (attributes["content"] or "")
    assert "color-scheme:light dark" in outline.text["style"]
    assert "prefers-color-scheme:dark" in outline.text["style"]
    assert not {"src", "href", "style", "onclick"} & set(attributes)
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in outline.tags}
    assert "url(" not in page
    assert "//" not in page


def luminance(colour: str) -> float:
    if len(colour) == 3:
        colour = "".join(digit * 2 for digit in colour)
    parts = [int(colour[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_text_stands_out_in_light_and_in_dark():
    schemes = re.findall(r"--ink:#(\w+);--soft:#(\w+);--paper:#(\w+)", BUILT_IN["html"])
    assert len(schemes) == 2
    for ink, soft, paper in schemes:
        for colour in (ink, soft):
            brighter, darker = sorted((luminance(colour), luminance(paper)), reverse=True)
            assert (brighter + 0.05) / (darker + 0.05) >= 4.5, "WCAG 2.2 AA"


@pytest.mark.says("Every form is `no-store`")
def test_only_the_style_of_the_built_in_page_may_do_anything():
    _, policy = ErrorPages().page("html", 502)
    style = re.findall(r"<style>(.*?)</style>", BUILT_IN["html"], re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style[0].encode()).digest()).decode()
    assert policy.decode() == (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


@pytest.mark.says("A page may hold style sheets")
def test_own_pages_may_bring_style_and_pictures_and_still_fetch_nothing():
    _, policy = ErrorPages({"error.html": "x"}).page("html", 502)
    assert policy.startswith(b"default-src 'none'; style-src 'unsafe-inline'; img-src data:; ")
    assert b"script" not in policy
    assert b"http" not in policy


@pytest.mark.parametrize("kind", ["json", "txt"])
def test_what_is_no_page_may_do_nothing(kind):
    for pages in (ErrorPages(), ErrorPages({f"error.{kind}": '{"a": 1}'})):
        assert pages.page(kind, 502)[1].startswith(b"default-src 'none'; base-uri 'none';")


def test_the_built_in_problem_has_the_members_that_those_of_the_admin_api_have():
    template, _ = ErrorPages().page("json", 502)
    assert set(json.loads(template.fill(VALUES))) == {
        *("type", "title", "status", "code", "detail", "hint", "request_id")
    }


@pytest.mark.says("`502.html`")
@pytest.mark.says("`4xx.html`")
@pytest.mark.says("`error.html`")
@pytest.mark.says("the same with `.json`")
def test_of_own_pages_the_most_specific_wins_and_the_rest_is_built_in():
    own = {"502.html": "exact", "5xx.html": "class", "error.html": "any", "4xx.txt": "text"}
    pages = ErrorPages(own)

    def said(kind: str, status: int) -> str:
        return pages.page(kind, status)[0].fill(VALUES).decode()

    assert [said("html", status) for status in (502, 504, 400)] == ["exact", "class", "any"]
    assert said("txt", 413) == "text"
    assert said("txt", 502) == ErrorPages().page("txt", 502)[0].fill(VALUES).decode()
    assert said("json", 502).startswith('{"type": "about:blank"')


def test_pages_that_cannot_be_used_are_not_taken():
    with pytest.raises(ValueError, match="unknown placeholder"):
        ErrorPages({"error.html": "{{x}}"})
    with pytest.raises(ValueError, match="no answer would ever use it"):
        ErrorPages({"x.html": "x"})


@pytest.mark.parametrize("status", [*STATUSES, 418, 599])
def test_every_status_has_a_sentence_and_something_to_do(status):
    sentence, advice = words(status)
    for text in (sentence, advice):
        assert text.endswith(".")
        assert text.isascii()
    assert (words(418), words(599)) == (words(400), words(502))


def test_there_is_a_page_of_every_kind():
    assert set(BUILT_IN) == set(KINDS)
