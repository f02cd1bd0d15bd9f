"""Heads out of odd pieces: what we accept, others read as we do; what one client sends, no other notices."""

from __future__ import annotations

import h11
import httptools
from hypothesis import given, settings
from hypothesis import strategies as st

from bgproxy.wire import encode, forwarded
from bgproxy.wire.framing import CHUNKED
from bgproxy.wire.request import Refusal, RequestHead, why_hopeless, without_empty_lines
from bgproxy.wire.response import ResponseHead, ResponseReader
from tests.support.heads import TARGET_BYTES, outcome, reader_that_has_seen, request_reader
from tests.support.odd_heads import HOST_NAMES, good_requests, good_responses, request_heads, response_heads

examples = settings(max_examples=120, deadline=None, derandomize=True, database=None)
HEAD_BYTES = 1 << 16
NEXT = b"GET /next HTTP/1.1\r\nHost: next\r\n\r\n"


class Reading:
    """What llhttp makes of a stream of requests."""

    def __init__(self, stream: bytes) -> None:
        self.urls: list[bytes] = []
        self.methods: list[bytes] = []
        self.body = b""
        self.completed = 0
        self._parser = httptools.HttpRequestParser(self)
        try:
            self._parser.feed_data(stream)
        except httptools.HttpParserUpgrade:
            self.completed += 1

    def on_url(self, url: bytes) -> None:
        self.urls.append(url)

    def on_headers_complete(self) -> None:
        self.methods.append(self._parser.get_method())

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.completed += 1


def head_for_upstream(request: RequestHead) -> bytes:
    host = request.host or b"own.example"
    return encode.request(request, forwarded.lines(b"192.0.2.7", b"http", host), b"\r\nX-Request-ID: made")


def body_for(length: int) -> tuple[bytes, bytes]:
    """(the payload, the payload as it is sent)."""
    if length == CHUNKED:
        return b"hello", encode.chunk([b"hel", b"lo"]) + encode.last_chunk([])
    return b"x" * length, b"x" * length


@examples
@given(st.one_of(good_requests, request_heads))
def test_what_we_forward_is_read_by_others_as_the_request_we_read(head):
    request = reader_that_has_seen(*HOST_NAMES).read(head)
    if isinstance(request, Refusal) or request.body > 10_000:
        return
    payload, body = body_for(request.body)
    stream = head_for_upstream(request) + body

    server = h11.Connection(h11.SERVER)
    server.receive_data(stream + NEXT)
    first = server.next_event()
    assert isinstance(first, h11.Request)
    assert (first.method, first.target, first.http_version) == (request.method, request.target, b"1.1")
    read = b""
    while isinstance(event := server.next_event(), h11.Data):
        read += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    assert read == payload
    assert server.trailing_data[0] == NEXT

    reading = Reading(stream)
    assert (reading.methods, reading.urls) == ([request.method], [request.target])
    assert reading.completed >= 1
    assert reading.body == payload


@examples
@given(st.one_of(good_requests, request_heads))
def test_nothing_of_the_way_a_client_claims_reaches_the_upstream(head):
    request = reader_that_has_seen(*HOST_NAMES).read(head)
    if isinstance(request, Refusal):
        return
    lines = head_for_upstream(request).lower().removesuffix(b"\r\n\r\n").split(b"\r\n")[1:]
    names = [line.partition(b":")[0].replace(b"_", b"-") for line in lines]
    for name in (b"host", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-request-id"):
        assert names.count(name) == 1
    framing = names.count(b"content-length") + names.count(b"transfer-encoding")
    assert framing <= 1
    assert framing == 1 or request.body == 0
    assert not {b"forwarded", b"x-real-ip", b"x-bg-epoch", b"keep-alive", b"proxy-connection", b"http2-settings"} & set(
        names
    )
    assert b"connection: close" not in lines


@examples
@given(st.lists(request_heads, min_size=2, max_size=8))
def test_one_reader_for_all_clients_says_of_each_head_what_a_fresh_one_says(heads):
    shared = reader_that_has_seen(*HOST_NAMES)
    for head in heads:
        assert outcome(shared.read(head)) == outcome(request_reader().read(head))


def response_outcome(reader: ResponseReader, head: bytes, rest: bytes, method: bytes) -> tuple[object, ...]:
    answer = reader.read(head, head + rest, method)
    if not isinstance(answer, ResponseHead):
        return (answer.detail,)
    said = answer.status, answer.body, answer.length, answer.keep_alive, answer.is_event_stream
    return *said, tuple(sorted(b"".join(answer.pieces).split(b"\r\n")))


exchanges = st.tuples(
    response_heads,
    st.sampled_from([b"", b"hello", b"hello!", b"hel", b"0\r\n\r\n"]),
    st.sampled_from([b"GET"] * 3 + [b"HEAD"]),
)


@examples
@given(st.lists(exchanges, min_size=2, max_size=8))
def test_one_reader_for_all_upstreams_says_of_each_head_what_a_fresh_one_says(answers):
    shared = ResponseReader()
    for answer in answers:
        assert response_outcome(shared, *answer) == response_outcome(ResponseReader(), *answer)


@examples
@given(st.one_of(good_responses, response_heads))
def test_what_we_relay_is_read_by_a_client_as_the_response_we_read(head):
    response = ResponseReader().read(head, head, b"GET")
    if not isinstance(response, ResponseHead) or response.status < 200 or response.body > 10_000:
        return
    chunked = response.body < 0
    payload, body = body_for(CHUNKED if chunked else response.body)
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(encode.response(response, b"\r\nX-BG-Epoch: 1", body, chunked=chunked))
    first = client.next_event()
    assert isinstance(first, h11.Response)
    assert first.status_code == response.status
    assert [value for name, value in first.headers if name == b"x-bg-epoch"] == [b"1"]
    read = b""
    while isinstance(event := client.next_event(), h11.Data):
        read += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    assert read == payload
    assert client.trailing_data == (b"", False)


anything = st.one_of(
    st.binary(max_size=80), st.builds(lambda text: text + b"\r\n\r\n", st.binary(max_size=80)), request_heads
)


@examples
@given(anything, st.integers(0, 400))
def test_no_bytes_whatever_raise_an_exception(raw, length):
    reader, responses = reader_that_has_seen(*HOST_NAMES), ResponseReader()
    for _ in range(2):
        reader.read(raw)
        reader.read(raw[:length])
        responses.read(raw, raw, b"GET")
        responses.read(raw[:length], raw, b"HEAD")
    why_hopeless(without_empty_lines(raw), 60, 20)
    why_hopeless(raw[:length], 60, 20)


@examples
@given(request_heads, st.integers(0, 400))
def test_a_head_that_will_be_accepted_is_not_called_hopeless_while_it_comes(head, length):
    if isinstance(request_reader().read(head), RequestHead):
        for beginning in (head, head[:length]):
            assert why_hopeless(without_empty_lines(beginning), HEAD_BYTES, TARGET_BYTES) is None


def first_word(beginning):
    refusal = why_hopeless(beginning, 60, 20)
    return refusal and (refusal.status, refusal.detail)


@examples
@given(st.one_of(request_heads, anything))
def test_a_head_meets_the_same_refusal_however_little_of_it_has_come(head):
    head = without_empty_lines(head)
    said = [first_word(head[:length]) for length in range(len(head) + 1)]
    first = next((length for length, word in enumerate(said) if word), len(said))
    assert len(set(said[first:])) <= 1
