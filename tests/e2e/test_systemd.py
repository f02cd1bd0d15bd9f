"""The units, and the proxy under a service manager that is played here: sockets by activation, words by datagram."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bgproxy.core.model import parse_address
from tests.support.house import ROOT, App, Proxy, eventually
from tests.support.raw_client import RawClient

UNITS = ROOT / "config" / "systemd"
UNIX = Path("/proc/net/unix")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    service = (UNITS / "bgproxy.service").read_text()
    assert "/opt/bgproxy/bin/bgproxy" in service
    (tmp_path / "bgproxy.service").write_text(service.replace("/opt/bgproxy/bin/bgproxy", sys.executable))
    shutil.copy(UNITS / "bgproxy.socket", tmp_path)
    units = [str(tmp_path / "bgproxy.service"), str(tmp_path / "bgproxy.socket")]
    found = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    ours = [line for line in (found.stdout + found.stderr).splitlines() if "bgproxy" in line]
    assert (found.returncode, ours) == (0, [])


def test_the_unit_says_what_the_program_does() -> None:
    service = (UNITS / "bgproxy.service").read_text()
    assert re.findall(r"^(Type|NotifyAccess|KillMode|Restart)=(.*)$", service, re.MULTILINE) == [
        ("Type", "notify"),
        ("NotifyAccess", "all"),
        ("KillMode", "process"),
        ("Restart", "always"),
    ]


class Manager:
    """The socket that NOTIFY_SOCKET names."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self.heard: list[str] = []
        self._thread = threading.Thread(target=self._hear)
        self._thread.start()

    def _hear(self) -> None:
        while said := self._socket.recv(4096):
            self.heard += said.decode().split("\n")

    def has_heard(self, line: str) -> bool:
        return line in self.heard

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"", str(self.path))
        self._thread.join()
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    yield made
    made.close()


def test_a_service_manager_is_told_of_ready_switch_upgrade_watchdog_and_end(
    start: Callable[..., Proxy], blue: App, green: App, manager: Manager
) -> None:
    proxy = start(blue, green, env={"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "100000"})
    eventually(lambda: manager.has_heard("READY=1"), "the readiness")
    assert manager.has_heard("STATUS=blue is live, epoch 0, 2 workers")
    eventually(lambda: manager.has_heard("WATCHDOG=1"), "a sign of life")
    proxy.switch("green")
    eventually(lambda: manager.has_heard("STATUS=green is live, epoch 1, 2 workers"), "the switch")
    manager.heard.clear()
    proxy.process.send_signal(signal.SIGHUP)
    eventually(lambda: manager.has_heard("READY=1"), "the end of the reload")
    assert manager.heard.index("RELOADING=1") < manager.heard.index("READY=1")
    assert any(line.startswith("MONOTONIC_USEC=") for line in manager.heard)
    manager.heard.clear()
    assert proxy.post("/upgrade").ok
    assert proxy.follow() == 0
    eventually(lambda: manager.has_heard("READY=1"), "the new one's readiness")
    assert manager.heard.index("RELOADING=1") < manager.heard.index(f"MAINPID={proxy.process.pid}")
    assert manager.heard.index(f"MAINPID={proxy.process.pid}") < manager.heard.index("READY=1")
    assert not manager.has_heard("STOPPING=1"), "the service goes on"
    manager.heard.clear()
    eventually(lambda: manager.has_heard("WATCHDOG=1"), "a sign of life of the new one")
    assert proxy.end() == 0
    assert manager.has_heard("STOPPING=1")


def listens(path: Path) -> bool:
    """A socket is a file before anybody listens there. Asking it would start what it is to start."""
    return any(line.split()[3] == "00010000" and line.endswith(f" {path}") for line in UNIX.read_text().splitlines())


@pytest.mark.skipif(shutil.which("systemd-socket-activate") is None, reason="systemd is not installed")
def test_sockets_of_systemd_are_used_and_stay_its_own(blue: App, green: App, tmp_path: Path) -> None:
    front, admin = tmp_path / "front.sock", tmp_path / "admin.sock"
    state = tmp_path / "state"
    command = [
        *("systemd-socket-activate", "--listen", str(front), "--listen", str(admin)),
        *("-E", f"PYTHONPATH={ROOT}", "-E", "BGPROXY_HEALTH__INTERVAL=100ms", "-E", f"BGPROXY_ADMIN__SOCKET={admin}"),
        *(sys.executable, "-m", "bgproxy", "run", "--state-dir", str(state), "--workers", "2"),
        *("--listen", f"unix:{front}", "--admin", "127.0.0.1:0", "--blue", blue.address, "--green", green.address),
    ]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: listens(front) and listens(admin), "the sockets")
        inode = front.lstat().st_ino
        client = RawClient(parse_address(f"unix:{front}"))  # which is what starts the proxy
        assert client.ask().body == b"blue"
        client.close()
        asking = RawClient(parse_address(f"unix:{admin}"))
        asking.send(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert asking.answer().status == 200
        asking.close()
    finally:
        process.terminate()
        assert process.wait(30) == 0
    assert front.lstat().st_ino == inode, "what systemd has made is for systemd to remove"
    assert admin.exists()


def test_a_socket_that_nobody_wants_is_named(blue: App, green: App, tmp_path: Path) -> None:
    """Without systemd: sockets at 3, and a shell that says so."""
    with socket.create_server(("127.0.0.1", 0)) as wanted, socket.create_server(("127.0.0.1", 0)) as unwanted:
        ports = [sock.getsockname()[1] for sock in (wanted, unwanted)]
        activate = (
            "import os, sys\n"
            "for target, fd in ((3, int(sys.argv[1])), (4, int(sys.argv[2]))): os.dup2(fd, target)\n"
            "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='2')\n"
            "os.execv(sys.executable, [sys.executable, '-m', 'bgproxy', 'run', *sys.argv[3:]])\n"
        )
        high = [os.dup2(sock.fileno(), 100 + number) for number, sock in enumerate((wanted, unwanted))]
        said = subprocess.run(
            [
                *(sys.executable, "-c", activate, *map(str, high), "--state-dir", str(tmp_path / "state")),
                *("--listen", f"127.0.0.1:{ports[0]}", "--admin", "127.0.0.1:0"),
                *("--blue", blue.address, "--green", green.address),
            ],
            capture_output=True,
            text=True,
            pass_fds=high,
            cwd=ROOT,
            timeout=60,
            check=False,
        )
        for fd in high:
            os.close(fd)
    assert said.returncode == 1
    assert f"systemd passes a socket for 127.0.0.1:{ports[1]}, and nothing in the configuration is there" in said.stderr
