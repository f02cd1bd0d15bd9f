"""TLS towards clients, through a real worker: every kind of beginning, every kind of end."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from typing import TYPE_CHECKING

import pytest
from websockets.sync.client import connect
from websockets.sync.server import serve

from bgproxy.core.certificates import Pair
from bgproxy.core.messages import Drain, Drained, Published, Seen
from bgproxy.core.model import Pool
from bgproxy.core.settings import HttpsSettings, WorkerSettings
from bgproxy.shm import worker_slot as slot
from tests.support.certificates import authority, client_context, issue, material, pair
from tests.support.plane import Plane, WorkerProcess, eventually, settings
from tests.support.raw_http import Ended, chunked, request, response
from tests.support.raw_upstream import answering, silent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from websockets.sync.server import ServerConnection

    from bgproxy.core.certificates import TlsMaterial
    from tests.support.raw_client import RawClient
    from tests.support.raw_upstream import Conversation

VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
NO_POOLS = (Pool(()), Pool(()))
PAIRS = (pair("app.example", "*.app.example"), pair("other.example"))
UPGRADE = ("Connection: Upgrade", "Upgrade: websocket")
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
BIG = bytes(range(256)) * 16_384  # 4 MiB


@pytest.fixture(scope="module")
def worker() -> Iterator[WorkerProcess]:
    started = WorkerProcess(material=material(*PAIRS))
    started.start(NO_POOLS, WorkerSettings())
    yield started
    complaints = started.end()
    assert not complaints, complaints


@pytest.fixture
def plane(worker: WorkerProcess) -> Iterator[Plane]:
    made = Plane(worker)
    made.configure()
    yield made
    made.close()


def raw(plane: Plane) -> RawClient:
    """To the address that speaks TLS, without speaking it."""
    return plane.client(address=plane.worker.addresses[-1])


def hello(context: ssl.SSLContext | None = None, name: str = "app.example") -> bytes:
    """The first bytes of a client."""
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        (context or client_context()).wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


def certified(plane: Plane, made: TlsMaterial) -> None:
    assert plane.worker.certify(made) == ""


@pytest.fixture
def own_certificates(plane: Plane) -> Iterator[Plane]:
    yield plane
    certified(plane, material(*PAIRS))


# --- requests and answers ---------------------------------------------------------------------------------------------


@VERSIONS
def test_a_request_over_tls_is_forwarded_as_https(plane: Plane, version: ssl.TLSVersion) -> None:
    context = client_context(maximum_version=version)
    context.set_alpn_protocols(["h2", "http/1.1"])
    client = plane.tls_client(context)
    assert client.ask().body == b"hello"
    client.send(b"GET https://other.example/x HTTP/1.1\r\nHost: other.example\r\n\r\n")
    assert client.answer().body == b"hello"
    assert client.tls.version() == f"TLSv1.{version - ssl.TLSVersion.TLSv1}"
    assert client.tls.selected_alpn_protocol() == "http/1.1"
    assert [asked.one("X-Forwarded-Proto") for asked in plane.blue.requests] == ["https", "https"]
    assert [asked.one("X-Forwarded-For") for asked in plane.blue.requests] == ["127.0.0.1", "127.0.0.1"]
    assert plane.counted(slot.TLS_HANDSHAKES) == 1
    assert plane.client().ask().status == 200
    assert plane.blue.requests[-1].one("X-Forwarded-Proto") == "http"


@pytest.mark.parametrize(
    ("name", "shown"),
    [("app.example", "app.example"), ("OTHER.example", "other.example"), ("x.app.example", "app.example")],
)
def test_a_name_gets_its_certificate(plane: Plane, name: str, shown: str) -> None:
    client = plane.tls_client(client_context(), name)
    assert client.shown["subjectAltName"][0] == ("DNS", shown)
    assert client.ask().status == 200, "whatever its Host says"


@pytest.mark.parametrize("name", ["stranger.example", "", "a.x.app.example"])
def test_a_stranger_gets_the_first(plane: Plane, name: str) -> None:
    client = plane.tls_client(client_context(check_hostname=False), name)
    assert client.shown["subjectAltName"][0] == ("DNS", "app.example")


@VERSIONS
def test_bodies_pass_whole_in_both_directions(plane: Plane, version: ssl.TLSVersion) -> None:
    plane.blue.script = answering(lambda asked: response(200, asked.body))
    client = plane.tls_client(client_context(maximum_version=version))
    client.send(request("POST", "/", body=BIG))  # not from a thread: an SSL object must not be read and written at once
    assert client.answer("POST").body == BIG
    assert plane.blue.requests[0].body == BIG


def test_a_client_that_does_not_read_holds_the_upstream_back(plane: Plane) -> None:
    sent = [0]

    def endless(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            conversation.send(BIG[:65536])
            sent[0] += 1

    plane.blue.script = endless
    client = plane.tls_client(client_context(), receive_buffer=4096)
    client.send(request())
    assert client.take(100_000)

    def stands_still() -> bool:
        before = sent[0]
        return not threading.Event().wait(0.2) and sent[0] == before > 0

    eventually(stands_still, "backpressure")
    assert plane.worker.resident_bytes() < 200 * 1024 * 1024
    client.close()
    eventually(lambda: plane.failed("client_gone") == 1, "the end of the request")


def test_a_connection_that_has_moved_a_large_body_gives_its_memory_back(plane: Plane) -> None:
    plane.blue.script = answering(lambda asked: response(200, asked.body))

    def moved() -> None:
        client = plane.tls_client(client_context())
        client.send(request("POST", "/", body=BIG[: 1 << 20]))
        assert len(client.answer("POST").body) == 1 << 20

    moved()
    before = plane.worker.resident_bytes()
    for _ in range(10):
        moved()
    kept = plane.worker.resident_bytes() - before
    assert kept < 10 * 400 * 1024, "70 KiB each; it is 930 KiB where OpenSSL gets all at once"


def test_pipelined_requests_in_one_record_and_records_in_one_segment(plane: Plane) -> None:
    plane.blue.script = answering(lambda asked: response(200, asked.target.encode()))
    client = plane.tls_client(client_context())
    client.send(request(target="/1") + request(target="/2"), request(target="/3"))
    assert [client.answer().body for _ in range(3)] == [b"/1", b"/2", b"/3"]


def test_records_may_come_byte_by_byte(plane: Plane) -> None:
    near, far = socket.socketpair()
    to_worker = raw(plane)
    drip = threading.Thread(target=copy_byte_by_byte, args=(far, to_worker.sock))
    drip.start()
    back = threading.Thread(target=copy_byte_by_byte, args=(to_worker.sock, far))
    back.start()
    with client_context().wrap_socket(near, server_hostname="app.example") as client:
        client.sendall(request("POST", "/", body=b"x" * 100))
        assert client.recv(100_000).startswith(b"HTTP/1.1 200")
    drip.join()
    far.close()
    to_worker.sock.close()
    back.join()
    assert plane.blue.requests[0].body == b"x" * 100


def copy_byte_by_byte(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            for byte in data:
                sink.sendall(bytes((byte,)))
    except OSError:
        pass
    finally:
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


# --- ends -------------------------------------------------------------------------------------------------------------


@VERSIONS
def test_an_answer_that_ends_with_the_connection_ends_with_close_notify(plane: Plane, version: ssl.TLSVersion) -> None:
    plane.blue.script = lambda conversation: (conversation.request(), conversation.send(UNTIL_CLOSE))
    client = plane.tls_client(client_context(maximum_version=version))
    client.send(b"GET / HTTP/1.0\r\nHost: app.example\r\n\r\n")
    assert client.answer().body == b"all of it", "without close_notify the client would raise"


UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall of it"


def test_one_that_breaks_off_there_ends_without_it(plane: Plane) -> None:
    def breaking(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nsome \r\n")
        heard.wait(10)
        conversation.reset()

    heard = threading.Event()
    plane.blue.script = breaking
    client = plane.tls_client(client_context())
    client.send(b"GET / HTTP/1.0\r\nHost: app.example\r\n\r\n")
    assert client.until(b"some ")
    heard.set()
    with pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
        client.rest()


def test_an_answer_with_a_length_that_breaks_off_looks_broken(plane: Plane) -> None:
    plane.blue.script = lambda conversation: (
        conversation.request(),
        conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort"),
    )
    client = plane.tls_client(client_context())
    client.send(request())
    with pytest.raises(Ended):
        client.answer()


def test_a_refusal_reaches_a_client_that_goes_on_sending(plane: Plane) -> None:
    plane.configure(settings(limits={"body_bytes": 1000}))
    client = plane.tls_client(client_context())
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8000000\r\n\r\n", bytes(8_000_000))
    assert client.answer("POST").status == 413
    assert client.rest() == b"", "with close_notify"


@VERSIONS
def test_a_client_that_has_said_all_it_had_to_still_gets_its_answer(plane: Plane, version: ssl.TLSVersion) -> None:
    go = threading.Event()

    def slow(conversation: Conversation) -> None:
        conversation.request()
        go.wait(10)
        conversation.send(response(200, b"late"))

    plane.blue.script = slow
    client = plane.tls_client(client_context(maximum_version=version))
    client.send(request())
    client.finish_sending()
    eventually(lambda: plane.blue.requests, "the request")
    go.set()
    assert client.answer().body == b"late"


def test_a_client_that_leaves_aborts_its_request(plane: Plane) -> None:
    plane.blue.script = lambda conversation: (conversation.request(), conversation.rest())
    client = plane.tls_client(client_context())
    client.send(request())
    eventually(lambda: plane.blue.requests, "the request")
    client.reset()
    eventually(lambda: plane.failed("client_gone") == 1, "the abort")


def test_a_half_body_that_ends_with_close_notify_is_no_body(plane: Plane) -> None:
    plane.blue.script = lambda conversation: conversation.rest()
    client = plane.tls_client(client_context())
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf")
    client.finish_sending()
    eventually(lambda: plane.failed("client_gone") == 1, "the abort")


def test_a_record_that_was_tampered_with_ends_the_connection_in_silence(plane: Plane) -> None:
    client = plane.tls_client(client_context())
    assert client.ask().status == 200
    underneath = socket.socket(fileno=client.tls.detach())
    underneath.settimeout(10)
    underneath.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
    try:
        while underneath.recv(65536):
            pass
    except ConnectionResetError:
        pass
    underneath.close()
    eventually(lambda: plane.cells[slot.CLIENT_CONNECTIONS] == 0, "no connection")


# --- tunnels ----------------------------------------------------------------------------------------------------------


@VERSIONS
def test_a_websocket_conversation_goes_through(plane: Plane, version: ssl.TLSVersion) -> None:
    def echo(websocket: ServerConnection) -> None:
        for message in websocket:
            websocket.send(message)

    with serve(echo, "127.0.0.1", 0) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            plane.configure(blue=[f"127.0.0.1:{server.socket.getsockname()[1]}"])
            context, address = client_context(maximum_version=version), plane.worker.addresses[-1]
            with connect(
                f"wss://{address}/chat", ssl=context, server_hostname="app.example", proxy=None, compression=None
            ) as websocket:
                for message in ("short", "x" * 300_000, b"\x00\xff"):
                    websocket.send(message)
                    assert websocket.recv(timeout=10) == message
        finally:
            server.shutdown()
            serving.join()
    eventually(plane.is_idle, "the end of the tunnel")
    assert plane.answered("GET", 101) == 1


@pytest.mark.says("Over TLS a client is told the end")
@VERSIONS
def test_when_one_side_of_a_tunnel_ends_the_other_says_the_rest(plane: Plane, version: ssl.TLSVersion) -> None:
    heard: list[bytes] = []

    def script(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(SWITCHING)
        heard.append(conversation.rest())
        conversation.send(b"last words")

    plane.blue.script = script
    client = plane.tls_client(client_context(maximum_version=version))
    client.send(request("GET", "/ws", *UPGRADE))
    assert client.answer().status == 101
    client.send(b"said")
    client.finish_sending()
    assert client.take(10) == b"last words"
    assert heard == [b"said"]
    eventually(plane.is_idle, "the end of the tunnel")


@pytest.mark.says("Over TLS a client is told the end")
def test_when_the_upstream_ends_a_tunnel_the_client_says_the_rest(plane: Plane) -> None:
    heard: list[bytes] = []

    def script(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(SWITCHING + b"bye")
        conversation.finish_sending()
        heard.append(conversation.rest())

    plane.blue.script = script
    client = plane.tls_client(client_context())
    client.send(request("GET", "/ws", *UPGRADE))
    assert client.answer().status == 101
    assert client.rest() == b"bye", "and close_notify"
    client.send(b"the rest")
    client.close()
    eventually(lambda: heard == [b"the rest"], "the rest")


# --- beginnings that fail ---------------------------------------------------------------------------------------------


def rejected_once(plane: Plane, reason: str) -> None:
    eventually(lambda: plane.rejected(reason) == 1, f"{reason} to be counted")
    eventually(lambda: plane.cells[slot.CLIENT_CONNECTIONS] == 0, "no connection")
    assert plane.counted(slot.TLS_HANDSHAKES) == 0


@pytest.mark.says("plain HTTP where [TLS](tls.md) is spoken")
def test_plain_http_is_told_to_use_https(plane: Plane) -> None:
    client = raw(plane)
    client.send(request())
    answer = client.answer()
    assert (answer.status, answer.one("X-BG-Reason")) == (400, "plain_on_tls")
    assert "https://" in answer.body.decode()
    assert client.is_ended()
    assert plane.blue.requests == []
    client.close()
    rejected_once(plane, "plain_on_tls")


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\x01\x02",  # no protocol that we know
        b"\x16\x03\x01\x00\x05hello",  # a record, but no handshake
        b"\x16\x03\x01\xff\xff" + bytes(70_000),  # a record that is too long
        hello(client_context())[:-1] + b"\0\0\0",
        b"\x80\x2e\x01\x00\x02",  # SSL 2
    ],
    ids=["bytes", "no handshake", "too long", "broken", "SSL 2"],
)
def test_what_is_no_handshake_is_closed_and_counted(plane: Plane, sent: bytes) -> None:
    client = raw(plane)
    try:
        client.send(sent)
        client.finish_sending()
        client.rest()  # perhaps an alert
    except OSError:
        pass
    client.close()
    rejected_once(plane, "tls_handshake")


def test_a_version_that_is_too_old_is_refused(plane: Plane) -> None:
    client = raw(plane)
    old = bytearray(hello(client_context(maximum_version=ssl.TLSVersion.TLSv1_2)))
    old[9:11] = b"\x03\x02"  # the version that is asked for: 1.1
    client.send(bytes(old))
    alert = client.rest()
    assert (alert[0], alert[-1]) == (0x15, 70), "protocol_version"
    rejected_once(plane, "tls_handshake")


def test_a_name_that_is_no_text_is_refused_in_silence(plane: Plane) -> None:
    """Python's ssl would write about it to standard error, as often as a stranger likes."""
    client = raw(plane)
    client.send(hello(name="xx.example").replace(b"xx.example", b"\xff\xfe.example"))
    alert = client.rest()
    assert alert[0] == 0x15
    rejected_once(plane, "tls_handshake")
    assert plane.worker.complaints() == ""


