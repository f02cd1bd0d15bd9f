"""One probe against real servers on loopback."""

from __future__ import annotations

import asyncio
import socket

import msgspec
import pytest
from aiohttp import web

from bgproxy import __version__
from bgproxy.controlplane.probe import explain, probe
from bgproxy.core.model import Address
from tests.support.http_apps import http_app, raw_server


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    path: str = "/healthz"
    method: str = "GET"
    interval: float = 1.0
    timeout: float = 5.0
    rise: int = 2
    fall: int = 3
    expect_status: tuple[tuple[int, int], ...] = ((200, 299),)
    expect_body: str = ""
    headers: dict[str, str] = {}
    jitter: float = 0.1
    max_body_bytes: int = 64 * 1024
    release_header: str = "X-Release"


async def test_a_good_answer_passes_and_the_request_says_who_asks():
    seen: list[web.BaseRequest] = []

    async def app(request):
        seen.append(request)
        return web.Response(text="fine")

    async with http_app(app) as address:
        check = await probe(address, Settings(headers={"X-Probe": "1"}))
    assert (check.ok, check.status, check.error) == (True, 200, "")
    assert check.duration_s > 0
    assert check.at.endswith("Z")
    assert (seen[0].method, seen[0].path) == ("GET", "/healthz")
    assert seen[0].headers["User-Agent"] == f"bgproxy/{__version__}"
    assert seen[0].headers["Host"] == str(address)
    assert seen[0].headers["X-Probe"] == "1"


async def test_the_release_is_what_the_answer_says_it_is():
    async def app(request):
        return web.Response(headers={"X-Version": "2.0", "X-Release": "x" * 300})

    async with http_app(app) as address:
        assert (await probe(address, Settings(release_header="x-version"))).release == "2.0"
        assert (await probe(address, Settings())).release == "x" * 200
        assert (await probe(address, Settings(release_header="X-None"))).release == ""


async def test_the_host_field_can_be_set():
    seen: list[str] = []

    async def app(request):
        seen.append(request.headers["Host"])
        return web.Response()

    async with http_app(app) as address:
        await probe(address, Settings(headers={"Host": "shop.example"}))
    assert seen == ["shop.example"]


async def test_every_probe_takes_a_fresh_connection():
    peers: list[object] = []

    async def app(request):
        peers.append(request.transport.get_extra_info("peername"))
        return web.Response()

    async with http_app(app) as address:
        await probe(address, Settings())
        await probe(address, Settings())
    assert len(set(peers)) == 2


async def test_a_redirect_is_an_answer_and_is_not_followed():
    paths: list[str] = []

    async def app(request):
        paths.append(request.path)
        return web.Response(status=302, headers={"Location": "/elsewhere"})

    async with http_app(app) as address:
        check = await probe(address, Settings())
    assert (check.ok, check.error, paths) == (False, "answered 302, expected 200-299", ["/healthz"])


async def test_a_proxy_of_the_environment_is_not_asked(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")

    async def app(_request):
        return web.Response()

    async with http_app(app) as address:
        assert (await probe(address, Settings())).ok


async def test_the_body_is_searched_up_to_the_limit():
    async def app(_request):
        return web.Response(body=b"x" * 1000 + b"ready")

    async with http_app(app) as address:
        assert (await probe(address, Settings(expect_body="ready"))).ok
        check = await probe(address, Settings(expect_body="ready", max_body_bytes=1000))
    assert check.error == "answered 200, but the body does not contain 'ready'"


async def test_an_endless_body_is_not_waited_for_when_nothing_is_expected_of_it():
    async def app(request):
        answer = web.StreamResponse()
        await answer.prepare(request)
        try:
            while True:
                await answer.write(b"x" * 65536)
                await asyncio.sleep(0)  # others want to run, too
        except ConnectionError:
            return answer

    async with http_app(app) as address:
        assert (await probe(address, Settings())).ok
        assert not (await probe(address, Settings(expect_body="y", max_body_bytes=100_000))).ok


async def test_a_silent_upstream_is_given_up_after_the_timeout():
    async with raw_server(None) as address:
        check = await probe(address, Settings(timeout=0.1))
    assert (check.ok, check.status, check.error) == (False, 0, "no answer within 0.1s")


async def test_a_refused_connection_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: nobody else gets it, nobody answers
        check = await probe(Address(host="127.0.0.1", port=taken.getsockname()[1]), Settings())
    assert check.error == "connection refused"


async def test_a_connection_that_is_closed_before_the_answer_is_named():
    async with raw_server(b"") as address:
        assert (await probe(address, Settings())).error == "the connection was closed before the answer"


async def test_an_answer_that_is_not_http_is_named():
    async with raw_server(b"SSH-2.0-OpenSSH_9.9\r\n\r\n") as address:
        assert (await probe(address, Settings())).error == "the answer is not valid HTTP"


async def test_a_unix_socket_is_probed_like_any_other(tmp_path):
    async with raw_server(b"HTTP/1.1 204 No Content\r\n\r\n", tmp_path / "app.sock") as address:
        assert (await probe(address, Settings())).status == 204


async def test_a_missing_unix_socket_is_named(tmp_path):
    check = await probe(Address(path=str(tmp_path / "gone.sock")), Settings())
    assert check.error == "the unix socket does not exist"


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
async def test_ipv6_is_probed():
    async def app(_request):
        return web.Response()

    async with http_app(app, host="::1") as address:
        assert (await probe(address, Settings())).ok


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [
        (socket.gaierror(-2, "Name or service not known"), "the host name does not resolve"),
        (OSError(113, "No route to host"), "no route to host"),
        (ValueError("no"), "the probe could not be sent: no"),
        (OSError("odd"), "the probe could not be sent: odd"),
    ],
)
def test_other_failures_are_sentences_too(failure, sentence):
    assert explain(failure) == sentence
