"""Real clients through the whole house: what they send arrives, what they get is whole, and a switch goes unnoticed.

Python's clients and curl belong to the default run. `make clients` runs the others too, and skips none of them.
"""

from __future__ import annotations

import hashlib
import html
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.echo_app import GZIPPED, LARGE, LARGE_SHA256
from tests.support.house import App, Proxy, client_ports_of, eventually
from tests.support.http_clients import Aiohttp, Client, Curl, Httpx, Requests

SUPPORT = Path(__file__).parents[1] / "support"
PATIENCE_S = 90
ROUNDS = 20
MIB = 1 << 20
UNDICI = "undici@^6.21"  # the line that Node 18, the oldest in use, can still load


def needed(program: str, *, package: str) -> str:
    """The path of a program. Without it the test is skipped, or fails where all clients were promised."""
    found = shutil.which(program)
    if found is None:
        missing(f"{program} is not installed; on Debian or Ubuntu: apt-get install {package}")
    assert found is not None
    return found


def missing(why: str) -> None:
    if os.environ.get("BGPROXY_ALL_CLIENTS"):
        pytest.fail(why)
    pytest.skip(why)


class House:
    """A running proxy in front of two echo apps, which may be switched many times."""

    def __init__(self, proxy: Proxy, apps: dict[str, App]) -> None:
        self.proxy = proxy
        self.apps = apps
        self.url = f"http://{proxy.listen}"

    def switch_at_the_pause(self) -> list[str]:
        """Switch as soon as a client is being answered at /pause. What the apps are called that answer all it asks."""
        old = self.proxy.status["live"]
        new = "green" if old == "blue" else "blue"
        eventually(lambda: self.apps[old].told("paused") == 1, "the client's request at /pause")
        switched = self.proxy.switch(new)
        assert switched.status == 200, switched
        self.apps[old].told("release")
        return [old] * (ROUNDS + 1) + [new] * ROUNDS

    @cached_property
    def pids(self) -> list[int]:
        return self.proxy.worker_pids

    def client_ports(self) -> set[int]:
        return {port for pid in self.pids for port in client_ports_of(pid, self.proxy.port)}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with ExitStack() as stack:
        apps = {}
        for name in ("blue", "green"):
            apps[name] = App(name, module="echo_app")
            stack.callback(apps[name].end)
        flags = ("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--workers", "2")
        pools = ("--blue", apps["blue"].address, "--green", apps["green"].address)
        proxy = Proxy(tmp_path_factory.mktemp("house"), (*flags, *pools))
        stack.callback(proxy.clean_up)
        yield House(proxy.until_ready(), apps)


