"""Forwarding fields and the peers they come from, as an upstream sees them on the wire."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.plane import settings
from tests.support.raw_http import chunked, request, response
from tests.support.raw_upstream import answering

if TYPE_CHECKING:
    from tests.support.plane import Plane
    from tests.support.raw_http import Message

TRUSTING = settings(trusted_proxies=("127.0.0.0/8", "unix"))
OWN = {"x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"}
FORGED = (
    *("X-Forwarded-For: 6.6.6.6", "X-Forwarded-Proto: https", "X-Forwarded-Host: evil", "X-Forwarded-Port: 6666"),
    *("X-Forwarded-Prefix: /evil", "X-Forwarded-Server: evil", "X-Forwarded-Ssl: on", "X-Forwarded-Scheme: evil"),
    *("Forwarded: for=6.6.6.6;proto=https;host=evil", "X-Real-IP: 6.6.6.6", "x-real-ip: 6.6.6.6"),
)
LOOK_ALIKES = (
    *("X_Forwarded_For: 6.6.6.6", "X-Forwarded_For: 6.6.6.6", "x_forwarded-for: 6.6.6.6", "X_Forwarded_Proto: evil"),
    *("X_Real_IP: 6.6.6.6", "X-Real_IP: 6.6.6.6", "X_BG_Colour: evil", "X-BG_Epoch: 666", "X_Request_ID: evil"),
)


def forwarding(asked: Message) -> dict[str, list[str]]:
    """All that the upstream was told about the way, `_` read as `-`."""
    told: dict[str, list[str]] = {}
    for name, value in asked.fields:
        name = name.replace("_", "-")
        if name.startswith(("x-forwarded-", "x-bg-")) or name in ("forwarded", "x-real-ip"):
            told.setdefault(name, []).append(value)
    return told


# --- strangers --------------------------------------------------------------------------------------------------------


@pytest.mark.says("`X-Forwarded-Proto`, `-Host`")
@pytest.mark.says("further `X-Forwarded-*`")
@pytest.mark.says("`Forwarded`")
@pytest.mark.says("the request id")
@pytest.mark.says("`X-BG-*`, and look-alikes")
@pytest.mark.parametrize(
    "more", [(), ("Connection: X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host, Via, X-Request-ID, Forwarded",)]
)
def test_nothing_that_a_stranger_says_about_its_way_reaches_the_upstream(plane: Plane, more: tuple[str, ...]) -> None:
    client = plane.client()
    client.ask()  # what is kept per connection is kept of this request
    client.ask("GET", "/", *FORGED, *LOOK_ALIKES, *more)
    client.ask("POST", "/", *LOOK_ALIKES, *FORGED, *more, body=b"x")
    client.ask()
    for asked in plane.blue.requests:
        assert forwarding(asked) == {
            "x-forwarded-for": ["127.0.0.1"],
            "x-forwarded-proto": ["http"],
            "x-forwarded-host": ["app.example"],
        }
        assert (asked.one("Host"), asked.all("Via")) == ("app.example", ["1.1 bgproxy"])
        assert "evil" not in asked.raw.decode()
        assert asked.one("X-Request-ID")
        assert asked.all("Connection") == []


@pytest.mark.says("A peer on a unix socket")
def test_a_peer_on_a_unix_socket_is_a_stranger_unless_trusted(plane: Plane) -> None:
    unix = plane.worker.addresses[2]
    plane.configure(settings(trusted_proxies=("0.0.0.0/0", "::/0")))
    plane.client(address=unix).ask("GET", "/", *FORGED)
    assert forwarding(plane.blue.requests[0])["x-forwarded-for"] == ["unknown"]
    plane.configure(settings(trusted_proxies=("unix",)))
    plane.client(address=unix).ask("GET", "/", "X-Forwarded-For: 203.0.113.5", "Forwarded: for=203.0.113.5")
    told = forwarding(plane.blue.requests[1])
    assert (told["x-forwarded-for"], told["forwarded"]) == (["203.0.113.5"], ["for=203.0.113.5"])
    plane.client().ask("GET", "/", *FORGED)
    assert forwarding(plane.blue.requests[2]).keys() == OWN, "by its word no network is trusted"


# --- trusted proxies --------------------------------------------------------------------------------------------------


@pytest.mark.says("`X-Forwarded-For`, every line")
@pytest.mark.says("`X-Forwarded-Proto`, `-Host`")
@pytest.mark.says("further `X-Forwarded-*`")
@pytest.mark.says("`Forwarded`")
def test_what_a_trusted_proxy_says_about_the_way_is_kept_and_extended(plane: Plane) -> None:
    plane.configure(TRUSTING)
    said = (
        *("X-Forwarded-For: 203.0.113.5, ,198.51.100.1", "X-Forwarded-Port: 443", "X-Forwarded-For:"),
        *("Forwarded: for=203.0.113.5;proto=https", "x-forwarded-for: 198.51.100.2", "X-Forwarded-Proto: https"),
        *("X-Forwarded-Host: shop.example", "X-Forwarded-Prefix: /shop", "X-Real-IP: 203.0.113.5"),
        'Forwarded: for="[2001:db8::1]',  # a quote left open
        "X-Forwarded-Proto:",
    )
    plane.client().ask("GET", "/", *said, *LOOK_ALIKES, "X-BG-Colour: green")
    assert forwarding(plane.blue.requests[0]) == {
        "x-forwarded-for": ["203.0.113.5, ,198.51.100.1, 198.51.100.2, 127.0.0.1"],
        "x-forwarded-proto": ["http"],  # the last word of theirs is none
        "x-forwarded-host": ["shop.example"],
        "x-forwarded-port": ["443"],
        "x-forwarded-prefix": ["/shop"],
        "x-real-ip": ["203.0.113.5"],
        "forwarded": ["for=203.0.113.5;proto=https", 'for="[2001:db8::1]', "for=127.0.0.1"],
    }
    assert "evil" not in plane.blue.requests[0].raw.decode()


@pytest.mark.says("Connection options take none")
@pytest.mark.says("the request id")
def test_connection_takes_nothing_away_from_what_a_trusted_proxy_says(plane: Plane) -> None:
    plane.configure(TRUSTING)
    said = ("X-Forwarded-For: 203.0.113.5", "X-Forwarded-Proto: https", "X-Real-IP: 203.0.113.5", "X-Request-ID: a")
    named = "Connection: x-forwarded-for, X-Forwarded-Proto, x-real-ip, forwarded, x-request-id, via, X-Gone"
    plane.client().ask("GET", "/", *said, named, "X-Gone: 1", "Via: 1.1 front")
    (asked,) = plane.blue.requests
    told = forwarding(asked)
    assert told["x-forwarded-for"] == ["203.0.113.5, 127.0.0.1"]
    assert (told["x-forwarded-proto"], told["x-real-ip"]) == (["https"], ["203.0.113.5"])
    assert (asked.one("X-Request-ID"), asked.all("Via"), asked.all("X-Gone")) == ("a", ["1.1 front", "1.1 bgproxy"], [])


@pytest.mark.parametrize("byte", [*range(9), *range(10, 32), 127])
def test_a_control_byte_is_not_forwarded_for_anybody(plane: Plane, byte: int) -> None:
    plane.configure(TRUSTING)
    client = plane.client()
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4%cX: y\r\n\r\n" % byte)
    assert client.answer().status == 400
    assert plane.blue.requests == []


def test_a_list_of_any_length_and_of_any_text_is_extended_as_it_is(plane: Plane) -> None:
    plane.configure(TRUSTING)
    theirs = b", ".join(
        [b"2001:db8:1234:5678:9abc:def0:1234:5678"] * 500 + [b"\xe9t\xe9 \"<>'", b"_hidden", b"unknown"]
    )
    client = plane.client()
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: " + theirs + b"\r\n\r\n")
    assert client.answer().status == 200
    assert plane.blue.requests[0].one("X-Forwarded-For").encode("latin-1") == theirs + b", 127.0.0.1"
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: " + theirs * 2 + b"\r\n\r\n")
    assert client.answer().status == 431


@pytest.mark.says("Whether a peer is trusted is decided once")
def test_trust_is_looked_up_anew_for_each_connection(plane: Plane) -> None:
    stranger = plane.client()
    stranger.ask("GET", "/", *FORGED)
    plane.configure(TRUSTING)
    plane.client().ask("GET", "/", *FORGED)
    assert [forwarding(asked)["x-forwarded-for"] for asked in plane.blue.requests] == [
        ["127.0.0.1"],
        ["6.6.6.6, 127.0.0.1"],
    ]


# --- what is no matter of trust ---------------------------------------------------------------------------------------


@pytest.mark.says("`traceparent`, `tracestate`")
@pytest.mark.says("Fields of other products")
def test_the_trace_context_passes_from_everybody(plane: Plane) -> None:
    context = (
        "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "tracestate: rojo=00f067aa0ba902b7,congo=t61rcWkgMzE",
        "tracestate: third=1",
        "baggage: user=1",
        "cf-connecting-ip: 6.6.6.6",
        "true-client-ip: 6.6.6.6",
        "x-original-url: /admin",
    )
    plane.client().ask("GET", "/", *context)
    names = {line.partition(":")[0] for line in context}
    (asked,) = plane.blue.requests
    assert tuple(f"{name}: {value}" for name, value in asked.fields if name in names) == context


def test_nothing_that_an_upstream_says_in_our_name_reaches_the_client(plane: Plane) -> None:
    lies = ("X-BG-Colour: green", "x-bg-epoch: 666", "X-BG-Reason: evil", "X_BG_Release: evil", "X-BG-Anything: evil")
    hints = "\r\n".join(("HTTP/1.1 103 Early Hints", *lies, "Link: </a>")).encode() + b"\r\n\r\n"
    plane.blue.script = answering(
        hints + response(200, b"ok", *lies),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        + chunked(b"ok", trailers=b"X-BG-Colour: green\r\nX-BG-Reason: evil\r\nX-Sum: 1\r\n"),
    )
    client = plane.client()
    client.send(request())
    answers = [client.answer(), client.answer(), client.ask()]
    assert [answer.status for answer in answers] == [103, 200, 200]
    for answer in answers:
        assert not [name for name, _ in answer.fields + answer.trailers if name.startswith(("x-bg", "x_bg"))]
    assert (answers[0].one("Link"), answers[2].trailers) == ("</a>", [("x-sum", "1")])


@pytest.mark.says("In trailers they are dropped")
def test_trailers_cannot_say_who_asked(plane: Plane) -> None:
    plane.configure(TRUSTING)
    client = plane.client()
    forged = "".join(f"{line}\r\n" for line in (*FORGED, "X-BG-Colour: evil", "X-Request-ID: evil", "Via: evil"))
    client.send(
        request("POST", "/", "Transfer-Encoding: chunked"), chunked(b"x", trailers=forged.encode() + b"X-Sum: 1\r\n")
    )
    assert client.answer().status == 200
    assert plane.blue.requests[0].trailers == [("x-sum", "1")]
