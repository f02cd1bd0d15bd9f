"""A real HAProxy in front that says with PROXY headers whose connection it is."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.house import eventually
from tests.support.raw_http import Wire, request
from tests.support.raw_upstream import RawUpstream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.house import Proxy

pytestmark = pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed: apt-get install it")

CLIENT = "127.0.0.2"  # an address of its own, which HAProxy does not have when it connects to us


@pytest.fixture
def upstream() -> Iterator[RawUpstream]:
    made = RawUpstream()
    yield made
    made.close()


@pytest.fixture
def proxy(start: Callable[..., Proxy], upstream: RawUpstream, tmp_path: Path) -> Proxy:
    settings = {
        "SERVER__PROXY_PROTOCOL": "true",
        "SERVER__TRUSTED_PROXIES": "127.0.0.1/32,unix",
        "LOG__ACCESS": "json",
        "LOG__ACCESS_FILE": str(tmp_path / "access.log"),
    }
    env = {f"BGPROXY_{key}": value for key, value in settings.items()}
    return start(upstream, upstream, "--listen", f"unix:{tmp_path}/bgproxy.sock", workers=1, env=env)


@pytest.fixture
def front(proxy: Proxy, tmp_path: Path) -> Iterator[Callable[[str], Wire]]:
    """Connects from CLIENT through HAProxy, on the listener of that name."""
    tcp, unix = proxy.addresses["listen"]
    servers = {
        "v1": f"{tcp} send-proxy",
        "v2": f"{tcp} send-proxy-v2 proxy-v2-options crc32c,authority",
        "unix": f"unix@{unix.removeprefix('unix:')} send-proxy-v2",
        "checked": f"{tcp} send-proxy-v2 check inter 100ms",
        "mute": tcp,
    }
    listeners = {name: socket.create_server(("127.0.0.1", 0)) for name in servers}
    lines = ["defaults", "mode tcp", "timeout connect 10s", "timeout client 10s", "timeout server 10s"]
    for name, server in servers.items():
        lines += [f"listen {name}", f"bind fd@{listeners[name].fileno()}", f"server bgproxy {server}"]
        lines += ["option httpchk GET /from-haproxy"] if name == "checked" else []
    configuration = tmp_path / "haproxy.cfg"
    configuration.write_text("\n".join(lines) + "\n")
    with (tmp_path / "haproxy.log").open("wb") as log:
        process = subprocess.Popen(
            ["haproxy", "-db", "-f", str(configuration)],
            pass_fds=[listener.fileno() for listener in listeners.values()],
            stdout=log,
            stderr=log,
        )
    clients: list[Wire] = []

    def connect(name: str) -> Wire:
        clients.append(Wire(socket.create_connection(listeners[name].getsockname(), source_address=(CLIENT, 0))))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()
    process.kill()
    process.wait()
    for listener in listeners.values():
        listener.close()


def asked(upstream: RawUpstream, target: str) -> list[Any]:
    return [seen for seen in upstream.requests if seen.target == target]


def test_upstream_and_access_log_know_the_client_of_haproxy(
    upstream: RawUpstream, front: Callable[[str], Wire], tmp_path: Path
) -> None:
    for how in ("v1", "v2", "unix"):
        client = front(how)
        for _ in range(2):
            client.send(request("GET", f"/{how}", "X-Forwarded-For: 6.6.6.6"))
            assert client.message(is_response=True).body == b"hello"
        assert [seen.one("X-Forwarded-For") for seen in asked(upstream, f"/{how}")] == [CLIENT] * 2
    eventually(lambda: asked(upstream, "/from-haproxy"), "a check of HAProxy's own")
    assert asked(upstream, "/from-haproxy")[0].one("X-Forwarded-For") == "127.0.0.1"

    def remotes() -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for record in map(json.loads, (tmp_path / "access.log").read_text().rpartition("\n")[0].splitlines()):
            found.setdefault(record["path"], set()).add(record["remote"])
        return found

    expected = {"/v1": {CLIENT}, "/v2": {CLIENT}, "/unix": {CLIENT}, "/from-haproxy": {"127.0.0.1"}}
    eventually(lambda: remotes() == expected, "all records")


def test_a_haproxy_that_sends_no_header_is_refused_and_counted(
    proxy: Proxy, upstream: RawUpstream, front: Callable[[str], Wire]
) -> None:
    client = front("mute")
    client.send(request())
    assert client.is_ended()
    assert asked(upstream, "/") == []
    text = urllib.request.urlopen(f"{proxy.admin_url}/metrics", timeout=30).read().decode()
    assert 'bgproxy_rejected_requests_total{reason="proxy_protocol"} 1\n' in text
