"""Memory of one bgproxy worker: per idle client connection, and while 1 GiB passes between a fast and a slow side.

python benchmarks/memory.py [--connections N] [--size-mib N] [--peers nginx,haproxy,bgproxy]
"""

from __future__ import annotations

import argparse
import socket
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import bodies
import proxies
import rig

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

MIB = 1024 * 1024
IDLE_LIMIT = 6 * 1024  # bytes of resident memory per idle client connection
GROWTH_LIMIT = 32 * MIB  # over the start, while and after the body passes
WARM_UP_CONNECTIONS = 300
SETTLE_S = 1.0  # for what a worker frees on its next coarse tick


@dataclass(frozen=True)
class Growth:
    """Resident bytes of the worker over its start while and after a body passed, and whether the body came whole."""

    peak: int
    after: int
    seconds: float
    whole: bool


# --- idle connections ------------------------------------------------------------------------------------------------


def idle_connection(port: int) -> socket.socket:
    """A keep-alive connection that has had one answer."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    ask(connection)
    return connection


def ask(connection: socket.socket) -> None:
    """One request and its answer; RigError where the connection was not kept."""
    connection.sendall(b"GET /idle HTTP/1.1\r\nHost: bench.example\r\n\r\n")
    answer = b""
    while not answer.endswith(b"\r\n\r\nok"):
        received = connection.recv(4096)
        if not received:
            raise rig.RigError(f"the connection was closed after {answer[:200]!r}: expected an answer and keep-alive")
        answer += received


def bytes_per_idle_connection(proxy: proxies.Proxy, count: int) -> float:
    """Some connections come before, one at a time: they load code, and leave no free memory for the counted ones."""
    for _ in range(WARM_UP_CONNECTIONS):
        idle_connection(proxy.port).close()
    time.sleep(SETTLE_S)
    before = sum(map(rig.rss_bytes, proxy.workers))
    connections = [idle_connection(proxy.port) for _ in range(count)]
    time.sleep(SETTLE_S)
    after = sum(map(rig.rss_bytes, proxy.workers))
    for connection in connections:
        ask(connection)  # every one of them was still open
        connection.close()
    return (after - before) / count


# --- large bodies ----------------------------------------------------------------------------------------------------


def growth_during(transfer: Callable[[int, int], str], proxy: proxies.Proxy, size: int) -> Growth:
    """One small transfer first, so that only what the size costs is counted."""
    transfer(proxy.port, len(bodies.PIECE))
    time.sleep(SETTLE_S)
    (worker,) = proxy.workers
    before = rig.rss_bytes(worker)
    rig.reset_peak_rss(worker)
    began = time.monotonic()
    digest = transfer(proxy.port, size)
    seconds = time.monotonic() - began
    peak = rig.peak_rss_bytes(worker)
    time.sleep(SETTLE_S)
    return Growth(peak - before, rig.rss_bytes(worker) - before, seconds, digest == bodies.expected_digest(size))


# --- the table -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    what: str
    figure: str
    bound: str
    held: bool

    def __str__(self) -> str:
        return f"| {self.what} | {self.figure} | {self.bound} | {'yes' if self.held else '**no**'} |"


def idle_row(proxy: proxies.Proxy, count: int) -> Row:
    measured = bytes_per_idle_connection(proxy, count)
    bounded = proxy.name == "bgproxy"
    bound = f"≤ {IDLE_LIMIT / 1024:.0f} KiB" if bounded else ""
    what = f"{proxy.name} {proxy.version}: one of {count:,} idle connections"
    return Row(what, f"{measured / 1024:.2f} KiB", bound, not bounded or measured <= IDLE_LIMIT)


def growth_row(what: str, proxy: proxies.Proxy, size: int, growth: Growth) -> Row:
    held = growth.whole and max(growth.peak, growth.after) <= GROWTH_LIMIT
    figure = f"peak {growth.peak / MIB:+.1f} MiB, after {growth.after / MIB:+.1f} MiB, in {growth.seconds:.0f} s"
    figure += "" if growth.whole else ", **body damaged**"
    title = f"{proxy.name} {proxy.version}: {size / MIB:,.0f} MiB {what}"
    return Row(title, figure, f"≤ {GROWTH_LIMIT / MIB:.0f} MiB over the start", held)


def idle_rows(peers: Sequence[str], count: int, directory: Path) -> list[Row]:
    load_core, proxy_core = rig.two_cores()
    rows = []
    with proxies.upstream(directory, load_core) as target:
        for peer in peers:
            rig.say(f"idle connections: {peer}")
            with proxies.PEERS[peer](directory, proxy_core, target) as proxy:
                rows.append(idle_row(proxy, count))
    return rows


def growth_rows(size: int, directory: Path) -> list[Row]:
    _, proxy_core = rig.two_cores()
    with bodies.served() as target, proxies.bgproxy(directory, proxy_core, target) as proxy:
        rig.say("upload to a slow upstream")
        rows = [growth_row("up to a slow upstream", proxy, size, growth_during(bodies.upload, proxy, size))]
        rig.say("download by a slow client")
        rows.append(growth_row("down to a slow client", proxy, size, growth_during(bodies.download, proxy, size)))
    return rows


def read_options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--connections", type=int, default=5000, help="idle connections (default 5000)")
    parser.add_argument("--size-mib", type=int, default=1024, help="size of the bodies in MiB (default 1024)")
    parser.add_argument("--peers", default="nginx,haproxy,bgproxy", help="whose idle connections, comma-separated")
    options = parser.parse_args(arguments)
    options.peers = options.peers.split(",")
    unknown = [peer for peer in options.peers if peer not in proxies.PEERS]
    if unknown:
        parser.error(f"--peers: {', '.join(unknown)} unknown; expected some of {', '.join(proxies.PEERS)}")
    if options.connections < 1 or options.size_mib < 1:
        parser.error("--connections and --size-mib must be at least 1")
    return options


def run(options: argparse.Namespace) -> int:
    rig.ensure_installed(sorted({"nginx", *(peer for peer in options.peers if not peer.startswith("bgproxy"))}))
    rig.raise_file_limit(options.connections * 2 + 1000)
    rows: list[Row] = []
    with rig.workspace() as first, rig.workspace() as second:
        rows += idle_rows(options.peers, options.connections, first)
        if "bgproxy" in options.peers:
            rows += growth_rows(options.size_mib * MIB, second)
    print("| what | resident memory of the worker | bound | held |")
    print("|---|---|---|---|")
    print("\n".join(map(str, rows)))
    print(f"\n{rig.machine()}.")
    return 0 if all(row.held for row in rows) else 1


def main() -> int:
    rig.end_on_sigterm()
    try:
        return run(read_options(sys.argv[1:]))
    except (rig.RigError, OSError) as error:
        rig.say(f"memory: {error}")
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
