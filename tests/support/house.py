"""The whole house as real processes: apps, `python -m bgproxy run`, and the command line."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bgproxy.cli.client import AdminClient, Answer
from bgproxy.controlplane.orphans import Orphans
from bgproxy.core.model import parse_address
from tests.support.raw_client import RawClient

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 30.0


def eventually(condition: Callable[[], object], what: str = "the condition") -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true within {PATIENCE_S:g} s"
        time.sleep(0.01)


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Nothing of what this machine's own bgproxy may be told."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("BGPROXY_")}
    kept.pop("STATE_DIRECTORY", None)
    return kept | {"PYTHONPATH": str(ROOT)} | dict(extra or {})


def bgproxy(
    *arguments: str, env: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """One command of the command line, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "bgproxy", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        cwd=cwd,
        env=clean_environment(env),
        check=False,
    )


class App:
    """A colour_app process, or another module of tests.support that is started and told like it."""

    def __init__(self, name: str, listen: str = "127.0.0.1:0", *, module: str = "colour_app") -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"tests.support.{module}", "--name", name, "--listen", listen],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], PATIENCE_S)
        assert readable, f"the app {name} did not start"
        self.address = self._process.stdout.readline().decode().split()[1]

    def told(self, word: str) -> int:
        """sick, mute, well, release, afresh; held and served ask. The answer is a number."""
        client = RawClient(parse_address(self.address))
        try:
            return int(client.ask("GET", f"/app/{word}").body)
        finally:
            client.close()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Grandchild:
    """A process that is no child of ours, with as much of Popen as is needed here. How it ends is not known."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._pidfd = os.pidfd_open(pid)

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._pidfd], [], [], 0)[0]:
            self.returncode = 0
            os.close(self._pidfd)
        return self.returncode

    def wait(self, timeout: float = PATIENCE_S) -> int:
        if self.returncode is None and not select.select([self._pidfd], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(str(self.pid), timeout)
        return self.poll() or 0

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            signal.pidfd_send_signal(self._pidfd, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Proxy:
    """`python -m bgproxy run` with these flags. `env` may set any key, like BGPROXY_SWITCH__ACK_TIMEOUT."""

    def __init__(self, directory: Path, flags: Sequence[str], *, env: Mapping[str, str] | None = None) -> None:
        self.state_dir = directory / "state"
        self._flags = ("--state-dir", str(self.state_dir), *flags)
        self._env = {"BGPROXY_HEALTH__INTERVAL": "100ms", "BGPROXY_HEADERS__EXPOSE": "true"} | dict(env or {})
        self._log = directory / "stderr.log"
        self.process: subprocess.Popen[bytes] | Grandchild = self._spawn()
        self.addresses: dict[str, Any] = {}

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "bgproxy", "run", *self._flags],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                cwd=ROOT,
                env=clean_environment(self._env),
            )

    def until_ready(self) -> Proxy:
        def ready() -> bool:
            assert self.process.poll() is None, f"it ended with {self.process.returncode}: {self._log.read_text()}"
            with contextlib.suppress(OSError, ValueError):
                self.addresses = json.loads((self.state_dir / "addresses.json").read_bytes())
            return bool(self.addresses) and self.addresses["pid"] == self.process.pid

        eventually(ready, "readiness")
        return self

    def follow(self) -> int:
        """The program has replaced itself: from here on this is the new one. Returns how the old one ended."""
        self.addresses = json.loads((self.state_dir / "addresses.json").read_bytes())
        old, self.process = self.process, Grandchild(self.addresses["pid"])
        return old.wait(PATIENCE_S)

    def start_again(self) -> Proxy:
        assert self.process.poll() is not None
        self.process = self._spawn()
        return self.until_ready()

    # --- clients ------------------------------------------------------------------------------------------------------

    @property
    def listen(self) -> str:
        address: str = self.addresses["listen"][0]
        return address

    @property
    def port(self) -> int:
        return int(self.listen.rpartition(":")[2])

    @property
    def admin_url(self) -> str:
        return f"http://{self.addresses['admin']}"

    def client(self, which: int = 0) -> RawClient:
        return RawClient(parse_address(self.addresses["listen"][which]))

    def colour(self) -> str:
        """Who answers a new connection now."""
        client = self.client()
        try:
            answer = client.ask()
            assert answer.status == 200, answer
            assert answer.one("X-BG-Colour") == answer.body.decode().split("-")[0]
            return answer.body.decode()
        finally:
            client.close()

    def get(self, path: str) -> Answer:
        return AdminClient([self.admin_url]).get(path)

    def post(self, path: str, **body: Any) -> Answer:
        return AdminClient([self.admin_url]).post(path, body, timeout_s=PATIENCE_S)

    def put(self, path: str, **body: Any) -> Answer:
        return AdminClient([self.admin_url]).change("PUT", path, body, timeout_s=PATIENCE_S)

    def switch(self, to: str, **more: Any) -> Answer:
        return self.post("/switch", to=to, **more)

    @property
    def status(self) -> dict[str, Any]:
        document: dict[str, Any] = self.get("/status").document
        return document

    @property
    def worker_pids(self) -> list[int]:
        pids: list[int] = self.status["workers"]["pids"]
        return pids

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return bgproxy(*arguments, "--admin", self.admin_url)

    # --- what it said -------------------------------------------------------------------------------------------------

    def log_text(self) -> str:
        return self._log.read_text()

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log's events of that name; every line must be JSON, so a traceback fails the test."""
        lines = [json.loads(line) for line in self.log_text().splitlines()]
        return [line for line in lines if line["event"] == name]

    # --- ends ---------------------------------------------------------------------------------------------------------

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def kill_everything(self) -> None:
        """kill -9 of the supervisor and of every worker, in this order: nobody has time for a last word."""
        workers = self.worker_pids
        self.process.kill()
        self.process.wait()
        for pid in workers:
            os.kill(pid, signal.SIGKILL)

    def clean_up(self) -> None:
        """After any test: no process is left, whatever it did."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        left = Orphans.find(self.state_dir, emit=lambda *_args, **_fields: None)
        asyncio.run(left.end_now())
        left.release()


def state_of(pid: int) -> str:
    """The letter of /proc/PID/stat: R, S, T for stopped; "" where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def stop(pid: int) -> None:
    """SIGSTOP, and wait until it does nothing any more."""
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: state_of(pid) == "T", f"the stop of {pid}")


def client_ports_of(pid: int, listen_port: int) -> set[int]:
    """The client ports of all connections that this process holds on a listening port of 127.0.0.1."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(descriptor)
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    ports = set()
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].partition(":")[2], 16) == listen_port and fields[3] != "0A" and fields[9] in inodes:
            ports.add(int(fields[2].partition(":")[2], 16))
    return ports
