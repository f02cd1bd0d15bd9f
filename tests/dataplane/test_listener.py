"""Accepting on inherited sockets of every family."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.plane import Plane


def test_every_inherited_socket_accepts(plane: Plane) -> None:
    families = []
    for address in plane.worker.addresses:
        client = plane.client(address=address)
        assert client.ask().body == b"hello"
        families.append(client.sock.family.name)
    assert families == ["AF_INET", "AF_INET6", "AF_UNIX"]


def test_the_upstream_learns_the_address_of_a_client_of_either_family(plane: Plane) -> None:
    for address in plane.worker.addresses:
        plane.client(address=address).ask()
    seen = [request.one("X-Forwarded-For") for request in plane.blue.requests]
    assert seen == ["127.0.0.1", "::1", "unknown"]
