"""The client's side: reading requests, keep-alive, pipelining, limits, time and the end of a connection."""

from __future__ import annotations

import select
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from bgproxy.dataplane.buffers import Buffers
from bgproxy.dataplane.downstream import Downstream
from bgproxy.dataplane.turn import Turn
from bgproxy.shm import worker_slot as slot
from tests.support.plane import eventually, settings
from tests.support.raw_http import Ended, chunked, request, response
from tests.support.raw_upstream import answering, silent
from tests.support.sockets import IDLE_SOCKET

if TYPE_CHECKING:
    from tests.support.plane import Plane
    from tests.support.raw_http import Message
    from tests.support.raw_upstream import Conversation

CHUNKED_POST = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def echo_target(asked: Message) -> bytes:
    return response(200, asked.target.encode())


def echo_body(asked: Message) -> bytes:
    return response(200, asked.body)


# --- reading ----------------------------------------------------------------------------------------------------------


def test_a_connection_serves_one_request_after_another(plane: Plane) -> None:
    plane.blue.script = answering(echo_target)
    client = plane.client()
    assert [client.ask(target=f"/{i}").body for i in range(5)] == [b"/0", b"/1", b"/2", b"/3", b"/4"]
    assert plane.counted(slot.CONNECTIONS_TOTAL) == 1


def test_a_request_that_comes_byte_by_byte_is_read(plane: Plane) -> None:
    plane.blue.script = answering(echo_body)
    client = plane.client()
    sent = request("POST", "/slow", body=b"twelve bytes")
    client.send(*(sent[i : i + 1] for i in range(len(sent))))
    assert client.answer("POST").body == b"twelve bytes"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_a_chunked_body_is_read_whatever_way_it_is_split(plane: Plane, size: int) -> None:
    plane.blue.script = answering(echo_body)
    client = plane.client()
    sent = CHUNKED_POST + chunked(b"one", b"two", b"x" * 30, trailers=b"X-Sum: 42\r\n")
    client.send(*(sent[i : i + size] for i in range(0, len(sent), size)))
    assert client.answer("POST").body == b"onetwo" + b"x" * 30
    (asked,) = plane.blue.requests
    assert asked.trailers == [("x-sum", "42")]
    assert client.ask().status == 200, "the connection is at the next message"


def test_an_empty_line_before_a_request_may_come_in_two_segments(plane: Plane) -> None:
    client = plane.client()
    for _ in range(2):
        client.send(b"\r")
        eventually(plane.is_idle, "nothing under way")  # asked for between the two: the worker has turned
        assert plane.rejected("bad_request") == 0
        client.send(b"\n" + request())
        assert client.answer().status == 200


@pytest.mark.parametrize("before", [b"\n", b"\r\n\n", b"\r\r\n"])
def test_a_lone_cr_or_lf_before_a_request_is_refused(plane: Plane, before: bytes) -> None:
    client = plane.client()
    client.send(before)
    client.send(request())
    assert client.answer().status == 400
    assert client.is_ended()


def test_empty_lines_before_a_request_are_ignored(plane: Plane) -> None:
    client = plane.client()
    client.send(b"\r\n\r\n" + request())
    assert client.answer().status == 200


def test_twenty_pipelined_requests_are_answered_in_order(plane: Plane) -> None:
    plane.blue.script = answering(echo_target)
    client = plane.client()
    client.send(b"".join(request(target=f"/{i}") for i in range(20)))
    assert [client.answer().body.decode() for _ in range(20)] == [f"/{i}" for i in range(20)]
    assert [asked.target for asked in plane.blue.requests] == [f"/{i}" for i in range(20)]


def test_a_request_that_comes_while_another_is_answered_waits_its_turn(plane: Plane) -> None:
    release = threading.Event()

    def script(conversation: Conversation) -> None:
        while True:
            asked = conversation.request()
            release.wait(10)
            conversation.send(echo_target(asked))

    plane.blue.script = script
    client = plane.client()
    client.send(request(target="/0"))
    eventually(lambda: plane.blue.requests, "the first request")
    for number in range(1, 5):
        client.send(request(target=f"/{number}"))
    assert [asked.target for asked in plane.blue.requests] == ["/0"]
    release.set()
    assert [client.answer().body for _ in range(5)] == [b"/0", b"/1", b"/2", b"/3", b"/4"]


