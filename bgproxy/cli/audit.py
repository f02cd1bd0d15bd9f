"""history asks the running proxy; audit reads the files, with or without one."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bgproxy.cli import words
from bgproxy.cli.client import find_admin, state_dir
from bgproxy.cli.operate import client_options, session
from bgproxy.core.journal import FILE, AnyRecord, Broken, Link, read
from bgproxy.core.replay import HISTORY, replay
from bgproxy.errors import EXIT_FAILED, EXIT_OK, AdminUnreachable, BgproxyError

if TYPE_CHECKING:
    from collections.abc import Mapping

_DURATIONS = (("held_s", "held"), ("acked_s", "seen by all in"), ("drain_s", "drained in"))
_ARCHIVE = re.compile(r"journal-(\d+)(?:-(\d+))?\.jsonl")


@click.command()
@click.option(
    "-n", "--limit", type=click.IntRange(1, HISTORY), default=20, show_default=True, help="How many, the newest first."
)
@client_options
@click.pass_context
def history(context: click.Context, /, limit: int, **client: Any) -> int:
    """List what was switched, held and changed about the pools, by whom and why, and what came of it."""
    here = session(context, **client)
    return here.show(here.client.get(f"/history?limit={limit}"), lines)


def lines(document: Mapping[str, Any]) -> list[str]:
    """The answer of GET /history as a table."""
    if not document["history"]:
        return ["nothing was switched yet"]
    return words.table(("at", "epoch", "what", "result", "took", "by", "reason"), map(_row, document["history"]))


def _row(entry: Mapping[str, Any]) -> tuple[str, ...]:
    move = f" {entry['from']} → {entry['to']}" if entry.get("to") else ""
    mode = f" ({entry['mode']})" if entry.get("mode") not in (None, "instant") else ""
    forced = " forced" if entry["forced"] else ""
    durations = [f"{name} {words.seconds(entry[key])}" for key, name in _DURATIONS if entry.get(key) is not None]
    result = entry["result"] or ("-" if not entry.get("to") else "not known yet")
    return (
        entry["at"],
        str(entry["epoch"]),
        f"{entry['kind']}{move}{mode}{forced}",
        result + (" (written late)" if entry["late"] else ""),
        ", ".join(durations) or "-",
        entry["by"] or "-",
        "; ".join(filter(None, (entry["reason"], entry["detail"]))) or "-",
    )


@click.group()
def audit() -> None:
    """Look at the journal itself, without a running proxy."""


@audit.command()
@click.argument("place", required=False, type=click.Path(path_type=Path), metavar="[STATE_DIR|FILE]")
def verify(place: Path | None) -> int:
    """Check every record of the journal: its checksum, and that it follows from the one before.

    Without STATE_DIR or FILE it is the state directory of the running proxy, else the default one. Exit code 0, or 1
    with the first broken record named.
    """
    place = place or default_place()
    files = journal_files(place)
    if not files:
        raise BgproxyError(f"there is no journal in {place}", hint=f"name the state directory, or the {FILE} itself")
    good, said = _report(files)
    if not good and files != (now := journal_files(place)):  # a running proxy began a new file meanwhile
        good, said = _report(now)
    click.echo(said)
    return EXIT_OK if good else EXIT_FAILED


def _report(files: list[Path]) -> tuple[bool, str]:
    counted, last = 0, None
    span: list[str] = []
    for path in files:
        try:
            data = path.read_bytes()
        except OSError as error:
            return False, f"{path} cannot be read: {(error.strerror or str(error)).lower()}"
        records, last, problem = _verified(data, last)
        counted += len(records)
        span += [each.at for each in records]
        if problem:
            return False, f"{path}: {problem}; the {counted} records before it are good"
    where = str(files[0]) if len(files) == 1 else f"{len(files)} files"
    return True, f"OK: {counted} records in {where}, from {span[0]} to {span[-1]}"


def _verified(data: bytes, after: Link | None) -> tuple[list[AnyRecord], Link | None, str]:
    """The good records, where the chain stands, and what is wrong with the first that is not good; "" for nothing."""
    try:
        found = read(data, None if _begins_a_chain(data) else after)
    except Broken as broken:
        return broken.good, None, str(broken)
    try:
        replay(found.records)
    except ValueError as error:
        return found.records, None, str(error)
    if found.torn:
        line = len(found.records) + 1
        return found.records, None, f"line {line}: it is torn: {len(found.torn)} bytes, which the next start cuts"
    return found.records, found.link, ""


def _begins_a_chain(data: bytes) -> bool:
    """After a journal was given up, another one begins beside the old files."""
    try:
        return read(data[: data.index(b"\n") + 1]).records[0].prev == Link().digest
    except ValueError:
        return False


def journal_files(place: Path) -> list[Path]:
    """The oldest first, the present one last; or the one file that was named."""
    try:
        names = os.listdir(place)
    except NotADirectoryError:
        return [place]
    except OSError as error:
        raise BgproxyError(f"{place} cannot be read: {(error.strerror or str(error)).lower()}") from None
    found = sorted((int(m[1]), int(m[2] or 1), m[0]) for m in map(_ARCHIVE.fullmatch, names) if m)
    return [place / name for *_, name in found] + ([place / FILE] if FILE in names else [])


def default_place() -> Path:
    from bgproxy.cli.client import AdminClient

    try:
        answer = AdminClient(find_admin(os.environ.get("BGPROXY_ADMIN"), os.environ)).get("/status")
        return Path(answer.document["journal"]["file"]).parent
    except (AdminUnreachable, KeyError, TypeError):
        return state_dir(os.environ)
