"""Thousands of slow or idle connections against one worker, while normal traffic goes on: does anybody notice?

python benchmarks/hostile.py [--connections N] [--seconds S] [--rate N]
                             [--modes idle,headers,body,range,read,read-large]
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import memory
import proxies
import rig

if TYPE_CHECKING:
    from collections.abc import Sequence

MIB = 1024 * 1024
# slowhttptest's own names for its modes, and what each asks for. All drip more often than any timeout would notice.
ATTACKS = {
    "headers": ["-H", "-i", "5", "-x", "24", "-t", "GET", "-u", "/"],
    "body": ["-B", "-i", "5", "-x", "24", "-s", "65536", "-t", "POST", "-u", "/form"],
    "range": ["-R", "-a", "5", "-b", "3000", "-t", "HEAD", "-u", "/"],
    "read": ["-X", "-w", "256", "-y", "512", "-n", "1", "-z", "5", "-k", "3", "-u", "/"],
    "read-large": ["-X", "-w", "256", "-y", "512", "-n", "1", "-z", "5", "-k", "1", "-u", "/large"],
}
MODES = ("idle", *ATTACKS)
TITLES = {
    "idle": "idle keep-alive connections",
    "headers": "slowloris (`-H`)",
    "body": "slow body (`-B`)",
    "range": "range (`-R`)",
    "read": "slow read (`-X`), small answers",
    "read-large": "slow read (`-X`), 1 MiB answers",
}
SHOWN = ("rejected_requests_total", "client_closes_total", "pipeline_pauses_total", "upstream_errors_total")
OTHERS = ("client_connections", "client_accepts_total")


@dataclass
class Result:
    """`held` is the most client connections that were open at once, `opened` how many there were, `rss` the worker's
    peak in bytes."""

    mode: str
    opened: int = 0
    held: int = 0
    sent: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    p99_ms: float = 0.0
    rss: int = 0
    bit: dict[str, int] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return self.sent > 0 and not self.errors

    def __str__(self) -> str:
        bit = ", ".join(f"{name} {count:,}" for name, count in self.bit.items())
        return (
            f"| {TITLES[self.mode]} | {self.opened:,} | {self.held:,} | {self.sent:,} | {sum(self.errors.values())} "
            f"| {self.p99_ms:.1f} | {self.rss / MIB:.0f} MiB | {bit or 'none'} |"
        )


# --- what the proxy says ---------------------------------------------------------------------------------------------


def read_metrics(admin: str) -> dict[str, int]:
    with urllib.request.urlopen(f"http://{admin}/metrics", timeout=10) as answer:
        return parsed(answer.read().decode())


def parsed(text: str) -> dict[str, int]:
    """`name reason` (without prefix and colour) → value, summed over colours; only what the table needs."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        match = re.fullmatch(r"bgproxy_(\w+?)(?:\{(.*)\})? ([0-9.e+]+)", line)
        if match and match[1] in SHOWN + OTHERS:
            reason = re.search(r'reason="(\w+)"', match[2] or "")
            name = reason[1] if reason else match[1].removesuffix("_total")
            found[name] = found.get(name, 0) + int(float(match[3]))
    return found


class Watch:
    """Looks at the worker twice a second: the most client connections, and which counters have grown at the end."""

    def __init__(self, admin: str) -> None:
        self._admin = admin
        self._before = read_metrics(admin)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        self.held = self.opened = 0

    def _look(self) -> None:
        while not self._end.wait(0.5):
            self.held = max(self.held, read_metrics(self._admin)["client_connections"])

    def stop(self) -> dict[str, int]:
        self._end.set()
        self._thread.join()
        after = read_metrics(self._admin)
        grown = {name: after[name] - self._before.get(name, 0) for name in after}
        self.opened = grown.pop("client_accepts")
        del grown["client_connections"]
        return {name: count for name, count in grown.items() if count > 0}


# --- what is done to it ----------------------------------------------------------------------------------------------


