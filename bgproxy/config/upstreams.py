"""How upstreams are reached: which name each certificate must be for, and the files of [upstream.tls], tried out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from bgproxy.config.problems import Problems, Wrong, sentence
from bgproxy.config.references import read_bytes
from bgproxy.config.schema import PoolSection, Root, UpstreamEntry
from bgproxy.core.model import Address, Pool, Upstream
from bgproxy.core.settings import UpstreamTls
from bgproxy.tls.upstream import BadFile, client_context, system_store_is_empty

SECTION = ("upstream", "tls")
UPSTREAM_FILES = tuple((*SECTION, key) for key in ("ca", "cert", "key"))
MAX_FILE = 512 * 1024  # bytes; the bundle of every public CA has half of it, and all three must fit into one message


def pool(section: PoolSection, server_name: str) -> Pool:
    """`server_name` is for those upstreams that name none of their own."""
    # The address is the id: unique because a pool names each address once, and it survives a reordering of the list.
    upstreams = (
        Upstream(id=str(entry.address), index=index, address=_named(entry, server_name), weight=entry.weight)
        for index, entry in enumerate(section.upstreams)
    )
    return Pool(upstreams=tuple(upstreams), balance=section.balance, release=section.release)


def _named(entry: UpstreamEntry, server_name: str) -> Address:
    address = entry.address
    if not address.server_name:
        return address
    return msgspec.structs.replace(address, server_name=entry.server_name or server_name or address.server_name)


def read_tls(root: Root, problems: Problems, absolute: Callable[[str, tuple[str, ...]], Path]) -> UpstreamTls:
    """The files as bytes; `absolute` makes a path of what a key says. Where `problems` has grown the result is no good.

    They are read here and nowhere else: a worker that is started later, when a file may be half replaced, gets what the
    others have.
    """
    section = root.upstream.tls
    for colour in ("blue", "green"):
        _check_entries(colour, getattr(root.pools, colour), problems)
    if section.key and not section.cert:
        problems.add((*SECTION, "cert"), "there is a key, but no certificate; expected the path of a PEM file")
    paths = {key[-1]: absolute(text, key) for key in UPSTREAM_FILES if (text := getattr(section, key[-1]))}
    files = {}
    for key, path in paths.items():
        try:
            files[key] = read_bytes(path, MAX_FILE)
        except ValueError as error:
            problems.add((*SECTION, key), sentence(Wrong(f"{str(path)!r}: {error}", expected="a PEM file")))
    tls = UpstreamTls(verify=section.verify, **files)
    if problems.touch(SECTION):
        return tls
    if files:
        _try_out(tls, paths, problems)
    if section.verify and not section.ca and any(_over_tls(root)) and system_store_is_empty():
        problems.add(
            (*SECTION, "ca"),
            "this system trusts nobody, so no certificate could be verified; "
            "expected a PEM file, or the system's package ca-certificates",
        )
    return tls


def _try_out(tls: UpstreamTls, paths: dict[str, Path], problems: Problems) -> None:
    try:
        client_context(tls)
    except BadFile as bad:
        problems.add((*SECTION, bad.key), f"{str(paths[bad.key])!r}: {bad}")


def _check_entries(colour: str, section: PoolSection, problems: Problems) -> None:
    for number, entry in enumerate(section.upstreams):
        if entry.server_name and not entry.address.server_name:
            problems.add(
                ("pools", colour, "upstreams", number),
                f"'{entry.address}' has a server_name, but no TLS; expected 'https://{entry.address}'",
            )


def warnings(root: Root) -> Iterator[str]:
    section = root.upstream.tls
    over_tls = list(_over_tls(root))
    if over_tls and not section.verify:
        yield (
            "[upstream.tls] verify is false: whoever is in between can read and change what goes to "
            + (over_tls[0] if len(over_tls) == 1 else f"{over_tls[0]} and {len(over_tls) - 1} more")
        )
    if not over_tls and section != type(section)():
        yield "[upstream.tls] is for nobody: no upstream is written https://host:port"


def _over_tls(root: Root) -> Iterator[str]:
    for section in (root.pools.blue, root.pools.green):
        yield from (str(entry.address) for entry in section.upstreams if entry.address.server_name)
