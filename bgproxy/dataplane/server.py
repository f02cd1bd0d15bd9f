"""One upstream server as one worker sees it: its parked connections, who waits for one, and whether it is left out."""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from bgproxy.core import failure as failures
from bgproxy.core.failure import Failure
from bgproxy.core.messages import Ejected
from bgproxy.core.model import Upstream
from bgproxy.core.retry import IDEMPOTENT
from bgproxy.dataplane.room import is_out_of_descriptors
from bgproxy.dataplane.stalled import STALLED_NS, Stalled
from bgproxy.dataplane.upstream import UpstreamConnection
from bgproxy.shm import worker_slot as slot
from bgproxy.tls.upstream import why

if TYPE_CHECKING:
    from bgproxy.dataplane.exchange import Exchange
    from bgproxy.dataplane.plane import DataPlane
    from bgproxy.dataplane.pool import UpstreamPool

# A TLS connection that is closed says so, and waits so long for the other side to say it too.
GOODBYE_S: Final = 1.0


class Server:
    """`open` counts all connections, those being made included; it never exceeds the configured maximum. With
    `is_leaving` no new request comes: the operator drains it, or it is no longer in the table."""

    __slots__ = (
        "_failures",
        "_plane",
        "_pool",
        "address",
        "colour",
        "connect_failures",
        "ejected",
        "id",
        "in_flight",
        "index",
        "is_leaving",
        "open",
        "parked",
        "requests",
        "reuses",
        "stalled",
        "waiting",
        "weight",
    )

    def __init__(self, plane: DataPlane, pool: UpstreamPool, upstream: Upstream) -> None:
        self._plane = plane
        self._pool = pool
        self.colour = pool.colour
        self.id = upstream.id
        self.index = upstream.index
        self.address = upstream.address
        self.weight = upstream.weight
        self.in_flight = 0
        self.requests = 0
        self.reuses = 0
        self.open = 0
        self.parked: list[UpstreamConnection] = []
        self.waiting: deque[Exchange] = deque()
        self.stalled = Stalled()
        self.ejected = False
        self.is_leaving = False
        self.connect_failures = 0
        self._failures = 0  # consecutive

    # --- from table to table -----------------------------------------------------------------------------------------

    def configure(self, pool: UpstreamPool, upstream: Upstream) -> None:
        """It is in this table as this upstream; what it has and does goes on."""
        self._pool = pool
        self.weight = upstream.weight
        self.is_leaving = upstream.drained

    def stand_aside(self) -> None:
        """Drained: what runs here ends here, what waits goes elsewhere if there is an elsewhere."""
        self.close_parked()
        waiting, self.waiting = self.waiting, deque()
        for exchange in waiting:
            if not self._hand_over(exchange):
                self.waiting.append(exchange)

    def retire(self) -> None:
        """No longer in the table. Its row is another's from now on."""
        self.is_leaving = True
        row = slot.row_cell(self.colour, self.index, 0)
        for cell in range(row, row + slot.ROW_CELLS):
            self._plane.cells[cell] = 0
        self.stand_aside()
        while self.waiting:
            self.waiting.popleft().failed(failures.NO_HEALTHY_UPSTREAM)

    def _hand_over(self, exchange: Exchange) -> bool:
        other = self._plane.pools[self.colour].pick_other((self,))
        if other is None:
            return False
        exchange.move_to(other)
        return True

    # --- a connection for an exchange --------------------------------------------------------------------------------

    def take(self, exchange: Exchange) -> UpstreamConnection | None:
        """A parked connection; None where the exchange will be given a new one, or the next that comes free."""
        self.in_flight += 1
        self.requests += 1
        parked, request = self.parked, exchange.request
        readable: tuple[UpstreamConnection, ...] = ()
        while parked:
            connection = parked.pop()  # the one used last: the others may so grow idle and be closed
            # The peer's FIN may be in our receive queue, unread. Only worth a system call where sending again is no way
            # out: an idempotent request without a body is simply sent again.
            if (request.body == 0 and request.method in IDEMPOTENT) or not _has_something_to_read(connection):
                self.reuses += 1
                break
            readable += (connection,)
        else:
            connection = None
        if readable:
            self._set_aside(readable)
        if connection is None:
            self.connect_or_wait(exchange)
        return connection

    def _set_aside(self, readable: tuple[UpstreamConnection, ...]) -> None:
        """They may have been closed. Over TLS it may as well be a session ticket, which is read in the next turn: they
        stay parked, but for one whose place a new connection needs."""
        doomed = readable
        if self.address.server_name:
            doomed = readable[:1] if self.open >= self._plane.settings.upstream.max_connections else ()
            self.parked += [connection for connection in reversed(readable) if connection not in doomed]
        for connection in doomed:
            connection.close()

    def connect_or_wait(self, exchange: Exchange) -> None:
        """A connection that has not been idle: new, or the next that comes free."""
        limits = self._plane.settings.upstream
        if self.is_leaving and self._hand_over(exchange):
            return
        if self.open < limits.max_connections:
            self.open += 1
            self._plane.spawn(self._connect(exchange))
        elif self._end_stalled(self._plane.deadlines.now) or len(self.waiting) < limits.max_waiting:
            exchange.waiting_until = self._plane.clock() + int(limits.connect_timeout * 1e9)
            self.waiting.append(exchange)
        else:
            exchange.failed(failures.QUEUE_FULL)

    @property
    def room(self) -> int:
        """Connections that are free or may be made, and half of the places to wait for one, less who waits already."""
        limits = self._plane.settings.upstream
        return len(self.parked) + limits.max_connections - self.open + limits.max_waiting // 2 - len(self.waiting)

    def forget(self, exchange: Exchange) -> None:
        """The exchange has ended without ever getting a connection."""
        if exchange in self.waiting:
            self.waiting.remove(exchange)

    def give_up_waiting(self, now: int) -> None:
        while self.waiting and self.waiting[0].waiting_until <= now:
            self.waiting.popleft().failed(failures.QUEUE_TIMEOUT)
        for _ in range(len(self.waiting)):
            if not self._end_stalled(now):
                break

    def _end_stalled(self, now: int) -> bool:
        """Free the connection of a client that keeps it busy by doing nothing, for the next who waits. The more wait,
        the less patience; none where the next would be refused."""
        places = self._plane.settings.upstream.max_waiting
        free = max(0, places - len(self.waiting))
        connection = self.stalled.take_longest(now, STALLED_NS * free // max(1, places))
        if connection is None or connection.exchange is None:
            return False
        connection.exchange.stalled()
        return True

    async def _connect(self, exchange: Exchange) -> None:
        try:
            async with asyncio.timeout(self._plane.settings.upstream.connect_timeout):
                connection = await self._open_connection()
        except TimeoutError:
            self._connect_failed(exchange, failures.CONNECT_TIMEOUT, "no connection within the connect timeout")
        except ConnectionRefusedError as error:
            self._connect_failed(exchange, failures.CONNECT_REFUSED, str(error))
        except OSError as error:  # unreachable, no such name or socket file, out of descriptors
            if is_out_of_descriptors(error):
                self._failures -= 1  # ours, not the upstream's: no reason to leave it out
                self._plane.room.out_of_descriptors()
            if self.address.server_name and isinstance(error, ssl.SSLError | ConnectionResetError):
                self._connect_failed(exchange, failures.TLS_FAILED, why(error))
            else:
                self._connect_failed(exchange, failures.CONNECT_FAILED, str(error))
        else:
            if not self.address.server_name:  # over TLS they may still refuse us: known when the connection ends
                self._failures = 0
            self._plane.cells[slot.CONNECTS + self.colour] += 1
            if exchange.is_over:
                self.release(connection)
            else:
                exchange.send_on(connection, reused=False)

    async def _open_connection(self) -> UpstreamConnection:
        loop = self._plane.loop
        if self.address.is_unix:
            _, made = await loop.create_unix_connection(self._new_connection, self.address.path)
            return made
        error: OSError | None = None
        over_tls = self._over_tls()
        for family, sockaddr in await self._plane.resolver.resolve(self.address.host, self.address.port):
            try:
                # The descriptor is ours to make: uvloop would resolve the name once more.
                _, made = await loop.create_connection(
                    self._new_connection,
                    sockaddr[0],
                    sockaddr[1],
                    family=family,
                    flags=socket.AI_NUMERICHOST,
                    **over_tls,
                )
                return made
            except OSError as refused:
                error = refused
        raise error or OSError(f"{self.address.host} has no address")

    def _over_tls(self) -> dict[str, Any]:
        """How to ask the loop for TLS. The handshake is part of the connect and bounded with it, from outside."""
        if not self.address.server_name:
            return {}
        return {
            "ssl": self._plane.upstream_tls,
            "server_hostname": self.address.server_name,
            "ssl_handshake_timeout": self._plane.settings.upstream.connect_timeout + 1,
            "ssl_shutdown_timeout": GOODBYE_S,
        }

    def _new_connection(self) -> UpstreamConnection:
        return UpstreamConnection(self._plane, self)

    def _connect_failed(self, exchange: Exchange, failure: Failure, error: str) -> None:
        self.open -= 1
        self._count_failure(error)
        if not exchange.is_over:
            exchange.connect_failed(failure)
        self._serve_next_waiting()

    def _count_failure(self, error: str) -> None:
        self.connect_failures += 1
        self._failures += 1
        limits = self._plane.settings.upstream
        if not 0 < limits.passive_failures <= self._failures or self.ejected or self.is_leaving:
            return
        if self._pool.may_eject(self):
            self._eject(limits.passive_eject, error)

    # --- a connection back -------------------------------------------------------------------------------------------

    def release(self, connection: UpstreamConnection) -> None:
        """A connection at a message boundary: to the next who waits, or parked."""
        plane = self._plane
        if self.waiting:
            self.reuses += 1
            self.waiting.popleft().send_on(connection, reused=True)
        elif plane.draining or self.is_leaving:
            connection.leave()
        else:
            connection.deadline = plane.deadlines.now + plane.upstream_idle_ns
            self.parked.append(connection)

    def unpark(self, connection: UpstreamConnection) -> None:
        """The peer has closed it, or will: no request may be sent on it any more."""
        if connection in self.parked:
            self.parked.remove(connection)

    def lost(self, connection: UpstreamConnection, refusal: str = "") -> None:
        """A connection is closed, for whatever reason; `refusal` where the upstream never took it (TLS 1.3 tells only
        after the handshake that a client certificate is missed)."""
        self.open -= 1
        self.stalled.end(connection)
        self.unpark(connection)
        if refusal:
            self._count_failure(refusal)
        elif self.address.server_name:
            self._failures = 0
        self._serve_next_waiting()

    def _serve_next_waiting(self) -> None:
        if self.waiting and self.open < self._plane.settings.upstream.max_connections:
            self.open += 1
            self._plane.spawn(self._connect(self.waiting.popleft()))

    def close_parked(self) -> None:
        for connection in tuple(self.parked):
            connection.leave()

    # --- left out for a while ----------------------------------------------------------------------------------------

    def _eject(self, for_s: float, error: str) -> None:
        self.ejected = True
        self._pool.refresh()
        self._plane.loop.call_later(for_s, self._return)
        self._plane.report(Ejected(self.colour, self.index, self._failures, for_s, error))

    def _return(self) -> None:
        self.ejected = False
        self._failures = 0
        self._pool.refresh()


def _has_something_to_read(connection: UpstreamConnection) -> bool:
    """On an idle connection that can only be the peer's FIN, bytes nobody asked for, or TLS talking to itself."""
    descriptor = connection.fileno()
    if descriptor < 0:
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLIN | select.POLLRDHUP)
    return bool(poll.poll(0))
