"""Listening sockets on their way from one generation of processes to the next.

On a connection of kind SOCK_SEQPACKET: first one message that says what they are, then the descriptors themselves.
"""

from __future__ import annotations

import os
import socket
from typing import Literal, TypeAlias

import msgspec

Role: TypeAlias = Literal["plain", "tls", "admin", ""]  # "": whoever passes them does not know

AT_ONCE = 200  # descriptors in one message; the kernel takes at most 253
MAX_MESSAGE = 128 * 1024  # bytes; more than a thousand sockets


class Heirloom(msgspec.Struct, frozen=True, array_like=True):
    """Some sockets of one address, which is written as in the configuration, with the port that 0 became."""

    role: Role
    address: str
    fds: tuple[int, ...]
    is_ours: bool = True  # and so is the name of a unix socket, which goes when we do


class Bequest(msgspec.Struct, frozen=True):
    """The numbers in it mean something in one process only."""

    heirlooms: tuple[Heirloom, ...] = ()

    @property
    def fds(self) -> tuple[int, ...]:
        return tuple(fd for each in self.heirlooms for fd in each.fds)

    def encode(self) -> bytes:
        return msgspec.json.encode(self)


def decode(text: bytes | str) -> Bequest:
    """msgspec.DecodeError says what was expected."""
    return msgspec.json.decode(text, type=Bequest)


def send(connection: socket.socket, bequest: Bequest) -> None:
    """OSError where the other end has left or does not read."""
    connection.send(bequest.encode())
    fds = bequest.fds
    for start in range(0, len(fds), AT_ONCE):
        socket.send_fds(connection, [b"."], fds[start : start + AT_ONCE])


def receive(connection: socket.socket) -> Bequest:
    """With the numbers that the descriptors have here; they are not inherited further. OSError where the other end
    leaves before it has said all, or ValueError where it says something else."""
    told = decode(_not_nothing(connection.recv(MAX_MESSAGE)))
    received: list[int] = []
    try:
        while len(received) < len(told.fds):
            text, fds, _, _ = socket.recv_fds(connection, 1, AT_ONCE)
            received += fds
            for fd in fds:
                os.set_inheritable(fd, False)
            _not_nothing(text)
            if not fds or len(received) > len(told.fds):
                raise ValueError(f"{len(told.fds)} sockets were announced and {len(received)} came")
    except BaseException:
        for fd in received:
            os.close(fd)
        raise
    numbers = iter(received)
    return Bequest(tuple(msgspec.structs.replace(h, fds=tuple(next(numbers) for _ in h.fds)) for h in told.heirlooms))


def _not_nothing(text: bytes) -> bytes:
    if not text:
        raise ConnectionResetError("the other end has left")
    return text
