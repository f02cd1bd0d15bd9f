"""One request's body, as it is passed on. What the upstream receives over real sockets is in test_downstream.py."""

from __future__ import annotations

import pytest

from bgproxy.dataplane.upload import Upload
from bgproxy.wire.framing import BAD, CHUNKED, MORE


class FakeExchange:
    """Collects what an upstream would get, and how the request was refused."""

    def __init__(self) -> None:
        self.sent = b""
        self.refusals: list[tuple[int, str]] = []

    def send_body(self, data: bytes) -> None:
        self.sent += data

    def client_failed(self, status: int, reason: str, detail: str) -> None:
        assert detail
        self.refusals.append((status, reason))


@pytest.fixture
def exchange() -> FakeExchange:
    return FakeExchange()


def feed(upload: Upload, exchange: FakeExchange, *pieces: bytes) -> list[int]:
    return [upload.send_on(exchange, piece) for piece in pieces]  # type: ignore[arg-type]


def test_a_body_of_a_length_is_passed_on_as_it_is(exchange: FakeExchange) -> None:
    assert feed(Upload(5, 0), exchange, b"he", b"lloGET") == [MORE, 3]
    assert (exchange.sent, exchange.refusals) == (b"hello", [])


def test_a_chunked_body_is_framed_anew_and_its_extensions_are_dropped(exchange: FakeExchange) -> None:
    assert feed(Upload(CHUNKED, 0), exchange, b"2;x=y\r\nhe\r\n3\r\nllo\r\n", b"0\r\n\r\nGET") == [MORE, 5]
    assert exchange.sent == b"5\r\nhello\r\n0\r\n\r\n"


def test_a_trailer_that_may_pass_passes_and_one_that_may_not_does_not(exchange: FakeExchange) -> None:
    feed(Upload(CHUNKED, 0), exchange, b"0\r\nX-Sum: 1\r\nAuthorization: 9\r\n\r\n")
    assert exchange.sent == b"0\r\nX-Sum: 1\r\n\r\n"


def test_a_malformed_body_is_refused_and_never_completed(exchange: FakeExchange) -> None:
    assert feed(Upload(CHUNKED, 0), exchange, b"2\r\nhe\r\n", b"zz\r\n") == [MORE, BAD]
    assert (exchange.sent, exchange.refusals) == (b"2\r\nhe\r\n", [(400, "bad_request")])


def test_a_chunked_body_is_held_to_the_limit_as_it_comes(exchange: FakeExchange) -> None:
    upload = Upload(CHUNKED, 4)
    assert feed(upload, exchange, b"4\r\nhell\r\n") == [MORE], "as much as the limit is not more than it"
    assert feed(upload, exchange, b"1\r\no\r\n0\r\n\r\n") == [BAD]
    assert (exchange.sent, exchange.refusals) == (b"4\r\nhell\r\n", [(413, "body_too_large")])
