"""What is for this hop only, and who is said to have asked. RFC 9110 section 7.6."""

from __future__ import annotations

import pytest

from bgproxy.core.settings import HeaderSettings
from tests.support.plane import Plane, settings
from tests.support.raw_http import request, response
from tests.support.raw_upstream import answering
from tests.support.through import SMUGGLED, Through


def sent_on(through: Through, *fields: str, method: str = "GET", body: bytes = b"") -> tuple[tuple[str, str], ...]:
    """The end-to-end fields of a request, as the upstream got them."""
    assert through.at_once(request(method, "/case", *fields, body=body)).answer().body == b"/case"
    (asked,) = through.requests()
    assert asked.body == body
    return asked.end_to_end


REMOVED = {
    "Connection": ["Connection: keep-alive"],
    "what it names": ["Connection: X-A", "X-A: 1"],
    "what it names, in other case": ["connection: x-A", "X-a: 1", "x-A: 2"],
    "what several lines name": ["Connection: X-A", "X-A: 1", "Connection: close, X-B", "X-B: 2"],
    "with empty members": ["Connection: , X-A ,, \t,X-B,", "X-A: 1", "X-B: 2"],
    "named before and behind": ["X-A: 0", "Connection: X-A", "X-A: 1"],
    "Keep-Alive": ["Keep-Alive: timeout=5"],
    "Proxy-Connection": ["Proxy-Connection: keep-alive"],
    "Proxy-Connection in other case": ["proxy-connection: close"],
    "TE": ["TE: gzip"],
    "TE named": ["Connection: TE", "TE: gzip"],
    "Upgrade": ["Upgrade: websocket"],
    "Upgrade to h2c": ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"],
    "HTTP2-Settings": ["HTTP2-Settings: AAMAAABk"],
    "X-BG of any kind": ["X-BG-Colour: green", "x-bg-epoch: 1", "X-BG-Whatever: 1"],
    "underscores for dashes": ["X_BG_Colour: green", "Proxy_Connection: x", "Keep_Alive: x", "http2_settings: x"],
    "underscores in claims": ["X_Forwarded_For: 6.6.6.6", "X-Forwarded_Host: six", "X_Real_IP: 6", "X_Request_ID: six"],
    "other characters for dashes": ["X.BG.Colour: green", "Proxy+Connection: x", "x~bg~epoch: 1"],
    "other characters in claims": [
        "X.Forwarded.For: 6.6.6.6",
        "X.Real.IP: 6",
        "X|Request*ID: 6",
        "X-Forwarded.Host: 6",
    ],
    "an expectation without a body": ["Expect: 100-continue"],
}


@pytest.mark.says("Removed: `Connection` and what it names")
@pytest.mark.says("All other fields as they came")
@pytest.mark.parametrize("fields", REMOVED.values(), ids=REMOVED)
def test_fields_for_this_hop_end_here(through: Through, fields: list[str]) -> None:
    kept = ("X-Before: 1", *fields, "X-Behind: 2")
    assert sent_on(through, *kept) == (("x-before", "1"), ("x-behind", "2"))


@pytest.mark.says("Removed: `Connection` and what it names")
@pytest.mark.says("All other fields as they came")
def test_te_trailers_passes_on(through: Through) -> None:
    assert sent_on(through, "TE: gzip, trailers;q=1, Trailers") == (("connection", "TE"), ("te", "trailers"))