@contextmanager
def attack(mode: str, port: int, options: argparse.Namespace, core: int, log: Path) -> Iterator[None]:
    """Connections come within the first third of the time and stay to its end."""
    if mode == "idle":
        connections = [memory.idle_connection(port) for _ in range(options.connections)]
        yield
        for connection in connections:
            connection.close()
        return
    *arguments, path = ATTACKS[mode]
    command = [rig.tool("slowhttptest"), *arguments, f"http://127.0.0.1:{port}{path}"]
    command += ["-c", str(options.connections), "-r", str(max(1, options.connections * 3 // options.seconds))]
    command += ["-l", str(options.seconds + 5), "-p", "5"]
    # It takes what is left: it spins where there is something to read, and shares a core with the normal load.
    with rig.running(["nice", "-n", "19", *rig.pinned(core, command)], log):
        yield


def normal_traffic(port: int, options: argparse.Namespace, core: int) -> dict[str, object]:
    script = Path(__file__).with_name("paced.py")
    command = [sys.executable, str(script), str(port), str(options.rate), str(options.seconds)]
    done = subprocess.run(rig.pinned(core, command), capture_output=True, text=True, check=False)
    if done.returncode:
        raise rig.RigError(f"the normal traffic failed: {done.stderr.strip()[-1000:]}")
    said: dict[str, object] = json.loads(done.stdout)
    return said


def measure(mode: str, options: argparse.Namespace, target: proxies.Target, directory: Path) -> Result:
    """A proxy of its own for each mode: memory, counters and ports start anew."""
    load_core, proxy_core = rig.two_cores()
    directory.mkdir()
    with proxies.bgproxy(directory, proxy_core, target) as proxy:
        admin = json.loads((directory / "bgproxy" / "state" / "addresses.json").read_text())["admin"]
        watch = Watch(admin)
        try:
            with attack(mode, proxy.port, options, load_core, directory / "attack.log"):
                said = normal_traffic(proxy.port, options, load_core)
        finally:
            bit = watch.stop()
        rss = rig.peak_rss_bytes(proxy.workers[0])
    return Result(mode, watch.opened, watch.held, said["sent"], said["errors"], said["p99_ms"], rss, bit)  # type: ignore[arg-type]


# --- the table -------------------------------------------------------------------------------------------------------


def table(results: Sequence[Result]) -> str:
    lines = [
        "| attack | connections opened | most at once | normal requests | errors | p99 ms | most memory | what bit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *map(str, results)])


def read_options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--connections", type=int, default=10_000, help="hostile ones (default 10000)")
    parser.add_argument("--seconds", type=int, default=30, help="of each attack (default 30)")
    parser.add_argument("--rate", type=int, default=1000, help="normal requests per second (default 1000)")
    parser.add_argument("--modes", default=",".join(MODES), help=f"comma-separated, default {','.join(MODES)}")
    options = parser.parse_args(arguments)
    options.modes = options.modes.split(",")
    unknown = [mode for mode in options.modes if mode not in MODES]
    if unknown:
        parser.error(f"--modes: {', '.join(unknown)} unknown; expected some of {', '.join(MODES)}")
    if min(options.connections, options.seconds, options.rate) < 1:
        parser.error("--connections, --seconds and --rate must be at least 1")
    return options


def run(options: argparse.Namespace) -> int:
    rig.ensure_installed(["nginx", "slowhttptest"])
    rig.raise_file_limit(options.connections + 2000)
    results = []
    with rig.workspace() as directory, proxies.upstream(directory, rig.two_cores()[0]) as target:
        for mode in options.modes:
            rig.say(f"{mode}: {options.connections:,} connections, {options.seconds} s")
            results.append(measure(mode, options, target, directory / mode))
            rig.say(str(results[-1]))
    print(table(results))
    print(f"\n{options.connections:,} hostile connections, {options.rate:,} normal requests/s. {rig.machine()}.")
    for result in results:
        for error, count in result.errors.items():
            rig.say(f"FAILED {result.mode}: {count} × {error}")
        if not result.sent:
            rig.say(f"FAILED {result.mode}: no normal request was sent")
    return 0 if all(result.passed for result in results) else 1


def main() -> int:
    rig.end_on_sigterm()
    try:
        return run(read_options(sys.argv[1:]))
    except (rig.RigError, OSError) as error:
        rig.say(f"hostile: {error}")
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
