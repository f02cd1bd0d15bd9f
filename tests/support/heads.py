"""Heads for the tests of wire/: written in one line, read by the real readers, shown as what an upstream would get."""

from __future__ import annotations

from bgproxy.wire import encode, forwarded
from bgproxy.wire.request import Refusal, RequestHead, RequestReader
from bgproxy.wire.response import BadResponse, ResponseHead, ResponseReader

PEER = b"192.0.2.7"
OWN_ID = b"made-here"
HEADER_COUNT, TARGET_BYTES = 20, 256


def request_reader() -> RequestReader:
    return RequestReader(header_count=HEADER_COUNT, target_bytes=TARGET_BYTES, request_id="X-Request-ID")


def reader_that_has_seen(*hosts: bytes) -> RequestReader:
    """One that takes the plain path wherever a request looks plain."""
    reader = request_reader()
    for host in hosts:
        assert isinstance(reader.read(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n"), RequestHead)
    return reader


def request(line: str = "GET / HTTP/1.1", *fields: str | bytes, host: str | None = "example.org") -> bytes:
    """A whole head with one Host first, or none."""
    first = [line.encode("latin-1")] + ([f"Host: {host}".encode("latin-1")] if host is not None else [])
    lines = first + [field if isinstance(field, bytes) else field.encode("latin-1") for field in fields]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def read(head: bytes) -> RequestHead | Refusal:
    """What a reader says that has never seen the host, checked against what it says when it has."""
    reader = reader_that_has_seen(b"example.org")
    warm, warmer = reader.read(head), reader.read(head)
    assert outcome(warm) == outcome(warmer) == outcome(request_reader().read(head))
    return reader.read(head)


def outcome(answer: RequestHead | Refusal) -> tuple[object, ...]:
    """All that matters of an answer, comparable. The order of different fields does not matter."""
    if isinstance(answer, Refusal):
        return answer.status, answer.reason, answer.detail
    said = answer.method, answer.target, answer.host, answer.body, answer.minor
    return (
        *said,
        answer.scheme,
        answer.keep_alive,
        answer.upgrade,
        answer.expects_continue,
        tuple(sorted(_encode(answer).split(b"\r\n"))),
    )


def accepted(head: bytes) -> RequestHead:
    answer = read(head)
    assert isinstance(answer, RequestHead), f"{answer.status}: {answer.detail}"
    return answer


def refused(head: bytes) -> int:
    """The status of a head that has to be refused."""
    answer = read(head)
    assert isinstance(answer, Refusal), f"accepted, and sent as {_encode(answer)!r}"
    return answer.status


def _encode(request: RequestHead) -> bytes:
    return encode.request(request, forwarded.lines(PEER, b"http", request.host), b"\r\nX-Request-ID: " + OWN_ID)


def sent(head: bytes) -> list[bytes]:
    """The lines that the upstream gets, the request line first."""
    return _encode(accepted(head)).removesuffix(b"\r\n\r\n").split(b"\r\n")


def fields_sent(head: bytes, name: bytes) -> list[bytes]:
    """The values under which the upstream sees this field; `_` and `-` are the same to it."""
    pairs = [line.partition(b":") for line in sent(head)[1:]]
    return [value.strip() for found, _, value in pairs if found.lower().replace(b"_", b"-") == name.lower()]


def response(line: str = "HTTP/1.1 200 OK", *fields: str | bytes) -> bytes:
    lines = [line.encode("latin-1")] + [f if isinstance(f, bytes) else f.encode("latin-1") for f in fields]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def answered(head: bytes, method: bytes = b"GET") -> ResponseHead:
    answer = ResponseReader().read(head, head, method)
    assert isinstance(answer, ResponseHead), answer.detail
    return answer


def bad(head: bytes, method: bytes = b"GET") -> str:
    """Why this response is not to be relayed."""
    answer = ResponseReader().read(head, head, method)
    assert isinstance(answer, BadResponse), f"relayed as {answer.pieces}"
    return answer.detail
