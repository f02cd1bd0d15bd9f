"""Connecting to an upstream over TLS: who it must be, who we are, how it fails, and how connections are kept."""

from __future__ import annotations

import itertools
import signal
import socket
import ssl
import threading
from contextlib import ExitStack
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from bgproxy.core.messages import Ejected
from bgproxy.core.model import GREEN, Address, Pool, Upstream, parse_upstream
from bgproxy.core.settings import UpstreamTls, WorkerSettings
from bgproxy.dataplane.server import Server
from bgproxy.shm import worker_slot as slot
from tests.support.plane import eventually, settings
from tests.support.raw_http import request, response
from tests.support.raw_upstream import HELLO
from tests.support.upstream_certificates import ca_pem, cert_pem, key_pem, leaf, server_context

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.plane import Plane
    from tests.support.raw_http import Message
    from tests.support.raw_upstream import Conversation, RawUpstream

TLS_1_2 = ssl.TLSVersion.TLSv1_2


def trusting(upstream: dict[str, Any] | None = None, **tls: Any) -> WorkerSettings:
    """Settings that trust our CA alone, where nothing else is said."""
    return settings(upstream=upstream or {}, upstream_tls=UpstreamTls(**{"ca": ca_pem()} | tls))


def client_certificate(by: str = "ours") -> dict[str, bytes]:
    return {"cert": cert_pem(leaf("client.example", by=by)), "key": key_pem(leaf("client.example", by=by))}


def over_tls(plane: Plane, script: Any = HELLO, *names: str, **context: Any) -> RawUpstream:
    return plane.upstream(script, tls=server_context(*names, **context))


def asked(plane: Plane, method: str = "GET", body: bytes = b"") -> Message:
    return plane.client().ask(method, body=body)


def is_refused(plane: Plane) -> bool:
    """502 with its reason, counted, and a detail that gives nothing away."""
    before = plane.failed("tls_failed")
    answer = asked(plane)
    assert b"127.0.0.1" not in answer.body
    assert b"ertificate" not in answer.body
    said = (answer.status, answer.one("X-BG-Reason"))
    assert said == (200, "") or said == (502, "tls_failed"), answer
    assert plane.failed("tls_failed") - before == (answer.status == 502)
    return answer.status == 502


# --- who the upstream is ----------------------------------------------------------------------------------------------


@pytest.mark.says("What the client spoke is")
def test_an_upstream_with_a_certificate_of_the_ca_is_asked_over_tls(plane: Plane) -> None:
    upstream = over_tls(plane)
    plane.configure(trusting(), blue=[upstream])
    assert asked(plane).body == b"hello"
    assert asked(plane, "POST", b"x").body == b"hello"
    (conversation,) = upstream.conversations
    assert isinstance(conversation.sock, ssl.SSLSocket)
    assert conversation.sock.version() == "TLSv1.3"
    assert upstream.requests[0].one("X-Forwarded-Proto") == "http"  # what the client spoke


def test_both_colours_may_be_asked_over_tls_and_without_it_side_by_side(plane: Plane) -> None:
    secure = over_tls(plane)
    plane.configure(trusting(), blue=[secure, plane.blue], green=[secure])
    client = plane.client()
    while not (secure.requests and plane.blue.requests):
        assert client.ask().body == b"hello"
    before = len(secure.requests)
    plane.publish(GREEN)
    assert client.ask().body == b"hello"
    assert len(secure.requests) == before + 1


@pytest.mark.says("no TLS connection: the certificate")
@pytest.mark.says("An upstream written `https://host:port`")
@pytest.mark.says("The client is not told why")
@pytest.mark.parametrize("context", [{"by": "another"}, {"expired": True}], ids=["unknown CA", "expired"])
def test_a_certificate_that_cannot_be_verified_is_refused_unless_nobody_asks(
    plane: Plane, context: dict[str, Any]
) -> None:
    upstream = over_tls(plane, HELLO, **context)
    plane.configure(trusting(), blue=[upstream])
    assert is_refused(plane)
    assert upstream.requests == []
    plane.configure(trusting(verify=False), blue=[upstream])
    assert not is_refused(plane)


def test_our_own_ca_is_not_in_the_store_of_the_system(plane: Plane) -> None:
    plane.configure(trusting(ca=b""), blue=[over_tls(plane)])
    assert is_refused(plane)