@pytest.mark.says("At most `pipeline` further requests")
def test_what_is_pipelined_without_end_is_not_read_without_end(plane: Plane) -> None:
    plane.blue.script = silent
    before = plane.worker.resident_bytes()
    client = plane.client()
    client.sock.setblocking(False)
    pushed, piece = 0, request(target="/" + "x" * 1000) * 1000

    def is_held_back() -> bool:
        nonlocal pushed
        try:
            pushed += client.sock.send(piece)
        except BlockingIOError:
            # Once more after a while: a full buffer may only mean that the worker had no time yet.
            return not select.select([], [client.sock], [], 0.3)[1]
        return False

    eventually(is_held_back, "the client to be held back")
    assert pushed < 256 << 20
    assert plane.worker.resident_bytes() - before < 16 << 20


def test_a_request_with_a_body_may_be_pipelined_between_others(plane: Plane) -> None:
    plane.blue.script = answering(lambda asked: response(200, asked.target.encode() + asked.body))
    client = plane.client()
    posts = request("POST", "/b", body=b"1" * 100_000), CHUNKED_POST + chunked(b"22", b"3")
    client.send(request(target="/a") + posts[0] + request(target="/c") + posts[1] + request(target="/e"))
    answers = [client.answer().body for _ in range(5)]
    assert answers == [b"/a", b"/b" + b"1" * 100_000, b"/c", b"/223", b"/e"]


def test_nothing_behind_a_request_that_closes_is_served(plane: Plane) -> None:
    plane.blue.script = answering(echo_target)
    client = plane.client()
    client.send(request("GET", "/first", "Connection: close") + request(target="/never"))
    answer = client.answer()
    assert (answer.body, answer.one("Connection")) == (b"/first", "close")
    assert client.is_ended()
    assert [asked.target for asked in plane.blue.requests] == ["/first"]


def test_nothing_behind_a_refused_request_is_served(plane: Plane) -> None:
    client = plane.client()
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + request(target="/never"))
    answer = client.answer()
    assert (answer.status, answer.one("X-BG-Reason"), answer.one("Connection")) == (400, "bad_request", "close")
    assert client.is_ended()
    assert plane.blue.requests == []
    assert plane.rejected("bad_request") == 1


# --- HTTP/1.0 ---------------------------------------------------------------------------------------------------------


def test_a_1_0_client_is_answered_and_left(plane: Plane) -> None:
    client = plane.client()
    client.send(request(version="1.0"))
    answer = client.answer()
    assert (answer.body, answer.one("Connection")) == (b"hello", "close")
    assert client.is_ended()
    assert plane.blue.requests[0].first == "GET / HTTP/1.1"


def test_a_1_0_client_that_asks_for_it_is_kept(plane: Plane) -> None:
    client = plane.client()
    for _ in range(2):
        client.send(request("GET", "/", "Connection: keep-alive", version="1.0"))
        answer = client.answer()
        assert (answer.body, answer.one("Connection")) == (b"hello", "keep-alive")


def test_a_1_0_client_gets_an_unknown_length_as_everything_up_to_the_close(plane: Plane) -> None:
    plane.blue.script = answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"ab", b"c"))
    client = plane.client()
    client.send(request("GET", "/", "Connection: keep-alive", version="1.0"))
    answer = client.answer()
    assert (answer.body, answer.one("Transfer-Encoding"), answer.one("Connection")) == (b"abc", "", "close")