def test_who_leaves_in_the_middle_of_a_handshake_is_counted_and_who_says_nothing_is_not(plane: Plane) -> None:
    raw(plane).close()  # a port check
    client = raw(plane)
    client.send(hello())
    assert client.take(5)
    client.close()
    rejected_once(plane, "tls_handshake")


def test_a_certificate_that_the_client_does_not_trust_is_its_own_matter(plane: Plane) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        plane.tls_client(ssl.create_default_context())
    rejected_once(plane, "tls_handshake")


@pytest.mark.parametrize("sent", [b"", hello()[:100], hello()], ids=["nothing", "half a hello", "a hello"])
def test_a_handshake_has_to_be_done_in_time(plane: Plane, sent: bytes) -> None:
    plane.configure(settings(timeouts={"header": 0.1}))
    client = raw(plane)
    client.send(sent)
    try:
        client.rest()
    except ConnectionResetError:
        pass
    rejected_once(plane, "tls_timeout")
    assert plane.rejected("tls_handshake") == 0, "counted once"


@pytest.mark.says("one connection over `connections`")
def test_connections_are_bounded_and_those_that_shake_hands_count(plane: Plane) -> None:
    plane.configure(settings(limits={"connections": 2}))
    shaking = raw(plane)
    shaking.send(hello())
    assert shaking.take(5)
    plane.blue.script = silent
    busy = [plane.tls_client(client_context())]
    busy[0].send(request())
    eventually(lambda: plane.cells[slot.IN_FLIGHT] == 1, "the one that is busy")
    busy.append(plane.tls_client(client_context()))
    assert shaking.rest() is not None, "who does not finish its handshake makes room"
    busy[1].send(request())
    eventually(lambda: plane.cells[slot.IN_FLIGHT] == 2, "both to be busy")
    with pytest.raises((ssl.SSLError, OSError)):
        plane.tls_client(client_context())
    assert plane.rejected("connections") == 1
    plain = plane.client()
    assert plain.answer().status == 503, "plain ones count as well"


