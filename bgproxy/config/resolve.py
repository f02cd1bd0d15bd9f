"""What only several keys together can say: pools, paths, the admin API's doors."""

from __future__ import annotations

import ipaddress
import os
import pwd
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from bgproxy.config.addresses import same_address
from bgproxy.config.error_pages import KEY as ERROR_PAGES
from bgproxy.config.error_pages import read_error_pages
from bgproxy.config.problems import Problems
from bgproxy.config.schema import AdminSection, PoolSection, Root
from bgproxy.config.tls import resolve_tls
from bgproxy.config.upstreams import pool, read_tls, warnings
from bgproxy.config.values import Admin, Config, Log, Server, Source, State, Switch
from bgproxy.core.model import Address, PoolTable, parse_address
from bgproxy.core.settings import TRUSTED_UNIX, UpstreamSettings


class Surroundings(msgspec.Struct, frozen=True):
    """What relative paths and "auto" mean: the environment, and per key the directory of whoever wrote the path."""

    env: Mapping[str, str]
    directory: Mapping[tuple[str, ...], Path]


def resolve(root: Root, problems: Problems, around: Surroundings, source: Source) -> Config:
    """The whole configuration; where it is not sound, `problems` has grown and the result must not be used."""
    state_dir = _state_dir(root.state.dir, problems, around)
    health = root.health
    tls, tls_warnings = resolve_tls(
        root.tls, root.server.listen, problems, lambda text, key: _absolute(text, ("tls", key), around)
    )
    if health.method == "HEAD" and health.expect_body:
        problems.add(("health", "expect_body"), 'an answer to HEAD has no body; expected method = "GET"')
    _check_proxy_protocol(root.server, problems)
    named = root.upstream.tls.server_name
    return Config(
        server=root.server,
        pools=PoolTable(version=1, blue=pool(root.pools.blue, named), green=pool(root.pools.green, named)),
        min_healthy=(
            _min_healthy("blue", root.pools.blue, problems),
            _min_healthy("green", root.pools.green, problems),
        ),
        all_healthy=(root.pools.blue.min_healthy == "all", root.pools.green.min_healthy == "all"),
        upstream_server_name=named,
        upstream=_upstream(root),
        upstream_tls=read_tls(root, problems, lambda text, key: _absolute(text, key, around)),
        health=health,
        switch=root.switch,
        state=State(dir=state_dir),
        admin=_admin(root, state_dir, problems, around),
        headers=root.headers,
        log=_log(root.log, around),
        error_pages=_error_pages(root.server.error_pages, problems, around),
        source=source,
        tls=tls,
        warnings=(*_warnings(root), *tls_warnings),
    )


# --- pools ----------------------------------------------------------------------------------------------------------


def _min_healthy(colour: str, section: PoolSection, problems: Problems) -> int:
    have = len(section.upstreams)
    where = ("pools", colour)
    if not have and not problems.touch((*where, "upstreams"), where):
        problems.add(
            (*where, "upstreams"), 'there is no upstream; expected at least one address, like "127.0.0.1:9001"'
        )
    if section.min_healthy == "all":
        return have
    if section.min_healthy > have and not problems.touch(where):
        problems.add(
            (*where, "min_healthy"),
            f"{section.min_healthy} healthy upstreams needed, but {colour} has {have}: nobody could switch to it; "
            f'expected a whole number up to {have}, or "all"',
        )
    return section.min_healthy


def _warnings(root: Root) -> tuple[str, ...]:
    blue = {same_address(entry.address): str(entry.address) for entry in root.pools.blue.upstreams}
    shared = [str(e.address) for e in root.pools.green.upstreams if same_address(e.address) in blue]
    of_both = "is an upstream of both pools: a switch does not take requests away from it"
    return (*(f"{address} {of_both}" for address in shared), *_impatience(root.switch), *warnings(root))


def _impatience(switch: Switch) -> Iterator[str]:
    if switch.hold_timeout < switch.fence_timeout:
        yield (
            f"[switch] hold_timeout ({switch.hold_timeout:g} s) is shorter than fence_timeout "
            f"({switch.fence_timeout:g} s): "
            "what waits for a slow fence is answered 503 before it can be served"
        )


def _upstream(root: Root) -> UpstreamSettings:
    """What a worker needs of [upstream], with the passive part of [health]."""
    health, written = root.health, msgspec.structs.asdict(root.upstream)
    del written["tls"]
    return UpstreamSettings(
        **written | {"passive_failures": health.passive_failures, "passive_eject": health.passive_eject}
    )


# --- clients --------------------------------------------------------------------------------------------------------


