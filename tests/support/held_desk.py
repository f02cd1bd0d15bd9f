"""A desk with both colours, whose live word may be another one at any load: for what must hold of held requests.

Every dispatch is judged in the instant in which it happens: by the word that was loaded for it and for nobody else.
"""

from __future__ import annotations

import os
import re
import socket
import time
from typing import TYPE_CHECKING, Any

from bgproxy.core.model import COLOURS, Address, Pool, PoolTable, Upstream
from bgproxy.core.settings import HoldSettings, UpstreamSettings, WorkerSettings
from bgproxy.dataplane.downstream import Downstream
from bgproxy.dataplane.plane import DataPlane
from bgproxy.shm import worker_slot as slot
from bgproxy.shm.live_pointer import Hold, unpack
from bgproxy.shm.segment import Segment
from tests.support.desk import DeskLoop, DeskTransport, _DeskServer
from tests.support.strict import strict_requests

if TYPE_CHECKING:
    from collections.abc import Callable

    from bgproxy.dataplane.exchange import Exchange
    from bgproxy.shm.live_pointer import Live

SAFE = (b"GET", b"HEAD", b"OPTIONS", b"TRACE")
STEP_NS = 100_000_000
HOLD_TIMEOUT_S = 1.0
MANY_ROUNDS = 400


class Word:
    """In the place of the segment's cell: what the supervisor stores, perhaps between two loads of the worker."""

    def __init__(self) -> None:
        self.value = 0
        self.loaded = 0
        self.loads = 0
        self.after: list[tuple[int, int]] = []  # (so many loads from now, the word that is stored then)

    def __getitem__(self, index: int) -> int:
        assert index == 0
        self.loads += 1
        self.loaded = self.value
        self.after = [(loads - 1, word) for loads, word in self.after]
        while self.after and self.after[0][0] <= 0:
            self.value = self.after.pop(0)[1]
        return self.loaded

    def store(self, word: int) -> None:
        self.after = []
        self.value = word


class LaterLoop(DeskLoop):
    """Time passes when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self._later: list[tuple[Callable[..., object], tuple[object, ...]]] = []

    def call_later(self, delay: float, callback: Callable[..., object], *arguments: object) -> None:
        self._later.append((callback, arguments))

    def time_passes(self) -> None:
        later, self._later = self._later, []
        self._due.extend(later)

    def step(self, count: int) -> None:
        """So many callbacks, and not until nothing is left to do."""
        for _ in range(min(count, len(self._due))):
            callback, arguments = self._due.popleft()
            callback(*arguments)
        assert not self.errors, self.errors


class _WatchedDownstream(Downstream):
    def __init__(self, desk: HeldDesk) -> None:
        super().__init__(desk.plane)
        self.desk = desk

    def wait(self) -> None:
        assert self.exchange is not None
        self.desk.kept.append(_name(self.exchange))
        super().wait()


class HeldClient:
    """`expected` are the names of its requests, in order; `rest` what it has not sent of its body."""

    def __init__(self, desk: HeldDesk) -> None:
        self._downstream = _WatchedDownstream(desk)
        self.transport = DeskTransport(desk.loop, self._downstream)
        self.expected: list[str] = []
        self.rest = b""
        self.has_left = False

    @property
    def exchange(self) -> Exchange | None:
        return self._downstream.exchange

    @property
    def answers(self) -> list[bytes]:
        return re.findall(rb"HTTP/1\.1 ([2-5][0-9][0-9]) ", self.transport.written)

    def told(self) -> list[str]:
        """The requests whose upstream's answer it got."""
        return [name.decode() for name in re.findall(rb"<(r[0-9]+)>", self.transport.written)]

    @property
    def is_held(self) -> bool:
        return self.exchange is not None and self.exchange.word < 0


class _WatchedServer(_DeskServer):
    desk: HeldDesk

    def take(self, exchange: Exchange) -> Any:
        self.desk.is_dispatched(exchange, self.colour)
        return super().take(exchange)


