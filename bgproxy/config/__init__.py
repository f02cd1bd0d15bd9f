"""TOML, environment and flags in; one frozen, typed, resolved Config out. Flags win over env, env over file.

    load → sources (read, overlay, ${…}) → reader (schema × kinds → typed values) → resolve (several keys together)

Everything that is wrong is said at once, each with its place, in one ConfigError.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from bgproxy.config import sources
from bgproxy.config.error_pages import KEY as ERROR_PAGES
from bgproxy.config.locate import Path as KeyPath
from bgproxy.config.problems import Problems
from bgproxy.config.reader import BAD, Reader
from bgproxy.config.references import expand
from bgproxy.config.resolve import Surroundings, resolve
from bgproxy.config.schema import ROOT
from bgproxy.config.sources import Document, Flags, Setting
from bgproxy.config.upstreams import UPSTREAM_FILES
from bgproxy.config.values import Admin, Config, Health, Log, Server, Source, State, Switch, Token
from bgproxy.errors import ConfigError

__all__ = [
    "Admin",
    "Config",
    "Flags",
    "Health",
    "Log",
    "Server",
    "Source",
    "State",
    "Switch",
    "Token",
    "load",
]

_NO_POOLS = (
    "there is no configuration: both pools need at least one upstream; expected a file or the addresses of both pools"
)
_NO_POOLS_HINT = "try `bgproxy demo`, or give `--blue HOST:PORT --green HOST:PORT`, or `-c FILE`"


def load(path: Path | None, *, flags: Flags | None = None, env: Mapping[str, str] | None = None) -> Config:
    """The configuration of a file (None: without one), the environment (None: this process's) and the flags.

    ConfigError has one line per problem: `place: [section] key: what is wrong; expected …; did you mean …?`
    """
    env = os.environ if env is None else env
    document = Document() if path is None else sources.read_document(path)
    settings, complaints = _settings(env, flags or Flags())
    tree = sources.overlay(document.tree, settings)
    if path is None and not _has_pools(tree) and not complaints:
        raise ConfigError(_NO_POOLS, hint=_NO_POOLS_HINT)

    origins: dict[KeyPath, str] = {setting.path: setting.origin for setting in settings}
    problems = Problems(lambda key: sources.place(key, document, origins))
    for complaint in complaints:
        problems.add_line(complaint)
    here = _working_directory() if path is None else (_working_directory() / path).parent

    def expanded(key: KeyPath, text: str) -> str:
        # Only the file knows references: the shell that set a flag or a variable has expanded its own.
        outside = any(key[: len(origin)] == origin for origin in origins)
        return text if outside else expand(text, env, here)

    root = Reader(problems, expanded).read(ROOT, tree, ())
    assert root is not BAD  # the root is a table and requires nothing
    around = Surroundings(
        env,
        {
            key: _working_directory() if key in origins else here
            for key in (("state", "dir"), ("admin", "socket"), ERROR_PAGES, _ACCESS, *UPSTREAM_FILES, *_TLS)
        },
    )
    config = resolve(root, problems, around, Source(file=document.name, sha256=document.sha256))
    problems.raise_if_any()
    return config


_ACCESS = ("log", "access_file")
_TLS = (("tls", "certificates"), ("tls", "client_ca"))


def _settings(env: Mapping[str, str], flags: Flags) -> tuple[list[Setting], list[str]]:
    found = [*sources.from_env(env), *sources.from_flags(flags)]
    return [s for s in found if isinstance(s, Setting)], [s for s in found if isinstance(s, str)]


def _working_directory() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:  # somebody removed it; only a relative path would miss it
        return Path("/")


def _has_pools(tree: Mapping[str, object]) -> bool:
    pools = tree.get("pools")
    return isinstance(pools, dict) and "blue" in pools and "green" in pools
