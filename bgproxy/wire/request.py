"""A client's request head, from raw bytes to something that may be forwarded, or to a refusal.

llhttp judges the grammar; this module judges everything that llhttp lets through (RFC 9112 sections 2.2, 3 and 6).
Almost every request has but Host and perhaps `Connection: keep-alive` for special fields: that is the plain path. The
rest, everything unusual included, goes through `_judge`.
"""

from __future__ import annotations

import re
from typing import TypeAlias

from httptools import HttpParserError

from bgproxy.wire import forwarded, hop_by_hop, upgrade
from bgproxy.wire.fields import (
    KEEP_ALIVE_SPELLINGS,
    NAMES,
    PIECES,
    collect,
    is_token,
    members,
    shapes,
    special_fields,
    without,
)
from bgproxy.wire.framing import AMBIGUOUS, UNSUPPORTED_CODING, request_body
from bgproxy.wire.parser import request_grammar

_HOST = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]{2,45}\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2}){1,255})(?::[0-9]{0,5})?"
)
_ABSOLUTE = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://([^/?]*)(/?)(.*)")
_HOSTS_REMEMBERED = 1024
_CR = 0x0D
# The first line of a request that has nothing unusual about it, at the beginning of a head or of its first piece.
_plain_line = re.compile(rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) (/[^#\x00-\x20\x7f]*) HTTP/1\.1(?:\r\n|\Z)").match
_OWN = ("host", "content-length", "expect")
_REFUSED_METHODS = {b"CONNECT": 501, b"TRACE": 405, b"PRI": 505, b"SOURCE": 501}


class Refusal:
    """A request that the proxy answers itself, after which it closes the connection. `reason` is a metric label."""

    __slots__ = ("detail", "reason", "status")

    def __init__(self, status: int, reason: str, detail: str) -> None:
        self.status = status
        self.reason = reason
        self.detail = detail


class RequestHead:
    """One request, ready to be encoded.

    `pieces` is the head, to be joined; what the proxy adds goes in behind the first of them. `body` is a number of
    bytes or framing.CHUNKED. `found` holds the special fields where the request was not a plain one. `given_id` is the
    request id that came with it, b"" for none: worth something from a trusted peer only.
    """

    __slots__ = ("given_id", "host", "method", "pieces", "target")

    # What a plain request has in common with all others of its kind; JudgedRequest has its own.
    body: int = 0
    minor: int = 1
    keep_alive: bool = True
    upgrade: bytes = b""
    expects_continue: bool = False
    found: dict[bytes, list[bytes]] | None = None

    # Not a dataclass: 135 ns to build against 500, and one is built per request.
    def __init__(self, method: bytes, target: bytes, host: bytes, given_id: bytes, pieces: list[bytes]) -> None:
        self.method = method
        self.target = target
        self.host = host
        self.given_id = given_id
        self.pieces = pieces


class JudgedRequest(RequestHead):
    """A request with anything unusual about it: a body, an upgrade, HTTP/1.0, a further special field."""

    __slots__ = ("body", "expects_continue", "found", "keep_alive", "minor", "upgrade")


ReadRequest: TypeAlias = RequestHead | Refusal


class RequestReader:
    """Reads whole heads; one for all connections of a worker.

    Bounds: `header_count` field lines, `target_bytes` for the request target. `request_id` is the name of that field.
    """

    __slots__ = (
        "_grammar",
        "_header_count",
        "_hosts",
        "_id_field",
        "_shapes",
        "_split",
        "_surely_small",
        "_target_bytes",
    )

    def __init__(self, *, header_count: int, target_bytes: int, request_id: str) -> None:
        self._header_count = header_count
        self._surely_small = min(4 * header_count, target_bytes)  # a field line takes four bytes at least
        self._target_bytes = target_bytes
        self._id_field = request_id.lower().encode()
        self._grammar = request_grammar()
        self._split = special_fields(
            (*_OWN, *hop_by_hop.REQUEST, *forwarded.FIELDS, request_id.lower()), (*forwarded.PREFIXES, "x-bg-")
        ).split
        self._shapes = shapes("Host", "Connection", request_id)
        # Hosts that were found valid. Clients name few of them; a flood of made-up ones only empties it.
        self._hosts: set[bytes] = set()

    def read(self, head: bytes) -> ReadRequest:
        """`head` ends with its empty line."""
        parts: list[bytes] = self._split(head)
        shape = self._shapes.get(tuple(parts[NAMES]))
        line = _plain_line(parts[0])
        if shape is not None and line is not None and (len(head) < self._surely_small or self._is_small(head, line[2])):
            host_at, connection_at, id_at = shape
            host = parts[host_at]
            if host in self._hosts and (not connection_at or parts[connection_at] in KEEP_ALIVE_SPELLINGS):
                try:
                    self._grammar.feed_whole(head)
                except HttpParserError:
                    self._grammar.restart()
                    return _why_invalid(head)
                method, target = line.groups()
                return RequestHead(method, target, host, parts[id_at] if id_at else b"", parts[PIECES])
        return self._judge(head)

    def _is_small(self, head: bytes, target: bytes) -> bool:
        # llhttp refuses a LF without its CR, so counting LFs counts lines, in a third of the time
        return len(target) <= self._target_bytes and head.count(b"\n") - 2 <= self._header_count

    def _judge(self, head: bytes) -> ReadRequest:
        """Every rule, for requests with anything unusual about them."""
        if not self._grammar.is_head(head):
            return _why_invalid(head)
        parts: list[bytes] = self._split(head)
        first = parts[0].partition(b"\r\n")[0] or _drop_empty_lines(parts)
        words = first.split(b" ")
        if len(words) != 3:
            return Refusal(400, "bad_request", "the request line is not 'METHOD target HTTP/1.1'")
        method, target, version = words
        if len(target) > self._target_bytes:
            return Refusal(414, "target_too_long", f"the request target is longer than {self._target_bytes} bytes")
        if not self._is_small(head, target):
            return Refusal(431, "too_many_fields", f"more than {self._header_count} header fields")
        if version not in (b"HTTP/1.1", b"HTTP/1.0"):
            return Refusal(505, "unsupported", "only HTTP/1.1 and HTTP/1.0 are spoken here")
        if method in _REFUSED_METHODS:
            return Refusal(_REFUSED_METHODS[method], "unsupported", f"{method.decode()} is not served by this proxy")
        if method not in _METHODS_SERVED:  # llhttp skips a lone CR or LF before it: "\nHEAD" would not be known as HEAD
            return Refusal(400, "bad_request", "the request does not begin with a method")
        minor = version[-1] - 0x30
        found = collect(parts)
        body = request_body(found.get(b"content-length", []), found.get(b"transfer-encoding", []), minor)
        if body == AMBIGUOUS:
            return Refusal(
                400, "bad_request", "Content-Length and Transfer-Encoding do not say clearly where the body ends"
            )
        if body == UNSUPPORTED_CODING:
            return Refusal(501, "unsupported", "the only transfer coding understood here is 'chunked'")
        where = self._target_and_host(method, target, found.get(b"host", []), minor)
        if isinstance(where, Refusal):
            return where
        target, host = where
        expects = members(found.get(b"expect", []))
        if expects and expects != [b"100-continue"]:
            return Refusal(417, "unsupported", "the only expectation understood here is '100-continue'")

        options = members(found.get(b"connection", []))
        given = found.get(self._id_field, [])
        request = JudgedRequest(method, target, host, given[0] if given else b"", [])
        request.minor, request.body, request.found = minor, body, found
        request.keep_alive = b"close" not in options and (minor == 1 or b"keep-alive" in options)
        request.upgrade = upgrade.offered(method, minor, body, options, found.get(b"upgrade", []))
        request.expects_continue = bool(expects) and minor == 1 and body != 0
        request.pieces = _rebuild(request, parts, options)
        return request

    def _target_and_host(
        self, method: bytes, target: bytes, hosts: list[bytes], minor: int
    ) -> tuple[bytes, bytes] | Refusal:
        """RFC 9112 3.2: exactly one valid Host, which the authority of an absolute target replaces."""
        if len(hosts) > 1 or (not hosts and minor == 1):
            return Refusal(400, "bad_request", "a request needs exactly one Host field")
        host = hosts[0] if hosts else b""
        if hosts and not self._is_host(host):
            return Refusal(400, "bad_request", "the Host field is not a host name or address")
        if b"#" in target:
            return Refusal(400, "bad_request", "a request target has no fragment")
        if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
            return target, host
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None:
            return Refusal(400, "bad_request", "the request target is neither a path nor an http:// URL")
        authority, slash, rest = absolute.groups()
        if not self._is_host(authority):
            return Refusal(400, "bad_request", "the authority of the request target is not a host name or address")
        if not slash and not rest and method == b"OPTIONS":
            return b"*", authority  # RFC 9112 3.2.4
        return b"/" + rest, authority

    def _is_host(self, host: bytes) -> bool:
        if host in self._hosts:
            return True
        if _HOST.fullmatch(host) is None:
            return False
        if len(self._hosts) >= _HOSTS_REMEMBERED:
            self._hosts.clear()
        self._hosts.add(host)
        return True


def _rebuild(head: RequestHead, parts: list[bytes], options: list[bytes]) -> list[bytes]:
    """The head in pieces with our own request line and framing, without what is meant for this hop only."""
    pieces = parts[0::3]
    pieces[0] = pieces[0][len(pieces[0].partition(b"\r\n")[0]) :]
    pieces[-1] = pieces[-1][:-4]
    removed = hop_by_hop.named_by_connection(options)
    if removed:
        pieces = [without(piece, removed) for piece in pieces]
    out = [b"%b %b HTTP/1.1" % (head.method, head.target), *pieces]
    found = head.found or {}
    if head.body > 0 or b"content-length" in found:
        out.append(b"\r\nContent-Length: %d" % head.body)
    elif head.body < 0:
        out.append(b"\r\nTransfer-Encoding: chunked")
    if head.upgrade:
        out.append(b"\r\nConnection: Upgrade\r\nUpgrade: " + head.upgrade)
    elif b"trailers" in members(found.get(b"te", [])):
        out.append(b"\r\nConnection: TE\r\nTE: trailers")
    if head.expects_continue:
        out.append(b"\r\nExpect: 100-continue")
    out.append(b"\r\n\r\n")
    return out


def _drop_empty_lines(parts: list[bytes]) -> bytes:
    """RFC 9112 2.2: an empty line before the request line is ignored."""
    parts[0] = parts[0].removeprefix(b"\r\n")
    return parts[0].partition(b"\r\n")[0]


def _why_invalid(head: bytes) -> Refusal:
    words = head.lstrip(b"\r\n").partition(b"\r\n")[0].split(b" ")
    if len(words) == 3 and is_token(words[0]):
        if words[2].startswith(b"HTTP/") and words[2] not in (b"HTTP/1.1", b"HTTP/1.0"):
            return Refusal(505, "unsupported", "only HTTP/1.1 and HTTP/1.0 are spoken here")
        if words[0] not in _METHODS_KNOWN and words[2].startswith(b"HTTP/1."):
            return Refusal(501, "unsupported", "the request method is not known here")
    return Refusal(400, "bad_request", "the request head is not valid HTTP/1.1")


# What llhttp takes as a method; a token that is not among them is 501, not 400 (RFC 9110 9.1).
_METHODS_KNOWN = frozenset(
    b"""DELETE GET HEAD POST PUT CONNECT OPTIONS TRACE COPY LOCK MKCOL MOVE PROPFIND PROPPATCH SEARCH UNLOCK BIND REBIND
    UNBIND ACL REPORT MKACTIVITY CHECKOUT MERGE M-SEARCH NOTIFY SUBSCRIBE UNSUBSCRIBE PATCH PURGE MKCALENDAR LINK UNLINK
    SOURCE QUERY""".split()
)
_METHODS_SERVED = _METHODS_KNOWN - _REFUSED_METHODS.keys()


def why_incomplete_is_hopeless(beginning: bytes) -> Refusal | None:
    """A head whose end has not come: can it still become valid? Bare LF, other protocols and HTTP/0.9 can't."""
    text = beginning.lstrip(b"\r\n") if beginning[:1] in (b"\r", b"\n") else beginning
    line, line_end, _ = text.partition(b"\n")
    if b"\n" in text and text.count(b"\n") != text.count(b"\r\n"):
        return Refusal(400, "bad_request", "a line of the request head does not end with CRLF")
    method, space, _ = line.partition(b" ")
    if method and not is_token(method.rstrip(b"\r") if line_end else method):
        return Refusal(400, "bad_request", "this is not HTTP/1.1")
    if line_end and (not space or not line.rstrip(b"\r").split(b" ")[-1].startswith(b"HTTP/")):
        return Refusal(400, "bad_request", "the request line is not 'METHOD target HTTP/1.1'")
    return None
