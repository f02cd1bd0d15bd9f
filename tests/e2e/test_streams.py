"""Streams through the whole house: an app and a client in lock-step, stuck as soon as anything is kept back."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from tests.support.house import App, Proxy
from tests.support.raw_http import request
from tests.support.stream_app import TOKENS

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def streaming(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """One worker in front of a stream_app."""
    with contextlib.ExitStack() as stack:
        app = App("blue", module="stream_app")
        stack.callback(app.end)
        given = ("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--workers", "1")
        proxy = Proxy(tmp_path_factory.mktemp("streams"), (*given, "--blue", app.address, "--green", app.address))
        stack.callback(proxy.clean_up)
        yield proxy.until_ready()


@pytest.mark.says("That holds for every framing")
@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_every_token_arrives_before_the_next_one_is_sent(streaming: Proxy, version: str) -> None:
    for framing in ("chunked", "length", "close", "events"):
        with contextlib.closing(streaming.client()) as client, contextlib.closing(streaming.client()) as other:
            client.send(request(target=f"/tokens/{framing}?stream={framing}", version=version))
            head = client.until(b"\r\n\r\n").lower()
            assert (b"transfer-encoding: chunked" in head) == (framing != "length" and version == "1.1"), framing
            blue = streaming.status["pools"]["blue"]
            assert (blue["streams"], blue["in_flight"]) == ((1, 0) if framing == "events" else (0, 1)), framing
            for token in TOKENS:
                client.until(token)
                if token is not TOKENS[-1]:
                    other.ask("POST", f"/acknowledge?stream={framing}")


def test_both_directions_of_one_request_flow_at_once(streaming: Proxy) -> None:
    """What the app answers early arrives while the request is still being sent, piece by piece."""
    with contextlib.closing(streaming.client()) as client:
        client.send(request("POST", "/echo", "Transfer-Encoding: chunked"))
        client.until(b"2\r\ngo\r\n")
        for token in TOKENS:
            client.send(b"%x\r\n%b\r\n" % (len(token), token))
            client.until(token + b"\r\n")
        client.send(b"0\r\n\r\n")
        client.until(b"0\r\n\r\n")
        assert client.rest() == b"", "an answer that began before the request's end is the last on its connection"
