"""Pools that are changed at run time: read as strictly as those of the file, with the same sentences."""

from __future__ import annotations

from bgproxy.config.locate import Path
from bgproxy.config.problems import Problems
from bgproxy.config.reader import BAD, Reader
from bgproxy.config.schema import POOL, PoolSection, UpstreamEntry, label
from bgproxy.config.upstreams import pool
from bgproxy.core.model import Pool


def read_pool(upstreams: object, release: object, *, balance: str, server_name: str) -> Pool:
    """The pool that `upstreams` (texts, or tables with address, weight, server_name) and `release` stand for.

    ConfigError has one line per problem. `server_name` is for upstreams over TLS that name none.
    """
    problems = Problems(_place)
    reader = Reader(problems, None)
    entries = reader.read(POOL.keys["upstreams"], upstreams, ("upstreams",))
    name = reader.read(POOL.keys["release"], release, ("release",))
    for number, entry in enumerate(() if entries is BAD else entries):
        _check(entry, number, problems)
    problems.raise_if_any()
    return pool(PoolSection(upstreams=entries, release=name, balance=balance), server_name)


def _check(entry: UpstreamEntry, number: int, problems: Problems) -> None:
    if entry.server_name and not entry.address.server_name:
        problems.add(
            ("upstreams", number),
            f"'{entry.address}' has a server_name, but no TLS; expected 'https://{entry.address}'",
        )


def _place(path: Path) -> tuple[tuple[int, int, int], str]:
    return (0, 0, 0), label(path)
