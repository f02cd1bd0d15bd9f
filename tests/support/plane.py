"""One real worker process with a segment, its listeners and a control socket: the test is in the supervisor's place."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from bgproxy.core.messages import (
    Certified,
    Certify,
    Configure,
    LineSplitter,
    Published,
    TableAccepted,
    decode_to_supervisor,
    encode,
)
from bgproxy.core.messages import Ready as ReadyMessage
from bgproxy.core.messages import Seen as SeenMessage
from bgproxy.core.model import BLUE, Address, Colour, Pool, PoolTable, Upstream, parse_upstream
from bgproxy.core.settings import Limits, Timeouts, UpstreamSettings, WorkerSettings
from bgproxy.shm import worker_slot as slot
from bgproxy.shm.live_pointer import Hold
from bgproxy.shm.segment import Segment
from tests.support.raw_client import RawClient
from tests.support.raw_http import PATIENCE_S
from tests.support.raw_upstream import HELLO, RawUpstream
from tests.support.tls_client import TlsClient

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator, Sequence

    from bgproxy.core.certificates import TlsMaterial
    from bgproxy.core.messages import ToSupervisor, ToWorker
    from tests.support.raw_upstream import Script

M = TypeVar("M", bound="ToSupervisor")


def eventually(condition: Callable[[], object], what: str = "the condition") -> None:
    """Poll until it is true; an assertion that says `what` where it does not become so."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true within {PATIENCE_S:g} s"
        time.sleep(0.005)


def settings(
    *, timeouts: dict[str, Any] | None = None, limits: dict[str, Any] | None = None, **others: Any
) -> WorkerSettings:
    """Worker settings that differ from the defaults in what is named; `upstream` is a dict as well."""
    upstream = UpstreamSettings(**others.pop("upstream", {}))
    return WorkerSettings(
        timeouts=Timeouts(**(timeouts or {})), limits=Limits(**(limits or {})), upstream=upstream, **others
    )


def pool(upstreams: Sequence[RawUpstream | str], *, balance: str = "least-requests", release: str = "") -> Pool:
    addresses = [upstream if isinstance(upstream, str) else upstream.address for upstream in upstreams]
    return Pool(
        tuple(Upstream(address, index, parse_upstream(address)) for index, address in enumerate(addresses)),
        balance=balance,
        release=release,
    )


