"""A data plane on a desk: the real protocol objects, with transports and a loop that only remember what they are told.

Nothing waits and nothing is concurrent, so a whole exchange costs some hundred microseconds, and the same bytes give
the same outcome: for properties that are tried with many thousands of inputs.
"""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING, Any

from bgproxy.core.model import Address, Pool, PoolTable, Upstream
from bgproxy.core.settings import Limits, WorkerSettings
from bgproxy.dataplane.downstream import Downstream
from bgproxy.dataplane.plane import DataPlane
from bgproxy.dataplane.server import Server
from bgproxy.dataplane.upstream import UpstreamConnection
from bgproxy.shm.segment import Segment
from tests.support.strict import Doubt, strict_requests

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bgproxy.dataplane.exchange import Exchange

MANY_TURNS = 20_000
CLIENT = "192.0.2.7"
LIMITS = Limits(head_bytes=1024, target_bytes=128, header_count=20, body_bytes=256, pipeline=4)
_never_readable = os.eventfd(0)


class DeskLoop:
    """`call_soon`, and nothing that takes time."""

    def __init__(self) -> None:
        self._due: deque[tuple[Callable[..., object], tuple[object, ...]]] = deque()
        self.errors: list[BaseException] = []

    def call_soon(self, callback: Callable[..., object], *arguments: object) -> None:
        self._due.append((callback, arguments))

    def call_later(self, delay: float, callback: Callable[..., object], *arguments: object) -> None:
        """Never: whatever waits for a time is not tried here."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.errors.append(context["exception"])

    def run(self) -> None:
        """Until nothing is left to do; raises what went wrong in a turn."""
        for _ in range(MANY_TURNS):
            if not self._due:
                break
            callback, arguments = self._due.popleft()
            callback(*arguments)
        else:
            raise AssertionError("the loop never comes to rest")
        if self.errors:
            raise self.errors.pop()


class _Socket:
    def __init__(self) -> None:
        self.resets = False

    def setsockopt(self, level: int, option: int, value: object) -> None:
        self.resets = isinstance(value, bytes)  # SO_LINGER is the only one given as bytes

    def fileno(self) -> int:
        return _never_readable


class DeskTransport:
    """`written` is all that the proxy said here; `ended` whether it closed its side, `was_reset` whether by RST."""

    def __init__(self, loop: DeskLoop, protocol: Any, *, peer: str = CLIENT) -> None:
        self._loop = loop
        self._peer = peer
        self._socket = _Socket()
        self._arriving: deque[bytes | None] = deque()  # None is FIN
        self._is_reading = True
        self._is_closing = False
        self.protocol = protocol
        self.written = b""
        self.ended = False
        self.on_write: Callable[[], None] = lambda: None
        protocol.connection_made(self)

    @property
    def was_reset(self) -> bool:
        return self._is_closing and self._socket.resets

    # --- what the peer does ------------------------------------------------------------------------------------------

    def arrive(self, data: bytes | None) -> None:
        self._arriving.append(data)
        self._deliver()

    def _deliver(self) -> None:
        while self._arriving and self._is_reading and not self._is_closing:
            data = self._arriving.popleft()
            if data is not None:
                self.protocol.data_received(data)
            elif not self.protocol.eof_received():
                self.close()

    def lose(self, error: Exception | None = None) -> None:
        """The connection is gone, by RST where there is an error."""
        if not self._is_closing:
            self._is_closing = True
            self.protocol.connection_lost(error)

    # --- what a protocol asks of a transport -------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        if not self._is_closing:
            assert not self.ended, "written behind the end"
            self.written += data
            self.on_write()

    def can_write_eof(self) -> bool:
        return True  # TCP, not TLS

    def write_eof(self) -> None:
        self.ended = True

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = self.ended = True
            self._loop.call_soon(lambda: self.protocol.connection_lost(None))

    abort = close

    def is_closing(self) -> bool:
        return self._is_closing

    def pause_reading(self) -> None:
        self._is_reading = False

    def resume_reading(self) -> None:
        self._is_reading = True
        self._loop.call_soon(self._deliver)

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def get_extra_info(self, name: str, default: object = None) -> Any:
        known = {"socket": self._socket, "peername": (self._peer, 1), "sockname": ("192.0.2.1", 80)}
        return known.get(name, default)


class _DeskServer(Server):
    """Connects at once, to the desk."""

    desk: Desk

    def connect_or_wait(self, exchange: Exchange) -> None:
        self.open += 1
        self._plane.loop.call_soon(self._connected, exchange)

    def _connected(self, exchange: Exchange) -> None:
        connection = UpstreamConnection(self._plane, self)
        self.desk.connected(DeskTransport(self.desk.loop, connection))
        if exchange.is_over:
            self.release(connection)
        else:
            exchange.send_on(connection, reused=False)


class Desk:
    """One plane for many runs, each of which begins with `client` and leaves nothing behind.

    `upstreams` are the transports to the upstream of this run, `client` that of its client. An upstream answers each
    whole request with what `answer` makes of its number; b"" for nothing.
    """

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.loop = DeskLoop()
        self.segment = Segment.create(1)
        self.segment.live.store(1, 0)
        self.segment.health.publish(0, [True])
        table = PoolTable(1, Pool((Upstream("one", 0, Address("192.0.2.8", 80)),)), Pool(()))
        self.plane = DataPlane(self.loop, self.segment, 0, lambda message: None)  # type: ignore[arg-type]
        self.plane.configure(WorkerSettings(limits=limits), table)
        self.server = _DeskServer(self.plane, self.plane.pools[0], table.blue.upstreams[0])
        self.server.desk = self
        self.plane.pools[0].servers = (self.server,)
        self.upstreams: list[DeskTransport] = []
        self.answer: Callable[[int], bytes] = lambda number: b""

    def open(self, answer: Callable[[int], bytes]) -> DeskTransport:
        """A new client's connection."""
        self.upstreams = []
        self.answer = answer
        self._answered = 0
        return DeskTransport(self.loop, Downstream(self.plane))

    def connected(self, transport: DeskTransport) -> None:
        self.upstreams.append(transport)
        said = 0

        def answer_whole_requests() -> None:
            nonlocal said
            try:
                whole = len(strict_requests(transport.written)[0])
            except Doubt:  # it is for the test to say so
                return
            for _ in range(said, whole):
                said += 1
                self._answered += 1
                data = self.answer(self._answered)
                if data:
                    self.loop.call_soon(transport.arrive, data)

        transport.on_write = answer_whole_requests

    def say(self, transport: DeskTransport, pieces: Sequence[bytes | None], *, at_once: bool = False) -> None:
        """Let these pieces arrive, each in a turn of its own, or all in the same turn."""
        for piece in pieces:
            transport.arrive(piece)
            if not at_once:
                self.loop.run()
        self.loop.run()

    def close(self, client: DeskTransport) -> None:
        """End of the run: nobody is left, nothing in flight."""
        client.lose(None)
        self.loop.run()
        for upstream in self.upstreams:
            upstream.lose(None)
        self.loop.run()
        assert not self.plane.clients, "a client is still there"
        assert not self.server.parked, "a connection is still parked"
        assert (self.server.in_flight, self.server.open) == (0, 0), "something is still counted"
        self.upstreams = []
