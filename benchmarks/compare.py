"""CPU microseconds per request: bgproxy beside nginx and HAProxy, on the same upstream in the same run.

python benchmarks/compare.py [--rounds N] [--seconds S] [--only plain|browser|tls|handshake]
                             [--peers nginx,haproxy,bgproxy,bgproxy-debian]
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import proxies
import rig

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

CONNECTIONS = 64
WARM_UP_S = 2
KINDS = ("plain", "browser")
TLS_KINDS = ("tls", "handshake")  # the plain request over TLS: on kept connections, and each on one of its own
SCRIPT = Path(__file__).with_name("load.lua")


@dataclass(frozen=True)
class Sample:
    """One wrk run against one proxy."""

    cpu_us: float  # per request
    per_second: float
    busy: float  # share of its core
    p99_ms: float
    disturbance: float  # what anything else used of both cores, in cores


@dataclass
class Counter:
    """Where the next run starts to count, so that no head is ever sent twice."""

    value: int = 100_000_000

    def take(self) -> int:
        self.value += 10_000_000
        return self.value


@dataclass(frozen=True)
class Bench:
    """Where the load runs and against what; cores are (load and upstream, proxies)."""

    cores: tuple[int, int]
    target: proxies.Target
    counter: Counter

    def measure(self, proxy: proxies.Proxy, kind: str, seconds: int) -> Sample:
        """CPU from before the first connection to after the last answer ÷ answers: nothing is left out at the ends."""
        began = time.monotonic_ns()
        busy, expected = rig.busy_ns(self.cores), self._expected_ns(proxy)
        used = rig.cpu_ns(proxy.workers)
        result = self._load(proxy, kind, seconds)
        used = rig.cpu_ns(proxy.workers) - used
        others = rig.busy_ns(self.cores) - busy - (self._expected_ns(proxy) - expected)
        elapsed = time.monotonic_ns() - began
        return Sample(
            cpu_us=used / 1000 / result["requests"],
            per_second=result["requests"] / result["duration_us"] * 1e6,
            busy=used / elapsed,
            p99_ms=result["p99_us"] / 1000,
            disturbance=max(0.0, others / elapsed),
        )

    def _expected_ns(self, proxy: proxies.Proxy) -> int:
        """What the load, the upstream and the proxy have used so far: everything else is a disturbance."""
        return rig.cpu_ns(proxy.workers) + rig.cpu_ns(self.target.pids) + rig.waited_for_ns()

    def _load(self, proxy: proxies.Proxy, kind: str, seconds: int) -> dict[str, int]:
        command = [rig.tool("wrk"), "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "5s", "-s", str(SCRIPT)]
        url = f"https://127.0.0.1:{proxy.tls_port}/" if kind in TLS_KINDS else f"http://127.0.0.1:{proxy.port}/"
        command += [url, "--", kind, str(self.counter.take())]
        done = subprocess.run(rig.pinned(self.cores[0], command), capture_output=True, text=True, check=False)
        results = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        if done.returncode or not results:
            raise rig.RigError(f"wrk against {proxy.name} failed: {(done.stderr or done.stdout).strip()[-1000:]}")
        result: dict[str, int] = json.loads(results[0].removeprefix("RESULT "))
        if result["failed"] or not result["requests"]:
            failed, answered = result["failed"], result["requests"]
            raise rig.RigError(
                f"{proxy.name} failed {failed} of {answered} {kind} requests: such a run measures nothing"
            )
        return result


Samples = dict[tuple[str, str], list[Sample]]  # (kind, peer) → one per round


def run_rounds(running: Sequence[proxies.Proxy], options: argparse.Namespace, bench: Bench) -> Samples:
    """Interleaved: every round visits every proxy, each round starts with another one."""
    samples: Samples = {(kind, proxy.name): [] for kind in options.kinds for proxy in running}
    for kind in options.kinds:
        for proxy in running:
            bench.measure(proxy, kind, WARM_UP_S)
    for round_number in range(options.rounds):
        turn = round_number % len(running)
        for kind in options.kinds:
            for proxy in [*running[turn:], *running[:turn]]:
                sample = bench.measure(proxy, kind, options.seconds)
                samples[kind, proxy.name].append(sample)
                rig.say(f"round {round_number + 1} {kind:8}{proxy.name:15}{sample.cpu_us:6.1f} µs/request")
    return samples


def ratio(samples: Samples, kind: str, peer: str) -> float | None:
    """CPU of the peer ÷ CPU of nginx, paired by round, the median of all rounds; None in a run without nginx.

    Paired, because what disturbs a shared machine lasts longer than a visit and so meets both.
    """
    if (kind, "nginx") not in samples:
        return None
    pairs = zip(samples[kind, peer], samples[kind, "nginx"], strict=True)
    return statistics.median(own.cpu_us / nginx.cpu_us for own, nginx in pairs)


def table(samples: Samples, running: Sequence[proxies.Proxy], kinds: Sequence[str]) -> str:
    lines = [
        "| request | proxy | CPU µs/request, median | lowest–highest | × nginx | requests/s | core busy | p99 ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind in kinds:
        for proxy in running:
            rounds = samples[kind, proxy.name]
            cpu = [sample.cpu_us for sample in rounds]
            compared = ratio(samples, kind, proxy.name)
            lines.append(
                f"| {kind} | {proxy.name} {proxy.version} | **{statistics.median(cpu):.1f}** "
                f"| {min(cpu):.1f}–{max(cpu):.1f} "
                f"| {'' if compared is None else f'{compared:.2f}'} "
                f"| {statistics.median(sample.per_second for sample in rounds):,.0f} "
                f"| {statistics.median(sample.busy for sample in rounds):.0%} "
                f"| {statistics.median(sample.p99_ms for sample in rounds):.1f} |"
            )
    return "\n".join(lines)


def conditions(samples: Samples, options: argparse.Namespace) -> str:
    """Where and how, and how much else ran: over a few per cent, the figures are to be taken again."""
    disturbance = statistics.median(sample.disturbance for rounds in samples.values() for sample in rounds)
    return (
        f"{options.rounds} interleaved rounds of {options.seconds} s, {CONNECTIONS} keep-alive connections, one worker "
        f"on a core of its own. {rig.machine()}. Other work meanwhile: {disturbance:.0%} of one core."
    )


def missed(samples: Samples, kinds: Sequence[str], limit: float | None) -> list[str]:
    """One sentence for every bound that bgproxy misses."""
    sentences = []
    for kind in kinds:
        held = held_to_the_bound(peer for asked, peer in samples if asked == kind)
        compared = ratio(samples, kind, held) if held else None
        if limit is not None and compared is not None and compared > limit:
            sentences.append(f"{kind}: {held} costs {compared:.2f} × nginx, at most {limit:.2f} × was asked for")
    return sentences


def held_to_the_bound(peers: Iterable[str]) -> str | None:
    """bgproxy on the distribution's interpreter where that runs: nginx and HAProxy are the distribution's as well."""
    running = set(peers)
    return next((name for name in ("bgproxy-debian", "bgproxy") if name in running), None)


def profile(proxy: proxies.Proxy, kind: str, seconds: int, bench: Bench, output: Path) -> None:
    """One more run with py-spy looking at the worker; its figures are not counted."""
    spy = shutil.which("py-spy")
    if spy is None:
        raise rig.RigError("--profile needs py-spy: pip install py-spy")
    command = [spy, "record", "--native", "--rate", "500", "--duration", str(seconds), "--output", str(output)]
    command += ["--pid", str(proxy.workers[0])]
    with rig.running(command, output.with_suffix(".log")) as recorder:
        bench.measure(proxy, kind, seconds + 2)
        recorder.wait(rig.STOP_TIMEOUT_S)
    rig.say(f"profile of the {kind} request: {output}")


def read_options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=9, help="how often every proxy is visited (default 9)")
    parser.add_argument("--seconds", type=int, default=3, help="length of one visit (default 3)")
    parser.add_argument("--only", choices=(*KINDS, *TLS_KINDS), help="one kind of request instead of plain and browser")
    possible = [peer for peer in proxies.PEERS if peer != "bgproxy-debian" or rig.has_distribution_python()]
    parser.add_argument("--peers", default=",".join(possible), help="comma-separated, default all that can run here")
    parser.add_argument("--max-ratio", type=float, help="exit 1 when bgproxy costs more than this many times nginx")
    parser.add_argument(
        "--profile", type=Path, metavar="DIR", help="also record flame graphs of the worker with py-spy"
    )
    options = parser.parse_args(arguments)
    options.peers = options.peers.split(",")
    unknown = [peer for peer in options.peers if peer not in proxies.PEERS]
    if unknown:
        parser.error(f"--peers: {', '.join(unknown)} unknown; expected some of {', '.join(proxies.PEERS)}")
    if options.max_ratio is not None and ("nginx" not in options.peers or not held_to_the_bound(options.peers)):
        parser.error("--max-ratio compares bgproxy with nginx: both must be among --peers")
    if options.rounds < 1 or options.seconds < 1:
        parser.error("--rounds and --seconds must be at least 1")
    options.kinds = [options.only] if options.only else list(KINDS)
    return options


def run(options: argparse.Namespace) -> int:
    rig.ensure_installed(sorted({"nginx", "wrk", *(peer for peer in options.peers if not peer.startswith("bgproxy"))}))
    cores = rig.two_cores()
    with rig.workspace() as directory, ExitStack() as stack:
        target = stack.enter_context(proxies.upstream(directory, cores[0]))
        running = [stack.enter_context(proxies.PEERS[peer](directory, cores[1], target)) for peer in options.peers]
        bench = Bench(cores, target, Counter())
        samples = run_rounds(running, options, bench)
        if options.profile and "bgproxy" in options.peers:
            options.profile.mkdir(parents=True, exist_ok=True)
            worker = running[options.peers.index("bgproxy")]
            for kind in options.kinds:
                profile(worker, kind, options.seconds, bench, options.profile.resolve() / f"{kind}.svg")
    print(table(samples, running, options.kinds))
    print(f"\n{conditions(samples, options)}")
    failures = missed(samples, options.kinds, options.max_ratio)
    for sentence in failures:
        rig.say(f"FAILED {sentence}")
    return 1 if failures else 0


def main() -> int:
    rig.end_on_sigterm()
    try:
        return run(read_options(sys.argv[1:]))
    except rig.RigError as error:
        rig.say(f"compare: {error}")
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
