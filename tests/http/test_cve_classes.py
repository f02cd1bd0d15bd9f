"""Classes of vulnerabilities that proxies and parsers have had, each as bytes through this one.

Grouped by what goes wrong, with the advisories in which it did. Here is the request or answer that did the damage; the
variants are in the tables beside this file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.plane import settings
from tests.support.raw_http import chunked, request, response
from tests.support.through import SMUGGLED, Prompted, Through

if TYPE_CHECKING:
    from tests.support.plane import Plane

POST = b"POST /case HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"

# name: (advisories, bytes, status). Nothing of it is ever complete upstream, and nothing behind it is a request.
REFUSED = {
    "length and coding": (
        "aiohttp CVE-2023-47641, gunicorn CVE-2024-1135",
        POST + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n" + LAST + b"G",
        400,
    ),
    "coding that is not quite chunked": (
        "gunicorn CVE-2024-6827, llhttp CVE-2022-32213, waitress CVE-2019-16786, CVE-2019-16789",
        POST + b"Transfer-Encoding: chunked, identity\r\nContent-Length: 3\r\n\r\n" + LAST,
        400,
    ),
    "two codings in two lines": (
        "tornado GHSA-753j-mpmx-qq6g, llhttp CVE-2022-32215",
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + LAST,
        400,
    ),
    "coding in HTTP/1.0": (
        "Pingora CVE-2026-2835",
        b"POST /case HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + LAST,
        400,
    ),
    "coding behind a CR": (
        "aiohttp CVE-2023-37276, llhttp CVE-2023-30589",
        POST + b"X: y\rTransfer-Encoding: chunked\r\n\r\n" + LAST,
        400,
    ),
    "CR for CRLF at the end of the head": (
        "llhttp CVE-2025-23167",
        b"GET /case HTTP/1.1\r\nHost: a\r\n\rX\r\n\r\n",
        400,
    ),
    "LF for CRLF": (
        "waitress CVE-2019-16785",
        b"GET /case HTTP/1.1\nHost: a\nContent-Length: 40\n\n",
        400,
    ),
    "length that Python's int() takes": (
        "aiohttp CVE-2023-47627, tornado GHSA-qppv-j76h-2rpx, twisted CVE-2022-24801",
        POST + b"Content-Length: +4_0\r\n\r\nabcd",
        400,
    ),
    "length in other digits": (
        "aiohttp CVE-2025-69225",
        POST + "Content-Length: \u0664\r\n\r\nabcd".encode(),
        400,
    ),
    "letter that folds to another": (
        "aiohttp CVE-2025-69224",
        POST + "Transfer-Encoding: chun\u212aed\r\n\r\n".encode() + LAST,
        400,
    ),
    "empty length": ("HAProxy CVE-2023-40225", POST + b"Content-Length:\r\n\r\nabcd", 400),
    "empty length beside another": (
        "HAProxy CVE-2023-40225",
        POST + b"Content-Length:\r\nContent-Length: 4\r\n\r\nabcd",
        400,
    ),
    "two lengths": ("waitress CVE-2019-16792", POST + b"Content-Length: 40\r\nContent-Length: 0\r\n\r\n", 400),
    "empty name": ("HAProxy CVE-2023-25725", POST + b": x\r\nContent-Length: 4\r\n\r\nabcd", 400),
    "fragment": ("HAProxy CVE-2023-45539", b"GET /case#.png HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "space before a colon": (
        "llhttp CVE-2021-22959, mitmproxy CVE-2021-39214, CVE-2022-24766, twisted CVE-2022-24801",
        POST + b"Transfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\n" + LAST,
        400,
    ),
    "folded field": ("llhttp CVE-2022-35256", POST + b"X: y\r\n Transfer-Encoding: chunked\r\n\r\n" + LAST, 400),
    "space before the first field": (
        "llhttp CVE-2024-27982",
        b"GET /case HTTP/1.1\r\n Content-Length: 40\r\nHost: a\r\n\r\n",
        400,
    ),
    "two hosts": ("aiohttp CVE-2026-34525", b"GET /case HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "line break in the method": ("aiohttp CVE-2023-49082", b"GET\r\nX: /case HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "version that is none": ("aiohttp CVE-2023-49081", b"GET /case HTTP/1.1x\r\nHost: a\r\n\r\n", 505),
    "characters in a name": ("aiohttp CVE-2024-23829", POST + b"Content(Length: 5\r\n\r\nhello", 400),
    "escape sequences for a log": ("uvicorn CVE-2020-7694", b"GET /\x1b[31m HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "LF in a chunk extension": (
        "aiohttp CVE-2024-52304, aiohttp CVE-2026-111750",
        CHUNKED + b"1;\nx\r\na\r\n" + LAST,
        400,
    ),
    "CR in a chunk extension": ("llhttp CVE-2021-22960", CHUNKED + b"1;\rx\r\na\r\n" + LAST, 400),
    "endless chunk extension": (
        "Node CVE-2024-22019, Go CVE-2023-39326",
        CHUNKED + b"1;" + b"x" * 20_000,
        400,
    ),
    "chunk whose end is not looked at": ("h11 CVE-2025-43859", CHUNKED + b"3\r\nabcXX" + LAST, 400),
    "size with a prefix": ("waitress CVE-2022-24761", CHUNKED + b"0x3\r\nabc\r\n" + LAST, 400),
    "size that overflows": ("nginx CVE-2013-2028", CHUNKED + b"ffffffffffffffff1\r\nabc\r\n" + LAST, 400),
    "malformed trailer": ("aiohttp CVE-2025-53643", CHUNKED + b"0\r\nX y\r\n\r\n", 400),
    "request line as a trailer": ("aiohttp CVE-2025-53643", CHUNKED + b"0\r\nGET /smuggled HTTP/1.1\r\n\r\n", 400),
    "obfuscated expectation": (
        "Go CVE-2024-24791",
        POST + b"Expect: y 100-continue\r\nContent-Length: 5\r\n\r\nhello",
        417,
    ),
    "tunnel for the asking": ("nghttpx CVE-2026-58055", b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
}


@pytest.mark.parametrize(("advisories", "sent", "status"), REFUSED.values(), ids=REFUSED)
def test_what_did_the_damage_elsewhere_is_refused(through: Through, advisories: str, sent: bytes, status: int) -> None:
    """With waitress CVE-2024-49768 behind each: what is pipelined behind a refusal is not looked at."""
    assert advisories
    through.assert_refused(
        through.at_once(sent + SMUGGLED), status, "bad_request" if status == 400 else "unsupported", method="POST"
    )
    through.assert_nothing_was_completed()


def test_and_byte_by_byte_as_well(through: Through) -> None:
    for code, reason in ((400, "bad_request"), (505, "unsupported"), (417, "unsupported"), (501, "unsupported")):
        table = {name: sent for name, (_, sent, status) in REFUSED.items() if status == code}
        through.assert_all_refused(table, code, reason, method="POST")
    through.assert_nothing_was_completed()


@pytest.mark.parametrize("protocol", ["websocket", "h2c", "foo"])
@pytest.mark.parametrize("framing", ["Content-Length: {}", "Transfer-Encoding: chunked"])
def test_an_upgrade_does_not_hide_a_body(through: Through, protocol: str, framing: str) -> None:
    """aiohttp CVE-2026-69243, nghttpx CVE-2026-58055."""
    body = SMUGGLED if "Length" in framing else chunked(SMUGGLED)
    head = request("GET", "/case", "Connection: Upgrade", f"Upgrade: {protocol}", framing.format(len(body)))
    client = through.at_once(head + body + request(target="/next"))
    assert [client.answer().body for _ in range(2)] == [b"/case", b"/next"]
    assert [(each.target, each.body) for each in through.requests()] == [("/case", SMUGGLED), ("/next", b"")]


def test_nothing_is_raw_before_the_101(plane: Plane) -> None:
    """Pingora CVE-2026-2833."""
    prompted = Prompted(plane)
    fields = ("Connection: Upgrade", "Upgrade: websocket")
    client = prompted.at_once(request("GET", "/case", *fields) + request("GET", "/next", "X-Forwarded-For: 6.6.6.6"))
    upstream = prompted.prompt()
    prompted.settle()
    assert b"/next" not in (upstream.conversation.heard or b"")
    upstream.say(response(200, b"declined"))
    assert [client.answer().body for _ in range(2)] == [b"declined", b"/next"]
    assert b"6.6.6.6" not in (upstream.conversation.heard or b"")


def test_connection_does_not_take_the_proxy_s_own_fields_away(through: Through) -> None:
    """httpd CVE-2022-31813, Go CVE-2021-33197."""
    named = "Connection: X-Forwarded-For, X-Forwarded-Host, X-Forwarded-Proto, X-Request-ID, Via, Authorization"
    assert through.at_once(request("GET", "/case", named, "X-Forwarded-For: 6.6.6.6")).answer().body == b"/case"
    (asked,) = through.requests()
    assert (asked.all("x-forwarded-for"), asked.all("host")) == (["127.0.0.1"], ["app.example"])
    assert (asked.all("x-forwarded-host"), asked.all("x-forwarded-proto")) == (["app.example"], ["http"])
    through.assert_refused(through.at_once(request("GET", "/case", named + ", Host") + SMUGGLED), 400, "bad_request")
    assert len(through.requests()) == 1


@pytest.mark.parametrize("more", [1, 241, 255, 256, 257, 8000])
def test_a_long_name_is_not_a_shorter_one(through: Through, more: int) -> None:
    """HAProxy CVE-2021-40346: a name whose length overflows and becomes that of another."""
    long = b"Content-Length" + b"a" * more
    sent = POST + long + b": 0\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED + request(target="/next")
    client = through.at_once(sent)
    assert [client.answer().body for _ in range(2)] == [b"/case", b"/next"]
    asked, _ = through.requests()
    assert (asked.body, asked.all(long.decode().lower())) == (SMUGGLED, ["0"])


def test_trailers_are_not_fields(through: Through) -> None:
    """aiohttp CVE-2025-53643, and what merges them."""
    trailers = b"Authorization: evil\r\nCookie: evil\r\nX-Forwarded-For: 6.6.6.6\r\nX-Ok: 1\r\n"
    client = through.at_once(CHUNKED + chunked(b"hello", trailers=trailers) + request(target="/next"))
    assert [client.answer().body for _ in range(2)] == [b"/case", b"/next"]
    asked, _ = through.requests()
    assert (asked.all("host"), asked.trailers) == (["a"], (("x-ok", "1"),))


def test_trailers_are_neither_framing_nor_host(through: Through) -> None:
    """The same: those that would do the damage are no reason to go on reading."""
    for trailer in (b"Host: evil", b"Content-Length: 9", b"Transfer-Encoding: x"):
        sent = CHUNKED + chunked(b"hello", trailers=b"X-Ok: 1\r\n" + trailer + b"\r\n")
        through.assert_refused(through.at_once(sent + SMUGGLED), 400, "bad_request", method="POST")
    through.assert_nothing_was_completed()


def test_what_is_pipelined_is_answered_in_order_to_whom_it_belongs(plane: Plane) -> None:
    """twisted CVE-2023-46137 and CVE-2024-41671: the second answer is not written before the first."""
    prompted = Prompted(plane)
    client = prompted.at_once(request(target="/case/slow") + request(target="/next") + request(target="/case/last"))
    upstream = prompted.prompt("/case/slow")
    prompted.settle()
    assert [each.target for each in prompted.upstream.requests] == ["/case/slow"]
    upstream.say(response(200, b"slow"))
    assert [client.answer().body for _ in range(2)] == [b"slow", b"/next"]
    prompted.prompt("/case/last").say(response(200, b"last"))
    assert client.answer().body == b"last"


def test_a_body_nobody_read_does_not_become_the_next_request(plane: Plane) -> None:
    """Pingora CVE-2025-4366: an answer comes, the body is still under way, and the connection is used again."""
    prompted = Prompted(plane, reads_bodies=False)
    client = prompted.at_once(request("POST", "/case", f"Content-Length: {2 * len(SMUGGLED)}") + SMUGGLED)
    upstream = prompted.prompt()
    upstream.say(response(200, b"cached"))
    assert client.answer().one("Connection") == "close"
    client.send(SMUGGLED)
    assert client.is_ended()
    upstream.assert_dropped()
    prompted.assert_nothing_was_completed()


def test_an_expectation_does_not_leave_a_body_behind(plane: Plane) -> None:
    """Go CVE-2024-24791: a final answer in place of the 100, and the connection goes on being used."""
    prompted = Prompted(plane, reads_bodies=False)
    client = prompted.at_once(request("POST", "/case", "Expect: 100-continue", f"Content-Length: {len(SMUGGLED)}"))
    upstream = prompted.prompt()
    upstream.say(response(200, b"no need"))
    assert client.answer().body == b"no need"
    client.send(SMUGGLED + SMUGGLED)
    assert client.is_ended()
    upstream.assert_dropped()
    prompted.assert_nothing_was_completed()


@pytest.mark.parametrize(
    "fields", [b"X: a\rSet-Cookie: b", b"X: a\nSet-Cookie: b", b"X: a\r\n Set-Cookie: b", b"X: a\x00", b"X\r\n: a"]
)
def test_an_upstream_does_not_split_its_answer(plane: Plane, fields: bytes) -> None:
    """uvicorn CVE-2020-7695 and others, seen from the proxy: what one could split is not relayed."""
    prompted = Prompted(plane)
    client, upstream = prompted.ask()
    upstream.say(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + fields + b"\r\n\r\n")
    answer = client.answer()
    assert (answer.status, answer.one("X-BG-Reason")) == (502, "bad_response")
    assert b"Set-Cookie" not in answer.raw
    assert client.ask(target="/next").body == b"/next"


def test_clients_that_leave_leave_nothing_behind(plane: Plane) -> None:
    """waitress CVE-2024-49769: a client that is gone before it is served keeps neither a loop nor a descriptor busy."""
    through = Through(plane, settings(timeouts={"header": 0.3}))
    for _ in range(50):
        client = plane.client()
        client.send(request(target="/left"))
        client.reset()
    assert through.plane.client().ask(target="/next").body == b"/next"


def test_chunks_of_a_byte_do_not_cost_more_than_they_are_worth(through: Through) -> None:
    """aiohttp CVE-2025-69229: the work grows with the bytes, not with their square."""
    client = through.at_once(CHUNKED + chunked(*[b"x"] * 40_000))
    assert client.answer().body == b"/case"
    assert through.requests()[0].body == b"x" * 40_000
