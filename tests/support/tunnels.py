"""Connections through an upgrade: what both sides say to make one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.raw_http import request

if TYPE_CHECKING:
    from tests.support.plane import Plane
    from tests.support.raw_client import RawClient
    from tests.support.raw_upstream import Conversation, Script

UPGRADE = ("Connection: keep-alive, Upgrade", "Upgrade: websocket")
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Key: k\r\n\r\n"


def switching(*early: bytes, protocol: str = "websocket") -> Script:
    """Agrees to the upgrade, says `early`, and from then on echoes."""

    def script(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(SWITCHING.replace(b"websocket", protocol.encode()) + b"".join(early))
        while True:
            conversation.send(b"<" + conversation.take(1) + b">")

    return script


def tunnelled(plane: Plane, *, protocol: str = "websocket", receive_buffer: int = 0) -> RawClient:
    """A client whose upgrade was agreed to."""
    client = plane.client(receive_buffer=receive_buffer)
    client.send(request("GET", "/ws", "Connection: keep-alive, Upgrade", f"Upgrade: {protocol}"))
    assert client.answer().status == 101
    return client
