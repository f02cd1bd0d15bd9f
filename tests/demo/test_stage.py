"""The demo around the real proxy: its apps, its addresses, its guide."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from bgproxy.demo import stage
from bgproxy.errors import StartupError

DEADLINE_S = 60.0


def gone(pid: int) -> bool:
    """No such process any more, or only its exit code is left."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def eventually(condition, what: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen in time"
        time.sleep(0.02)


def test_both_apps_run_and_are_stopped():
    with stage.apps() as running:
        for colour, app in running.items():
            with urllib.request.urlopen(f"http://{app.address()}/", timeout=10) as answer:
                assert colour in answer.read().decode()
        pids = [app.pid for app in running.values()]
    assert all(gone(pid) for pid in pids)


def test_apps_are_stopped_when_something_goes_wrong():
    pids = []

    def go_wrong() -> None:
        with stage.apps() as running:
            pids.extend(app.pid for app in running.values())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        go_wrong()
    assert len(pids) == 2
    assert all(gone(pid) for pid in pids)


def test_an_app_that_does_not_start_is_one_sentence(monkeypatch):
    monkeypatch.setattr(stage.sys, "executable", "/bin/true")
    app = stage.App("blue", "1.0")
    with pytest.raises(StartupError, match="the blue app of the demo did not start"):
        app.address()
    app.stop()


def test_an_app_that_does_not_stop_is_killed(monkeypatch):
    monkeypatch.setattr(stage, "STOP_TIMEOUT_S", 0.05)
    app = stage.App("blue", "1.0")
    app.address()
    os.kill(app.pid, signal.SIGSTOP)
    app.stop()
    assert gone(app.pid)


def test_a_taken_default_gives_way_to_a_free_port_and_says_so(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        default = f"127.0.0.1:{taken.getsockname()[1]}"
        assert stage._usable(None, default, "--listen") == "127.0.0.1:0"
    assert f"{default} is in use" in capsys.readouterr().out


def test_an_address_that_was_named_is_kept(capsys):
    assert stage._usable("127.0.0.1:1", stage.DEFAULT_LISTEN, "--listen") == "127.0.0.1:1"
    assert capsys.readouterr().out == ""


ADDRESSES = {"listen": ["127.0.0.1:41001"], "admin": "127.0.0.1:41002", "pid": 1}


def test_the_guide_names_the_real_ports(monkeypatch):
    monkeypatch.setattr(stage.sys, "argv", ["/nowhere/bin/bgproxy"])
    text = stage.guide(ADDRESSES)
    assert "curl http://127.0.0.1:41001/" in text
    assert "/nowhere/bin/bgproxy switch green --admin http://127.0.0.1:41002\n" in text
    assert "/nowhere/bin/bgproxy rollback --admin http://127.0.0.1:41002\n" in text


def test_the_guide_is_short_where_the_commands_find_the_demo_by_themselves(monkeypatch, tmp_path):
    program = tmp_path / "bgproxy"
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(stage.sys, "argv", [str(program)])
    assert "  bgproxy switch green\n" in stage.guide(ADDRESSES, "http://127.0.0.1:41002")


def test_the_guide_knows_python_dash_m(monkeypatch):
    monkeypatch.setattr(stage.sys, "argv", ["/somewhere/bgproxy/__main__.py"])
    assert f"  {sys.executable} -m bgproxy status" in stage.guide(ADDRESSES)


class Demo:
    """The demo as a user starts it, with its output."""

    def __init__(self, state: Path) -> None:
        command = [sys.executable, "-m", "bgproxy", "demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
        self.state = state
        self.log = state.parent / "demo.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--workers", "1", "--state-dir", str(state)], stdout=log, stderr=log, start_new_session=True
            )

    def ready(self) -> dict[str, object]:
        addresses = self.state / "addresses.json"
        eventually(lambda: addresses.exists() or self.process.poll() is not None, "the start")
        assert self.process.poll() is None, self.log.read_text()
        written: dict[str, object] = json.loads(addresses.read_bytes())
        return written

    def children(self) -> list[int]:
        """Every process the demo has started."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[3]) == self.process.pid:  # the session
                found.append(int(stat.parent.name))
        return found


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    running = Demo(tmp_path / "state")
    yield running
    running.process.kill()  # first, because it would replace its workers
    for pid in running.children():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    running.process.wait()


def fetch(address: object) -> str:
    with urllib.request.urlopen(f"http://{address}/", timeout=10) as answer:
        text: str = answer.read().decode()
    return text


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bgproxy", *arguments], check=False, capture_output=True, text=True, timeout=60
    )


def test_the_demo_switches_and_rolls_back_and_leaves_nothing_behind(demo):
    addresses = demo.ready()
    (front,) = addresses["listen"]
    at = ("--admin", f"http://{addresses['admin']}".replace("http://http://", "http://"))
    assert "blue" in fetch(front)
    switched = command("switch", "green", *at)
    assert (switched.returncode, "blue → green" in switched.stdout) == (0, True), switched
    assert "green" in fetch(front)
    assert command("rollback", *at).returncode == 0
    assert "blue" in fetch(front)
    assert "blue is live" in command("status", *at).stdout
    everything = demo.children()
    assert len(everything) >= 4  # the supervisor, a worker, two apps
    demo.process.send_signal(signal.SIGTERM)
    assert demo.process.wait(timeout=DEADLINE_S) == 0, demo.log.read_text()
    assert all(gone(pid) for pid in everything)
    assert f"curl http://{front}/" in demo.log.read_text()
    assert "Traceback" not in demo.log.read_text()


def test_apps_and_workers_die_with_a_demo_that_was_killed(demo):
    demo.ready()
    everything = demo.children()
    assert len(everything) >= 4  # the supervisor, a worker, two apps
    demo.process.kill()
    eventually(lambda: all(gone(pid) for pid in everything), "the end of the apps and the worker")