OURS = ["Transfer-Encoding", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Via", "X-Request-ID", "TE"]


@pytest.mark.says("Removed: `Connection` and what it names")
@pytest.mark.says("All other fields as they came")
@pytest.mark.says("`X-Forwarded-For`, `-Proto`, `-Host`")
@pytest.mark.parametrize("name", [*OURS, "Forwarded", ", ".join(OURS), "close, " + ",".join(OURS).lower()])
def test_connection_cannot_take_away_what_is_ours(through: Through, name: str) -> None:
    assert sent_on(through, f"Connection: {name}", method="POST", body=b"hello") == (("content-length", "5"),)
    (asked,) = through.requests()
    for own in ("host", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "via", "x-request-id"):
        assert len(asked.all(own)) == 1, own
    assert asked.all("x-forwarded-for") == ["127.0.0.1"]


@pytest.mark.says("`Connection` that names Host or Content-Length")
@pytest.mark.says("Host or Content-Length named by")
@pytest.mark.parametrize("options", ["Host", "content-length", "close, HOST", "X-A,Content-Length, keep-alive"])
def test_connection_must_not_name_what_frames_or_routes(through: Through, options: str) -> None:
    for line in (f"Connection: {options}", f"Connection: close\r\nconnection: {options}"):
        for method, body in (("GET", b""), ("POST", b"hello")):
            sent = request(method, "/case", line, body=body) + SMUGGLED
            through.assert_refused(through.at_once(sent), 400, "bad_request", method=method)
    through.assert_nothing_was_sent()


@pytest.mark.says("`X-Forwarded-For`, `-Proto`, `-Host`")
@pytest.mark.parametrize("plain", [True, False])
def test_our_via_is_the_last_of_all(through: Through, *, plain: bool) -> None:
    further = () if plain else ("Connection: X-A", "X-A: 1")
    assert sent_on(through, "Via: 1.0 one", "X-B: 1", "via: 1.1 two, 1.1 three", *further) == (("x-b", "1"),)
    assert through.requests()[0].all("via") == ["1.0 one", "1.1 two, 1.1 three", "1.1 bgproxy"]


@pytest.mark.says("Max-Forwards")
@pytest.mark.says("All other fields as they came")
def test_everything_else_passes_in_order_byte_for_byte(through: Through) -> None:
    fields = [
        *(
            b"X-One: 1",
            b"cookie: a=b; c=\xe9\xff",
            b"X-ONE: 2",
            b"Accept:\t*/* ",
            b"x-one:3",
            b"Empty:",
            b"Authorization: x",
        ),
        *(
            b"Accept-Encoding: gzip",
            b"User-Agent:  two  spaces ",
            b"Content-Type: a/b",
            b"Range: bytes=0-1",
        ),
        *(b"Cookie: second", b"Max-Forwards: 0", b"Trailer: X-Sum", b"Content-Encoding: br", b"a!#$%&'*+-.^_`|~9: x"),
        *(b'X-Quoted: "a, b"', b"Date: now", b"X_Other: 1", b"Long: " + b"x" * 8000),
    ]
    head = b"\r\n".join([b"GET /case HTTP/1.1", b"Host: a", *fields]) + b"\r\n\r\n"
    assert through.at_once(head).answer().body == b"/case"
    heard = next(bytes(each.heard or b"") for each in through.upstream.conversations)
    assert b"\r\n" + b"\r\n".join(fields) + b"\r\n\r\n" in heard


@pytest.mark.says("No invented `User-Agent`")
@pytest.mark.parametrize(("method", "body"), [("GET", b""), ("POST", b"hello")])
def test_nothing_is_invented(through: Through, method: str, body: bytes) -> None:
    framing = (("content-length", "5"),) if body else ()
    assert sent_on(through, method=method, body=body) == framing


CLAIMS = [
    *("X-Forwarded-For: 6.6.6.6", "X-Forwarded-Proto: https", "X-Forwarded-Host: six", "X-Forwarded-Port: 6"),
    *("X-Real-IP: 6.6.6.6", "Forwarded: for=6.6.6.6", "X-Request-ID: mine"),
]


@pytest.mark.says("further `X-Forwarded-*`")
@pytest.mark.says("the request id")
@pytest.mark.says("`X-Forwarded-For`, `-Proto`, `-Host`")
def test_what_a_stranger_claims_is_replaced_or_dropped(through: Through) -> None:
    assert sent_on(through, *CLAIMS, *CLAIMS) == ()
    (asked,) = through.requests()
    said = {name: asked.all(name) for name in ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "via")}
    assert said == {
        "x-forwarded-for": ["127.0.0.1"],
        "x-forwarded-proto": ["http"],
        "x-forwarded-host": ["app.example"],
        "via": ["1.1 bgproxy"],
    }
    (request_id,) = asked.all("x-request-id")
    assert request_id not in ("", "mine")