def test_a_1_0_request_without_a_host_is_given_the_address_that_was_used(plane: Plane) -> None:
    client = plane.client()
    client.send(b"GET / HTTP/1.0\r\n\r\n")
    assert client.answer().status == 200
    (asked,) = plane.blue.requests
    assert asked.one("Host") == f"127.0.0.1:{plane.worker.address.port}"
    on_ipv6 = plane.client(address=plane.worker.addresses[1])
    on_ipv6.send(b"GET / HTTP/1.0\r\n\r\n")
    assert on_ipv6.answer().status == 200
    assert plane.blue.requests[1].one("Host") == f"[::1]:{plane.worker.addresses[1].port}"
    on_socket = plane.client(address=plane.worker.addresses[2])
    on_socket.send(b"GET / HTTP/1.0\r\n\r\n")
    assert on_socket.answer().status == 200
    assert plane.blue.requests[2].one("Host") == "localhost"


# --- who the client is ------------------------------------------------------------------------------------------------


def test_what_an_untrusted_client_says_about_itself_is_dropped(plane: Plane) -> None:
    claims = [f"{name}: 6.6.6.6" for name in ("X-Forwarded-For", "X-Real-IP", "Forwarded", "X-Forwarded-Host")]
    plane.client().ask("GET", "/", *claims, "X-Forwarded-Proto: https", "X-Request-ID: mine", "X-BG-Colour: green")
    (asked,) = plane.blue.requests
    assert asked.one("X-Forwarded-For") == "127.0.0.1"
    assert asked.one("X-Forwarded-Proto") == "http"
    assert asked.one("X-Forwarded-Host") == asked.one("Host") == "app.example"
    assert asked.one("Via") == "1.1 bgproxy"
    assert asked.one("X-Request-ID") not in ("", "mine")
    assert "6.6.6.6" not in asked.raw.decode()
    assert asked.all("X-BG-Colour") == []


def test_what_a_trusted_proxy_says_is_passed_on(plane: Plane) -> None:
    plane.configure(settings(trusted_proxies=("127.0.0.0/8",)))
    said = ("X-Forwarded-For: 9.9.9.9", "X-Forwarded-Proto: https", "X-Real-IP: 9.9.9.9", "X-Request-ID: theirs")
    plane.client().ask("GET", "/", *said)
    (asked,) = plane.blue.requests
    assert asked.one("X-Forwarded-For") == "9.9.9.9, 127.0.0.1"
    assert asked.one("X-Forwarded-Proto") == "https"
    assert asked.one("X-Real-IP") == "9.9.9.9"
    assert asked.one("X-Request-ID") == "theirs"


def test_a_trusted_proxy_that_says_nothing_gets_the_usual_fields(plane: Plane) -> None:
    plane.configure(settings(trusted_proxies=("127.0.0.1/32",)))
    plane.client().ask("GET", "/", "Cookie: a=b", "Expect: 100-continue")
    plane.client().ask()
    for asked in plane.blue.requests:
        assert asked.one("X-Forwarded-For") == "127.0.0.1"
        assert asked.one("X-Request-ID")


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "status", "reason"),
    [
        (request("GET", "/", "X-Long: " + "x" * 1100), 431, "head_too_large"),
        (request("GET", "/", *(f"X-{i}: 1" for i in range(11))), 431, "too_many_fields"),
        (b"GET / HTTP/1.1\r\nX-Endless: " + b"x" * 1100, 431, "head_too_large"),
        (request(target="/" + "t" * 250), 414, "target_too_long"),
        (b"GET /" + b"t" * 300, 414, "target_too_long"),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400, "bad_request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", 400, "bad_request"),
        (b"GET /\r\n", 400, "bad_request"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "unsupported"),
        (request("CONNECT", "a:1"), 501, "unsupported"),
    ],
)
def test_what_is_over_a_limit_or_not_http_is_refused(plane: Plane, sent: bytes, status: int, reason: str) -> None:
    plane.configure(settings(limits={"head_bytes": 1024, "header_count": 10, "target_bytes": 200}))
    client = plane.client()
    client.send(sent)
    answer = client.answer()
    assert (answer.status, answer.one("X-BG-Reason"), answer.one("Connection")) == (status, reason, "close")
    assert client.is_ended()
    assert plane.rejected(reason) == 1
    assert plane.blue.conversations == []