def _check_proxy_protocol(server: Server, problems: Problems) -> None:
    """On a listener whose peers cannot be trusted, every connection would be refused."""
    if not server.proxy_protocol or problems.touch(("server",)):
        return
    networks = [trusted for trusted in server.trusted_proxies if trusted != TRUSTED_UNIX]
    if not server.trusted_proxies:
        problems.add(
            ("server", "proxy_protocol"),
            "whoever connects could claim to be anybody; expected [server] trusted_proxies to name the networks of "
            'the proxies in front, like ["10.0.0.0/8"]',
        )
        return
    for number, address in enumerate(server.listen):
        if address.is_unix and TRUSTED_UNIX not in server.trusted_proxies:
            missing = '"unix"'
        elif not address.is_unix and not networks:
            missing = "a network"
        else:
            continue
        problems.add(
            ("server", "listen", number),
            f"'{address}' with proxy_protocol could serve nobody; expected [server] trusted_proxies to have {missing}",
        )


# --- paths ----------------------------------------------------------------------------------------------------------


def _home(env: Mapping[str, str]) -> Path | None:
    if env.get("HOME", "").startswith("/"):
        return Path(env["HOME"])
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:  # a container with a user id that has no account
        return None


def _absolute(text: str, key: tuple[str, ...], around: Surroundings) -> Path:
    home = _home(around.env)
    if home and (text == "~" or text.startswith("~/")):
        return home / text[2:]
    return Path(os.path.normpath(around.directory[key] / text))


def _state_dir(text: str, problems: Problems, around: Surroundings) -> Path:
    if text != "auto":
        return _absolute(text, ("state", "dir"), around)
    # systemd sets STATE_DIRECTORY (several, colon-separated) from StateDirectory=.
    given = around.env.get("STATE_DIRECTORY", "").partition(":")[0]
    if given.startswith("/"):
        return Path(given)
    if around.env.get("XDG_STATE_HOME", "").startswith("/"):
        return Path(around.env["XDG_STATE_HOME"]) / "bgproxy"
    home = _home(around.env)
    if home is None:
        problems.add(("state", "dir"), '"auto" finds no home directory; expected a directory, or HOME to be set')
        return Path("/nonexistent")
    return home / ".local/state/bgproxy"


def _log(log: Log, around: Surroundings) -> Log:
    if log.access_file == "-":
        return log
    path = _absolute(log.access_file, ("log", "access_file"), around)
    return msgspec.structs.replace(log, access_file=str(path))


def _error_pages(text: str, problems: Problems, around: Surroundings) -> dict[str, str]:
    return read_error_pages(_absolute(text, ERROR_PAGES, around), problems) if text else {}


# --- admin ----------------------------------------------------------------------------------------------------------


def _admin(root: Root, state_dir: Path, problems: Problems, around: Surroundings) -> Admin:
    admin = root.admin
    socket = _admin_socket(admin.socket, state_dir, problems, around)
    if admin.listen is None and socket is None and not problems.touch(("admin",)):
        problems.add(("admin", "listen"), "no listen address and no socket: nobody could switch; expected one of them")
    if admin.listen:
        _check_admin_listen(admin, admin.listen, (*root.server.listen, *root.tls.listen), problems)
    _check_tokens(admin, problems)
    hosts = tuple(dict.fromkeys(host.lower() for host in admin.allowed_hosts))
    return Admin(listen=admin.listen, socket=socket, tokens=admin.tokens, allowed_hosts=hosts)


def _admin_socket(text: str, state_dir: Path, problems: Problems, around: Surroundings) -> Path | None:
    if not text:
        return None
    key = ("admin", "socket")
    path = state_dir / "admin.sock" if text == "auto" else _absolute(text.removeprefix("unix:"), key, around)
    try:
        parse_address(f"unix:{path}")
    except ValueError as error:
        problems.add(key, f"{error}; expected a shorter path, or [state] dir to be shorter")
    return path


def _check_admin_listen(admin: AdminSection, listen: Address, traffic: tuple[Address, ...], problems: Problems) -> None:
    if problems.touch(("admin",)):
        return
    if not _is_loopback(listen.host) and not admin.tokens:
        problems.add(
            ("admin", "listen"),
            f"'{listen}' can be reached from other machines and there are no tokens: anybody could switch; "
            "expected a loopback address, or [admin] tokens",
        )
    identity = same_address(listen)
    if identity is not None and identity in [same_address(address) for address in traffic]:
        problems.add(
            ("admin", "listen"), f"'{listen}' is in [server] listen or [tls] listen too; expected an address of its own"
        )


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name can be made to mean anything


def _check_tokens(admin: AdminSection, problems: Problems) -> None:
    seen: dict[str, str] = {}
    for number, token in enumerate(admin.tokens):
        if token.sha256 in seen and not problems.touch(("admin", "tokens")):
            problems.add(
                ("admin", "tokens", number),
                f"{token.name!r} has the same sha256 as {seen[token.sha256]!r}; expected a token of its own",
            )
        seen.setdefault(token.sha256, token.name)
