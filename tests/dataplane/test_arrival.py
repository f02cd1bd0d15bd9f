"""Connections that begin with a PROXY header. What a header may look like is shown in tests/wire."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import resource
import socket
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from bgproxy.core.model import Pool, PoolTable
from bgproxy.core.settings import WorkerSettings
from bgproxy.dataplane.arrival import Acceptor
from bgproxy.dataplane.downstream import Downstream
from bgproxy.dataplane.plane import DataPlane
from bgproxy.dataplane.tls import TlsTransport
from bgproxy.shm import worker_slot as slot
from bgproxy.shm.segment import Segment
from bgproxy.tls.contexts import Contexts
from tests.support.certificates import client_context, material, pair
from tests.support.plane import eventually, settings
from tests.support.proxies import eventually as eventually_here
from tests.support.proxy_headers import CRC32C, LOCAL, UNIX, checksummed, tlv, v1, v2
from tests.support.raw_http import request
from tests.support.raw_upstream import silent

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from bgproxy.wire.proxy_protocol import Introduction
    from tests.support.plane import Plane

EVERYBODY = ("127.0.0.0/8", "::1/128", "unix")
BINARY = checksummed(v2("203.0.113.7", extensions=tlv(4, bytes(9)) + CRC32C))


def trusting(*networks: str, **others: Any) -> WorkerSettings:
    return settings(proxy_protocol=True, trusted_proxies=networks, **others)


# --- who the client is ------------------------------------------------------------------------------------------------


@pytest.mark.says("The address in the header is the client")
@pytest.mark.parametrize("header", [v1("203.0.113.7"), BINARY], ids=["v1", "v2"])
def test_the_client_is_whom_the_header_names_however_it_is_cut(introduced: Plane, header: bytes) -> None:
    whole = header + request()
    for pieces in (
        [whole],
        [header, request()],
        [header[:1], whole[1:]],
        [whole[i : i + 1] for i in range(len(whole))],
    ):
        client = introduced.client()
        client.send(*pieces)
        assert client.answer().body == b"hello"
        assert client.ask().body == b"hello", "only the first request has a header before it"
    seen = [(asked.one("X-Forwarded-For"), asked.all("X-Real-IP")) for asked in introduced.blue.requests]
    assert seen == [("203.0.113.7", [])] * 8


def test_nothing_behind_the_header_is_taken_with_it(introduced: Plane) -> None:
    client = introduced.client()
    client.send(BINARY + request("POST", "/", body=b"x" * 100_000) + request() * 3)
    assert [client.answer().body for _ in range(4)] == [b"hello"] * 4
    assert introduced.blue.requests[0].body == b"x" * 100_000


@pytest.mark.says("**PROXY protocol.** With")
def test_a_client_is_introduced_on_listeners_of_every_family(introduced: Plane) -> None:
    ipv4, ipv6, unix, both = introduced.worker.addresses
    on_both = type(ipv4)("127.0.0.1", both.port)
    for address in (ipv4, ipv6, unix, on_both):
        client = introduced.client(address=address)
        client.send(v2("2001:db8::7") + request())
        assert client.answer().status == 200
    assert {asked.one("X-Forwarded-For") for asked in introduced.blue.requests} == {"2001:db8::7"}


@pytest.mark.says("Addresses are compared and written as IPv4")
def test_an_ipv4_peer_of_a_dual_stack_listener_is_an_ipv4_peer(introduced: Plane) -> None:
    introduced.configure(trusting("127.0.0.0/8"))
    *_, both = introduced.worker.addresses
    client = introduced.client(address=type(both)("127.0.0.1", both.port))
    client.send(v2(command=LOCAL) + request("GET", "/", "X-Forwarded-For: 9.9.9.9"))
    assert client.answer().status == 200
    assert introduced.blue.requests[0].one("X-Forwarded-For") == "9.9.9.9, 127.0.0.1"


@pytest.mark.says("The proxy was trusted to say the address")
@pytest.mark.says("LOCAL (checks")
@pytest.mark.says("UNKNOWN, UNSPEC")
@pytest.mark.parametrize(
    ("header", "told"),
    [
        (v1("203.0.113.7"), "203.0.113.7"),
        (v2("203.0.113.7"), "203.0.113.7"),
        (v2("127.9.9.9"), "9.9.9.9, 127.9.9.9"),  # the client is a trusted proxy itself
        (v2(command=LOCAL), "9.9.9.9, 127.0.0.1"),  # the proxy's own connection
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),  # somebody's, nobody knows whose
        (v2(family=0, block=b""), "127.0.0.1"),
        (v2(family=UNIX, block=bytes(216)), "127.0.0.1"),
    ],
)
def test_what_the_connection_says_further_is_believed_of_trusted_clients_alone(
    introduced: Plane, header: bytes, told: str
) -> None:
    client = introduced.client()
    client.send(
        header + request("GET", "/", "X-Forwarded-For: 9.9.9.9", "X-Request-ID: theirs", "Forwarded: for=9.9.9.9")
    )
    assert client.answer().status == 200
    (asked,) = introduced.blue.requests
    assert asked.one("X-Forwarded-For") == told
    is_believed = told.startswith("9")
    assert (asked.one("X-Request-ID") == "theirs") is is_believed
    assert bool(asked.all("Forwarded")) is is_believed


def test_a_1_0_request_without_a_host_is_given_the_address_that_the_header_names(introduced: Plane) -> None:
    client = introduced.client()
    client.send(v1("203.0.113.7", "198.51.100.9", 1, 81) + b"GET / HTTP/1.0\r\n\r\n")
    assert client.answer().status == 200
    assert introduced.blue.requests[0].one("Host") == "198.51.100.9:81"


# --- who is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.says("There is no guessing")
@pytest.mark.parametrize(
    "said",
    [
        request(),
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
        b"PROXY TCP4 203.0.113.7 203.0.113.7 1\r\n" + request(),
        v2(extensions=CRC32C) + request(),
        v2(family=0x41) + request(),
        b"\0",
    ],
)
def test_anything_but_a_header_is_closed_without_an_answer(introduced: Plane, said: bytes) -> None:
    client = introduced.client()
    client.send(said)
    assert client.is_ended()
    assert (introduced.rejected("proxy_protocol"), introduced.blue.requests) == (1, [])
    eventually(lambda: introduced.cells[slot.CLIENT_CONNECTIONS] == 0, "nobody to be left")


def test_a_second_header_is_no_request(introduced: Plane) -> None:
    client = introduced.client()
    client.send(v1("203.0.113.7") + v1("203.0.113.8") + request())
    assert client.answer().status == 400
    assert introduced.blue.requests == []


@pytest.mark.says("There is no guessing")
def test_who_is_not_trusted_is_closed_whatever_it_says(introduced: Plane) -> None:
    introduced.configure(trusting("192.0.2.0/24"))
    for number, address in enumerate(introduced.worker.addresses[:3]):
        client = introduced.client(address=address)
        with contextlib.suppress(OSError):  # it may be closed already
            client.send(v1("192.0.2.1") + request())
        assert client.is_ended()
        assert introduced.rejected("proxy_protocol") == number + 1
    assert introduced.blue.requests == []


@pytest.mark.says("The header has `[server.timeouts] header`")
def test_a_header_that_drips_is_cut_at_its_deadline(introduced: Plane) -> None:
    introduced.configure(trusting(*EVERYBODY, timeouts={"header": 0.3}))
    client = introduced.client()
    client.send(b"PROXY UNKNOWN ")
    client.sock.settimeout(0.05)
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        for _ in range(90):  # of 107 that a line may have
            client.send(b"x")
            with contextlib.suppress(TimeoutError):
                assert client.sock.recv(1) == b""
                break
    client.sock.settimeout(10)
    assert client.is_ended()
    assert introduced.rejected("proxy_protocol") == 1


@pytest.mark.says("A bare connect without a byte")
def test_who_only_looks_whether_anybody_is_there_is_not_counted_as_refused(introduced: Plane) -> None:
    introduced.client().close()
    introduced.client().reset()
    half = introduced.client()
    half.send(b"PROXY")
    half.close()
    eventually(lambda: introduced.rejected("proxy_protocol") == 1, "the half header to be counted")
    eventually(lambda: introduced.cells[slot.CLIENT_CONNECTIONS] == 0, "nobody to be left")
    assert introduced.rejected("proxy_protocol") == 1


@pytest.mark.says("A connection counts towards `connections`")
def test_a_connection_counts_from_its_accept_on_and_once(introduced: Plane) -> None:
    introduced.configure(trusting(*EVERYBODY, limits={"connections": 2}))
    introduced.blue.script = silent
    waiting, *busy = introduced.client(), introduced.client()
    busy[0].send(BINARY + request())
    eventually(lambda: introduced.cells[slot.IN_FLIGHT] == 1, "the one that is busy")
    eventually(lambda: introduced.cells[slot.CLIENT_CONNECTIONS] == 2, "both to be counted")
    busy.append(introduced.client())
    busy[1].send(BINARY + request())
    assert waiting.is_ended(), "who has said nothing makes room"
    eventually(lambda: introduced.cells[slot.IN_FLIGHT] == 2, "two to be busy")
    assert introduced.client().is_ended()
    assert introduced.rejected("connections") == 1
    for client in busy:
        client.close()
    eventually(introduced.is_idle, "their ends")


def test_a_worker_without_a_free_descriptor_accepts_again_once_it_has_one(introduced: Plane) -> None:
    pid = introduced.worker.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = max(map(int, os.listdir(f"/proc/{pid}/fd"))) + 1
    try:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, before[1]))
        crowd = [introduced.client() for _ in range(used)]  # more than there are gaps
        made_room = slot.closed_cell("make_room")
        eventually(lambda: introduced.cells[made_room] > 0, "room to be made when the last descriptor is taken")
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    client = introduced.client()
    client.send(BINARY + request())
    assert client.answer().status == 200
    for waiting in crowd:
        waiting.close()
    eventually(lambda: introduced.cells[slot.CLIENT_CONNECTIONS] == 1, "the crowd to have left")


# --- by itself --------------------------------------------------------------------------------------------------------


@pytest.fixture
def segment() -> Iterator[Segment]:
    made = Segment.create(1)
    yield made
    made.close()


class Door:
    """A plane of this process with an acceptor on a socket of its own. Nobody is behind it: requests earn a 503."""

    def __init__(self, segment: Segment, *, speaks_tls: bool = False, **timeouts: float) -> None:
        self.plane = DataPlane(asyncio.get_running_loop(), segment, 0, lambda _: None)
        empty = PoolTable(1, Pool(()), Pool(()))
        self.plane.configure(trusting("127.0.0.0/8", timeouts=timeouts), empty)
        self.plane.deadlines.start()
        self.listener = socket.create_server(("127.0.0.1", 0))
        if speaks_tls:
            self.plane.certificates = Contexts(material(pair("app.example")))
        self.accepted: Callable[[Introduction], Downstream | TlsTransport]
        self.accepted = partial(TlsTransport if speaks_tls else Downstream, self.plane)
        self.acceptor = Acceptor(self.plane, self.listener, self.accepted)
        self._writers: list[asyncio.StreamWriter] = []

    async def client(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*self.listener.getsockname())
        self._writers.append(writer)
        return reader, writer

    async def has(self, clients: int) -> None:
        await eventually_here(lambda: len(self.plane.clients) == clients, f"{clients} clients")

    async def close(self) -> None:
        self.acceptor.close()
        for client in tuple(self.plane.clients):
            client.abandon()
        for writer in self._writers:
            writer.close()
        await self.has(0)
        self.plane.deadlines.stop()
        for writer in self._writers:
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def in_a_loop(test: Callable[[Door], Coroutine[None, None, None]], segment: Segment, **options: Any) -> None:
    """In uvloop, as a worker would; what goes wrong in no task of the test is a failure as well."""
    complaints: list[dict[str, Any]] = []

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, complaint: complaints.append(complaint))
        door = Door(segment, **options)
        try:
            await test(door)
        finally:
            await door.close()
            gc.collect()  # a task that failed unheard complains when it goes

    uvloop.run(run())
    assert not complaints


def test_a_drain_answers_who_asks_at_last_and_does_not_wait_for_who_does_not(segment: Segment) -> None:
    async def drain(door: Door) -> None:
        nameless, _ = await door.client()
        speechless, introduction = await door.client()
        late, asking = await door.client()
        await door.has(3)
        draining = asyncio.create_task(door.plane.drain(60))
        await eventually_here(lambda: door.plane.draining)
        introduction.write(BINARY)
        asking.write(BINARY + request())
        answer = await late.read()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nConnection: close\r\n" in answer
        async with asyncio.timeout(30):  # not all of the sixty seconds
            assert await nameless.read() == await speechless.read() == b""
            assert await draining == (0, 0)

    in_a_loop(drain, segment, header=120)


def test_at_the_end_of_a_drain_nobody_is_left(segment: Segment) -> None:
    async def drain(door: Door) -> None:
        reader, _ = await door.client()
        await door.has(1)
        assert await door.plane.drain(0) == (0, 0)
        assert not door.plane.clients
        assert await reader.read() == b""

    in_a_loop(drain, segment)


class FullListener:
    """Always readable, and never able to accept before it is told that it is."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self.fileno, self.close, self.setblocking = listener.fileno, listener.close, listener.setblocking
        self.getsockname = listener.getsockname
        self.asked = 0
        self.full = True

    def accept(self) -> tuple[socket.socket, object]:
        self.asked += 1
        if self.full:
            raise OSError(errno.EMFILE, "Too many open files")
        return self._listener.accept()