class WorkerProcess:
    """`python -m bgproxy.worker`, started and not yet configured. What it writes to its standard error is a failure."""

    def __init__(self, *, unix_path: str = "", dual_stack: bool = False, material: TlsMaterial | None = None) -> None:
        """With `material` the last of the addresses speaks TLS."""
        self.segment = Segment.create(1)
        self.cells = self.segment.slots[0].cells
        self.listeners = _listening_sockets(unix_path, dual_stack)
        if material is not None:
            self.listeners.append(_bound_to_loopback())
        self.addresses = [_address_of(listener) for listener in self.listeners]
        self.control, theirs = socket.socketpair()
        self._lines = LineSplitter()
        self._unheard: list[ToSupervisor] = []
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        descriptors = [listener.fileno() for listener in self.listeners]
        arguments = {
            "--slot": "0",
            "--segment-fd": str(self.segment.fd),
            "--control-fd": str(theirs.fileno()),
            "--listen-fds": ",".join(map(str, descriptors[:-1] if material else descriptors)),
            "--tls-listen-fds": str(descriptors[-1]) if material else "",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bgproxy.worker", *(word for pair in arguments.items() for word in pair)],
            pass_fds=[self.segment.fd, theirs.fileno(), *descriptors],
            stdout=subprocess.DEVNULL,
            stderr=self.errors,
        )
        theirs.close()
        self._version = 0
        if material is not None:
            self.certify(material)

    @property
    def address(self) -> Address:
        return self.addresses[0]

    def tell(self, message: ToWorker) -> None:
        self.control.sendall(encode(message))

    def hear(self, kind: type[M]) -> M:
        """The next message of this kind; those of other kinds wait for their turn."""
        self.control.settimeout(PATIENCE_S)
        while True:
            for message in self._unheard:
                if isinstance(message, kind):
                    self._unheard.remove(message)
                    return message
            data = self.control.recv(65536)
            assert data, f"the worker has hung up: {self.complaints()}"
            self._unheard += [decode_to_supervisor(line) for line in self._lines.feed(data)]

    def certify(self, material: TlsMaterial) -> str:
        """Why the worker does not take it, "" where it does."""
        self.tell(Certify(material))
        answer = self.hear(Certified)
        assert answer.version == material.version
        return answer.error

    def configure(self, table: tuple[Pool, Pool], with_settings: WorkerSettings) -> None:
        """Both pools, all of whose upstreams are healthy; back when the worker uses them."""
        self._version += 1
        for colour, of_colour in enumerate(table):
            self.segment.health.publish(colour, [True] * len(of_colour.upstreams))
        self.tell(Configure(with_settings, PoolTable(self._version, *table)))
        assert self.hear(TableAccepted).version == self._version

    def start(self, table: tuple[Pool, Pool], with_settings: WorkerSettings) -> None:
        self.segment.live.store(1, BLUE)
        self.configure(table, with_settings)
        assert self.hear(SeenMessage).epoch == 1
        assert self.hear(ReadyMessage).pid == self.process.pid

    def complaints(self) -> str:
        self.errors.seek(0)
        text = self.errors.read().decode(errors="replace")
        self.errors.truncate(0)
        self.errors.seek(0)  # the worker writes where this shared position stands
        return text

    def resident_bytes(self) -> int:
        with open(f"/proc/{self.process.pid}/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    @contextmanager
    def descriptors(self, soft: int) -> Iterator[None]:
        """As if it had been started with so few; those that are open stay."""
        before = resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE, (soft, before[1]))
        try:
            yield
        finally:
            resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE, before)

    def end(self) -> str:
        """Kill it where it still runs, give everything back; returns what it complained about."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE_S)
        complaints = self.complaints()
        self.control.close()
        self.errors.close()
        for listener in self.listeners:
            listener.close()
        self.segment.close()
        return complaints


class Plane:
    """A worker and its surroundings for one test: fresh upstreams of both colours, any number of clients."""

    def __init__(self, worker: WorkerProcess) -> None:
        self.worker = worker
        self._upstreams: list[RawUpstream] = []
        self._clients: list[RawClient] = []
        self._published = 1 << 32  # the number of a store; `publish` has epochs for it
        self.blue = self.upstream(HELLO)
        self.green = self.upstream(HELLO)
        self.configure()
        if worker.segment.live.load()[1:] != (BLUE, Hold.OPEN):
            self.publish(BLUE)
        self._before = self.cells.tolist()

    # --- surroundings -------------------------------------------------------------------------------------------------

    def upstream(self, script: Script = HELLO, **where: Any) -> RawUpstream:
        made = RawUpstream(script, **where)
        self._upstreams.append(made)
        return made

    def configure(
        self,
        with_settings: WorkerSettings | None = None,
        *,
        blue: Sequence[RawUpstream | str] | Pool | None = None,
        green: Sequence[RawUpstream | str] | Pool | None = None,
    ) -> None:
        """Use these settings and pools from now on; `plane.blue` and `plane.green` where nothing is said."""
        chosen = ([self.blue] if blue is None else blue, [self.green] if green is None else green)
        blue_pool, green_pool = (each if isinstance(each, Pool) else pool(each) for each in chosen)
        self.worker.configure((blue_pool, green_pool), with_settings or WorkerSettings())

    def publish(self, colour: Colour) -> int:
        """The cutover, acknowledged; returns the new epoch."""
        epoch = self.worker.segment.live.load().epoch + 1
        self.worker.segment.live.store(epoch, colour)
        self.worker.tell(Published(epoch))
        while self.worker.hear(SeenMessage).epoch < epoch:
            pass
        return epoch

    def hold(self, how: Hold, colour: Colour | None = None) -> None:
        """The same for a hold, or its end; with a `colour` it is the cutover to it as well."""
        live = self.worker.segment.live.load()
        epoch = live.epoch + (colour is not None)
        self.worker.segment.live.store(epoch, live.colour if colour is None else colour, how)
        self._published += 1
        self.worker.tell(Published(self._published))
        while self.worker.hear(SeenMessage).sequence != self._published:
            pass

    def client(self, *, address: Address | None = None, receive_buffer: int = 0) -> RawClient:
        made = RawClient(address or self.worker.address, receive_buffer=receive_buffer)
        self._clients.append(made)
        return made

    def tls_client(self, context: ssl.SSLContext, name: str = "app.example", **more: Any) -> TlsClient:
        """To the last address, which speaks TLS in a worker that has certificates."""
        made = TlsClient(self.worker.addresses[-1], context, name, **more)
        self._clients.append(made)
        return made

    # --- what the worker counts ---------------------------------------------------------------------------------------

    @property
    def cells(self) -> memoryview:
        """The worker's slot, after everything has been counted whose effect could be seen: it answers us in between."""
        self.worker.tell(Published(0))
        self.worker.hear(SeenMessage)
        return self.worker.cells

    def counted(self, cell: int) -> int:
        """How far a counter has come since the beginning of the test."""
        grown: int = self.cells[cell] - self._before[cell]
        return grown

    def summed(self, cell: int) -> int:
        """The same for what the worker writes down but once a tick: reuses and bytes."""
        beat = self.worker.cells[slot.HEARTBEAT_NS]
        eventually(lambda: self.worker.cells[slot.HEARTBEAT_NS] > beat, "the next tick")
        return self.counted(cell)

    def answered(self, method: str, code: int, colour: Colour = BLUE) -> int:
        row = slot.METHODS.index(method) * slot.CODE_ROW
        return self.counted(slot.REQUESTS + colour * slot.COLOUR_REQUESTS + row + code)

    def rejected(self, reason: str) -> int:
        return self.counted(slot.rejected_cell(reason))

    def failed(self, reason: str, colour: Colour = BLUE) -> int:
        return self.counted(slot.error_cell(colour, reason))

    def row(self, index: int, field: int, colour: Colour = BLUE) -> int:
        value: int = self.cells[slot.row_cell(colour, index, field)]
        return value

    def is_idle(self) -> bool:
        gauges = (slot.IN_FLIGHT, slot.WRITES, slot.TUNNELS, slot.EVENT_STREAMS)
        cells = self.worker.cells
        return not cells[slot.HELD] and not any(cells[gauge + colour] for gauge in gauges for colour in (0, 1))

    def close_surroundings(self) -> None:
        for client in self._clients:
            client.close()
        for upstream in self._upstreams:
            upstream.close()

    def close(self) -> None:
        """End clients and upstreams, and see that the worker is left as it was found: idle and without complaints."""
        self.close_surroundings()
        eventually(self.is_idle, "an idle worker")
        assert self.worker.process.poll() is None, "the worker has died"
        complaints = self.worker.complaints()
        assert not complaints, complaints


def _listening_sockets(unix_path: str, dual_stack: bool) -> list[socket.socket]:
    ipv4, ipv6 = socket.socket(socket.AF_INET), socket.socket(socket.AF_INET6)
    ipv4.bind(("127.0.0.1", 0))
    ipv6.bind(("::1", 0))
    made = [ipv4, ipv6]
    if unix_path:
        made.append(socket.socket(socket.AF_UNIX))
        made[-1].bind(unix_path)
    if dual_stack:
        made.append(socket.socket(socket.AF_INET6))
        made[-1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made[-1].bind(("::", 0))
    for listener in made:
        listener.listen(1024)
    return made


def _bound_to_loopback() -> socket.socket:
    listener = socket.socket(socket.AF_INET)
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)
    return listener


def _address_of(listener: socket.socket) -> Address:
    name = listener.getsockname()
    return Address(path=name) if isinstance(name, str) else Address(name[0], name[1])