@pytest.fixture
def leaving() -> Iterator[Plane]:
    worker = WorkerProcess(material=material(*PAIRS))
    worker.start(NO_POOLS, WorkerSettings())
    made = Plane(worker)
    made.configure()
    yield made
    made.close_surroundings()
    complaints = worker.end()
    assert not complaints, complaints


class SlowHandshake:
    """A client that says hello, and does not go on before it is told to."""

    def __init__(self, plane: Plane) -> None:
        self._client = raw(plane)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.connection = client_context().wrap_bio(self._incoming, self._outgoing, server_hostname="app.example")
        with pytest.raises(ssl.SSLWantReadError):
            self.connection.do_handshake()
        self._client.send(self._outgoing.read())
        self._incoming.write(self._client.sock.recv(65536))

    def done(self, step: Callable[[], object]) -> object:
        """What `step` gives once enough has come."""
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                self._client.sock.sendall(self._outgoing.read())
                data = self._client.sock.recv(65536)
                assert data, "closed"
                self._incoming.write(data)


def test_a_worker_that_leaves_lets_those_who_shake_hands_ask_once(leaving: Plane) -> None:
    worker = leaving.worker
    asks, says_nothing = SlowHandshake(leaving), SlowHandshake(leaving)
    worker.tell(Drain(60.0))
    worker.tell(Published(0))
    worker.hear(Seen)
    for client in (asks, says_nothing):
        client.done(client.connection.do_handshake)
    asks.connection.write(request())
    answer = asks.done(lambda: asks.connection.read(65536))
    assert isinstance(answer, bytes)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"\r\nConnection: close\r\n" in answer
    assert says_nothing.done(lambda: says_nothing.connection.read(65536)) == b"", "closed after a moment"
    assert worker.hear(Drained) == Drained(0, 0)


