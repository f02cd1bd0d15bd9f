"""One stream of messages read by three parsers: the strictest reading there is, h11, and llhttp.

`strict_requests` and `strict_responses` know no leniency at all: whatever is not exactly RFC 9112, or could be read in
two ways, raises `Doubt`. The other readers say what independent implementations make of the same bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import h11
import httptools

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Fields = tuple[tuple[bytes, bytes], ...]

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rb"(%b) ([!-~]+) HTTP/1\.1" % _TOKEN)
_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9][0-9])(?: [\t -~\x80-\xff]*)?")
_FIELD = re.compile(rb"(%b):[ \t]*((?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)[ \t]*" % _TOKEN)
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]+)(?::[0-9]*)?")
_MANY = 1 << 24  # bytes of one event that h11 accepts


class Doubt(Exception):
    """These bytes are not HTTP, or could be read in two ways."""


@dataclass(frozen=True)
class Read:
    """`first` is (method, target) or (status,); names lower-case, values without surrounding blanks."""

    first: tuple[bytes, ...]
    fields: Fields
    body: bytes
    trailers: Fields = ()

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.fields if key == name]


# --- strictly --------------------------------------------------------------------------------------------------------


def strict_requests(stream: bytes) -> tuple[list[Read], bytes]:
    """(every whole request, what is behind the last of them: the beginning of one that is not whole)."""
    read: list[Read] = []
    while stream:
        one = strict_request(stream)
        if one is None:
            break
        read.append(one[0])
        stream = stream[one[1] :]
    return read, stream


def strict_responses(stream: bytes, methods: Sequence[bytes], *, ended: bool) -> tuple[list[Read], bytes]:
    """(every whole response to requests of these methods, interim ones included, what is behind them). `ended`: the
    connection has been closed in order."""
    read: list[Read] = []
    waiting = list(methods)
    while stream and waiting:
        one = _strict_response(stream, waiting[0], ended=ended)
        if one is None:
            break
        read.append(one[0])
        stream = stream[one[1] :]
        if one[0].first == (b"101",):  # what follows is another protocol
            break
        if not one[0].first[0].startswith(b"1"):
            waiting.pop(0)
    return read, stream


def _head(stream: bytes) -> tuple[bytes, list[tuple[bytes, bytes]], int] | None:
    end = stream.find(b"\r\n\r\n")
    if end < 0:
        return None
    first, *lines = stream[:end].split(b"\r\n")
    return first, [_field(line) for line in lines], end + 4


def _field(line: bytes) -> tuple[bytes, bytes]:
    match = _FIELD.fullmatch(line)
    if match is None:
        raise Doubt(f"not a field line: {line!r}")
    return match[1].lower(), match[2]


def _framing(fields: list[tuple[bytes, bytes]]) -> bytes:
    """b"chunked", the digits of a length, or b"" where neither is there."""
    names = [re.sub(rb"[^0-9a-z]", b"-", name) for name, _ in fields]  # as CGI-like servers see them
    lengths, codings = names.count(b"content-length"), names.count(b"transfer-encoding")
    if lengths + codings > 1:
        raise Doubt("framed twice")
    values = dict(fields)
    if codings:
        if values.get(b"transfer-encoding", b"").lower() != b"chunked":
            raise Doubt("a transfer coding that is not exactly chunked")
        return b"chunked"
    if lengths:
        length = values.get(b"content-length", b"")
        if not length.isdigit() or len(length) > 18:
            raise Doubt(f"not a length: {length!r}")
        return length
    return b""


def strict_request(stream: bytes) -> tuple[Read, int] | None:
    """(the first request, where it ends), None where it is not whole."""
    found = _head(stream)
    if found is None:
        return None
    first, fields, end = found
    line = _REQUEST_LINE.fullmatch(first)
    if line is None:
        raise Doubt(f"not a request line: {first!r}")
    hosts = [value for name, value in fields if name == b"host"]
    if len(hosts) != 1 or _HOST.fullmatch(hosts[0]) is None:
        raise Doubt(f"not exactly one valid Host: {hosts!r}")
    return _with_body(line.groups(), fields, stream, end, _framing(fields) or b"0")


def _strict_response(stream: bytes, method: bytes, *, ended: bool) -> tuple[Read, int] | None:
    found = _head(stream)
    if found is None:
        return None
    first, fields, end = found
    line = _STATUS_LINE.fullmatch(first)
    if line is None:
        raise Doubt(f"not a status line: {first!r}")
    framing = _framing(fields)
    if method == b"HEAD" or line[1] in (b"204", b"304") or line[1].startswith(b"1"):
        return Read((line[1],), tuple(fields), b""), end
    if framing:
        return _with_body((line[1],), fields, stream, end, framing)
    return (Read((line[1],), tuple(fields), stream[end:]), len(stream)) if ended else None


def _with_body(
    first: tuple[bytes, ...], fields: list[tuple[bytes, bytes]], stream: bytes, at: int, framing: bytes
) -> tuple[Read, int] | None:
    if framing != b"chunked":
        end = at + int(framing)
        return None if end > len(stream) else (Read(first, tuple(fields), stream[at:end]), end)
    body = b""
    while True:
        line_end = stream.find(b"\r\n", at)
        if line_end < 0:
            return None
        size = stream[at:line_end]
        if re.fullmatch(rb"[0-9a-fA-F]{1,15}", size) is None:
            raise Doubt(f"not a plain chunk size: {size!r}")
        at = line_end + 2
        if int(size, 16) == 0:
            break
        if len(stream) < at + int(size, 16) + 2:
            return None
        body += stream[at : at + int(size, 16)]
        at += int(size, 16) + 2
        if stream[at - 2 : at] != b"\r\n":
            raise Doubt("a chunk does not end with CRLF")
    trailers = []
    while (line_end := stream.find(b"\r\n", at)) != at:
        if line_end < 0:
            return None
        trailers.append(_field(stream[at:line_end]))
        at = line_end + 2
    return Read(first, tuple(fields), body, tuple(trailers)), at + 2


# --- h11 -------------------------------------------------------------------------------------------------------------


def h11_requests(stream: bytes, *, at_most: int = 1 << 30) -> list[Read]:
    """Every whole request, or the first `at_most`; `Doubt` where h11 refuses one of them."""
    read: list[Read] = []
    while stream and len(read) < at_most:
        server = h11.Connection(h11.SERVER, max_incomplete_event_size=_MANY)  # a new one: it keeps no HTTP/1.0 alive
        server.receive_data(stream)
        one = _h11_message(server, h11.Request)
        if one is None:
            break
        read.append(one)
        stream = server.trailing_data[0]
    return read


def h11_responses(stream: bytes, methods: Sequence[bytes], *, ended: bool) -> list[Read]:
    """Every whole response to requests of these methods, interim ones included; `Doubt` where h11 refuses one."""
    client = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MANY)
    client.receive_data(stream)
    if ended:
        client.receive_data(b"")
    read: list[Read] = []
    for method in methods:
        client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
        client.send(h11.EndOfMessage())
        while (one := _h11_message(client, (h11.Response, h11.InformationalResponse))) is not None:
            read.append(one)
            if not one.first[0].startswith(b"1"):
                break
        if one is None or client.our_state is not h11.DONE or client.their_state is not h11.DONE:
            break
        client.start_next_cycle()
    return read


def _h11_message(reader: h11.Connection, kinds: Any) -> Read | None:
    try:
        head = reader.next_event()
        if not isinstance(head, kinds):
            return None
        fields = tuple(head.headers)
        if isinstance(head, h11.InformationalResponse):
            return Read((b"%d" % head.status_code,), fields, b"")
        body = b""
        while isinstance(event := reader.next_event(), h11.Data):
            body += bytes(event.data)
    except h11.RemoteProtocolError as error:
        if any(words in str(error) for words in ("closed", "incomplete", "ConnectionClosed")):
            return None
        raise Doubt(f"h11: {error}") from None
    if not isinstance(event, h11.EndOfMessage):
        return None
    first = (head.method, head.target) if isinstance(head, h11.Request) else (b"%d" % head.status_code,)
    return Read(first, fields, body, tuple(event.headers))


# --- llhttp ----------------------------------------------------------------------------------------------------------


class _Listener:
    """Callbacks of httptools, which hands trailers out like fields."""

    def __init__(self, first: Callable[[], tuple[bytes, ...]]) -> None:
        self.read: list[Read] = []
        self._first = first
        self.on_message_begin()

    def on_message_begin(self) -> None:
        self.url = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._head_fields: Fields | None = None
        self._body = b""

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self._head_fields, self._fields = tuple(self._fields), []

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self.read.append(Read(self._first(), self._head_fields or (), self._body, tuple(self._fields)))


def llhttp_requests(stream: bytes, *, at_most: int = 1 << 30) -> list[Read]:
    """Every whole request, or the first `at_most`; `Doubt` where llhttp refuses one of them."""
    listener = _Listener(lambda: (parser.get_method(), listener.url))
    parser = httptools.HttpRequestParser(listener)
    try:
        parser.feed_data(stream)
    except httptools.HttpParserUpgrade:  # what follows would be another protocol
        pass
    except httptools.HttpParserError as error:
        if len(listener.read) < at_most:
            raise Doubt(f"llhttp: {error}") from None
    return listener.read[:at_most]


def llhttp_response(stream: bytes) -> Read | None:
    """The first response, which is not one to HEAD and is framed; None where it is not whole."""
    listener = _Listener(lambda: (b"%d" % parser.get_status_code(),))
    parser = httptools.HttpResponseParser(listener)
    try:
        parser.feed_data(stream)
    except httptools.HttpParserError as error:
        raise Doubt(f"llhttp: {error}") from None
    return listener.read[0] if listener.read else None


# --- all three -------------------------------------------------------------------------------------------------------


def agreed_requests(stream: bytes) -> tuple[list[Read], bytes]:
    """What all three read in this stream, and the strict reading's rest; `Doubt` where they do not agree."""
    strict, rest = strict_requests(stream)
    whole = stream[: len(stream) - len(rest)]
    for name, reader in (("h11", h11_requests), ("llhttp", llhttp_requests)):
        other = reader(whole)
        upgrade = next((i + 1 for i, one in enumerate(strict) if one.all(b"upgrade")), len(strict))
        if other[:upgrade] != strict[:upgrade]:
            raise Doubt(f"{name} reads {other}, strictly it is {strict}")
        if reader(stream)[:upgrade] != strict[:upgrade]:
            raise Doubt(f"{name} finds a further request in {rest!r}")
    return strict, rest
