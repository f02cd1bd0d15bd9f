"""The Autobahn cases against an echo server, directly and through the proxy: no case may end differently.

python -m tests.e2e.autobahn [--quick] [--reports DIRECTORY] [--parallel N]

What a case is worth is the echo server's affair (one or two fail with any server); that the proxy changes nothing of it
is ours. The cases are Autobahn's own, run by kosoku, which speaks Python 3: the original needs Python 2.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.house import ROOT, App, Proxy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

KOSOKU = Path(sysconfig.get_path("scripts")) / "kosoku"
# Compression with a thousand messages a case takes a quarter of an hour; its smallest messages stand for the rest.
QUICK = (
    *(pattern for group in (1, 2, 3, 4, 5, 6, 7, 9, 10) for pattern in ("-i", f"{group}.*")),
    *(pattern for group in (*(f"12.{n}" for n in range(1, 6)), "13.1", "13.7") for pattern in ("-i", f"{group}.1")),
)
FEWEST_CASES = {False: 510, True: 300}  # a suite that lost its cases proves nothing


@dataclass(frozen=True)
class Outcome:
    """How one case ended: the verdicts on the conversation and on its end, and the close code that came (0: none)."""

    behaviour: str
    closing: str
    close_code: int

    def __str__(self) -> str:
        return f"{self.behaviour}, closing {self.closing}, code {self.close_code or 'none'}"


def outcomes_of(index: Mapping[str, Mapping[str, Mapping[str, object]]]) -> dict[str, Outcome]:
    """By case, from the one agent of a report."""
    (cases,) = index.values()
    return {
        case: Outcome(str(found["behavior"]), str(found["behaviorClose"]), int(str(found["remoteCloseCode"] or 0)))
        for case, found in cases.items()
    }


def differences(direct: Mapping[str, Outcome], proxied: Mapping[str, Outcome]) -> list[str]:
    """A sentence for every case that did not end alike, or is missing on one side."""
    return [
        f"{case}: directly {direct.get(case, 'not run')}; through the proxy {proxied.get(case, 'not run')}"
        for case in sorted(direct.keys() | proxied.keys(), key=_in_order)
        if direct.get(case) != proxied.get(case)
    ]


def table(direct: Mapping[str, Outcome], proxied: Mapping[str, Outcome]) -> str:
    """Per group of cases: how many, how many ended alike, and how they ended directly."""
    lines = ["group  cases  equal  different  directly"]
    groups = sorted({case.partition(".")[0] for case in direct}, key=int)
    for group in [*groups, "all"]:
        cases = [case for case in direct if group in ("all", case.partition(".")[0])]
        equal = sum(direct[case] == proxied.get(case) for case in cases)
        verdicts = Counter(direct[case].behaviour for case in cases).most_common()
        summary = ", ".join(f"{count} {verdict}" for verdict, count in verdicts)
        lines.append(f"{group:>5}  {len(cases):5}  {equal:5}  {len(cases) - equal:9}  {summary}")
    return "\n".join(lines)


def _in_order(case: str) -> list[int]:
    return [int(part) for part in case.split(".")]


def run_cases(address: str, selection: Sequence[str], parallel: int, reports: Path) -> dict[str, Outcome]:
    """All selected cases against this address; the reports, with every frame, are left in that directory."""
    command = [str(KOSOKU), "-m", "fuzzingclient", f"ws://{address}/", "-p", str(parallel), "-o", str(reports)]
    began = time.monotonic()
    subprocess.run([*command, *selection], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print(f"{reports.name}: {time.monotonic() - began:.0f} s", flush=True)
    return outcomes_of(json.loads((reports / "index.json").read_bytes()))


def compare(selection: Sequence[str], parallel: int, reports: Path) -> tuple[dict[str, Outcome], dict[str, Outcome]]:
    with ExitStack() as stack:
        apps = [App(name, module="websocket_app") for name in ("blue", "green")]
        for app in apps:
            stack.callback(app.end)
        given = ("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--workers", "1")
        pools = ("--blue", apps[0].address, "--green", apps[1].address)
        state = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        proxy = Proxy(state, (*given, *pools))
        stack.callback(proxy.clean_up)
        proxy.until_ready()
        direct = run_cases(apps[0].address, selection, parallel, reports / "direct")
        proxied = run_cases(proxy.listen, selection, parallel, reports / "proxied")
    return direct, proxied


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.autobahn")
    parser.add_argument("--quick", action="store_true", help="all but the long cases, in less than a minute")
    parser.add_argument("--parallel", type=int, default=2, help="cases at a time")
    parser.add_argument("--reports", type=Path, default=ROOT / "build" / "autobahn", help="where they are left")
    options = parser.parse_args(argv)
    if not KOSOKU.exists():
        print("kosoku is not installed: pip install -e '.[test,autobahn]'", file=sys.stderr)
        return 2
    direct, proxied = compare(QUICK if options.quick else (), options.parallel, options.reports)
    print(table(direct, proxied))
    different = differences(direct, proxied)
    print("\n".join(different) or "no case ended differently through the proxy")
    if len(direct) < FEWEST_CASES[options.quick]:
        print(f"only {len(direct)} cases were run: at least {FEWEST_CASES[options.quick]} were expected")
        return 1
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
