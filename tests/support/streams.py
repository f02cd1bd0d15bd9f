"""Streams that a switch leaves behind: policies, and upstreams that say what they are told to."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from bgproxy.core.settings import StreamPolicy, StreamRoute, StreamSettings, WorkerSettings
from bgproxy.shm import worker_slot as slot
from tests.support.plane import eventually, settings

if TYPE_CHECKING:
    from tests.support.plane import Plane
    from tests.support.raw_upstream import Conversation

EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
CLOSE_1012 = b"\x88\x26\x03\xf4the service moved to another version"
NOW = StreamPolicy(policy="close-now", spread=0.0, retry=2.0)


def leaving(policy: StreamPolicy = NOW, *routes: StreamRoute, **more: Any) -> WorkerSettings:
    """Worker settings with this policy for streams."""
    return settings(streams=StreamSettings(policy, routes), **more)


def next_tick(plane: Plane) -> None:
    """Wait for the end of a tick of the worker."""
    beat = plane.worker.cells[slot.HEARTBEAT_NS]
    eventually(lambda: plane.worker.cells[slot.HEARTBEAT_NS] > beat, "the next tick")


class Puppet:
    """A script that begins with `first` and then says what it is told to; `heard` is what came behind the request."""

    def __init__(self, first: bytes) -> None:
        self._first = first
        self._has_begun = threading.Event()
        self.conversation: Conversation
        self.heard = b""
        self.has_ended = threading.Event()

    def __call__(self, conversation: Conversation) -> None:
        conversation.request()
        conversation.send(self._first)
        self.conversation = conversation
        self._has_begun.set()
        try:
            while data := conversation.sock.recv(65536):
                self.heard += data
        finally:
            self.has_ended.set()

    def say(self, data: bytes) -> None:
        assert self._has_begun.wait(10)
        self.conversation.send(data)

    def event(self, data: bytes) -> None:
        """As a chunk."""
        self.say(b"%x\r\n%b\r\n" % (len(data), data))