# --- certificates that change -----------------------------------------------------------------------------------------


def test_new_certificates_are_for_new_handshakes(own_certificates: Plane) -> None:
    plane = own_certificates
    old = plane.tls_client(client_context())
    certified(plane, material(pair("new.example"), version=2))
    new = plane.tls_client(client_context(), "new.example")
    assert old.ask().status == new.ask().status == 200


def test_a_set_that_cannot_be_used_leaves_the_last_one(own_certificates: Plane) -> None:
    plane = own_certificates
    assert "SSLError" in plane.worker.certify(material(Pair(("a.example",), "rsa", b"rubbish"), version=2))
    assert plane.tls_client(client_context()).ask().status == 200


def test_a_worker_without_certificates_refuses_tls_and_serves_the_rest() -> None:
    unusable = material(Pair(("a.example",), "rsa", b"rubbish"))
    worker = WorkerProcess(material=unusable)
    worker.start(NO_POOLS, WorkerSettings())
    plane = Plane(worker)
    plane.configure()
    with pytest.raises(OSError):  # noqa: PT011  a reset or an end, whichever comes first
        plane.tls_client(client_context())
    assert plane.client().ask().status == 200
    assert plane.rejected("tls_handshake") == 1
    plane.close()
    assert worker.end() == ""


# --- client certificates ----------------------------------------------------------------------------------------------


