"""Methods and targets with rules of their own: TRACE, CONNECT, OPTIONS, Max-Forwards, the absolute form."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.plane import settings
from tests.support.raw_http import request, response
from tests.support.raw_upstream import answering

if TYPE_CHECKING:
    from tests.support.plane import Plane


def raw(line: str, *fields: str, host: str = "app.example") -> bytes:
    return "\r\n".join((line, f"Host: {host}", *fields)).encode("latin-1") + b"\r\n\r\n"


# --- TRACE, CONNECT, OPTIONS ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more", [(), ("Max-Forwards: 0",), ("Max-Forwards: 1", "Cookie: secret"), ("Content-Length: 5",)]
)
def test_trace_is_refused_and_nothing_is_echoed(plane: Plane, more: tuple[str, ...]) -> None:
    client = plane.client()
    client.send(raw("TRACE / HTTP/1.1", *more) + b"12345")
    answer = client.answer()
    assert (answer.status, answer.one("Allow")) == (405, "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
    assert b"secret" not in answer.raw
    assert client.is_ended()
    assert (plane.blue.requests, plane.rejected("unsupported")) == ([], 1)


@pytest.mark.parametrize("target", ["app.example:80", "/", "http://app.example/", "*"])
def test_connect_opens_no_tunnel(plane: Plane, target: str) -> None:
    client = plane.client()
    client.send(raw(f"CONNECT {target} HTTP/1.1") + request())
    assert client.answer().status == 501
    assert client.is_ended(), "what followed was taken as a request"
    assert plane.blue.requests == []


@pytest.mark.parametrize(
    ("target", "sent"), [("*", "*"), ("http://app.example", "*"), ("http://app.example/", "/"), ("/a?b", "/a?b")]
)
def test_options_are_asked_of_the_upstream(plane: Plane, target: str, sent: str) -> None:
    plane.blue.script = answering(response(200, b"", "Allow: GET, PURGE"))
    answer = plane.client().ask("OPTIONS", target)
    assert (answer.status, answer.one("Allow")) == (200, "GET, PURGE")
    assert plane.blue.requests[0].first == f"OPTIONS {sent} HTTP/1.1"


@pytest.mark.says("OPTIONS with `Max-Forwards: 0` is answered here")
@pytest.mark.says("`Max-Forwards` of OPTIONS, one less")
def test_with_max_forwards_of_zero_we_answer_and_with_more_one_less_is_left(plane: Plane) -> None:
    client = plane.client()
    assert client.ask("OPTIONS", "*", "Max-Forwards: 2").body == b"hello"
    assert client.ask("OPTIONS", "/", "Origin: a", "max-forwards:1").body == b"hello"
    assert [asked.all("Max-Forwards") for asked in plane.blue.requests] == [["1"], ["0"]]
    answer = client.ask("OPTIONS", "*", "Max-Forwards: 0")
    assert (answer.status, answer.one("X-BG-Reason")) == (200, "max_forwards")
    assert answer.one("Allow") == "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
    assert client.is_ended()
    assert (len(plane.blue.requests), plane.rejected("max_forwards")) == (2, 1)


@pytest.mark.says("OPTIONS whose Max-Forwards is not one number")
@pytest.mark.says("With any other method it is a field like any other")
@pytest.mark.parametrize("value", ["-1", "1, 0", "", "x", "0x0"])
def test_a_max_forwards_that_is_no_number_is_refused_for_options_and_ignored_for_others(
    plane: Plane, value: str
) -> None:
    client = plane.client()
    assert client.ask("GET", "/", f"Max-Forwards: {value}").status == 200
    assert client.ask("POST", "/", "Max-Forwards: 0", body=b"x").status == 200
    assert [asked.one("Max-Forwards") for asked in plane.blue.requests] == [value, "0"]
    assert client.ask("OPTIONS", "/", f"Max-Forwards: {value}").status == 400
    assert len(plane.blue.requests) == 2


# --- the absolute form ------------------------------------------------------------------------------------------------


@pytest.mark.says("The authority of an absolute target, port included")
@pytest.mark.parametrize(
    ("target", "sent", "host"),
    [
        ("http://b.example", "/", "b.example"),
        ("http://b.example?q", "/?q", "b.example"),
        ("hTTp://B.Example:8080/%7Ea/../b//c;d?e=%2F", "/%7Ea/../b//c;d?e=%2F", "B.Example:8080"),
        ("http://[2001:DB8::1]:80/", "/", "[2001:DB8::1]:80"),
        ("http://b.example//evil.example/", "//evil.example/", "b.example"),
    ],
)
def test_the_authority_replaces_host_everywhere_and_the_rest_passes_byte_for_byte(
    plane: Plane, target: str, sent: str, host: str
) -> None:
    client = plane.client()
    for method in ("GET", "GET", "POST"):
        client.send(raw(f"{method} {target} HTTP/1.1", "Content-Length: 0", host="other.example"))
        assert client.answer().status == 200
    for asked in plane.blue.requests:
        assert asked.target == sent
        assert (asked.one("Host"), asked.one("X-Forwarded-Host")) == (host, host)
        assert b"other.example" not in asked.raw


@pytest.mark.parametrize(
    "target",
    [
        *("http://u@b.example/", "http://u:p@b.example/", "http://b.example@/", "http:///x", "http://", "http://:80/"),
        *("ftp://b.example/", "ws://b.example/", "file:///etc/passwd", "http:/x", "http:x", "/b.example#x"),
        *("b.example:80", "b.example", "http://b.example:x/", "http://b.example\\@c/", "http://b.example#x", "*"),
        *("http://b.example,c/ d", "?x", "http://[::1", "http://b%00c:99999999/"),
    ],
)
def test_any_other_target_is_refused_before_an_upstream_is_asked(plane: Plane, target: str) -> None:
    client = plane.client()
    client.send(raw(f"GET {target} HTTP/1.1") + request())
    assert client.answer().status == 400
    assert client.is_ended()
    assert plane.blue.requests == []


@pytest.mark.parametrize("host", ["", "a b", "u@a", "a/b", "a:b", "a#b", "a?b"])
def test_an_absolute_target_does_not_excuse_an_invalid_host(plane: Plane, host: str) -> None:
    client = plane.client()
    client.send(raw("GET http://b.example/ HTTP/1.1", host=host))
    assert client.answer().status == 400
    assert plane.blue.requests == []


@pytest.mark.says("an absolute `https://` target without TLS")
@pytest.mark.says("`https://` in an absolute target")
def test_an_https_target_without_tls_is_misdirected_unless_a_trusted_proxy_had_tls(plane: Plane) -> None:
    for head in (raw("GET HTTPS://app.example/ HTTP/1.1"), raw("OPTIONS https://app.example HTTP/1.1")):
        client = plane.client()
        client.send(head + request())
        answer = client.answer()
        assert (answer.status, answer.one("X-BG-Reason")) == (421, "misdirected")
        assert client.is_ended()
    assert (plane.blue.requests, plane.rejected("misdirected")) == ([], 2)
    plane.configure(settings(trusted_proxies=("127.0.0.1/32",)))
    client = plane.client()
    client.send(raw("GET https://app.example/a HTTP/1.1", "X-Forwarded-Proto: https"))
    assert client.answer().status == 200
    (asked,) = plane.blue.requests
    assert (asked.first, asked.one("X-Forwarded-Proto")) == ("GET /a HTTP/1.1", "https")