class HeldDesk:
    """`finish` is the end of every run: what has to be true of it is asserted there, and at each dispatch."""

    def __init__(self, *, max_connections: int = 3, hold_max: int = 100) -> None:
        self.loop = LaterLoop()
        self._segment = Segment.create(1)
        self.plane = DataPlane(self.loop, self._segment, 0, lambda message: None)  # type: ignore[arg-type]
        self.word = Word()
        self.plane.live = self.word  # type: ignore[assignment]
        self._offset_ns = 0
        self.plane.clock = self.clock
        settings = WorkerSettings(
            upstream=UpstreamSettings(max_connections=max_connections, max_waiting=0),
            hold=HoldSettings(max=hold_max, timeout=HOLD_TIMEOUT_S),
        )
        pools = [Pool((Upstream(colour.label, 0, Address("192.0.2.8", 80)),)) for colour in COLOURS]
        self.plane.configure(settings, PoolTable(1, *pools))
        for colour, pool in zip(COLOURS, self.plane.pools, strict=True):
            self._segment.health.publish(colour, [True])
            server = _WatchedServer(self.plane, pool, pools[colour].upstreams[0])
            server.desk = self
            pool.servers = (server,)
        self.clients: list[HeldClient] = []
        self.dispatched: list[str] = []
        self.unanswered: list[tuple[DeskTransport, str]] = []
        self.is_alone = False
        self._dispatched_at = 0  # loads of the word by then
        self._asked = 0
        self.kept: list[str] = []  # in the order in which they were
        self._gone: set[str] = set()
        self._descriptors: list[int] = []

    def clock(self) -> int:
        return time.monotonic_ns() + self._offset_ns

    # --- what happens -------------------------------------------------------------------------------------------------

    def ask(self, client: HeldClient, method: str, *, body: bool, whole: bool) -> None:
        self._asked += 1
        name = f"r{self._asked}"
        client.expected.append(name)
        head = f"{method} /{name} HTTP/1.1\r\nHost: a\r\n" + ("Content-Length: 4\r\n\r\n" if body else "\r\n")
        if body and not whole:
            client.rest = b"dy"
        client.transport.arrive(head.encode() + (b"body" if whole else b"bo") * body)

    def answer(self, number: int) -> None:
        if self.unanswered:
            transport, name = self.unanswered.pop(number % len(self.unanswered))
            transport.arrive(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n<%b>" % (len(name) + 2, name.encode()))

    def tick(self, steps: int) -> None:
        for _ in range(steps):
            self._offset_ns += STEP_NS
            self.plane.deadlines.turn(self.clock())
            self.plane.held.tick(self.plane.deadlines.now)
        self.loop.time_passes()

    def hangs_up(self, client: HeldClient, *, half: bool) -> None:
        """As the kernel shows it: with a FIN, which is found when it is read from again, or for good."""
        ours, theirs = socket.socketpair()
        if half:
            theirs.shutdown(socket.SHUT_WR)
            self._descriptors.append(theirs.detach())
            client.transport.arrive(None)
        else:
            theirs.close()
            self._gone.update(client.expected)
        descriptor = ours.detach()
        self._descriptors.append(descriptor)
        client.transport._socket.fileno = lambda: descriptor  # type: ignore[method-assign]
        client.has_left = True

    def connected(self, transport: DeskTransport) -> None:
        said = 0

        def note_whole_requests() -> None:
            nonlocal said
            requests = strict_requests(transport.written)[0]
            for request in requests[said:]:
                self.unanswered.append((transport, request.first[1].decode().strip("/")))
            said = len(requests)

        transport.on_write = note_whole_requests

    # --- what must be true --------------------------------------------------------------------------------------------

    def is_dispatched(self, exchange: Exchange, colour: int) -> None:
        name = _name(exchange)
        assert name not in self._gone, f"nobody waits for {name} any more"
        assert name not in self.dispatched, f"{name} is dispatched a second time"
        assert self.word.loads > self._dispatched_at, f"{name} is dispatched without a load of its own"
        self._dispatched_at = self.word.loads
        live = unpack(self.word.loaded)
        assert colour == live.colour, f"{name} goes to another colour than the word names"
        assert self.may_go(exchange, live), f"{name} is dispatched under {live}"
        if live.hold is Hold.OPEN or self.is_alone:
            before = self.kept[: self.kept.index(name)] if name in self.kept else self.kept
            overtaken = [each for each in before if each in self._held()]
            assert not overtaken, f"{name} overtakes {overtaken}"
        self.dispatched.append(name)

    def may_go(self, exchange: Exchange, live: Live) -> bool:
        if live.hold is Hold.MAINTENANCE:
            return False
        is_read = exchange.request.method in SAFE
        return live.hold is Hold.OPEN or self.is_alone or (live.hold is Hold.WRITES and is_read)

    def _held(self) -> set[str]:
        exchanges = (client.exchange for client in self.clients if not client.has_left)
        return {_name(exchange) for exchange in exchanges if exchange is not None and exchange.word < 0}

    def finish(self) -> None:
        """The word opens and everybody does what is theirs to do: then nothing is left, and everybody was answered."""
        held = [client for client in self.clients if not client.has_left]
        for _ in range(MANY_ROUNDS):
            for client in held:
                if client.rest and not client.transport.is_closing():
                    rest, client.rest = client.rest, b""
                    client.transport.arrive(rest)
            self.plane.held.look()
            self.loop.run()
            self.loop.time_passes()
            while self.unanswered:
                self.answer(0)
                self.loop.run()
        cells = self.plane.cells
        assert (cells[slot.HELD], cells[slot.HELD_BYTES], self.plane.holds) == (0, 0, False)
        for gauge in (slot.IN_FLIGHT, slot.WRITES):
            assert [cells[gauge + colour] for colour in COLOURS] == [0, 0]
        for client in self.clients:
            told = client.told()
            assert len(client.answers) <= len(client.expected), "answered twice"
            assert told == [name for name in client.expected if name in told], "answers are those to its requests"
            # A connection that was closed behind an answer of our own has dropped what was pipelined behind it.
            if not client.has_left and not client.transport.is_closing() and not client.transport.ended:
                assert len(client.answers) == len(client.expected), "somebody was lost"

    def close(self) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._segment.close()


def _name(exchange: Exchange) -> str:
    return exchange.request.target.decode().strip("/")