@pytest.mark.says("An upstream written `https://host:port`")
def test_the_name_is_that_of_the_address_unless_another_one_is_asked_for(plane: Plane) -> None:
    seen: list[str | None] = []
    context = server_context("app.internal")
    context.sni_callback = lambda _socket, name, _context: seen.append(name)
    upstream = plane.upstream(tls=context)
    plane.configure(trusting(), blue=[upstream])
    assert is_refused(plane)
    plane.configure(trusting(), blue=named(upstream, "app.internal"))
    assert not is_refused(plane)
    assert seen == [None, "app.internal"]  # an address is verified, but not sent


def named(upstream: RawUpstream, server_name: str) -> Pool:
    address = Address("127.0.0.1", upstream.port, server_name=server_name)
    return Pool((Upstream(str(address), 0, address),))


@pytest.mark.says("An upstream written `https://host:port`")
def test_nothing_older_than_tls_1_2_is_spoken_and_http_1_1_is_offered(plane: Plane) -> None:
    hellos: list[bytes] = []

    def script(conversation: Conversation) -> None:
        hellos.append(conversation.take(5))
        hellos.append(conversation.take(int.from_bytes(hellos[0][3:])))

    plane.configure(trusting(), blue=[f"https://{plane.upstream(script).address}"])
    assert is_refused(plane)
    assert b"\x08http/1.1" in hellos[1]
    assert b"\x00\x2b\x00\x05\x04\x03\x04\x03\x03" in hellos[1]  # supported_versions: 1.3 and 1.2


# --- who we are -------------------------------------------------------------------------------------------------------


@pytest.mark.says("An upstream written `https://host:port`")
@pytest.mark.parametrize("most", [None, TLS_1_2], ids=["TLS 1.3", "TLS 1.2"])
def test_a_client_certificate_is_shown_to_who_asks_for_it(plane: Plane, most: ssl.TLSVersion | None) -> None:
    upstream = over_tls(plane, HELLO, asks_for="ours", most=most)
    plane.configure(trusting(**client_certificate()), blue=[upstream])
    assert not is_refused(plane)
    plane.configure(trusting(), blue=[upstream])
    assert is_refused(plane)
    plane.configure(trusting(**client_certificate(by="another")), blue=[upstream])
    assert is_refused(plane)
    assert len(upstream.requests) == 1


@pytest.mark.says("With TLS 1.3 an upstream refuses")
@pytest.mark.says("Where its reset overtakes")
def test_an_upstream_that_refuses_us_after_the_handshake_is_left_out_and_the_reason_told(plane: Plane) -> None:
    """TLS 1.3: the client is done before the server has looked at its certificate."""
    refusing = over_tls(plane, HELLO, asks_for="ours")
    ejecting = {"passive_failures": 3, "passive_eject": 60.0, "retries": 0}
    plane.configure(trusting(ejecting), blue=[refusing, over_tls(plane)])
    while plane.failed("tls_failed") < 3:
        asked(plane)
    ejected = plane.worker.hear(Ejected)
    assert (ejected.index, ejected.error) == (0, "the upstream asks for a client certificate")
    for _ in range(4):
        assert asked(plane).status == 200
    assert plane.failed("tls_failed") == 3, "nobody has tried it since"


