"""Every command as an operator types it, by its exit code and what it says."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.house import ROOT, App, Proxy, bgproxy, clean_environment, eventually, stop


def test_run_without_anything_says_what_to_do() -> None:
    done = bgproxy("run")
    assert done.returncode == 3
    assert "--blue" in done.stderr
    assert "--green" in done.stderr
    assert "-c FILE" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_mistake_in_the_configuration_is_named_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "bgproxy.toml"
    pools = '[pools.blue]\nupstreams = ["127.0.0.1:9001"]\n[pools.green]\nupstreams = ["127.0.0.1:9002"]\n'
    file.write_text(f"[server]\nworker = 2\n[server.timeouts]\nheader = 10\n{pools}")
    for command, stream in ((("run", "-c"), "stderr"), (("check",), "stdout")):
        done = bgproxy(*command, str(file))
        said = getattr(done, stream)
        assert done.returncode == 3
        assert f"{file}:2:1: [server] worker" in said
        assert "did you mean" in said
        assert f"{file}:4:" in said
        assert "Traceback" not in done.stderr
    file.write_text(pools)
    done = bgproxy("check", str(file))
    assert (done.returncode, done.stdout) == (0, f"OK: {file}\n")


def test_the_exit_code_says_what_came_of_it(proxy: Proxy, green: App) -> None:
    status = proxy.command("status")
    assert status.returncode == 0
    assert status.stdout.startswith("blue is live  epoch 0")
    assert proxy.command("switch", "green").returncode == 0
    assert proxy.command("rollback").returncode == 0

    usage = proxy.command("switch", "purple")
    assert usage.returncode == 2

    green.told("sick")
    eventually(lambda: proxy.status["pools"]["green"]["healthy"] == 0, "the verdict")
    refused = proxy.command("switch", "green")
    assert refused.returncode == 5
    assert "nothing was changed" in refused.stderr
    assert f"green/{green.address}" in refused.stderr
    assert proxy.command("preflight", "green").returncode == 5
    assert proxy.command("switch", "green", "--dry-run").returncode == 5
    assert proxy.command("switch", "green", "--if-epoch", "1").returncode == 6
    assert proxy.status["epoch"] == 2

    forced = proxy.command("switch", "green", "--force", "-o", "json")
    assert forced.returncode == 0
    assert json.loads(forced.stdout)["forced"] is True


def test_waiting_for_the_drain_in_vain_has_an_exit_code_of_its_own(proxy: Proxy, blue: App) -> None:
    client = proxy.client()
    client.send(b"GET /hold HTTP/1.1\r\nHost: app.example\r\n\r\n")
    eventually(lambda: blue.told("held") == 1, "the request")
    late = proxy.command("switch", "green", "--wait", "drained", "--timeout", "100ms")
    client.close()
    assert late.returncode == 7
    assert re.search(r"green is live \(epoch 1\), but after [\d.]+ s 1 requests still run on blue", late.stderr)


def test_nobody_there_is_said_with_the_way_to_say_where(proxy: Proxy) -> None:
    proxy.end()
    done = proxy.command("status")
    assert done.returncode == 4
    assert proxy.admin_url in done.stderr
    assert "--admin" in done.stderr


def test_a_client_command_finds_the_running_proxy_by_its_state_directory(proxy: Proxy) -> None:
    done = bgproxy("switch", "green", env={"BGPROXY_STATE__DIR": str(proxy.state_dir)})
    assert done.returncode == 0
    assert done.stdout.startswith("blue → green  epoch 1\n")
    assert proxy.status["last_switch"]["by"].startswith("unix")


@pytest.mark.parametrize("version", [("version",), ("--version",)])
def test_it_knows_its_version(version: tuple[str, ...]) -> None:
    done = bgproxy(*version)
    assert (done.returncode, done.stdout.split()[0]) == (0, "bgproxy")


def test_the_demo_serves_switches_and_cleans_up_after_itself(tmp_path: Path) -> None:
    flags = ("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--workers", "1", "--state-dir", str(tmp_path))
    demo = subprocess.Popen(
        [sys.executable, "-m", "bgproxy", "demo", *flags],
        cwd=ROOT,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    addresses: dict[str, str] = {}

    def ready() -> bool:
        if (tmp_path / "addresses.json").exists():
            addresses.update(json.loads((tmp_path / "addresses.json").read_text()))
        return bool(addresses)

    try:
        eventually(ready, "the demo")
        done = bgproxy("--admin", f"http://{addresses['admin']}", "switch", "green")
        assert (done.returncode, done.stdout.split("\n")[0]) == (0, "blue → green  epoch 1")
        demo.send_signal(signal.SIGINT)
        assert demo.wait(30) == 0
    finally:
        if demo.poll() is None:
            demo.kill()
            demo.wait()


def test_the_word_moves_although_a_worker_is_silent_and_the_command_names_it(
    start: Callable[..., Proxy], blue: App, green: App
) -> None:
    proxy = start(blue, green, env={"BGPROXY_SWITCH__ACK_TIMEOUT": "200ms"})
    pid = proxy.worker_pids[0]
    stop(pid)
    done = proxy.command("switch", "green")
    assert done.returncode == 0
    assert f"worker 0 (pid {pid}) was replaced: did not acknowledge epoch 1 within 0.2 s" in done.stdout
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