def test_a_refused_head_request_gets_no_body(plane: Plane) -> None:
    client = plane.client()
    client.send(b"HEAD / HTTP/1.1\r\n\r\n")
    assert client.answer("HEAD").status == 400
    assert client.is_ended()


def test_an_announced_body_over_the_limit_is_refused_before_anything_is_sent(plane: Plane) -> None:
    plane.configure(settings(limits={"body_bytes": 10}))
    assert plane.client().ask("POST", "/", body=b"x" * 10).status == 200
    client = plane.client()
    assert client.ask("POST", "/", body=b"x" * 11).status == 413
    assert client.is_ended()
    assert [len(asked.body) for asked in plane.blue.requests] == [10]
    assert plane.rejected("body_too_large") == 1


def test_a_chunked_body_over_the_limit_is_never_completed_upstream(plane: Plane) -> None:
    plane.configure(settings(limits={"body_bytes": 10}))
    plane.blue.script = answering(echo_body)
    fitting = plane.client()
    fitting.send(CHUNKED_POST + chunked(b"x" * 6, b"y" * 4))
    assert fitting.answer("POST").body == b"x" * 6 + b"y" * 4
    client = plane.client()
    client.send(CHUNKED_POST + b"6\r\nxxxxxx\r\n")
    client.send(b"5\r\nyyyyy\r\n0\r\n\r\n")
    assert client.answer("POST").status == 413
    assert client.is_ended()
    eventually(lambda: all(one.ended.is_set() for one in plane.blue.conversations), "the upstream connection's end")
    assert len(plane.blue.requests) == 1


def test_a_malformed_chunk_is_refused_and_never_passed_on(plane: Plane) -> None:
    client = plane.client()
    client.send(CHUNKED_POST + b"3\r\nabc\r\n", b"0x3\r\nabc\r\n0\r\n\r\n" + request(target="/smuggled"))
    assert client.answer("POST").status == 400
    assert client.is_ended()
    assert plane.blue.requests == []


@pytest.mark.says("After `requests` of them")
def test_a_connection_carries_so_many_requests_and_its_last_answer_says_that_it_is_the_last(plane: Plane) -> None:
    plane.configure(settings(limits={"requests": 3}))
    client = plane.client()
    assert [client.ask().one("Connection") for _ in range(2)] == ["", ""]
    client.send(request() + request(target="/never"))
    last = client.answer()
    assert (last.body, last.one("Connection")) == (b"hello", "close")
    assert client.is_ended()
    assert "/never" not in [asked.target for asked in plane.blue.requests]
    assert plane.counted(slot.closed_cell("requests")) == 1
    with_bodies = plane.client()
    answers = [with_bodies.ask("POST", body=b"x").one("Connection") for _ in range(3)]
    assert (answers, with_bodies.is_ended()) == (["", "", "close"], True)
    assert plane.counted(slot.closed_cell("requests")) == 2


def test_a_connection_without_that_limit_goes_on(plane: Plane) -> None:
    plane.configure(settings(limits={"requests": 0}))
    client = plane.client()
    assert {client.ask().one("Connection") for _ in range(20)} == {""}
    assert plane.counted(slot.closed_cell("requests")) == 0


def test_a_client_that_closes_anyway_is_not_counted_as_closed_for_it(plane: Plane) -> None:
    plane.configure(settings(limits={"requests": 1}))
    assert plane.client().ask("GET", "/", "Connection: close").one("Connection") == "close"
    assert plane.counted(slot.closed_cell("requests")) == 0


def test_it_is_counted_how_often_a_client_that_pipelines_was_no_longer_read_from(plane: Plane) -> None:
    plane.configure(settings(limits={"pipeline": 2}))
    plane.blue.script = silent
    client = plane.client()
    client.send(request() + request())
    eventually(lambda: plane.cells[slot.IN_FLIGHT] == 1, "the first request")
    assert plane.counted(slot.PIPELINE_PAUSES) == 0
    client.send(request())
    eventually(lambda: plane.counted(slot.PIPELINE_PAUSES) == 1, "the pause")


