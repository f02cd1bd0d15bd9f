"""What a running program and the one that is to replace it say to each other, on a pair of sockets.

    old → new   Hello, then the listening sockets      the new one prepares everything
    new → old   Prepared, or Failed                    until here the old one may change its mind, and kills it
    old → new   Go                                     the old one changes nothing; the journal is the new one's
    new → old   Serving                                the old one drains its workers and ends; the new one takes orders

Whoever finds the other gone goes on alone: the old one as if nothing had been, the new one as after a crash.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from bgproxy.controlplane.orphans import Recorded
from bgproxy.shm import bequest

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from bgproxy.shm.bequest import Bequest

VARIABLE = "BGPROXY_UPGRADE_FD"  # without a double underscore: no key of the configuration
HELLO_BOUND_S = 10.0
MAX_MESSAGE = 128 * 1024  # bytes


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """`lock_fd` is inherited; `standing` is the hold of the live word that an operator asked for."""

    pid: int
    version: str
    lock_fd: int
    standing: int


class Prepared(msgspec.Struct, frozen=True, tag="prepared"):
    version: str


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    detail: str


class Go(msgspec.Struct, frozen=True, tag="go"):
    """`workers` are those of the old one, which drain from here on."""

    workers: tuple[Recorded, ...]


class Serving(msgspec.Struct, frozen=True, tag="serving"):
    pass


Message: TypeAlias = Hello | Prepared | Failed | Go | Serving


def send(connection: socket.socket, message: Message) -> None:
    """OSError where the other end has left. Never waits: there are few messages, and room for all of them."""
    connection.send(msgspec.json.encode(message))


async def hear(connection: socket.socket) -> Message | None:
    """None where the other end has left; msgspec.DecodeError where it says what this version does not know."""
    try:
        said = await asyncio.get_running_loop().sock_recv(connection, MAX_MESSAGE)
    except ConnectionResetError:
        return None
    return _decode(said) if said else None


def _decode(said: bytes) -> Message:
    message: Message = msgspec.json.decode(said, type=Message)
    return message


class Predecessor:
    """The old program, as the new one sees it."""

    def __init__(self, connection: socket.socket) -> None:
        """Blocks for the first words. OSError, ValueError: nobody speaks to us there."""
        self._connection = connection
        self._when_serving: list[Callable[[], None]] = []
        connection.settimeout(HELLO_BOUND_S)
        hello = _decode(connection.recv(MAX_MESSAGE))
        if not isinstance(hello, Hello):
            raise ValueError(f"expected hello, and got {hello}")
        self.hello = hello
        self.bequest: Bequest = bequest.receive(connection)
        connection.setblocking(False)

    @classmethod
    def find(cls, environment: MutableMapping[str, str]) -> Predecessor | None:
        """Takes the variable away: it is not meant for any other process."""
        fd = environment.pop(VARIABLE, "")
        if not fd:
            return None
        os.set_inheritable(int(fd), False)
        predecessor = cls(socket.socket(fileno=int(fd)))
        os.set_inheritable(predecessor.hello.lock_fd, False)
        return predecessor

    async def take_over(self, version: str) -> tuple[Recorded, ...] | None:
        """Say that all is prepared; returns the old workers when we may go on, None where the old one is gone."""
        try:
            send(self._connection, Prepared(version))
        except OSError:
            return None
        message = await hear(self._connection)
        return message.workers if isinstance(message, Go) else None

    def failed(self, detail: str) -> None:
        try:
            send(self._connection, Failed(detail))
        except OSError:
            pass  # it will see the end of this process

    def when_serving(self, then: Callable[[], None]) -> None:
        """`then` is called once the old one knows that it is over. What was ordered or written before that would be
        lost, should it go on."""
        self._when_serving.append(then)

    def serving(self) -> None:
        try:
            send(self._connection, Serving())
        except OSError:
            pass  # then it has ended already
        self._connection.close()
        for then in self._when_serving:
            then()

    def close(self) -> None:
        self._connection.close()


def tell_predecessor(environment: MutableMapping[str, str], detail: str) -> None:
    """Where the start of a new program fails before it could speak, or later: why."""
    fd = environment.get(VARIABLE, "")
    if fd:
        try:
            with socket.socket(fileno=os.dup(int(fd))) as connection:
                connection.send(msgspec.json.encode(Failed(detail)))
        except (OSError, ValueError):
            pass  # the old one will see the end of this process
