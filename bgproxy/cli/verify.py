"""verify-log: an access log against the journal, with or without a running proxy.

Logs are read line by line, once, plain or gzipped; what is kept does not grow with them.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from bgproxy.cli import words
from bgproxy.cli.audit import default_place, journal_files
from bgproxy.cli.client import UsageProblem
from bgproxy.core.chronicle import moves_of
from bgproxy.core.journal import Broken, Link, read
from bgproxy.core.proof import CHECKS, Checker, LogRecord
from bgproxy.errors import EXIT_FAILED, EXIT_OK

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from bgproxy.core.proof import Move, Proof, Seen, Violation

_GZIP = b"\x1f\x8b"
_STANDARD_INPUT = "-"
_KEPT = 5  # unreadable lines that are named
CLAIMS = {
    "C1": "the colour is that of the epoch",
    "C2": "epochs never go back",
    "C3": "a fence keeps the colours apart",
    "C4": "what was dispatched has a colour, and times in order",
}


class Unread:
    """Lines that are no records: counted, the first of them by their place."""

    def __init__(self) -> None:
        self.count = 0
        self.places: list[str] = []
        self.torn: list[str] = []  # the last line of a file, without an end: it was being written

    def add(self, file: str, line: int, *, torn: bool) -> None:
        if torn:
            self.torn.append(f"{file}:{line}")
            return
        self.count += 1
        if len(self.places) < _KEPT:
            self.places.append(f"{file}:{line}")


@click.command("verify-log")
@click.argument("logs", nargs=-1, required=True, metavar="LOG...")
@click.option("--state-dir", metavar="DIR", help="The state directory with the journal. Default: the running proxy's.")
@click.option("--journal", metavar="FILE", help="One file of a journal, in place of a state directory.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), help="How to print. Default: text.")
@click.pass_context
def verify_log(
    context: click.Context, logs: tuple[str, ...], state_dir: str | None, journal: str | None, output: str | None
) -> int:
    """Check access logs against the journal: that every request went where the switches say.

    LOG is a JSON access log, plain or gzipped, or - for standard input; give all that belong together, in any order.
    Exit code 0 where everything was proved, 1 where something was violated or there was nothing to check.
    """
    if state_dir and journal:
        raise UsageProblem("--state-dir and --journal exclude each other", hint="name the directory or one file of it")
    told = journal or state_dir
    place = Path(told) if told else default_place()
    checker = Checker()
    unread = Unread()
    for name in logs:
        _take(checker, name, unread)
    proof = checker.proof(_moves(place))
    found = document(proof, logs, str(place), unread)
    if (output or context.find_root().params.get("output")) == "json":
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(lines(found)))
    return EXIT_OK if proof.verdict == "proved" else EXIT_FAILED


# --- reading ----------------------------------------------------------------------------------------------------------


def _moves(place: Path) -> list[Move]:
    """Of every file of the journal, the oldest first. A chain that begins anew makes those before it history."""
    files = journal_files(place)
    if not files:
        raise UsageProblem(f"there is no journal in {place}", hint="name it with --state-dir or --journal")
    found: list[Move] = []
    for file in files:
        try:
            records = read(file.read_bytes()).records
            if records[0].prev == Link().digest:
                found.clear()
            found += moves_of(records)
        except OSError as error:
            raise UsageProblem(f"{file} cannot be read: {(error.strerror or str(error)).lower()}") from None
        except Broken as broken:
            raise UsageProblem(
                f"{file} is damaged: {broken}", hint="a damaged journal proves nothing; see bgproxy audit verify"
            ) from None
    return found


def _take(checker: Checker, name: str, unread: Unread) -> None:
    decode = msgspec.json.Decoder(LogRecord).decode
    number = 0
    try:
        with _opened(name) as log:
            for number, line in enumerate(log, 1):
                try:
                    record = decode(line)
                except msgspec.DecodeError:
                    unread.add(name, number, torn=not line.endswith(b"\n"))
                else:
                    checker.take(record, name, number)
    except (EOFError, zlib.error):
        unread.add(name, number + 1, torn=True)  # a compressed file that is still being written
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UsageProblem(f"{name} cannot be read: {why.lower()}") from None


@contextlib.contextmanager
def _opened(name: str) -> Iterator[Iterable[bytes]]:
    with os.fdopen(os.dup(sys.stdin.fileno()), "rb") if name == _STANDARD_INPUT else open(name, "rb") as file:
        if file.peek(len(_GZIP))[: len(_GZIP)] != _GZIP:
            yield file
            return
        with gzip.open(file) as plain:
            yield plain


# --- saying -----------------------------------------------------------------------------------------------------------


def document(proof: Proof, logs: Sequence[str], journal: str, unread: Unread) -> dict[str, Any]:
    return {
        "verdict": proof.verdict,
        "logs": list(logs),
        "journal": journal,
        "records": proof.records,
        "dispatched": proof.dispatched,
        "streams": proof.streams,
        "without_times": proof.without_times,
        "unreadable": {"lines": unread.count, "first": unread.places, "torn": unread.torn},
        "boots": proof.boots,
        "epochs": list(proof.epochs),
        "switches": proof.switches,
        "fences": [
            {"epoch": fence.epoch, "mode": fence.mode, "gap_s": None if fence.gap_ns is None else fence.gap_ns / 1e9}
            for fence in proof.fences
        ],
        "checks": dict(proof.compared),
        "violations": {"count": proof.broken, "first": [_violation(each) for each in proof.violations]},
    }


def _violation(violation: Violation) -> dict[str, Any]:
    return {
        "check": violation.check,
        "what": violation.what,
        "records": [_record(seen) for seen in violation.records],
        "journal": None if violation.move is None else msgspec.to_builtins(violation.move),
    }


def _record(seen: Seen) -> dict[str, Any]:
    return {"file": seen.file, "line": seen.line, **msgspec.to_builtins(seen.record)}


def lines(told: Mapping[str, Any]) -> list[str]:
    checked = [fence for fence in told["fences"] if fence["gap_s"] is not None]
    said = [
        f"{told['verdict']}: {told['records']} records, {told['dispatched']} dispatched under {len(told['epochs'])} "
        f"epochs, {told['switches']} switches, {len(checked)} fences",
    ]
    if told["verdict"] == "nothing to check":
        said.append('hint: it takes a JSON access log ([log] access = "json") whose records have arrive_ns and end_ns')
    else:
        said += [f"  {check}  {CLAIMS[check]}: {told['checks'][check]} checked" for check in CHECKS]
    said += [
        f"  fence to epoch {fence['epoch']} ({fence['mode']}): {words.seconds(fence['gap_s'])} between the colours"
        for fence in checked
        if fence["gap_s"] >= 0
    ]
    for each in told["violations"]["first"]:
        said.append(f"violated {each['check']}: {each['what']}")
        said += [f"  {_place(record)}" for record in each["records"]]
        if each["journal"] is not None:
            said.append("  journal: {mode} switch to epoch {epoch}, {colour}, record {seq}".format_map(each["journal"]))
    if (more := told["violations"]["count"] - len(told["violations"]["first"])) > 0:
        said.append(f"and {more} more violations")
    return [*said, *_limits(told)]


def _limits(told: Mapping[str, Any]) -> list[str]:
    """What this verdict does not speak of."""
    unread = told["unreadable"]
    said = []
    if told["without_times"]:
        said.append(f"not judged: {told['without_times']} records without times, of an older version")
    if unread["lines"]:
        said.append(f"not read: {unread['lines']} lines that are no records, the first at {', '.join(unread['first'])}")
    said += [f"not read: the last line, which is torn, {place}" for place in unread["torn"]]
    return said


def _place(record: Mapping[str, Any]) -> str:
    times = f"arrived {record['arrive_ns']}, dispatched {record['dispatch_ns']}, ended {record['end_ns']}"
    what = f"{record['method']} epoch {record['epoch']} {record['colour']} {record['termination']}"
    return f"{record['file']}:{record['line']}  {record['request_id'] or '-'}  {what}  {times}"
