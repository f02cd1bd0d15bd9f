"""What all connections of one worker share: the seam, the readers, the pools, the settings, the end."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import ssl
import time
from collections.abc import Callable, Coroutine
from email.utils import formatdate
from typing import Any, Protocol

from bgproxy.core.messages import ToSupervisor
from bgproxy.core.model import COLOURS, PoolTable
from bgproxy.core.settings import TRUSTED_UNIX, AccessLogSettings, UpstreamTls, WorkerSettings
from bgproxy.dataplane.access_log import AccessLog
from bgproxy.dataplane.buffers import Buffers
from bgproxy.dataplane.deadlines import Deadlines
from bgproxy.dataplane.farewell import Farewells
from bgproxy.dataplane.hold import HeldRequests
from bgproxy.dataplane.oldest import Oldest
from bgproxy.dataplane.pool import UpstreamPool
from bgproxy.dataplane.resolver import Resolver
from bgproxy.dataplane.room import Room
from bgproxy.dataplane.tunnel import Tunnel
from bgproxy.dataplane.turn import Turn
from bgproxy.shm import worker_slot as slot
from bgproxy.shm.live_pointer import EPOCH_SHIFT
from bgproxy.shm.segment import Segment
from bgproxy.tls.contexts import Contexts
from bgproxy.tls.upstream import client_context
from bgproxy.wire.forwarded import UNKNOWN
from bgproxy.wire.replies import Replies
from bgproxy.wire.request import RequestReader
from bgproxy.wire.response import ResponseReader

_BYTES_IN_HEX = tuple(b"%02x" % byte for byte in range(256))


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)


class Client(Protocol):
    """A client's connection, from accept to close: an Arrival, a TLS handshake, then a Downstream."""

    def drain(self) -> None:
        """Begin nothing further, and leave soon."""

    def abandon(self) -> None:
        """Leave now."""

    def idle_since(self) -> int:
        """Since when it has waited for its peer, in ns; 0 while it does not."""

    def make_room(self) -> None:
        """Leave: somebody else needs the place more."""