@contextmanager
def running(command: Sequence[str | Path], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A client in a session of its own, which is ended as a whole, whatever it has started."""
    process = subprocess.Popen(
        list(map(str, command)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    """Everything it prints until it ends well."""
    out, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    return out


# --- requests, httpx, aiohttp, curl: the same for each ----------------------------------------------------------------


@pytest.fixture(params=[Requests, Httpx, Aiohttp])
def session(request: pytest.FixtureRequest, house: House) -> Iterator[Client]:
    """A client that keeps its connection."""
    with closing(request.param(house.url)) as made:
        yield made


@pytest.fixture(params=[Requests, Httpx, Aiohttp, Curl])
def client(request: pytest.FixtureRequest, house: House) -> Iterator[Client]:
    if request.param is Curl:
        needed("curl", package="curl")
    with closing(request.param(house.url)) as made:
        yield made


def values(document: dict[str, Any], name: str) -> list[str]:
    return [value for key, value in document["fields"] if key == name]


def test_a_request_arrives_as_it_was_sent(client: Client) -> None:
    document = client.ask("GET", "/echo?a=%C3%A9&b", fields={"X-Text": "one"}).document
    assert (document["method"], document["target"]) == ("GET", "/echo?a=%C3%A9&b")
    assert values(document, "x-text") == ["one"]
    assert values(document, "x-forwarded-for") == ["127.0.0.1"]
    assert len(values(document, "host")) == len(values(document, "accept")) == 1


def test_bodies_arrive_whole_with_a_length_and_in_chunks(client: Client) -> None:
    body = bytes(range(256)) * (MIB // 256)
    for method in ("POST", "PUT"):
        document = client.ask(method, "/echo", body=body).document
        assert (document["method"], document["length"]) == (method, MIB)
        assert document["sha256"] == hashlib.sha256(body).hexdigest()
        assert values(document, "content-length") == [str(MIB)]
    chunks = [b"a" * 1000, b"b", b"c" * 300_000]
    document = client.ask("POST", "/echo", chunks=chunks).document
    assert document["sha256"] == hashlib.sha256(b"".join(chunks)).hexdigest()
    assert values(document, "transfer-encoding") == ["chunked"]


def test_a_body_may_wait_for_100_continue(client: Client) -> None:
    body = bytes(2 * MIB)
    document = client.ask("POST", "/echo", body=body, fields={"Expect": "100-continue"}).document
    assert document["sha256"] == hashlib.sha256(body).hexdigest()
    assert [value.lower() for value in values(document, "expect")] == ["100-continue"]


def test_head_and_what_was_compressed_by_the_application(client: Client) -> None:
    head = client.ask("HEAD", "/large")
    assert (head.status, head.fields["content-length"], head.body) == (200, str(len(LARGE)), b"")
    answer = client.ask("GET", "/gzip")
    assert (answer.fields["content-encoding"], answer.fields["content-length"]) == ("gzip", str(len(GZIPPED)))
    assert answer.body in (GZIPPED, b"compressed by the application\n" * 1000)


def test_redirects_and_cookies_are_between_client_and_application(client: Client) -> None:
    plain = client.ask("GET", "/redirect/302")
    assert (plain.status, plain.fields["location"]) == (302, "/echo?redirected")
    assert client.ask("GET", "/redirect/302", follow=True).document["target"] == "/echo?redirected"
    assert client.ask("GET", "/login", follow=True).document["cookies"] == {"session": "s3cret", "theme": "dark"}
    assert client.ask("GET", "/echo").document["cookies"] == {"session": "s3cret", "theme": "dark"}


def test_a_large_download_is_whole(client: Client) -> None:
    answer = client.ask("GET", "/large")
    assert (len(answer.body), hashlib.sha256(answer.body).hexdigest()) == (len(LARGE), LARGE_SHA256)


def test_a_stream_comes_piece_by_piece(client: Client, house: House) -> None:
    path = f"/stream?id={type(client).__name__}"
    pieces = []
    with closing(Requests(house.url)) as other:
        for piece in client.pieces(path):
            pieces.append(piece)
            if len(pieces) < 3:
                assert other.ask("POST", path.replace("/stream", "/step")).status == 200
    assert pieces == [b"piece 0\n", b"piece 1\n", b"piece 2\n"]


def test_a_connection_is_used_again(session: Client, house: House) -> None:
    eventually(lambda: not house.client_ports(), "the connections of others to be gone")
    first = session.ask("POST", "/echo", body=b"x")
    ports = house.client_ports()
    assert len(ports) == 1
    answers = [session.ask("POST", "/echo", body=b"x") for _ in range(ROUNDS)]
    assert {answer.status for answer in (first, *answers)} == {200}
    assert house.client_ports() == ports


def test_no_request_fails_or_goes_astray_while_it_is_switched(session: Client, house: House) -> None:
    def ask_all() -> list[str]:
        paths = ["/echo"] * ROUNDS + ["/pause"] + ["/echo"] * ROUNDS
        return [session.ask("GET", path).document["app"] for path in paths]

    with ThreadPoolExecutor(1) as pool:
        apps = pool.submit(ask_all)
        assert house.switch_at_the_pause() == apps.result(PATIENCE_S)


def test_errors_come_in_a_form_that_the_client_reads(client: Client) -> None:
    answer = client.ask("GET", f"/{'t' * 9000}", fields={"Accept": "application/json"})
    assert (answer.status, answer.fields["x-bg-reason"]) == (414, "target_too_long")
    assert answer.document["request_id"] == answer.fields["x-request-id"]
    text = client.ask("GET", f"/{'t' * 9000}", fields={"Accept": "*/*"}).body
    assert text.startswith(b"414 ")


# --- what only one of them does ---------------------------------------------------------------------------------------


def test_curl_uses_a_connection_again_and_pauses_for_continue(house: House, tmp_path: Path) -> None:
    curl = [needed("curl", package="curl"), "-q", "-sS", "--noproxy", "*"]
    connects = [*curl, "-w", "%{http_code} %{num_connects}\n", "-o", "/dev/null", f"{house.url}/echo?[1-5]"]
    with running(connects) as process:
        assert said(process).splitlines() == ["200 1", *["200 0"] * 4]
    file = tmp_path / "body"
    file.write_bytes(bytes(3 * MIB))
    with running([*curl, "-v", "--data-binary", f"@{file}", f"{house.url}/echo"]) as process:
        out, told = process.communicate(timeout=PATIENCE_S)
    assert json.loads(out)["length"] == 3 * MIB
    assert "> Expect: 100-continue" in told
    assert told.index("< HTTP/1.1 100 Continue") < told.index("< HTTP/1.1 200 OK")
    with running([*curl, "-N", "--http1.0", "-i", f"{house.url}/stream?id=never"]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "HTTP/1.1 200 OK\n"
    with running([*curl, "--compressed", f"{house.url}/gzip"]) as process:
        assert said(process) == "compressed by the application\n" * 1000


def test_one_curl_on_one_connection_is_not_disturbed_by_a_switch(house: House) -> None:
    curl = needed("curl", package="curl")
    urls = [f"{house.url}/echo?[1-{ROUNDS}]", f"{house.url}/pause", f"{house.url}/echo?[1-{ROUNDS}]"]
    with running([curl, "-q", "-sS", "--fail", "--noproxy", "*", "-w", "\n", *urls]) as process:
        apps = house.switch_at_the_pause()
        assert [json.loads(line)["app"] for line in said(process).splitlines()] == apps


def test_a_websocket_of_aiohttp_is_a_tunnel_that_a_switch_leaves_alone(house: House) -> None:
    async def talk(made: Aiohttp) -> None:
        live = house.proxy.status["live"]
        async with made.session.ws_connect(house.url + "/ws", protocols=("echo",)) as socket:
            assert socket.protocol == "echo"
            await socket.send_str("hello")
            assert await socket.receive_str(timeout=PATIENCE_S) == f"{live}: hello"
            assert house.proxy.switch("green" if live == "blue" else "blue").status == 200
            for size in (0, 125, 126, 65_536, MIB):
                await socket.send_bytes(bytes(size))
                assert len(await socket.receive_bytes(timeout=PATIENCE_S)) == size
            await socket.send_str("still there")
            assert await socket.receive_str(timeout=PATIENCE_S) == f"{live}: still there"
            await socket.close(code=aiohttp.WSCloseCode.OK)
            assert socket.close_code == 1000

    with closing(Aiohttp(house.url)) as made:
        made.run(talk(made))


# --- Node, undici, Chromium -------------------------------------------------------------------------------------------

COMMON = {
    "get": ["GET", "/echo?a=%C3%A9&b", ["one"], ["1.1 bgproxy"]],
    "head": [str(len(LARGE)), 0],
    "post": [MIB, [str(MIB)], True],
    "gzip": ["gzip", 30_000],
    "redirect": [True, "GET", "/echo"],
    "large": [len(LARGE), True],
    "stream": ["piece 0\n", "piece 1\n", "piece 2\n"],
}
CHUNKED = {"chunked": [14, ["chunked"]]}
EVENTS = {"events": ["event 0", "event 1", "event 2"]}
WEBSOCKET = {"websocket": ["echo", "hello", 300_000, 1000, True]}


@pytest.mark.clients
def test_the_fetch_of_node(house: House) -> None:
    node = needed("node", package="nodejs")
    with running([node, SUPPORT / "node_client.mjs", house.url]) as process:
        apps = house.switch_at_the_pause()
        outcome = json.loads(said(process))
    # Newer ones have more of it built in.
    further = {name: value for name, value in (EVENTS | WEBSOCKET).items() if name in outcome}
    assert outcome == COMMON | CHUNKED | further | {"switch": apps}


@pytest.fixture(scope="module")
def undici(tmp_path_factory: pytest.TempPathFactory) -> Path:
    needed("node", package="nodejs")
    npm = needed("npm", package="npm")
    directory = tmp_path_factory.mktemp("undici")
    options = ("--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error")
    try:
        with running([npm, "install", "--prefix", directory, *options, UNDICI], cwd=directory) as process:
            said(process)
    except (AssertionError, subprocess.TimeoutExpired) as error:
        missing(f"npm could not install {UNDICI}: {error}")
    return directory / "node_modules" / "undici"


@pytest.mark.clients
def test_undici_with_pipelining(house: House, undici: Path) -> None:
    node = needed("node", package="nodejs")
    with running([node, SUPPORT / "node_client.mjs", house.url, undici]) as process:
        apps = house.switch_at_the_pause()
        outcome = json.loads(said(process))
    own = {"undici": [200, 70_000], "pipelined": 200}
    assert outcome == COMMON | CHUNKED | EVENTS | WEBSOCKET | own | {"switch": apps}


def chromium(directory: Path, url: str) -> list[str]:
    quiet = "gpu quic background-networking component-update sync extensions dev-shm-usage default-apps"
    return [
        needed("chromium", package="chromium"),
        *("--headless", "--no-sandbox", "--no-first-run", "--no-proxy-server"),
        *(f"--disable-{word}" for word in quiet.split()),
        *(f"--user-data-dir={directory}", "--enable-logging=stderr", "--dump-dom", url),
    ]


@pytest.mark.clients
def test_chromium(house: House, tmp_path: Path) -> None:
    with running(chromium(tmp_path / "profile", f"{house.url}/page")) as process:
        apps = house.switch_at_the_pause()
        eventually(lambda: sum(app.told("done") for app in house.apps.values()), "the end of the page's work")
        for app in house.apps.values():
            app.told("finish")
        document = said(process)
    (text,) = re.findall(r'<pre id="outcome">(.*?)</pre>', document, re.DOTALL)
    cookies = {"cookies": {"session": "s3cret", "theme": "dark"}}
    assert json.loads(html.unescape(text)) == COMMON | EVENTS | WEBSOCKET | cookies | {"switch": apps}


@pytest.mark.clients
def test_chromium_shows_an_error_as_a_page(house: House, tmp_path: Path) -> None:
    with running(chromium(tmp_path / "profile", f"{house.url}/{'t' * 9000}")) as process:
        document, complaints = process.communicate(timeout=PATIENCE_S)
    assert "Content Security Policy" not in complaints, "the page's own style is allowed"
    assert re.search(r"<h1>414 [\w -]+</h1>", document)
    assert "<code>" in document


# --- load -------------------------------------------------------------------------------------------------------------


def switch_under_load(proxy: Proxy, blue: App, green: App) -> None:
    eventually(lambda: blue.told("served") > 100, "requests on blue")
    assert proxy.switch("green").status == 200
    before = blue.told("served")
    eventually(lambda: green.told("served") > 100, "requests on green")
    assert proxy.switch("blue").status == 200
    eventually(lambda: blue.told("served") > before + 100, "requests on blue again")


@pytest.mark.clients
def test_h2load_with_sixteen_pipelined_requests_a_connection(proxy: Proxy, blue: App, green: App) -> None:
    h2load = needed("h2load", package="nghttp2-client")
    requests = 60_000
    command = (h2load, "--h1", "-n", requests, "-c", 8, "-m", 16, f"http://{proxy.listen}/")
    with running(list(map(str, command))) as process:
        switch_under_load(proxy, blue, green)
        report = said(process)
    assert f"{requests} succeeded, 0 failed, 0 errored, 0 timeout" in report
    assert f"status codes: {requests} 2xx, 0 3xx, 0 4xx, 0 5xx" in report


@pytest.mark.clients
def test_wrk(proxy: Proxy, blue: App, green: App) -> None:
    with running(
        [needed("wrk", package="wrk"), "-t2", "-c32", f"-d{PATIENCE_S}s", f"http://{proxy.listen}/"]
    ) as process:
        switch_under_load(proxy, blue, green)
        process.send_signal(signal.SIGINT)  # enough: it reports
        report = said(process)
    assert int(re.findall(r"(\d+) requests in", report)[0]) > 300
    assert "Socket errors" not in report
    assert "Non-2xx" not in report
