"""How long a rollback takes while something is broken, under full load; and 1,000 switches beside 1,000 rollbacks.

python benchmarks/rollback.py [--rounds N] [--pairs N] [--only FAULT]

Every round breaks one thing, asks for the rollback, and takes the time to the answer and to the first response of the
restored colour. Fails where a median answer takes longer than 100 ms, a response is of the wrong colour, or switch and
rollback differ by more than a tenth.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import http.client
import json
import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rig

CONNECTIONS = 64
BOUND_MS = 100.0
TOLERANCE = 0.10
PAIRS_TO_JUDGE = 500  # fewer say nothing about a tenth on a machine that does other things as well
PATIENCE_S = 30.0
FLOOD = 300  # connections to the admin port that say half a head and nothing more
COLOURS = ("blue", "green")


class Unix(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=PATIENCE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE_S)
        self.sock.connect(self._path)


class House:
    """Two upstreams, the proxy with two workers, and load."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        self.directory, self._stack = directory, stack
        self.state = directory / "state"
        self._ports = dict(zip(COLOURS, (rig.free_port(), rig.free_port()), strict=True))
        self._upstreams: dict[str, subprocess.Popen[bytes]] = {}
        for colour in COLOURS:
            self.start_upstream(colour)
        stack.callback(self._end_upstreams)
        self._proxy: subprocess.Popen[bytes] | None = None
        self.stderr_fd = -1
        self._stderr = (directory / "stderr").open("wb")
        stack.callback(self._stderr.close)
        stack.callback(self._end_proxy)

    # --- processes ---

    def start_upstream(self, colour: str) -> None:
        script = Path(__file__).with_name("colour.py")
        self._upstreams[colour] = subprocess.Popen([sys.executable, str(script), colour, str(self._ports[colour])])
        until(lambda: rig.answers(self._ports[colour]), f"the {colour} upstream")

    def end_upstream(self, colour: str) -> None:
        process = self._upstreams[colour]
        process.kill()
        process.wait()

    def slow(self, colour: str, ms: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._ports[colour], timeout=PATIENCE_S)
        connection.request("GET", f"/control/slow?ms={ms}")
        connection.getresponse().read()
        connection.close()

    def start_proxy(self, *, stderr: int | None = None) -> None:
        command = [sys.executable, "-m", "bgproxy", "run", "--workers", "2", "--state-dir", str(self.state)]
        command += [f"--{colour}=127.0.0.1:{port}" for colour, port in self._ports.items()]
        command += ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
        environment = os.environ | {"BGPROXY_HEALTH__INTERVAL": "100ms"}
        self._proxy = subprocess.Popen(
            command,
            cwd=rig.ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=self._stderr if stderr is None else stderr,
        )
        until(self._is_ready, "bgproxy")

    def _is_ready(self) -> bool:
        assert self._proxy is not None
        if self._proxy.poll() is not None:
            raise rig.RigError(f"bgproxy ended: {(self.directory / 'stderr').read_text()[-2000:]}")
        with contextlib.suppress(OSError, ValueError):
            self.addresses = json.loads((self.state / "addresses.json").read_bytes())
            return bool(self.addresses["pid"] == self._proxy.pid)
        return False

    @property
    def supervisor(self) -> int:
        assert self._proxy is not None
        return self._proxy.pid

    def end_proxy(self, number: signal.Signals) -> None:
        assert self._proxy is not None
        self._proxy.send_signal(number)
        self._proxy.wait(60)

    def _end_proxy(self) -> None:
        if self._proxy is not None and self._proxy.poll() is None:
            self.end_proxy(signal.SIGTERM)

    def _end_upstreams(self) -> None:
        for colour in COLOURS:
            self.end_upstream(colour)

    # --- asking ---

    @property
    def port(self) -> int:
        return int(self.addresses["listen"][0].rpartition(":")[2])

    def admin(self, *, tcp: bool = False) -> http.client.HTTPConnection:
        if tcp:
            host, _, port = self.addresses["admin"].rpartition(":")
            return http.client.HTTPConnection(host, int(port), timeout=PATIENCE_S)
        return Unix(self.addresses["socket"])

    def post(self, path: str, *, tcp: bool = False, **body: Any) -> dict[str, Any]:
        connection = self.admin(tcp=tcp)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            document: dict[str, Any] = json.loads(answer.read())
        finally:
            connection.close()
        if answer.status != 200:
            raise rig.RigError(f"POST {path}: {answer.status} {document.get('detail')}")
        return document

    def status(self) -> dict[str, Any]:
        connection = self.admin()
        connection.request("GET", "/status")
        document: dict[str, Any] = json.loads(connection.getresponse().read())
        connection.close()
        return document

    def until_it_can_switch(self) -> None:
        def both_up() -> bool:
            status = self.status()
            return bool(status["can_switch"]["ok"] and all(pool["healthy"] for pool in status["pools"].values()))

        until(both_up, "both pools")

    def colour(self) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        connection.request("GET", "/")
        answer = connection.getresponse()
        body = answer.read().decode()
        connection.close()
        return body if answer.status == 200 else f"{answer.status}"