# --- time -------------------------------------------------------------------------------------------------------------


def test_a_head_that_drips_is_cut_at_its_deadline(plane: Plane) -> None:
    plane.configure(settings(timeouts={"header": 0.3}))
    client = plane.client()
    client.send(b"GET / HTTP/1.1\r\n")
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.05):
            try:
                client.send(b"X-A: b\r\n")
            except OSError:
                return

    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        answer = client.answer()
    finally:
        stop.set()
        dripping.join()
    assert (answer.status, answer.one("X-BG-Reason")) == (408, "header_timeout")
    assert client.is_ended()


def test_a_body_that_stops_coming_is_cut_and_the_upstream_is_not_told_it_was_whole(plane: Plane) -> None:
    plane.configure(settings(timeouts={"body_idle": 0.3}))
    client = plane.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf")
    answer = client.answer("POST")
    assert (answer.status, answer.one("X-BG-Reason")) == (408, "body_timeout")
    assert client.is_ended()
    assert plane.blue.requests == []
    assert plane.answered("POST", 408) == 1


def test_an_idle_connection_is_closed_without_a_word(plane: Plane) -> None:
    plane.configure(settings(timeouts={"keep_alive": 0.3, "header": 0.3}))
    never_used, used, untidy = plane.client(), plane.client(), plane.client()
    assert used.ask().status == untidy.ask().status == 200
    untidy.send(b"\r\n")  # as old clients do behind a body
    assert never_used.rest() == used.rest() == untidy.rest() == b""
    assert plane.rejected("header_timeout") == 0
    assert plane.counted(slot.closed_cell("keep_alive")) == 3


def test_a_client_that_stops_reading_is_cut(plane: Plane) -> None:
    plane.configure(settings(timeouts={"write_idle": 0.3}))
    size = 64 << 20
    plane.blue.script = answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
    client = plane.client(receive_buffer=4096)
    client.send(request())
    eventually(lambda: plane.rejected("write_timeout") == 1, "the write timeout")
    with pytest.raises((Ended, ConnectionResetError)):
        client.answer()


# --- the end of a connection ------------------------------------------------------------------------------------------


def test_a_client_that_has_said_all_it_wants_still_gets_its_answers(plane: Plane) -> None:
    release = threading.Event()

    def script(conversation: Conversation) -> None:
        while True:
            asked = conversation.request()
            release.wait(10)
            conversation.send(echo_target(asked))

    plane.blue.script = script
    client = plane.client()
    client.send(request(target="/1") + request(target="/2"))
    client.finish_sending()
    eventually(lambda: plane.blue.requests, "the first request")
    release.set()
    assert [client.answer().body, client.answer().body] == [b"/1", b"/2"]
    assert client.is_ended()


@pytest.mark.says("Half-closed clients")
def test_a_client_that_half_closes_and_is_never_answered_is_taken_for_gone(plane: Plane) -> None:
    plane.blue.script = silent
    client = plane.client()
    client.send(request())
    client.finish_sending()
    assert client.is_ended()
    eventually(lambda: plane.answered("GET", 499) == 1, "the 499")