class DataPlane:
    """One per worker. Attributes are public for the connections, which read them once per request."""

    # Slots, because there are more attributes than CPython shares keys for, and a request reads twenty of them.
    __slots__ = (
        "_exposed_lines",
        "_exposed_word",
        "_id_block",
        "_id_blocks",
        "_id_line",
        "_id_prefix",
        "_ids",
        "_new_id_line",
        "_oldest",
        "_tasks",
        "_trusted",
        "_trusts_unix",
        "_upstream_tls_settings",
        "access_log",
        "board",
        "body_idle_ns",
        "buffers",
        "cells",
        "certificates",
        "client_body_ns",
        "clients",
        "clock",
        "deadlines",
        "drained",
        "draining",
        "exposes",
        "farewells",
        "head_bytes",
        "header_ns",
        "held",
        "holds",
        "hsts_line",
        "http_date",
        "keep_alive_ns",
        "last_request_ns",
        "live",
        "loop",
        "pipeline",
        "pools",
        "replies",
        "report",
        "requests",
        "requests_per_connection",
        "resolver",
        "response_bytes",
        "response_ns",
        "responses",
        "room",
        "settings",
        "stream_idle_ns",
        "table",
        "tunnels",
        "turn",
        "upstream_idle_ns",
        "upstream_tls",
        "write_idle_ns",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, segment: Segment, number: int, report: Callable[[ToSupervisor], None]
    ) -> None:
        self.loop = loop
        self.report = report
        self.clock = time.monotonic_ns
        self.live = segment.live.cells
        self.board = segment.health
        self.cells = segment.slots[number].cells
        self.deadlines = Deadlines(loop)
        self.deadlines.on_tick = self._on_tick
        self.clients: set[Client] = set()
        self.certificates: Contexts | None = None
        self.tunnels: set[Tunnel] = set()
        self.turn = Turn(loop)
        self.room = Room(self)
        self.buffers = Buffers(loop.call_soon)
        self.holds = False  # `held` is not empty
        self.held = HeldRequests(self)
        self.farewells = Farewells(self)
        self._oldest = Oldest(self)
        self.draining = False
        self.last_request_ns = 0
        self.drained = asyncio.Event()
        self.http_date = b""
        self.access_log: AccessLog | None = None
        self.pools: tuple[UpstreamPool, ...] = ()
        self.resolver = Resolver(loop)
        self.upstream_tls: ssl.SSLContext | None = None
        self._upstream_tls_settings = UpstreamTls()
        self._tasks: set[asyncio.Task[None]] = set()
        self._exposed_word = -1
        self._exposed_lines = b""
        # 8 random bytes, then a count: its last two digits come from a table, the rest changes every 256 requests.
        self._id_prefix = os.urandom(8).hex().encode() + b"-"
        self._id_blocks = self._ids = 0
        self.response_bytes = [0, 0]  # by colour; added to the cells at every tick

    def configure(self, settings: WorkerSettings, table: PoolTable) -> None:
        """Serve with these from the next request on. What runs goes on, also where its upstream is gone from the table;
        connections of upstreams that stay are kept."""
        self.settings = settings
        timeouts, limits, upstream = settings.timeouts, settings.limits, settings.upstream
        self.header_ns = _ns(timeouts.header)
        self.client_body_ns = _ns(timeouts.body_idle)
        self.keep_alive_ns = _ns(timeouts.keep_alive)
        self.write_idle_ns = _ns(timeouts.write_idle)
        self.response_ns = _ns(upstream.response_timeout)
        self.body_idle_ns = _ns(upstream.body_idle)
        self.stream_idle_ns = _ns(upstream.stream_idle)
        self.upstream_idle_ns = _ns(upstream.idle_timeout)
        self.head_bytes = limits.head_bytes
        self.pipeline = limits.pipeline
        self.requests_per_connection = limits.requests
        self.room.configure(settings, table)
        self.buffers.configure(limits.buffered_bytes)
        self.held.configure(settings.hold)
        self.farewells.configure(settings.streams)
        self._id_line = b"\r\n%b: " % settings.headers.request_id.encode()
        self._new_id_line = self._id_line + self._id_prefix
        self._id_block = b"%b%x" % (self._new_id_line, self._id_blocks)
        self.requests = RequestReader(
            header_count=limits.header_count,
            target_bytes=limits.target_bytes,
            request_id=settings.headers.request_id,
        )
        self.replies = Replies(settings.error_pages)
        hsts = settings.https.hsts
        self.hsts_line = b"\r\nStrict-Transport-Security: max-age=%d" % hsts if hsts else b""
        self.responses = ResponseReader(without=("strict-transport-security",) if hsts else ())
        self.resolver.refresh_s = upstream.dns_refresh
        networks = [cidr for cidr in settings.trusted_proxies if cidr != TRUSTED_UNIX]
        self._trusted = tuple(map(ipaddress.ip_network, networks))
        self._trusts_unix = len(networks) < len(settings.trusted_proxies)
        self._exposed_word = -1
        self.exposes = settings.headers.expose
        self._write_access_log(settings.access_log)
        self._trust_upstreams(settings.upstream_tls, table)
        self.table = table
        former = self.pools or (None, None)
        self.pools = tuple(UpstreamPool(self, colour, table.pool(colour), former[colour]) for colour in COLOURS)
        for pool in self.pools:
            pool.settle()
        self.cells[slot.TABLE_VERSION] = table.version
        self._on_tick()

    def _write_access_log(self, settings: AccessLogSettings) -> None:
        """Another file or format, or the file was moved away (as logrotate does): a new log. One that cannot be opened
        leaves the last one in use, unless there is none."""
        last = self.access_log
        if last is not None and last.is_current(settings):
            return
        try:
            self.access_log = AccessLog(settings, self.cells) if settings.format != "off" else None
        except OSError:
            if last is None:
                raise
            return
        if last is not None:
            self.loop.run_in_executor(None, last.close)  # it may wait for a reader that does not read

    def _trust_upstreams(self, settings: UpstreamTls, table: PoolTable) -> None:
        if not table.over_tls or (self.upstream_tls is not None and settings == self._upstream_tls_settings):
            return
        self.upstream_tls, self._upstream_tls_settings = client_context(settings), settings
        for server in (server for pool in self.pools for server in pool.servers):
            if server.address.server_name:
                server.close_parked()  # made under the last rules

    # --- for connections ---------------------------------------------------------------------------------------------

    def new_request_id_line(self) -> bytes:
        """A field line with an id that is unique over workers, restarts and machines, without a system call."""
        self._ids = count = self._ids + 1 & 0xFF
        if count == 0:
            self._id_blocks += 1
            self._id_block = b"%b%x" % (self._new_id_line, self._id_blocks)
        return self._id_block + _BYTES_IN_HEX[count]

    def request_id_line(self, given: bytes) -> bytes:
        return self._id_line + given

    def is_trusted(self, peer: bytes) -> bool:
        """`peer` as forwarded.address_of writes it."""
        if peer == UNKNOWN:
            return self._trusts_unix
        if not self._trusted:
            return False
        address = ipaddress.ip_address(peer.decode())
        return any(address in network for network in self._trusted)

    def expose(self, word: int) -> bytes:
        """What clients are told about the version that answers, by the word the request was dispatched under."""
        if self._exposed_word != word:
            self._exposed_word, self._exposed_lines = word, self._describe(word)
        return self._exposed_lines

    def _describe(self, word: int) -> bytes:
        if not self.settings.headers.expose:
            return b""
        colour = COLOURS[word & 1]
        lines = f"\r\nX-BG-Colour: {colour.label}\r\nX-BG-Epoch: {word >> EPOCH_SHIFT}"
        release = self.table.pool(colour).release
        return (lines + (f"\r\nX-BG-Release: {release}" if release else "")).encode()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def client_lost(self, client: Client) -> None:
        self.clients.discard(client)
        self.room.forget(client)
        if self.draining and not self.clients:
            self.drained.set()

    # --- the coarse tick ---------------------------------------------------------------------------------------------

    def _on_tick(self) -> None:
        """Gauges that need not be exact to the request are written here, not once per request."""
        cells = self.cells
        cells[slot.HEARTBEAT_NS] = self.clock()
        cells[slot.LAG_NS] = self.deadlines.lag_ns
        cells[slot.CLIENT_CONNECTIONS] = len(self.clients)
        self.buffers.count()
        cells[slot.BUFFERED_BYTES] = self.buffers.size
        self.held.tick(self.deadlines.now)
        self.room.look_for_descriptors()
        self.farewells.tick(self.clock())
        self._oldest.tick()
        self.http_date = formatdate(usegmt=True).encode()
        for pool in self.pools:
            pool.count(cells, self.deadlines.now)
            cells[slot.RESPONSE_BYTES + pool.colour] += self.response_bytes[pool.colour]
            self.response_bytes[pool.colour] = 0
        if self.access_log is not None:
            self.access_log.flush()

    # --- the end -----------------------------------------------------------------------------------------------------

    async def drain(self, timeout_s: float, *, idle_s: float = 0.0) -> tuple[int, int]:
        """No further request; finish what is running. (requests, streams) that had to be cut at the deadline.

        Where others serve from now on, a connection that waits for its next request may ask once more within `idle_s`,
        and is told to close with the answer: a client that asks in the moment of a close would lose its request."""
        self.draining = True
        self.last_request_ns = _ns(idle_s)
        if idle_s:
            self.keep_alive_ns = min(self.keep_alive_ns, self.last_request_ns)
        await asyncio.sleep(0)  # what was accepted in this turn of the loop becomes a client first
        for client in tuple(self.clients):
            client.drain()
        for pool in self.pools:
            for server in pool.servers:
                server.close_parked()
        self.farewells.leave_all(self.clock(), timeout_s)
        if self.clients:
            try:
                async with asyncio.timeout(timeout_s):
                    await self.drained.wait()
            except TimeoutError:
                self.held.give_up()
                await asyncio.sleep(0)  # uvloop writes at the end of a turn
        left = self._cut_what_is_left()
        await asyncio.sleep(0)  # a tunnel is counted and logged when its ends are lost
        if self.access_log is not None:
            self.access_log.close()
        return left

    def _cut_what_is_left(self) -> tuple[int, int]:
        self._on_tick()
        requests = sum(self.cells[slot.IN_FLIGHT + colour] for colour in COLOURS)
        streams = sum(self.cells[gauge + colour] for gauge in (slot.TUNNELS, slot.EVENT_STREAMS) for colour in COLOURS)
        for tunnel in tuple(self.tunnels):
            tunnel.cut()
        for client in tuple(self.clients):
            client.abandon()
        return requests, streams
