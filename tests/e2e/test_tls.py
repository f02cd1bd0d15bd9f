"""TLS through the whole house: resumption wherever a client lands, new certificates without a lost connection."""

from __future__ import annotations

import json
import os
import signal
import ssl
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bgproxy.core.model import Address, parse_address
from tests.support.certificates import client_context, issue
from tests.support.house import App, Proxy, client_ports_of, eventually
from tests.support.tls_client import TlsClient

NAME = "app.example"


class Files:
    """A pair on disk, as an operator has it."""

    def __init__(self, directory: Path) -> None:
        self.cert, self.key = directory / "cert.pem", directory / "key.pem"

    def write(self, *names: str) -> None:
        """Each file is replaced as a whole, one after the other, like most tools do."""
        new = issue(*names)
        for path, text in (
            (self.cert, b"".join(blob.bytes() for blob in new.cert_chain_pems)),
            (self.key, new.private_key_pem.bytes()),
        ):
            path.with_suffix(".new").write_bytes(text)
            os.replace(path.with_suffix(".new"), path)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    made = Files(tmp_path)
    made.write(NAME)
    return made


@pytest.fixture
def start_tls(start: Callable[..., Proxy], blue: App, green: App, files: Files) -> Callable[..., Proxy]:
    def run(**more: str) -> Proxy:
        pairs = json.dumps([{"cert": str(files.cert), "key": str(files.key)}])
        own = {"BGPROXY_TLS__LISTEN": "127.0.0.1:0", "BGPROXY_TLS__CERTIFICATES": pairs}
        return start(blue, green, env=own | {f"BGPROXY_TLS__{key.upper()}": text for key, text in more.items()})

    return run


def tls_address(proxy: Proxy) -> Address:
    return parse_address(proxy.addresses["tls"][0])


OPEN: list[TlsClient] = []


@pytest.fixture(autouse=True)
def every_client_is_closed() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


def connect(proxy: Proxy, context: ssl.SSLContext | None = None, name: str = NAME, **more: Any) -> TlsClient:
    OPEN.append(TlsClient(tls_address(proxy), context or client_context(), name, **more))
    return OPEN[-1]


def names_shown(proxy: Proxy) -> list[str]:
    client = connect(proxy, client_context(check_hostname=False))
    client.close()
    return [name for _, name in client.shown["subjectAltName"]]


def worker_of(proxy: Proxy, client: TlsClient) -> int:
    port = client.tls.getsockname()[1]
    return next(pid for pid in proxy.worker_pids if port in client_ports_of(pid, tls_address(proxy).port))


def connected_to(proxy: Proxy, context: ssl.SSLContext, pid: int, session: ssl.SSLSession) -> TlsClient:
    """Connections are spread by the kernel: as many as it takes."""
    while True:
        client = connect(proxy, context, session=session)
        if worker_of(proxy, client) == pid:
            return client
        client.close()


def test_a_session_is_resumed_by_every_worker_and_by_one_that_was_started_since(
    start_tls: Callable[..., Proxy],
) -> None:
    proxy = start_tls()
    context = client_context()
    first = connect(proxy, context)
    assert first.ask().status == 200
    assert first.tls.session_reused is False
    session = first.tls.session
    assert session is not None
    own = worker_of(proxy, first)
    (other,) = set(proxy.worker_pids) - {own}
    second = connected_to(proxy, context, other, session)
    assert second.tls.session_reused is True
    assert second.ask().status == 200

    os.kill(other, signal.SIGKILL)
    eventually(lambda: other not in proxy.worker_pids and len(set(proxy.worker_pids) - {None}) == 2, "the replacement")
    (new,) = set(proxy.worker_pids) - {own}
    third = connected_to(proxy, context, new, session)
    assert third.tls.session_reused is True
    assert third.ask().status == 200
    assert proxy.status["tls"]["resumption"] == "all workers"


def test_new_certificates_are_used_without_a_lost_connection_and_bad_ones_are_refused_whole(
    start_tls: Callable[..., Proxy], files: Files
) -> None:
    proxy = start_tls()
    old = connect(proxy)
    assert old.ask().status == 200

    files.write(NAME, "second.example")
    eventually(lambda: len(names_shown(proxy)) == 2, "the new certificate")
    assert old.ask().status == 200, "an open connection stays"

    good = files.cert.read_bytes()
    files.cert.write_bytes(b"".join(blob.bytes() for blob in issue("third.example").cert_chain_pems))
    eventually(lambda: proxy.events("tls_reload_refused"), "the refusal")
    (refused,) = proxy.events("tls_reload_refused")
    assert f"the key {files.key} does not belong to the first certificate in {files.cert}" in refused["reason"]
    assert names_shown(proxy) == [NAME, "second.example"]
    assert proxy.status["tls"]["last_refused"]["reason"] == refused["reason"]

    pid = proxy.worker_pids[0]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: len(proxy.events("worker_started")) == 3 and proxy.get("/readyz").status == 200, "a new worker")
    assert {tuple(names_shown(proxy)) for _ in range(8)} == {(NAME, "second.example")}, "not what the files say now"

    files.cert.write_bytes(good)
    proxy.process.send_signal(signal.SIGHUP)
    eventually(lambda: len(proxy.events("tls_reloaded")) >= 2, "the reload that was asked for")
    assert proxy.process.poll() is None
    assert proxy.status["tls"]["last_refused"] is None
    (shown,) = proxy.status["tls"]["certificates"]
    assert shown["names"] == [NAME, "second.example"]
    assert "PRIVATE" not in proxy.log_text() + json.dumps(proxy.status)
    with urllib.request.urlopen(f"{proxy.admin_url}/metrics") as answer:
        metrics = answer.read().decode()
    assert 'bgproxy_tls_certificate_expiry_seconds{certificate="0"}' in metrics
    assert 'bgproxy_tls_reloads_total{result="refused"} 1' in metrics


def test_plain_requests_are_sent_to_https_and_answers_there_say_so(start_tls: Callable[..., Proxy]) -> None:
    proxy = start_tls(redirect_http="true", hsts="365d")
    client = proxy.client()
    client.send(f"POST /a?b HTTP/1.1\r\nHost: {NAME}:8080\r\nContent-Length: 1\r\n\r\n.".encode())
    answer = client.answer("POST")
    assert answer.status == 308
    assert answer.one("Location") == f"https://{NAME}:{tls_address(proxy).port}/a?b"
    assert answer.one("Strict-Transport-Security") == ""
    client.close()
    assert connect(proxy).ask().one("Strict-Transport-Security") == "max-age=31536000"


def test_a_successor_takes_the_tls_port_over(start_tls: Callable[..., Proxy], files: Files) -> None:
    proxy = start_tls()
    old = connect(proxy)
    assert old.ask().status == 200
    address = tls_address(proxy)
    proxy._env["BGPROXY_TLS__LISTEN"] = str(address)
    proxy.process.kill()
    proxy.process.wait()
    assert connect(proxy).ask().status == 200, "the workers go on"
    proxy.start_again()
    assert tls_address(proxy) == address
    assert connect(proxy).ask().status == 200