def test_without_a_free_descriptor_the_listener_is_asked_again_only_after_a_while(segment: Segment) -> None:
    async def overflow(door: Door) -> None:
        loop = asyncio.get_running_loop()
        later: list[Callable[[], None]] = []
        listener = FullListener(socket.create_server(("127.0.0.1", 0)))
        plane = SimpleNamespace(
            is_trusted=door.plane.is_trusted,
            clients={object()},  # as many as there may be: one more is closed at once
            room=SimpleNamespace(limit=1, make=lambda: False, out_of_descriptors=lambda: None),
            settings=door.plane.settings,
            cells=door.plane.cells,
            loop=SimpleNamespace(
                add_reader=loop.add_reader,
                remove_reader=loop.remove_reader,
                call_later=lambda delay, call: later.append(call),
            ),
        )
        acceptor = Acceptor(plane, listener, door.accepted)  # type: ignore[arg-type]
        with socket.create_connection(listener.getsockname()):
            await eventually_here(lambda: later, "the wait")
            for _ in range(20):  # turns of the loop, which finds the listener readable in each
                await asyncio.sleep(0)
            assert (listener.asked, len(later)) == (1, 1), "asked although it had said that it cannot"
            listener.full = False
            later.pop()()
            rejected = slot.rejected_cell("connections")
            await eventually_here(lambda: door.plane.cells[rejected] == 1, "the connection")
        acceptor.close()

    in_a_loop(overflow, segment)


