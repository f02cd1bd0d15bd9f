"""The commands that are bgproxy themselves: run, demo, check. What they need is imported when they run."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bgproxy.cli.client import find_admin
from bgproxy.errors import EXIT_OK, ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

ADDRESS = "HOST:PORT"
UPGRADE_VARIABLE = "BGPROXY_UPGRADE_FD"  # as controlplane/succession.py has it, which is imported late
UPSTREAM = "[https://]HOST:PORT"


@click.command()
@click.option("-c", "--config", "file", type=click.Path(path_type=Path), metavar="FILE", help="The configuration file.")
@click.option("--blue", multiple=True, metavar=UPSTREAM, help="An upstream of the blue pool. May be repeated.")
@click.option("--green", multiple=True, metavar=UPSTREAM, help="An upstream of the green pool. May be repeated.")
@click.option("--listen", multiple=True, metavar=ADDRESS, help="Where clients connect. May be repeated.")
@click.option("--admin", metavar=ADDRESS, help="Where the admin API listens.")
@click.option("--workers", metavar="N", help='Worker processes, or "auto": one per core.')
@click.option("--state-dir", type=click.Path(path_type=Path), metavar="DIR", help="Where the live colour is kept.")
@click.option("--health-path", metavar="PATH", help="What health probes ask for.")
def run(file: Path | None, **flags: Any) -> int:
    """Run the proxy until SIGTERM or Ctrl-C.

    Give a file, or at least --blue and --green. Flags override the file.
    """
    from bgproxy import config

    def read() -> config.Config:
        return config.load(file, flags=config.Flags(**flags))

    try:
        loaded = read()
    except ConfigError as error:
        if UPGRADE_VARIABLE in os.environ:  # who started us goes on, and wants to know why
            from bgproxy import supervisor

            supervisor.tell_predecessor(os.environ, f"{error.detail}")
        raise
    from bgproxy import supervisor

    return supervisor.run(loaded, ready=announce, reread=None if file is None else read)


def announce(addresses: Mapping[str, Any]) -> None:
    """Say where it listens, once it does. Port 0 has become a real one by now."""
    lines = [f"listening on {address}" for address in addresses["listen"]]
    lines += [f"listening with TLS on {address}" for address in addresses.get("tls", ())]
    lines += [f"admin API on {addresses[name]}" for name in ("admin", "socket") if addresses.get(name)]
    # A proxy that serves must not end because nobody reads its greeting.
    with contextlib.suppress(OSError):
        click.echo("\n".join(lines))


@click.command()
@click.option("--listen", metavar=ADDRESS, help="Where clients connect. Default: 127.0.0.1:8080, or a free port.")
@click.option("--admin", metavar=ADDRESS, help="Where the admin API listens. Default: 127.0.0.1:8081, or a free port.")
@click.option("--workers", metavar="N", help='Worker processes, or "auto": one per core.')
@click.option("--state-dir", type=click.Path(path_type=Path), metavar="DIR", help="Default: a temporary directory.")
def demo(listen: str | None, admin: str | None, workers: str | None, state_dir: Path | None) -> int:
    """Run the proxy in front of two small apps, blue and green, to try it out."""
    from bgproxy.demo import stage

    found = find_admin(os.environ.get("BGPROXY_ADMIN"), os.environ)[0]
    return stage.run(listen=listen, admin=admin, workers=workers, state_dir=state_dir, found_by_default=found)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
def check(file: Path) -> int:
    """Say whether FILE is a valid configuration, with every problem in it."""
    from bgproxy import config

    try:
        loaded = config.load(file)
    except ConfigError as problem:
        # They are what was asked for, so they go where answers go.
        click.echo(problem.detail)
        return problem.exit_code
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}")
    click.echo(f"OK: {file}")
    return EXIT_OK
