"""What systemd is told, and what it passes: sd_notify(3) and sd_listen_fds(3), in the few lines that they are."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from typing import TYPE_CHECKING

from bgproxy.core.model import Address
from bgproxy.errors import StartupError
from bgproxy.shm.bequest import Bequest, Heirloom

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, MutableMapping

FIRST_FD = 3
PATIENCE_S = 1.0  # its queue holds ten words; one that matters may wait until there is room


class Notifier:
    """Does nothing where nobody wants to hear it: without NOTIFY_SOCKET, which may be a path or an abstract name."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        told = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + told[1:] if told.startswith("@") else told
        self._watchdog_s = _watchdog_s(environment) if told else 0.0
        self._watching: asyncio.Task[None] | None = None

    def ready(self, status: str) -> None:
        self._say("READY=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        self._say(f"STATUS={status}")

    def reloading(self, status: str) -> None:
        """Until `ready` is said again."""
        self._say("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", f"STATUS={status}")

    def stopping(self) -> None:
        self._say("STOPPING=1", "STATUS=finishing what is in flight")

    def main_pid(self, pid: int) -> None:
        self._say(f"MAINPID={pid}")

    def watch(self, is_well: Callable[[], bool]) -> None:
        """A sign of life at half of the time that systemd waits for one, as long as all is well."""
        if self._watchdog_s and self._watching is None:
            self._watching = asyncio.get_running_loop().create_task(self._live(is_well))

    def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()

    async def _live(self, is_well: Callable[[], bool]) -> None:
        while True:
            if is_well():
                self._say("WATCHDOG=1", patience_s=0.0)
            await asyncio.sleep(self._watchdog_s / 2)

    def _say(self, *lines: str, patience_s: float = PATIENCE_S) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(patience_s)
            try:
                sock.sendto("\n".join(lines).encode(), self._address)
            except OSError:
                pass  # the service manager has its own ways to find out; a proxy does not end for this


def _watchdog_s(environment: Mapping[str, str]) -> float:
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    usec = environment.get("WATCHDOG_USEC", "")
    return int(usec) / 1e6 if usec.isdigit() else 0.0


def passed_sockets(environment: MutableMapping[str, str]) -> Bequest:
    """The sockets of a socket unit; the variables are taken away, so that no worker takes them for its own.
    StartupError names one that is no listening stream socket."""
    pid, count = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "")
    names = environment.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdigit():
        return Bequest()
    fds = range(FIRST_FD, FIRST_FD + int(count))
    names += [""] * len(fds)
    return Bequest(tuple(Heirloom("", _address(fd, name), (fd,), is_ours=False) for fd, name in zip(fds, names)))  # noqa: B905


def _address(fd: int, name: str) -> str:
    os.set_inheritable(fd, False)
    try:
        sock = socket.socket(fileno=fd)
        try:
            listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            family, bound = sock.family, sock.getsockname()
        finally:
            sock.detach()
    except OSError as error:
        raise StartupError(f"descriptor {fd} ({name}) of systemd is no socket: {error.strerror}") from None
    if not listens:
        raise StartupError(
            f"socket {fd} ({name}) of systemd does not listen for connections",
            hint="use ListenStream= in the socket unit, with Accept=no",
        )
    return f"unix:{bound}" if family == socket.AF_UNIX else str(Address(bound[0], bound[1]))