def test_an_acceptor_that_waits_for_a_descriptor_can_be_closed(segment: Segment) -> None:
    async def overflow(door: Door) -> None:
        listener = FullListener(socket.create_server(("127.0.0.1", 0)))
        acceptor = Acceptor(door.plane, listener, door.accepted)  # type: ignore[arg-type]
        with socket.create_connection(listener.getsockname()):
            await eventually_here(lambda: listener.asked, "the first question")
            retry = acceptor._retry
            acceptor.close()
            assert retry is not None
            assert retry.cancelled()
            assert listener.asked == 1

    in_a_loop(overflow, segment)


@pytest.mark.says("**PROXY protocol.** With")
def test_tls_begins_behind_the_header(segment: Segment) -> None:
    async def handshake(door: Door) -> None:
        reader, writer = await door.client()
        writer.write(BINARY)
        await writer.start_tls(client_context(), server_hostname="app.example")
        writer.write(request())
        assert (await reader.readline()).startswith(b"HTTP/1.1 503 ")
        (client,) = door.plane.clients
        assert isinstance(client, Downstream)
        assert client.peer.address == b"203.0.113.7"
        writer.close()
        await door.has(0)
        no_tls, plain = await door.client()
        plain.write(BINARY + request())
        assert (await no_tls.readline()).startswith(b"HTTP/1.1 400 ")
        assert door.plane.cells[slot.rejected_cell("plain_on_tls")] == 1
        plain.close()
        await door.has(0)

    in_a_loop(handshake, segment, speaks_tls=True)


def test_a_handshake_that_never_ends_is_cut_with_its_header(segment: Segment) -> None:
    async def handshake(door: Door) -> None:
        reader, writer = await door.client()
        writer.write(BINARY + b"\x16\x03\x01")
        async with asyncio.timeout(30):
            assert await reader.read() == b""
        await door.has(0)

    in_a_loop(handshake, segment, speaks_tls=True, header=0.3)