def with_certificate(**names: str) -> ssl.SSLContext:
    context = client_context()
    issue("robot.example", **names).configure_cert(context)
    return context


def asking_for_one(plane: Plane, how: str) -> None:
    certified(plane, material(*PAIRS, version=2, client_auth=how, client_ca=authority().cert_pem.bytes()))


@pytest.mark.says("With a client certificate, `X-Client-Cert-Subject`")
@pytest.mark.says("`Client-Cert`, `Client-Cert-Chain`")
@pytest.mark.parametrize("how", ["optional", "required"])
def test_the_verified_subject_goes_upstream_and_no_other(own_certificates: Plane, how: str) -> None:
    plane = own_certificates
    asking_for_one(plane, how)
    client = plane.tls_client(with_certificate(common_name="robot 7, é", organization_name="Example"))
    client.ask("GET", "/", "X-Client-Cert-Subject: CN=root", "X_Client_Cert_Subject: CN=root", "Client-Cert: :AA==:")
    client.ask()
    forged, plain = plane.blue.requests
    for asked in (forged, plain):
        subject = asked.one("X-Client-Cert-Subject")
        assert subject.startswith("CN=robot 7\\2C \\C3\\A9,")
        assert ",O=Example" in subject
    assert "root" not in forged.raw.decode()
    assert forged.one("Client-Cert") == ""


