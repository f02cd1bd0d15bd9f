"""Requests and responses over TLS: both ways with backpressure, and where a response really ends."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from bgproxy.core.model import parse_upstream
from bgproxy.core.settings import UpstreamTls, WorkerSettings
from bgproxy.dataplane.stalled import Stalled
from bgproxy.dataplane.upstream import UpstreamConnection
from bgproxy.shm import worker_slot as slot
from bgproxy.tls.upstream import client_context
from tests.support.plane import eventually, settings
from tests.support.raw_http import Ended, request, response
from tests.support.upstream_certificates import ca_pem, server_context

if TYPE_CHECKING:
    from tests.support.plane import Plane
    from tests.support.raw_http import Wire
    from tests.support.raw_upstream import Conversation, RawUpstream, Script

MIB = 1 << 20
BODY = bytes(range(256)) * (16 * MIB // 256)
DIGEST = hashlib.sha256(BODY).hexdigest()
UNTIL_CLOSE_HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


def over_tls(plane: Plane, script: Script, **upstream: Any) -> RawUpstream:
    """The only upstream of the live pool."""
    made = plane.upstream(script, tls=server_context(), receive_buffer=upstream.pop("receive_buffer", 0))
    plane.configure(trusting(**upstream), blue=[made])
    return made


def trusting(**upstream: Any) -> WorkerSettings:
    return settings(upstream=upstream, upstream_tls=UpstreamTls(ca=ca_pem()))


def hashed(wire: Wire, size: int, *, pause_s: float = 0.0) -> str:
    """The digest of the next bytes, without keeping them; slower than any worker with a pause behind each piece."""
    seen = hashlib.sha256()
    while size:
        piece = wire.take(min(size, 64 * 1024))
        seen.update(piece)
        size -= len(piece)
        time.sleep(pause_s)
    return seen.hexdigest()


# --- bodies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["length", "until close"])
def test_a_large_answer_arrives_as_it_was_sent(plane: Plane, framing: str) -> None:
    def script(conversation: Conversation) -> None:
        conversation.request()
        if framing == "length":
            conversation.send(response(200, BODY))
            conversation.rest()
        else:
            conversation.send(UNTIL_CLOSE_HEAD + BODY)
            conversation.say_goodbye()

    over_tls(plane, script)
    client = plane.client()
    client.send(request(version="1.1" if framing == "length" else "1.0"))
    assert client.until(b"\r\n\r\n").split()[1] == b"200"
    assert hashed(client, len(BODY)) == DIGEST
    assert framing == "length" or client.rest() == b""


def test_a_large_request_arrives_as_it_was_sent(plane: Plane) -> None:
    def script(conversation: Conversation) -> None:
        while conversation.until(b"\r\n\r\n"):
            conversation.send(response(200, hashed(conversation, len(BODY)).encode()))

    over_tls(plane, script)
    assert plane.client().ask("POST", body=BODY).body == DIGEST.encode()


HELD = 16 * MIB  # more than all buffers in between can take


ZEROS = hashlib.sha256(bytes(HELD)).hexdigest()


def test_a_slow_client_holds_the_upstream_back(plane: Plane) -> None:
    sent: list[int] = []

    def script(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % HELD)
        for _ in range(HELD // MIB):
            conversation.send(bytes(MIB))
            sent.append(MIB)
        conversation.rest()

    over_tls(plane, script)
    before = plane.worker.resident_bytes()
    client = plane.client(receive_buffer=64 * 1024)
    client.send(request())
    assert client.until(b"\r\n\r\n").startswith(b"HTTP/1.1 200")
    stands_still(sent)
    assert sum(sent) < HELD
    assert plane.worker.resident_bytes() - before < 4 * MIB
    assert hashed(client, HELD) == ZEROS


def stands_still(amounts: list[int]) -> None:
    """Nothing has been added for a while: whoever adds is held back."""
    last: list[int] = []

    def unchanged() -> bool:
        last.append(len(amounts))
        return bool(amounts) and len(last) > 40 and len(set(last[-40:])) == 1

    eventually(unchanged, "the end of what is taken")


def test_a_slow_upstream_holds_the_client_back(plane: Plane) -> None:
    go_on = threading.Event()

    def script(conversation: Conversation) -> None:
        conversation.until(b"\r\n\r\n")
        go_on.wait(10)
        conversation.send(response(200, hashed(conversation, HELD).encode()))

    over_tls(plane, script, receive_buffer=64 * 1024)
    before = plane.worker.resident_bytes()
    client = plane.client()
    sent: list[int] = []

    def upload() -> None:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % HELD)
        for _ in range(HELD // MIB):
            client.send(bytes(MIB))
            sent.append(MIB)

    uploading = threading.Thread(target=upload)
    uploading.start()
    stands_still(sent)
    assert sum(sent) < HELD
    assert plane.worker.resident_bytes() - before < 4 * MIB
    go_on.set()
    uploading.join()
    assert client.answer().body == ZEROS.encode()


@pytest.mark.parametrize("goodbye", [True, False], ids=["close_notify", "FIN alone"])
def test_a_slow_client_gets_all_of_an_answer_whose_upstream_has_left(plane: Plane, goodbye: bool) -> None:
    def script(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(response(200, BODY, "Connection: close"))
        if goodbye:
            conversation.say_goodbye()

    over_tls(plane, script)
    client = plane.client(receive_buffer=64 * 1024)
    client.send(request())
    client.until(b"\r\n\r\n")
    assert hashed(client, len(BODY), pause_s=0.001) == DIGEST


class Held(UpstreamConnection):
    """Notes what it is told."""

    def __init__(self, plane: Any, server: Any) -> None:
        super().__init__(plane, server)
        self.came: list[bytes | str] = []
        self.is_lost = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.came.append(data)

    def eof_received(self) -> bool:
        self.came.append("goodbye")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost.set()


@pytest.mark.parametrize("size", [1, 20_000, 200_000])
def test_the_end_does_not_overtake_what_is_held_back(plane: Plane, size: int) -> None:
    """uvloop would read ahead, and throw that away when it meets the FIN."""

    begun, held = threading.Event(), threading.Event()

    def script(conversation: Conversation) -> None:
        begun.set()
        held.wait(10)
        conversation.send(BODY[:size])
        conversation.say_goodbye()

    upstream = plane.upstream(script, tls=server_context())
    address = parse_upstream(upstream.address)
    watching: Any = SimpleNamespace(turn=None, deadlines=SimpleNamespace(watch=lambda connection: None))

    async def receive() -> list[bytes | str]:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: Held(watching, SimpleNamespace(address=address, stalled=Stalled())),
            address.host,
            address.port,
            ssl=client_context(UpstreamTls(ca=ca_pem())),
            server_hostname=address.server_name,
        )
        assert await loop.run_in_executor(None, begun.wait, 10)
        connection.pause_reading()
        held.set()
        assert await loop.run_in_executor(None, upstream.conversations[0].ended.wait, 10)
        for _ in range(100):  # everything has come: each turn could read some of it
            await asyncio.sleep(0)
        assert not connection.is_lost.is_set()
        connection.resume_reading()
        await asyncio.wait_for(connection.is_lost.wait(), 10)
        return connection.came

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        *data, goodbye = runner.run(receive())
    assert b"".join(data) == BODY[:size]  # type: ignore[arg-type]
    assert goodbye == "goodbye"


@pytest.mark.parametrize("address", ["https://h:1", "h:1"])
def test_over_tls_uvloop_is_told_to_buffer_no_more_than_without(address: str) -> None:
    told: list[tuple[str, int]] = []
    transport: Any = SimpleNamespace(
        write=None,
        set_read_buffer_limits=lambda high: told.append(("read", high)),
        set_write_buffer_limits=lambda high: told.append(("write", high)),
    )
    plane: Any = SimpleNamespace(turn=None, deadlines=SimpleNamespace(watch=lambda connection: None))
    server: Any = SimpleNamespace(address=parse_upstream(address))
    UpstreamConnection(plane, server).connection_made(transport)
    assert told == ([("read", 1), ("write", 64 * 1024)] if address.startswith("https") else [("write", 0)])


# --- where a response ends --------------------------------------------------------------------------------------------


def ending(sent: bytes, how: str) -> Script:
    def script(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(sent)
        if how == "goodbye":
            conversation.say_goodbye()
        elif how == "reset":
            conversation.reset()

    return script


@pytest.mark.says("A body that ends with the connection is whole only")
def test_a_body_that_ends_with_a_goodbye_is_whole(plane: Plane) -> None:
    over_tls(plane, ending(UNTIL_CLOSE_HEAD + b"all of it", "goodbye"))
    assert plane.client().ask().body == b"all of it"
    assert plane.failed("response_truncated") == 0


@pytest.mark.says("A body that ends with the connection is whole only")
@pytest.mark.parametrize("how", ["FIN alone", "reset"])
def test_a_body_that_ends_without_a_goodbye_is_truncated(plane: Plane, how: str) -> None:
    """RFC 9112 9.8: anybody in between can send a FIN."""
    arrived = threading.Semaphore(0)

    def script(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(UNTIL_CLOSE_HEAD + b"all of it?")
        arrived.acquire(timeout=10)
        if how == "reset":
            conversation.reset()

    over_tls(plane, script)
    new, old = plane.client(), plane.client()
    new.send(request())
    assert new.until(b"all of it?\r\n")
    arrived.release()
    assert new.rest() == b""  # and no last chunk
    old.send(request(version="1.0"))
    assert old.until(b"all of it?")
    arrived.release()
    with pytest.raises(ConnectionResetError):
        old.rest()
    eventually(lambda: plane.failed("response_truncated") == 2, "both to be counted")


@pytest.mark.says("An answer with a length or in chunks does not")
@pytest.mark.parametrize("how", ["goodbye", "FIN alone"])
def test_a_body_that_says_its_length_needs_no_goodbye(plane: Plane, how: str) -> None:
    over_tls(plane, ending(response(200, b"whole", "Connection: close"), how))
    for _ in range(3):
        assert plane.client().ask().body == b"whole"
    assert plane.failed("response_truncated") == 0


@pytest.mark.parametrize("how", ["goodbye", "FIN alone"])
def test_an_answer_that_does_not_come_to_its_length_is_truncated(plane: Plane, how: str) -> None:
    over_tls(plane, ending(response(200, b"whole?")[:-1], how))
    client = plane.client()
    client.send(request())
    with pytest.raises(Ended):
        client.answer()
    eventually(lambda: plane.failed("response_truncated") == 1, "the truncation to be counted")


@pytest.mark.parametrize("how", ["goodbye", "FIN alone"])
@pytest.mark.parametrize(("sent", "reason"), [(b"", "closed_before_response"), (b"HTTP/1.1 2", "bad_response")])
def test_an_upstream_that_leaves_before_its_answer_has_failed(plane: Plane, sent: bytes, how: str, reason: str) -> None:
    over_tls(plane, ending(sent, how))
    answer = plane.client().ask("POST", body=b"x")
    assert (answer.status, answer.one("X-BG-Reason")) == (502, reason)


# --- uploads that end early -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["goodbye", "FIN alone"])
def test_an_early_answer_during_an_upload_is_passed_on(plane: Plane, how: str) -> None:
    def script(conversation: Conversation) -> None:
        conversation.until(b"\r\n\r\n")
        conversation.send(response(413, b"too much", "Connection: close"))
        if how == "goodbye":
            conversation.say_goodbye()
        else:
            conversation.sock.shutdown(socket.SHUT_WR)
        conversation.rest()  # closed with something unread, the answer would be lost in a RST

    over_tls(plane, script)
    client = plane.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + bytes(1000))
    answer = client.answer()
    assert (answer.status, answer.body) == (413, b"too much")
    eventually(lambda: plane.cells[slot.UPSTREAM_CONNECTIONS] == 0, "no connection")


def test_an_answer_is_whole_though_the_upstream_has_not_taken_the_upload(plane: Plane) -> None:
    """There is more to send than will ever be taken: nothing waits for that, and the goodbye counts."""

    def script(conversation: Conversation) -> None:
        conversation.until(b"\r\n\r\n")
        full.wait(10)
        conversation.send(UNTIL_CLOSE_HEAD + b"all of it")
        conversation.say_goodbye()
        left.wait(10)  # the socket stays open, and nothing is read from it

    full, left = threading.Event(), threading.Event()
    over_tls(plane, script, receive_buffer=64 * 1024)
    client = plane.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (256 * MIB))
    sent: list[int] = []

    def upload() -> None:
        try:
            while True:
                client.sock.sendall(bytes(MIB))
                sent.append(MIB)
        except OSError:
            pass

    uploading = threading.Thread(target=upload)
    uploading.start()
    try:
        stands_still(sent)
        full.set()
        answer = client.answer()
        assert (answer.status, answer.body) == (200, b"all of it")
        eventually(lambda: plane.cells[slot.UPSTREAM_CONNECTIONS] == 0, "no connection")
    finally:
        left.set()
        client.close()
        uploading.join()


def test_an_upstream_that_resets_during_an_upload_leaves_no_trace_on_standard_error(plane: Plane) -> None:
    """uvloop warns of writes to a TLS connection that is gone; `plane` fails with what a worker says there."""

    def script(conversation: Conversation) -> None:
        conversation.until(b"\r\n\r\n")
        conversation.take(100_000)
        if conversation.number % 2:
            conversation.say_goodbye()
        else:
            conversation.reset()

    over_tls(plane, script)
    for _ in range(20):
        client = plane.client()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (8 * MIB))
        try:
            for _ in range(800):
                client.send(bytes(10_000))
        except OSError:
            continue
    eventually(plane.is_idle, "the end of all requests")


def test_a_client_that_leaves_takes_its_request_with_it(plane: Plane) -> None:
    def script(conversation: Conversation) -> None:
        conversation.request()
        if conversation.number == 0:
            asked.set()
            conversation.rest()
        else:
            conversation.send(response(200, b"next"))
            conversation.rest()

    asked = threading.Event()
    upstream = over_tls(plane, script)
    leaver = plane.client()
    leaver.send(request())
    assert asked.wait(10)
    leaver.reset()
    assert upstream.conversations[0].ended.wait(10)
    assert plane.client().ask().body == b"next"


def test_interim_answers_pass(plane: Plane) -> None:
    def script(conversation: Conversation) -> None:
        conversation.until(b"\r\n\r\n")
        conversation.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        conversation.take(4)
        conversation.send(response(200, b"taken"))
        conversation.rest()

    over_tls(plane, script)
    client = plane.client()
    client.send(request("POST", "/", "Expect: 100-continue", "Content-Length: 4"))
    assert client.answer().status == 100
    client.send(b"body")
    assert client.answer().body == b"taken"
