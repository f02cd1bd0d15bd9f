"""`bgproxy demo`: two small apps as processes of their own, and the real proxy in front of them.

Nothing is simulated: real workers, health probes, admin API and state. All of it ends with the demo.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bgproxy.core.model import Address, parse_address
from bgproxy.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DEFAULT_LISTEN = "127.0.0.1:8080"
DEFAULT_ADMIN = "127.0.0.1:8081"
RELEASES = {"blue": "1.0", "green": "2.0"}
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 5.0
EXIT_TERMINATED = 143  # 128 + SIGTERM, as shells count


class App:
    """A running app. It dies with the pipe to its standard input, so even a killed demo leaves none behind."""

    def __init__(self, colour: str, release: str) -> None:
        self.colour, self.release = colour, release
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bgproxy.demo.app", "--colour", colour, "--release", release],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,  # a terminal's Ctrl-C is for the demo, which stops them when the proxy is done with them
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def address(self) -> str:
        """Where it listens, once it does; StartupError if it never will."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], START_TIMEOUT_S)
        line = self._process.stdout.readline().decode() if ready else ""
        if not line.startswith("listening "):
            raise StartupError(f"the {self.colour} app of the demo did not start", hint="its own message is above")
        return line.split()[1]

    def stop(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def apps() -> Iterator[dict[str, App]]:
    """Both apps, stopped in any case."""
    running: dict[str, App] = {}
    try:
        for colour, release in RELEASES.items():
            running[colour] = App(colour, release)
        yield running
    finally:
        for app in running.values():
            app.stop()


def run(
    *, listen: str | None, admin: str | None, workers: str | None, state_dir: Path | None, found_by_default: str = ""
) -> int:
    """Until SIGTERM or Ctrl-C; the exit code of the supervisor. `found_by_default` is the admin API that the commands
    speak to when they are not told: if it is another one, the guide has to say `--admin`.
    """
    from bgproxy import config, supervisor

    # Until the supervisor takes over: end like after Ctrl-C, with the apps and the temporary directory cleaned up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))
    front = _usable(listen, DEFAULT_LISTEN, "--listen")
    back = _usable(admin, DEFAULT_ADMIN, "--admin")
    with apps() as running, _state(state_dir) as directory:
        flags = config.Flags(
            listen=(front,),
            admin=back,
            blue=(running["blue"].address(),),
            green=(running["green"].address(),),
            workers=workers,
            state_dir=directory,
        )
        # What is set for a real proxy on this machine is not meant for the demo.
        environment = {key: value for key, value in os.environ.items() if not key.startswith("BGPROXY_")}
        loaded = config.load(None, flags=flags, env=environment | {"BGPROXY_HEADERS__EXPOSE": "true"})

        def welcome(addresses: Mapping[str, Any]) -> None:
            with contextlib.suppress(OSError):  # the demo goes on, even if nobody reads this
                click.echo(guide(addresses, found_by_default))

        # Without its apps the demo is over, so nothing of it may outlive its supervisor.
        return supervisor.run(loaded, ready=welcome, workers_outlive=False)


def guide(addresses: Mapping[str, Any], found_by_default: str = "") -> str:
    """What to try first, with the ports that are really in use."""
    front = addresses["listen"][0]
    admin = _as_url(addresses["admin"])
    where = "" if admin == found_by_default else f" --admin {admin}"
    program = _program()
    return f"""
bgproxy demo: blue (version 1.0) and green (version 2.0) are behind one address.

  curl http://{front}/          which version answers? There are /slow?s=5, /echo, /sse and /ws, too
  {program} switch green{where}
  curl http://{front}/
  {program} rollback{where}
  {program} status{where}

The admin API is at {admin} (try {admin}/status). Ctrl-C ends everything.
"""


def _program() -> str:
    """How the reader can call the program that is running: it need not be on their PATH."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return f"{sys.executable} -m bgproxy"
    found = shutil.which(called.name)
    return called.name if found and Path(found).resolve() == called.resolve() else str(called)


def _as_url(address: str) -> str:
    return address if "://" in address else f"http://{address}"


@contextlib.contextmanager
def _state(directory: Path | None) -> Iterator[Path]:
    if directory is not None:
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix="bgproxy-demo-", ignore_cleanup_errors=True) as temporary:
        yield Path(temporary)


def _usable(told: str | None, default: str, flag: str) -> str:
    """The address the operator named, whatever comes of it; else the default, or a free port where that is taken."""
    if told is not None:
        return told
    address = parse_address(default)
    if _is_free(address):
        return default
    click.echo(f"{default} is in use, so a free port is taken instead ({flag} HOST:PORT chooses one)")
    return f"{address.host}:0"


def _is_free(address: Address) -> bool:
    with socket.socket() as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind((address.host, address.port))
        except OSError:
            return False
    return True
