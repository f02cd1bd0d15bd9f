"""A client's request head, from raw bytes to something that may be forwarded, or to a refusal.

llhttp judges the grammar; this module judges everything that llhttp lets through (RFC 9112 sections 2.2, 3 and 6).
Almost every request has but Host and perhaps `Connection: keep-alive` for special fields: that is the plain path. The
rest, everything unusual included, goes through `_judge`.
"""

from __future__ import annotations

import re
from typing import TypeAlias
from urllib.parse import unquote_to_bytes

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
from bgproxy.wire.framing import AMBIGUOUS, UNSUPPORTED_CODING, looks_like_framing, request_body
from bgproxy.wire.parser import request_grammar

_HOST = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]{2,45}\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2}){1,255})(?::[0-9]{0,5})?"
)
_ABSOLUTE = re.compile(rb"([Hh][Tt][Tt][Pp][Ss]?)://([^/?]*)(/?)(.*)")
# Means something to OPTIONS and TRACE alone (RFC 9110 7.6.2): not a special field, for which every head is searched.
_MAX_FORWARDS = re.compile(rb"\r\nmax-forwards:[ \t]*([^\r]*)", re.IGNORECASE)
_MOST_FORWARDS = 999_999_999
_HOSTS_REMEMBERED = 1024
_CR = 0x0D
# The first line of a request that has nothing unusual about it, at the beginning of a head or of its first piece.
# Nothing in its path needs a closer look: no backslash, no "..", no encoded NUL, dot, slash or backslash.
_PLAIN_PATH = (
    rb"/[^#%.?\\\x00-\x20\x7f]*+"
    rb"(?:(?:%(?!00|2[EeFf]|5[Cc])|\.(?!\.))[^#%.?\\\x00-\x20\x7f]*+)*+"
    rb"(?:\?[^#\x00-\x20\x7f]*+)?"
)
_plain_line = re.compile(
    rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) (" + _PLAIN_PATH + rb") HTTP/1\.1(?:\r\n|\Z)"
).match
_empty_lines = re.compile(rb"(?:\r\n)++").match  # possessive: nothing is remembered per line
_OWN = ("host", "content-length", "expect", "via")
_BODILESS_IN_HTTP_1_0 = (b"GET", b"HEAD", b"DELETE")  # servers of that time never look for one
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
    request id that came with it, b"" for none: worth something from a trusted peer only. `scheme` is that of an
    absolute target, in lower case.
    """

    __slots__ = ("given_id", "host", "method", "pieces", "target")

    # What a plain request has in common with all others of its kind; JudgedRequest has its own.
    body: int = 0
    minor: int = 1
    keep_alive: bool = True
    upgrade: bytes = b""
    expects_continue: bool = False
    scheme: bytes = b""
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

    __slots__ = ("body", "expects_continue", "found", "keep_alive", "minor", "scheme", "upgrade")


ReadRequest: TypeAlias = RequestHead | Refusal

MISDIRECTED = Refusal(421, "misdirected", "an https resource is not served without TLS")


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
                if method == b"OPTIONS" and _MAX_FORWARDS.search(head):
                    return self._judge(head)
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
        if any(looks_like_framing(name) for name in found):
            body = AMBIGUOUS
        if body == AMBIGUOUS:
            return Refusal(
                400, "bad_request", "Content-Length and Transfer-Encoding do not say clearly where the body ends"
            )
        if body == UNSUPPORTED_CODING:
            return Refusal(501, "unsupported", "the only transfer coding understood here is 'chunked'")
        if body != 0 and minor == 0 and method in _BODILESS_IN_HTTP_1_0:
            return Refusal(400, "bad_request", f"{method.decode()} has no body in HTTP/1.0")
        where = self._target_and_host(method, target, found.get(b"host", []), minor)
        if isinstance(where, Refusal):
            return where
        target, host, scheme = where
        expects = members(found.get(b"expect", []))
        if expects and expects != [b"100-continue"]:
            return Refusal(417, "unsupported", "the only expectation understood here is '100-continue'")

        if method == b"OPTIONS":
            last = _count_hop(parts)
            if last is not None:
                return last

        options = members(found.get(b"connection", []))
        if b"host" in options or b"content-length" in options:
            return Refusal(400, "bad_request", "Connection names a field that is not for this hop alone")
        given = found.get(self._id_field, [])
        request = JudgedRequest(method, target, host, given[0] if given else b"", [])
        request.minor, request.body, request.found, request.scheme = minor, body, found, scheme
        request.keep_alive = b"close" not in options and (minor == 1 or b"keep-alive" in options)
        request.upgrade = upgrade.offered(method, minor, body, options, found.get(b"upgrade", []))
        request.expects_continue = bool(expects) and minor == 1 and body != 0
        request.pieces = _rebuild(request, parts, options)
        return request

    def _target_and_host(
        self, method: bytes, target: bytes, hosts: list[bytes], minor: int
    ) -> tuple[bytes, bytes, bytes] | Refusal:
        """RFC 9112 3.2: exactly one valid Host, which the authority of an absolute target replaces."""
        if len(hosts) > 1 or (not hosts and minor == 1):
            return Refusal(400, "bad_request", "a request needs exactly one Host field")
        host = hosts[0] if hosts else b""
        if hosts and not self._is_host(host):
            return Refusal(400, "bad_request", "the Host field is not a host name or address")
        if b"#" in target:
            return Refusal(400, "bad_request", "a request target has no fragment")
        if target.startswith(b"/"):
            return _why_bad_path(target) or (target, host, b"")
        if target == b"*" and method == b"OPTIONS":
            return target, host, b""
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None:
            return Refusal(400, "bad_request", "the request target is neither a path nor an http:// URL")
        scheme, authority, slash, rest = absolute.groups()
        if not self._is_host(authority):
            return Refusal(400, "bad_request", "the authority of the request target is not a host name or address")
        if not slash and not rest and method == b"OPTIONS":
            return b"*", authority, scheme.lower()  # RFC 9112 3.2.4
        return _why_bad_path(b"/" + rest) or (b"/" + rest, authority, scheme.lower())

    def _is_host(self, host: bytes) -> bool:
        if host in self._hosts:
            return True
        if _HOST.fullmatch(host) is None:
            return False
        if len(self._hosts) >= _HOSTS_REMEMBERED:
            self._hosts.clear()
        self._hosts.add(host)
        return True


def _count_hop(parts: list[bytes]) -> Refusal | None:
    """RFC 9110 7.6.2: one hop less for the next, and where there is none left, the answer is ours."""
    values = [value for piece in parts[::3] for value in _MAX_FORWARDS.findall(piece)]
    if not values:
        return None
    hops = values[0].rstrip(b" \t")
    if len(values) > 1 or not hops.isdigit():
        return Refusal(400, "bad_request", "Max-Forwards is not one number")
    if not hops.strip(b"0"):
        return Refusal(200, "max_forwards", "this proxy is as far as Max-Forwards lets the request go")
    left = min(int(hops) - 1, _MOST_FORWARDS) if len(hops) <= 18 else _MOST_FORWARDS
    parts[::3] = [_MAX_FORWARDS.sub(b"\r\nMax-Forwards: %d" % left, piece) for piece in parts[::3]]
    return None


def _why_bad_path(target: bytes) -> Refusal | None:
    """What some server behind us would read as another path, or as the end of one."""
    path = target.partition(b"?")[0]
    if b"\\" in path:
        return Refusal(400, "bad_request", "a path has no backslash")
    decoded = unquote_to_bytes(path)
    if b"\0" in decoded:
        return Refusal(400, "bad_request", "a path has no NUL")
    depth = 0
    for segment in decoded.replace(b"\\", b"/").split(b"/"):
        name = segment.partition(b";")[0]
        if name == b"..":
            depth -= 1
        elif name not in (b"", b"."):
            depth += 1
        if depth < 0:
            return Refusal(400, "bad_request", "the path leads out of the root")
    return None


def _rebuild(head: RequestHead, parts: list[bytes], options: list[bytes]) -> list[bytes]:
    """The head in pieces with our own request line and framing, without what is meant for this hop only."""
    pieces = parts[0::3]
    pieces[0] = pieces[0][len(pieces[0].partition(b"\r\n")[0]) :]
    pieces[-1] = pieces[-1][:-4]
    removed = hop_by_hop.named_by_connection(options)
    if removed:
        pieces = [without(piece, removed) for piece in pieces]
    found = head.found or {}
    # Ours follows theirs, in the order of the way (RFC 9110 7.6.3): what is added goes in behind this first piece.
    via = b"".join(b"\r\nVia: " + value for value in found.get(b"via", ()))
    out = [b"%b %b HTTP/1.1%b" % (head.method, head.target, via), *pieces]
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


def why_hopeless(beginning: bytes, head_bytes: int, target_bytes: int) -> Refusal | None:
    """The first reason for which no head that begins so can become valid: bare LF, other protocols, HTTP/0.9, too long.

    `beginning` is without empty lines before it. What is said of a beginning is said of everything that begins with it,
    so that a head meets the same refusal however it is cut.
    """
    found: list[tuple[int, Refusal]] = []  # how much of it has to be seen, and what is wrong then
    if beginning.count(b"\n") != beginning.count(b"\r\n"):  # faster than the expression: a head may be dripped
        bare = len(_BARE_LF.split(beginning, 1)[0])
        found.append((bare + 1, Refusal(400, "bad_request", "a line of the request head does not end with CRLF")))
    other = _NO_METHOD.match(beginning)
    if other:
        found.append((other.end(), Refusal(400, "bad_request", "this is not HTTP/1.1")))
    line, line_end, _ = beginning.partition(b"\r\n")
    if line_end and not line.rpartition(b" ")[2].startswith(b"HTTP/"):
        refusal = Refusal(400, "bad_request", "the request line is not 'METHOD target HTTP/1.1'")
        found.append((len(line) + 2, refusal))
    # The target, and around it the longest method, blanks and a version.
    if len(line.removesuffix(b"\r")) > target_bytes + 32:
        found.append((target_bytes + 33, Refusal(414, "target_too_long", "the request target is too long")))
    if len(beginning) > head_bytes:
        refusal = Refusal(431, "head_too_large", f"the request head is longer than {head_bytes} bytes")
        found.append((head_bytes + 1, refusal))
    return min(found, key=_seen)[1] if found else None


def _seen(found: tuple[int, Refusal]) -> int:
    return found[0]


_BARE_LF = re.compile(rb"(?<!\r)\n")
# What is neither a token character nor the blank behind the method. (A CR is waited for only before any other byte.)
_NO_METHOD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]*+(?!\r\Z)[^ !#$%&'*+\-.^_`|~0-9A-Za-z]")


def without_empty_lines(beginning: bytes) -> bytes:
    """RFC 9112 2.2: a client may send some before its request line."""
    match = _empty_lines(beginning)
    return beginning[match.end() :] if match else beginning
