"""A whole proxy in front of upstreams over TLS: what an operator sees of it, good and bad."""

from __future__ import annotations

import os
import signal
import urllib.request
from typing import TYPE_CHECKING

import pytest

from bgproxy.errors import EXIT_CONFIG, EXIT_REFUSED
from tests.support.house import Proxy, bgproxy, eventually
from tests.support.raw_http import response
from tests.support.raw_upstream import RawUpstream, answering
from tests.support.upstream_certificates import ca_pem, cert_pem, key_pem, leaf, server_context, write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def upstreams() -> Iterator[list[RawUpstream]]:
    made: list[RawUpstream] = []
    yield made
    for each in made:
        each.close()


FLAGS = ("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--workers", "1")


@pytest.mark.says("The client is not told why")
def test_a_proxy_in_front_of_tls_upstreams_shows_what_it_finds(tmp_path: Path, upstreams: list[RawUpstream]) -> None:
    ours = leaf("proxy.example")
    files = write(tmp_path, ca=ca_pem(), cert=cert_pem(ours), key=key_pem(ours))
    good = RawUpstream(answering(response(200, b"blue-0")), tls=server_context("app.internal", asks_for="ours"))
    expired = RawUpstream(answering(response(200, b"green-0")), tls=server_context("app.internal", expired=True))
    upstreams += [good, expired]
    file = tmp_path / "bgproxy.toml"
    file.write_text(f"""
[pools.blue]
upstreams = ["{good.address}"]
[pools.green]
upstreams = [{{address = "{expired.address}", server_name = "app.internal"}}]
[upstream.tls]
ca = "ca.pem"
server_name = "app.internal"
cert = "cert.pem"
key = "{files["key"]}"
""")
    assert bgproxy("check", str(file)).stdout == f"OK: {file}\n"
    proxy = Proxy(tmp_path, ("-c", str(file), *FLAGS))
    try:
        proxy.until_ready()
        for name in ("cert", "key", "ca"):  # a worker that is started now has them all the same
            (tmp_path / f"{name}.pem").unlink()
        before = proxy.worker_pids
        assert proxy.colour() == "blue-0"
        pools = proxy.status["pools"]
        (blue,), (green,) = pools["blue"]["upstreams"], pools["green"]["upstreams"]
        assert (blue["id"], blue["address"], blue["up"]) == (good.address, good.address, True)
        assert (green["up"], green["check"]["error"]) == (False, "the upstream's certificate has expired")
        refused = proxy.command("switch", "green")
        assert refused.returncode == EXIT_REFUSED
        assert "the upstream's certificate has expired" in refused.stderr + refused.stdout
        assert good.address in proxy.command("status").stdout
        with urllib.request.urlopen(f"{proxy.admin_url}/metrics") as metrics:
            assert f'upstream="{good.address}"' in metrics.read().decode()
        (down,) = proxy.events("upstream_down")
        assert (down["upstream"], down["error"]) == (expired.address, "the upstream's certificate has expired")
        os.kill(before[0], signal.SIGKILL)
        eventually(lambda: proxy.worker_pids not in (before, [None]), "another worker")
        eventually(lambda: proxy.status["workers"]["ready"] == 1, "its readiness")
        assert proxy.colour() == "blue-0"
        assert proxy.end() == 0
        assert all(event["level"] for event in proxy.events("worker_died"))  # reads every line as JSON
    finally:
        proxy.clean_up()


def test_what_is_not_verified_is_a_warning_of_the_check(tmp_path: Path) -> None:
    file = tmp_path / "bgproxy.toml"
    file.write_text(
        '[pools.blue]\nupstreams = ["https://a:1"]\n[pools.green]\nupstreams = ["b:1"]\n'
        "[upstream.tls]\nverify = false\n"
    )
    done = bgproxy("check", str(file))
    assert done.returncode == 0
    assert done.stdout.startswith("warning: [upstream.tls] verify is false: whoever is in between can read and change")


def test_a_bad_file_ends_the_start_before_anything_is_started(tmp_path: Path) -> None:
    env = {"BGPROXY_UPSTREAM__TLS__CA": str(tmp_path / "gone.pem")}
    flags = ("--blue", "https://127.0.0.1:1", "--green", "https://127.0.0.1:2", "--state-dir", str(tmp_path / "state"))
    done = bgproxy("run", *flags, *FLAGS, env=env)
    assert done.returncode == EXIT_CONFIG
    assert "BGPROXY_UPSTREAM__TLS__CA: " in done.stderr
    assert "there is no such file; expected a PEM file" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "state").exists()