def test_a_half_closed_client_does_not_take_a_silence_for_the_end_of_its_answer(plane: Plane) -> None:
    def script(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        conversation.rest()

    plane.blue.script = script
    client = plane.client()
    client.send(request(version="1.0"))
    client.until(b"\r\n\r\nhalf")
    client.finish_sending()
    with pytest.raises(ConnectionResetError):
        client.rest()
    eventually(lambda: plane.failed("client_gone") == 1, "its being taken for gone")


def test_a_half_closed_client_whose_pipelined_body_comes_short_is_taken_for_gone(plane: Plane) -> None:
    release = threading.Event()

    def script(conversation: Conversation) -> None:
        asked = conversation.request()
        release.wait(10)
        conversation.send(echo_target(asked))
        conversation.request()

    plane.blue.script = script
    client = plane.client()
    client.send(request(target="/1") + b"POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nshort")
    client.finish_sending()
    eventually(lambda: plane.blue.requests, "the first request")
    release.set()
    assert client.answer().body == b"/1"
    assert client.is_ended()
    eventually(lambda: plane.answered("POST", 499) == 1, "the 499")
    assert [asked.target for asked in plane.blue.requests] == ["/1"]


def test_a_half_closed_client_that_leaves_half_a_head_behind_empty_lines_is_closed_at_once(plane: Plane) -> None:
    plane.configure(settings(timeouts={"header": 60.0, "keep_alive": 60.0}))
    client = plane.client()
    client.send(request("POST", body=b"a") + b"\r\n\r\nGET /half HT")
    client.finish_sending()
    assert client.answer().status == 200
    assert client.is_ended()


def test_a_half_closed_client_whose_last_bytes_are_wrong_hears_so(plane: Plane) -> None:
    client = plane.client()
    client.send(request() + b"GET /\n")
    client.finish_sending()
    assert [client.answer().status, client.answer().status] == [200, 400]
    assert client.is_ended()


def test_a_half_closed_client_that_leaves_an_incomplete_request_is_closed(plane: Plane) -> None:
    client = plane.client()
    client.send(request() + b"GET /half HT")
    client.finish_sending()
    assert client.answer().body == b"hello"
    assert client.is_ended()


def test_a_client_that_leaves_takes_its_upstream_connection_with_it(plane: Plane) -> None:
    plane.blue.script = silent
    client = plane.client()
    client.send(request())
    eventually(lambda: plane.blue.conversations, "the request")
    client.reset()
    assert plane.blue.conversations[0].ended.wait(10), "the upstream learns of it"
    eventually(lambda: plane.answered("GET", 499) == 1, "the 499")
    assert plane.failed("client_gone") == 1


def test_a_client_that_leaves_in_the_middle_of_its_body_completes_nothing(plane: Plane) -> None:
    for end in ("finish_sending", "reset"):
        client = plane.client()
        client.send(CHUNKED_POST + b"3\r\nabc\r\n")
        eventually(lambda: plane.cells[slot.IN_FLIGHT] == 1, "the request")
        getattr(client, end)()
        eventually(plane.is_idle, "the end of the request")
    eventually(lambda: plane.answered("POST", 499) == 2, "both to be counted")
    assert plane.blue.requests == []


# --- what no real socket shows reliably -------------------------------------------------------------------------------


class FakeTransport:
    """Notes whether reading goes on; `unwritten` is what the kernel has not taken yet."""

    def __init__(self) -> None:
        self.reading = True
        self.aborted = False
        self.unwritten = 0
        self.get_write_buffer_size = lambda: self.unwritten
        self.is_closing = lambda: self.aborted
        self.close = lambda: None
        self.get_extra_info = {"socket": IDLE_SOCKET}.get

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True

    def abort(self) -> None:
        self.aborted = True


class FakePlane:
    """As much of a plane as a connection needs whose requests are not looked at."""

    def __init__(self) -> None:
        self.later: list[object] = []
        self.loop = SimpleNamespace(call_soon=self.later.append)
        self.turn = Turn(self.loop)  # type: ignore[arg-type]
        self.deadlines = SimpleNamespace(now=1000)
        self.buffers = Buffers(self.later.append)
        self.write_idle_ns, self.keep_alive_ns = 30, 75
        self.requests_per_connection = 0
        self.draining = False
        self.cells = [0] * slot.SLOT_CELLS


@pytest.fixture
def client() -> Downstream:
    made = Downstream(FakePlane())  # type: ignore[arg-type]
    made.transport = FakeTransport()  # type: ignore[assignment]
    return made


def test_an_end_of_input_does_not_overtake_a_whole_request_that_waits_its_turn(client: Downstream) -> None:
    client._buffer = request()
    assert client.eof_received(), "the connection stays open for the answer"
    client._buffer = b"GET / HT"
    assert client.eof_received(), "it may be wrong already, and would be refused then"
    client._buffer = b""
    assert not client.eof_received()


def test_no_further_request_is_read_from_a_client_that_has_not_taken_its_answer(client: Downstream) -> None:
    client.pause_writing()
    client.exchange_over(close=False)
    assert not client.transport.reading  # type: ignore[attr-defined]
    assert client.deadline == 1030, "the write timeout goes on"
    client.resume_writing()
    assert client.transport.reading  # type: ignore[attr-defined]
    assert client.deadline == 1075


@pytest.mark.says("Slow peers, in tunnels too")
def test_a_slow_reader_is_cut_only_once_it_takes_nothing_any_more(client: Downstream) -> None:
    transport = client.transport
    transport.unwritten = 100  # type: ignore[attr-defined]
    client.pause_writing()
    transport.unwritten = 60  # type: ignore[attr-defined]
    client.on_deadline(2000)
    assert (client.deadline, transport.is_closing()) == (2030, False)
    client.on_deadline(2030)
    assert transport.is_closing()
    assert client._plane.cells[slot.rejected_cell("write_timeout")] == 1


def test_what_has_just_come_stays_behind_what_was_pipelined_before(client: Downstream) -> None:
    client._buffer, client.waiting = request(target="/1"), request(target="/2")
    client._next_request()
    assert (client._buffer, client.waiting) == (request(target="/1"), request(target="/2")), "joined when handled"


def test_a_pipelined_request_waits_until_the_answer_before_it_is_taken(client: Downstream) -> None:
    client._buffer = request()
    client.exchange_over(close=False)
    client.pause_writing()
    client._next_request()
    assert client.waiting is None
    client.resume_writing()
    assert client.waiting == request()


def test_an_end_of_input_does_not_overtake_an_answer_that_waits_to_be_written(client: Downstream) -> None:
    written: list[bytes] = []
    client._turn.write(written.append, b"answer")
    assert not client.eof_received()
    assert written == [b"answer"], "before the connection is closed"


def test_an_end_of_input_does_not_overtake_a_body_that_waits_for_a_connection(client: Downstream) -> None:
    ended: list[bool] = []
    client.exchange = SimpleNamespace(upstream=None, client_gone=lambda: ended.append(True))  # type: ignore[assignment]
    client.upload, client._buffer = object(), b"body"
    assert client.eof_received(), "the connection stays open for the answer"
    assert not ended
    client._buffer = b""
    assert not client.eof_received()
    assert ended


def test_a_deadline_does_not_overtake_what_has_come(client: Downstream) -> None:
    client.waiting = request()
    client.on_deadline(2000)
    assert (client.closing, client.deadline) == (False, 2000)


def test_a_slow_reader_that_is_cut_is_told_so_in_the_log(client: Downstream) -> None:
    ended: list[str] = []
    client.exchange = SimpleNamespace(upstream=None, client_gone=ended.append)  # type: ignore[assignment]
    client.pause_writing()
    client.on_deadline(2000)
    assert (ended, client.exchange) == (["timeout"], None)


def test_who_waits_for_what_is_known_by_its_deadline(client: Downstream) -> None:
    plane = client._plane
    plane.header_ns = 10
    client.deadline = 1000
    assert client.idle_since() == 1000 - plane.keep_alive_ns
    client._buffer = b"GET"
    assert client.idle_since() == 1000 - plane.header_ns
    client.is_slow = True
    assert client.idle_since() == 1000 - plane.write_idle_ns
    client.deadline = 0
    assert client.idle_since() == 1
    client.waiting = b"GET"
    assert client.idle_since() == 0
    client.waiting, client.closing = None, True
    assert client.idle_since() == 0
    client.closing, client.exchange = False, object()  # type: ignore[assignment]
    assert client.idle_since() == 0


def test_a_slow_reader_is_given_its_last_answer_before_it_is_left(client: Downstream) -> None:
    transport = client.transport
    transport.unwritten = 100  # type: ignore[attr-defined]
    client.close()
    transport.unwritten = 60  # type: ignore[attr-defined]
    client.on_deadline(2000)
    assert (client.deadline, transport.is_closing()) == (2030, False)
    client.on_deadline(2030)
    assert transport.is_closing()