@pytest.mark.says("With a client certificate, `X-Client-Cert-Subject`")
@pytest.mark.parametrize(
    "field", ["X-Client-Cert-Subject: x", "x_client-cert_subject: x", "X-Client-Cert-Other: x", "client_cert: x"]
)
def test_nobody_names_himself(plane: Plane, field: str) -> None:
    plane.client().ask("GET", "/", field)
    plane.tls_client(client_context()).ask("GET", "/", field, "Connection: close, X")
    assert len(plane.blue.requests) == 2
    for asked in plane.blue.requests:
        assert "cert" not in asked.raw.decode().lower()


@pytest.mark.says("`Client-Cert`, `Client-Cert-Chain`")
def test_a_trusted_proxy_may_pass_client_cert_on_but_not_our_own_field(plane: Plane) -> None:
    plane.configure(settings(trusted_proxies=("127.0.0.0/8",)))
    plane.client().ask("GET", "/", "Client-Cert: :AA==:", "X-Client-Cert-Subject: CN=root")
    (asked,) = plane.blue.requests
    assert asked.one("Client-Cert") == ":AA==:"
    assert asked.one("X-Client-Cert-Subject") == ""


@VERSIONS
def test_without_a_certificate_optional_lets_in_and_required_does_not(
    own_certificates: Plane, version: ssl.TLSVersion
) -> None:
    plane = own_certificates
    asking_for_one(plane, "optional")
    plane.tls_client(client_context(maximum_version=version)).ask()
    assert plane.blue.requests[0].one("X-Client-Cert-Subject") == ""
    asking_for_one(plane, "required")
    with pytest.raises((ssl.SSLError, ConnectionResetError)):  # with TLS 1.3 the client learns of it when it reads
        plane.tls_client(client_context(maximum_version=version)).ask()
    assert plane.rejected("tls_handshake") == 1


def test_a_certificate_of_a_stranger_is_refused_also_where_none_is_needed(own_certificates: Plane) -> None:
    plane = own_certificates
    certified(plane, material(*PAIRS, version=2, client_auth="optional", client_ca=STRANGER))
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        plane.tls_client(with_certificate(common_name="robot")).ask()
    assert plane.rejected("tls_handshake") == 1


STRANGER = issue("stranger.example").cert_chain_pems[0].bytes()


# --- Strict-Transport-Security ----------------------------------------------------------------------------------------


def test_answers_over_tls_say_that_plain_is_over(plane: Plane) -> None:
    plane.configure(settings(https=HttpsSettings(hsts=3600)))
    plane.blue.script = answering(
        response(200, b"plain"),
        response(200, b"own", "Strict-Transport-Security: max-age=1", "X: y"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"chunked"),
        response(200, b"over plain HTTP", "strict-transport-security: max-age=1"),
    )
    client = plane.tls_client(client_context())
    for body in (b"plain", b"own", b"chunked"):
        answer = client.ask()
        assert answer.body == body
        assert answer.one("Strict-Transport-Security") == "max-age=3600"
    answer = plane.client().ask()
    assert answer.body == b"over plain HTTP"
    assert answer.one("Strict-Transport-Security") == ""


def test_the_proxys_own_answers_say_so_as_well(plane: Plane) -> None:
    plane.configure(settings(https=HttpsSettings(hsts=3600)))
    plane.blue.script = answering(b"nonsense\r\n\r\n")
    for status, line in (
        (502, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        (501, b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n"),
    ):
        for client, expected in ((plane.tls_client(client_context()), "max-age=3600"), (plane.client(), "")):
            client.send(line)
            answer = client.answer()
            assert (answer.status, answer.one("Strict-Transport-Security")) == (status, expected)


def test_without_it_the_application_decides(plane: Plane) -> None:
    plane.blue.script = answering(response(200, b"", "Strict-Transport-Security: max-age=1"))
    assert plane.tls_client(client_context()).ask().one("Strict-Transport-Security") == "max-age=1"