@pytest.mark.says("further `X-Forwarded-*`")
@pytest.mark.says("the request id")
@pytest.mark.says("`X-Forwarded-For`, `-Proto`, `-Host`")
def test_what_a_trusted_proxy_claims_is_extended_or_kept(plane: Plane) -> None:
    through = Through(plane, settings(trusted_proxies=("127.0.0.1/32",)))
    assert through.at_once(request("GET", "/case", *CLAIMS, "X-Forwarded-For: 7.7.7.7")).answer().body == b"/case"
    (asked,) = (each for each in through.requests() if each.target == "/case")
    said = {name: asked.all(name) for name, _ in asked.fields if name != "host"}
    assert said == {
        "x-forwarded-for": ["6.6.6.6, 7.7.7.7, 127.0.0.1"],
        "x-forwarded-proto": ["https"],
        "x-forwarded-host": ["six"],
        "x-forwarded-port": ["6"],
        "x-real-ip": ["6.6.6.6"],
        "forwarded": ["for=6.6.6.6", "for=127.0.0.1"],
        "via": ["1.1 bgproxy"],
        "x-request-id": ["mine"],
    }


# --- the other direction ----------------------------------------------------------------------------------------------

GONE = {
    "Connection": ["Connection: keep-alive"],
    "what it names": ["Connection: X-A, close", "X-A: 1", "x-a: 2"],
    "what several lines name": ["Connection: X-A", "X-A: 1", "connection: ,X-B", "X-B: 2"],
    "framing, which it cannot name": ["Connection: Content-Length, Transfer-Encoding"],
    "Keep-Alive": ["Keep-Alive: timeout=5"],
    "Proxy-Connection": ["Proxy-Connection: close"],
    "Upgrade": ["Upgrade: h2c"],
    "TE": ["TE: trailers"],
    "X-BG of any kind": ["X-BG-Colour: green", "x-bg-epoch: 99", "X-BG-Reason: none"],
    "underscores for dashes": ["Transfer_Encoding: chunked", "Content_Length: 9", "Keep_Alive: x"],
}


@pytest.mark.says("Status line, fields and order as they came")
@pytest.mark.parametrize("fields", GONE.values(), ids=GONE)
def test_fields_of_a_response_for_this_hop_end_here(plane: Plane, fields: list[str]) -> None:
    answer = response(200, b"clean", "X-Before: 1", *fields, "X-Behind: 2")
    through = Through(plane, script=answering(answer))
    for _ in range(2):
        got = plane.client().ask()
        assert got.fields == [("content-length", "5"), ("x-before", "1"), ("x-behind", "2")]
        assert got.body == b"clean"
    assert through.upstream.requests


@pytest.mark.says("Status line, fields and order as they came")
def test_everything_else_of_a_response_passes_byte_for_byte(plane: Plane) -> None:
    fields = [
        *(b"Set-Cookie: a=1", b"X-One:  1 ", b"set-cookie: b=2", b"Set-Cookie: c=\xe9", b"Server: a", b"Date: then"),
        *(b"Content-Encoding: gzip", b"Empty:", b"Vary: a", b"vary: b", b'ETag: "x"', b"Location: /\xff", b"Age: 1"),
    ]
    body = bytes(range(256))
    head = b"HTTP/1.1 299 Not \xe9 usual\r\n" + b"\r\n".join(fields) + b"\r\nContent-Length: 256\r\n\r\n"
    Through(plane, script=answering(head + body))
    got = plane.client().ask()
    assert (got.raw.partition(b"\r\n")[0], got.body) == (b"HTTP/1.1 299 Not \xe9 usual", body)
    assert b"\r\n" + b"\r\n".join(fields) + b"\r\n" in got.raw


@pytest.mark.says("With `[headers] expose`")
@pytest.mark.says("Status line, fields and order as they came")
def test_what_is_exposed_is_ours_alone(plane: Plane) -> None:
    Through(
        plane,
        settings(headers=HeaderSettings(expose=True)),
        script=answering(response(200, b"", *GONE["X-BG of any kind"])),
    )
    got = plane.client().ask()
    assert (got.all("X-BG-Colour"), got.all("X-BG-Reason")) == (["blue"], [])
    assert got.all("X-BG-Epoch") == [str(plane.worker.segment.live.load().epoch)]