def until(ready: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not ready():
        if time.monotonic() > deadline:
            raise rig.RigError(f"{what} is not ready after {PATIENCE_S:g} s")
        time.sleep(0.01)


# --- what is broken ---------------------------------------------------------------------------------------------------

Fault = Callable[[House, str, str], AbstractContextManager[None]]


@contextmanager
def nothing(house: House, live: str, previous: str) -> Iterator[None]:
    yield


@contextmanager
def live_pool_down(house: House, live: str, previous: str) -> Iterator[None]:
    house.end_upstream(live)
    yield
    house.start_upstream(live)


@contextmanager
def idle_pool_slow(house: House, live: str, previous: str) -> Iterator[None]:
    """The colour to go back to answers late, its health checks too."""
    house.slow(previous, 300)
    yield
    house.slow(previous, 0)


@contextmanager
def disk_full(house: House, live: str, previous: str) -> Iterator[None]:
    """No file of the supervisor may grow: what a full disk says, without filling one."""
    before = resource.prlimit(house.supervisor, resource.RLIMIT_FSIZE)
    resource.prlimit(house.supervisor, resource.RLIMIT_FSIZE, (0, before[1]))
    yield
    resource.prlimit(house.supervisor, resource.RLIMIT_FSIZE, before)


@contextmanager
def workers_saturated(house: House, live: str, previous: str) -> Iterator[None]:
    """Beside the load that is always there, as much as two more cores would ask."""
    with load(house.port, threads=2, connections=512):
        yield


@contextmanager
def admin_flooded(house: House, live: str, previous: str) -> Iterator[None]:
    """Half a request on hundreds of connections to the TCP port, and clients that ask for the status without end."""
    host, _, port = house.addresses["admin"].rpartition(":")
    held = []
    for _ in range(FLOOD):
        connection = socket.create_connection((host, int(port)), timeout=PATIENCE_S)
        connection.sendall(b"POST /switch HTTP/1.1\r\nHost: localhost\r\n")
        held.append(connection)
    with load(int(port), threads=1, connections=8, path="/status"):
        yield
    for connection in held:
        connection.close()


@contextmanager
def log_unread(house: House, live: str, previous: str) -> Iterator[None]:
    """Whoever reads the log hangs: the pipe is full before the rollback begins."""
    yield


@contextmanager
def supervisor_restarted(house: House, live: str, previous: str) -> Iterator[None]:
    """Killed, and started again a moment ago: the workers of the old one are still there."""
    house.end_proxy(signal.SIGKILL)
    house.start_proxy()
    yield


FAULTS: dict[str, tuple[str, Fault]] = {
    "none": ("nothing", nothing),
    "live-down": ("live pool down", live_pool_down),
    "idle-slow": ("idle pool slow (300 ms)", idle_pool_slow),
    "disk-full": ("disk full", disk_full),
    "saturated": ("both workers saturated", workers_saturated),
    "log-unread": ("log pipe full, nobody reads", log_unread),
    "flooded": ("admin TCP port flooded", admin_flooded),
    "restarted": ("supervisor just restarted", supervisor_restarted),
}


@contextmanager
def load(port: int, *, threads: int = 1, connections: int = CONNECTIONS, path: str = "/") -> Iterator[None]:
    command = [rig.tool("wrk"), f"-t{threads}", f"-c{connections}", "-d3600s", f"http://127.0.0.1:{port}{path}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


# --- measuring --------------------------------------------------------------------------------------------------------


@dataclass
class Row:
    what: str
    answered_ms: list[float] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)
    wrong: int = 0

    @property
    def median(self) -> float:
        return statistics.median(self.answered_ms)


def measure(house: House, fault: str, rounds: int) -> Row:
    what, broken = FAULTS[fault]
    row = Row(what)
    for _ in range(rounds):
        house.until_it_can_switch()
        with load(house.port):
            status = house.status()
            live, previous = status["live"], status["idle"]
            with broken(house, live, previous):
                began = time.perf_counter()
                house.post("/rollback", tcp=fault == "flooded")
                answered = time.perf_counter()
                row.wrong += house.colour() != previous
                row.first_ms.append((time.perf_counter() - began) * 1e3)
                row.answered_ms.append((answered - began) * 1e3)
    return row


def pairs(house: House, count: int) -> dict[str, list[float]]:
    """Switches to a colour by name, and rollbacks, in turn: both under load, both with a durable record."""
    durations: dict[str, list[float]] = {"switch": [], "rollback": []}
    house.until_it_can_switch()
    with load(house.port):
        for _ in range(count):
            idle = house.status()["idle"]
            for kind, body in (("switch", {"to": idle}), ("rollback", {})):
                began = time.perf_counter()
                house.post(f"/{kind}", **body)
                durations[kind].append((time.perf_counter() - began) * 1e3)
    return durations


def table(rows: Sequence[Row]) -> str:
    lines = [
        "| broken | rollback answered, median ms | lowest–highest | first response of the restored colour, median ms |",
        "|---|---|---|---|",
    ]
    for row in rows:
        spread = f"{min(row.answered_ms):.1f}–{max(row.answered_ms):.1f}"
        lines.append(f"| {row.what} | **{row.median:.1f}** | {spread} | {statistics.median(row.first_ms):.1f} |")
    return "\n".join(lines)


def pairs_table(durations: dict[str, list[float]]) -> str:
    lines = ["| kind | median ms | p99 ms | count |", "|---|---|---|---|"]
    for kind, values in durations.items():
        ordered = sorted(values)
        p99 = ordered[int(len(ordered) * 0.99)]
        lines.append(f"| {kind} | **{statistics.median(values):.2f}** | {p99:.2f} | {len(values)} |")
    return "\n".join(lines)


def missed(rows: Sequence[Row], durations: dict[str, list[float]], bound_ms: float = BOUND_MS) -> list[str]:
    """What is not as it should be, as sentences."""
    found = [
        f"{row.what}: {row.median:.1f} ms at the median, at most {bound_ms:g}" for row in rows if row.median > bound_ms
    ]
    found += [f"{row.what}: {row.wrong} first responses were not of the restored colour" for row in rows if row.wrong]
    if durations and len(durations["switch"]) >= PAIRS_TO_JUDGE:
        switch, rollback = (statistics.median(durations[kind]) for kind in ("switch", "rollback"))
        if abs(switch / rollback - 1) > TOLERANCE:
            found.append(f"a switch takes {switch:.2f} ms, a rollback {rollback:.2f} ms: more than a tenth apart")
    return found


def read_options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="per fault")
    parser.add_argument("--bound-ms", type=float, default=BOUND_MS, help="for the median of every fault")
    parser.add_argument("--pairs", type=int, default=1000, help="switches and rollbacks, 0 for none")
    parser.add_argument("--only", choices=list(FAULTS), action="append", help="may be repeated")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> int:
    rig.ensure_installed(["wrk"])
    rows: list[Row] = []
    with ExitStack() as stack:
        directory = stack.enter_context(rig.workspace())
        house = House(stack, directory)
        house.start_proxy()
        house.until_it_can_switch()
        house.post("/switch", to="green")
        for fault in options.only or FAULTS:
            if fault == "log-unread":
                with unread_log(house):
                    rows.append(measure(house, fault, options.rounds))
            else:
                rows.append(measure(house, fault, options.rounds))
            rig.say(f"{rows[-1].what}: {rows[-1].median:.1f} ms")
        durations = pairs(house, options.pairs) if options.pairs else {}
    print(table(rows))
    if durations:
        print(f"\n{pairs_table(durations)}")
    print(
        f"\n{options.rounds} rounds per fault, {CONNECTIONS} connections at full speed, two workers. {rig.machine()}."
    )
    problems = missed(rows, durations, options.bound_ms)
    for problem in problems:
        rig.say(problem)
    return 1 if problems else 0


@contextmanager
def unread_log(house: House) -> Iterator[None]:
    """The proxy anew, with a full pipe for its log."""
    house.end_proxy(signal.SIGTERM)
    ours, theirs = os.pipe()
    try:
        fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, 4096)
        os.set_blocking(theirs, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(theirs, b"x" * 512)
        os.set_blocking(theirs, True)
        house.start_proxy(stderr=theirs)
        yield
        house.end_proxy(signal.SIGTERM)
    finally:
        os.close(ours)
        os.close(theirs)
    house.start_proxy()


def main() -> int:
    rig.end_on_sigterm()
    try:
        return run(read_options(sys.argv[1:]))
    except rig.RigError as error:
        rig.say(f"error: {error}")
        return 2


if __name__ == "__main__":
    sys.exit(main())