def test_a_connection_that_was_of_use_ends_the_count_of_those_that_were_not(plane: Plane) -> None:
    """A refusal now and then, over days, is no reason to leave an upstream out."""

    def every_other(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(response(200, b"ok", "Connection: close"))

    contexts = itertools.cycle([server_context(), server_context(by="another")])
    flaky = over_tls(plane, every_other)
    flaky.next_context = lambda: next(contexts)
    plane.configure(trusting({"passive_failures": 2, "passive_eject": 60.0}), blue=[flaky, plane.blue])
    while plane.failed("tls_failed") < 4:
        assert asked(plane).status == 200
    before = len(flaky.conversations)
    while len(flaky.conversations) == before:  # it would not be, were it left out
        assert asked(plane).status == 200


# --- how it fails -----------------------------------------------------------------------------------------------------


def closing(_: Conversation) -> None:
    """Takes the connection and leaves."""


def resetting(conversation: Conversation) -> None:
    conversation.take(5)
    conversation.reset()


def answering_without_tls(conversation: Conversation) -> None:
    conversation.take(5)
    conversation.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    conversation.rest()


@pytest.mark.says("A failed handshake is a failed connect")
@pytest.mark.says("no TLS connection: the certificate")
@pytest.mark.parametrize("script", [closing, resetting, answering_without_tls])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_failed_handshake_goes_to_another_upstream_of_the_pool(plane: Plane, script: Any, method: str) -> None:
    failing = plane.upstream(script)
    plane.configure(trusting(), blue=[f"https://{failing.address}", plane.blue])
    while not failing.conversations:
        answer = asked(plane, method, b"x" if method == "POST" else b"")
        assert answer.body == b"hello"
    assert plane.failed("tls_failed") == plane.counted(slot.RETRIES) == 1
    plane.configure(trusting({"retries": 0}), blue=[f"https://{failing.address}"])
    assert is_refused(plane)


@pytest.mark.says("no connection within `connect_timeout`")
def test_a_handshake_that_is_never_answered_is_bounded_by_the_connect_timeout(plane: Plane) -> None:
    mute = plane.upstream(lambda conversation: conversation.rest() and None)
    plane.configure(trusting({"connect_timeout": 0.2}), blue=[f"https://{mute.address}"])
    answer = asked(plane, "POST", b"x")
    assert (answer.status, answer.one("X-BG-Reason")) == (504, "connect_timeout")
    eventually(lambda: plane.cells[slot.UPSTREAM_CONNECTIONS] == 0, "the attempt to be forgotten")
    assert mute.conversations[0].ended.wait(10)


def test_an_upstream_that_speaks_tls_behind_a_plain_address_is_a_bad_response(plane: Plane) -> None:
    upstream = over_tls(plane)
    plane.configure(trusting(), blue=[upstream.address.removeprefix("https://")])
    answer = asked(plane)
    assert answer.status == 502
    assert answer.one("X-BG-Reason") in ("bad_response", "closed_before_response")  # its alert, or only its FIN
    assert upstream.requests == []


# --- how connections are kept -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [None, TLS_1_2], ids=["TLS 1.3", "TLS 1.2"])
def test_connections_are_parked_and_used_again(plane: Plane, most: ssl.TLSVersion | None) -> None:
    upstream = over_tls(plane, HELLO, most=most)
    plane.configure(trusting(), blue=[upstream])
    for method, body in (("GET", b""), ("POST", b"x"), ("POST", b"y"), ("PATCH", b""), ("GET", b"")):
        assert asked(plane, method, body).status == 200
    assert len(upstream.conversations) == plane.counted(slot.CONNECTS) == 1
    assert plane.summed(slot.REUSES) == 4
    eventually(lambda: plane.cells[slot.PARKED] == 1, "one parked connection")


def keeping(leave: threading.Event, goodbye: bool) -> Any:
    """The first connection answers once and then leaves when told to; the others answer for ever."""

    def script(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(response(200, b"ok"))
        if conversation.number == 0:
            leave.wait(10)
            if goodbye:
                conversation.say_goodbye()
            return
        HELLO(conversation)

    return script


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("goodbye", [True, False], ids=["close_notify", "FIN alone"])
@pytest.mark.parametrize("first", ["request", "close"])
def test_a_parked_connection_that_the_upstream_has_closed_harms_no_request(
    plane: Plane, method: str, goodbye: bool, first: str
) -> None:
    """The worker sleeps while both happen, and finds the request and the end at once, in either order."""
    leave = threading.Event()
    upstream = over_tls(plane, keeping(leave, goodbye))
    plane.configure(trusting(), blue=[upstream])
    client = plane.client()
    assert client.ask().body == b"ok"

    def close() -> None:
        leave.set()
        assert upstream.conversations[0].ended.wait(10)

    steps = [lambda: client.send(request(method, body=b"x" if method == "POST" else b"")), close]
    asleep(plane)
    for happens in steps if first == "request" else reversed(steps):
        happens()
    plane.worker.process.send_signal(signal.SIGCONT)
    assert client.answer(method).status == 200
    assert [each.method for each in upstream.requests] == ["GET", method]
    eventually(lambda: plane.cells[slot.UPSTREAM_CONNECTIONS] == 1, "the old connection to be gone")


def asleep(plane: Plane) -> None:
    plane.worker.process.send_signal(signal.SIGSTOP)

    def stopped() -> bool:
        with open(f"/proc/{plane.worker.process.pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "T"

    eventually(stopped, "the worker to sleep")


def test_a_closed_parked_connection_is_noticed_without_a_request(plane: Plane) -> None:
    leave = threading.Event()
    upstream = over_tls(plane, keeping(leave, True))
    plane.configure(trusting({"idle_timeout": 60.0}), blue=[upstream])
    assert asked(plane).body == b"ok"
    eventually(lambda: plane.cells[slot.PARKED] == 1, "one parked connection")
    leave.set()
    eventually(lambda: plane.cells[slot.UPSTREAM_CONNECTIONS] == 0, "no connection")


class Parked:
    """As much of a parked connection as `take` looks at."""

    def __init__(self, stack: ExitStack, unread: bytes = b"") -> None:
        self.ours, theirs = (stack.enter_context(each) for each in socket.socketpair())
        theirs.send(unread)
        self.is_closed = False

    def fileno(self) -> int:
        return self.ours.fileno()

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def test_a_connection_with_unread_bytes_is_passed_over_but_not_thrown_away(stack: ExitStack) -> None:
    """They may be session tickets, or the end: known in the next turn, when they have been read."""
    server, exchange = alone("https://h:1", max_connections=4)
    quiet, ticket, other = Parked(stack), Parked(stack, b"ticket"), Parked(stack, b"ticket")
    server.parked, server.open = [quiet, ticket, other], 3
    assert server.take(exchange) is quiet
    assert server.parked == [ticket, other]
    assert not server.take(exchange)
    assert (server.parked, server.open) == ([ticket, other], 4)
    assert [ticket.is_closed, other.is_closed] == [False, False]


def test_a_connection_with_unread_bytes_makes_room_where_there_is_no_other(stack: ExitStack) -> None:
    """A request that waits for a connection would otherwise wait in vain: this one is not given back to anybody."""
    server, exchange = alone("https://h:1", max_connections=2)
    tickets = [Parked(stack, b"ticket"), Parked(stack, b"ticket")]
    server.parked, server.open = list(tickets), 2
    assert not server.take(exchange)
    assert [each.is_closed for each in tickets] == [False, True]
    assert server.parked == tickets[:1]
    assert list(server.waiting) == [exchange]


def test_without_tls_unread_bytes_are_an_end(stack: ExitStack) -> None:
    server, exchange = alone("h:1", max_connections=4)
    dead = [Parked(stack, b"x"), Parked(stack, b"x")]
    server.parked, server.open = list(dead), 2
    assert not server.take(exchange)
    assert all(each.is_closed for each in dead)
    assert server.parked == []


def alone(address: str, **limits: Any) -> tuple[Any, Any]:
    """A server without its worker, and an exchange whose request must not be sent twice."""
    plane: Any = SimpleNamespace(
        settings=settings(upstream=limits),
        clock=lambda: 0,
        spawn=lambda work: work.close(),
        deadlines=SimpleNamespace(now=0),
    )
    pool: Any = SimpleNamespace(colour=0)
    exchange = SimpleNamespace(request=SimpleNamespace(body=1, method=b"POST"))
    return Server(plane, pool, Upstream(address, 0, parse_upstream(address))), exchange


def test_an_idle_connection_is_closed_with_a_goodbye(plane: Plane) -> None:
    ends: list[bytes] = []

    def script(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(response(200, b"ok"))
        assert isinstance(conversation.sock, ssl.SSLSocket)
        conversation.sock.suppress_ragged_eofs = False
        ends.append(conversation.sock.recv(1))

    upstream = over_tls(plane, script)
    plane.configure(trusting({"idle_timeout": 0.05}), blue=[upstream])
    assert asked(plane).body == b"ok"
    assert upstream.conversations[0].ended.wait(10)
    assert ends == [b""]  # anything else is an SSLEOFError, which only ends the script
    eventually(lambda: plane.cells[slot.UPSTREAM_CONNECTIONS] == 0, "no connection")
