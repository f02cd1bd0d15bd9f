"""What must be true of any bytes that a client or an upstream sends, as two functions that raise where it is not.

Used by the property tests, which make hostile near-valid messages, and by the fuzz targets, which make anything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from tests.support.desk import CLIENT, Desk, DeskTransport
from tests.support.strict import (
    Doubt,
    Fields,
    Read,
    agreed_requests,
    h11_requests,
    h11_responses,
    llhttp_requests,
    llhttp_response,
    strict_responses,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

BYTE_BY_BYTE = 600  # longer ones are not sent so
FIN, RST, OPEN = "fin", "rst", "open"

# Fields that the proxy writes itself; everything else that comes out must have come in.
_OWN_REQUEST = frozenset(
    b"""host x-forwarded-for x-forwarded-proto x-forwarded-host x-request-id content-length transfer-encoding
    connection te upgrade expect""".split()
)
_OWN_VIA = b"via", b"1.1 bgproxy"
_OWN_RESPONSE = frozenset(b"content-length transfer-encoding connection upgrade".split())
_ENDS_HERE = frozenset(
    b"""host connection keep-alive proxy-connection te transfer-encoding content-length upgrade http2-settings expect
    forwarded x-real-ip x-request-id""".split()
)
_AUTHORITY = re.compile(rb"[a-z]+://([^/?]*)", re.IGNORECASE)
_OWN_VALUES = {
    b"connection": {b"TE", b"Upgrade", b"close", b"keep-alive"},
    b"te": {b"trailers"},
    b"expect": {b"100-continue"},
    b"transfer-encoding": {b"chunked"},
}


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """`data` in pieces, cut at these places (modulo its length)."""
    at = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[start:end] for start, end in pairwise(at) if start < end]


# --- requests --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RequestOutcome:
    """`forwarded` are the whole requests that the upstream read, `answers` (status, reason of a refusal) in order."""

    forwarded: tuple[Read, ...]
    answers: tuple[tuple[bytes, bytes], ...]
    ended: bool


def check_request(desk: Desk, data: bytes, places: Sequence[int], *, fin: bool, at_once: bool) -> RequestOutcome:
    """Whatever a client sends: it is read the same however it is cut; what is forwarded is read alike by everybody, is
    what the client said, and holds nothing that neither the client nor this proxy put there; behind a FIN all ends."""
    whole = _send(desk, [data], fin=fin, at_once=False)
    assert whole.ended or not fin, "a client that has sent FIN is kept"
    splits = [(cut(data, places), at_once)]
    if len(data) <= BYTE_BY_BYTE:
        splits.append(([data[i : i + 1] for i in range(len(data))], False))
    for pieces, together in splits:
        other = _send(desk, pieces, fin=fin, at_once=together)
        assert other == whole, f"cut as {pieces}:\n{other}\nwhole:\n{whole}"
    _check_is_what_was_said(data, whole.forwarded)
    return whole


def _answer(number: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def _send(desk: Desk, pieces: Sequence[bytes], *, fin: bool, at_once: bool) -> RequestOutcome:
    client = desk.open(_answer)
    try:
        desk.say(client, [*pieces, None] if fin else pieces, at_once=at_once)
        forwarded: list[Read] = []
        for upstream in desk.upstreams:
            requests, _ = agreed_requests(upstream.written)
            forwarded += requests
        return RequestOutcome(tuple(map(_without_id, forwarded)), _answers(client, forwarded), client.ended)
    finally:
        desk.close(client)


def _without_id(read: Read) -> Read:
    """Sorted by name: fields of different names have no order (RFC 9110 5.3), those of one name keep theirs."""
    fields = sorted((f for f in read.fields if f[0] != b"x-request-id"), key=lambda field: field[0])
    return Read(read.first, tuple(fields), read.body, read.trailers)


def _answers(client: DeskTransport, forwarded: Sequence[Read]) -> tuple[tuple[bytes, bytes], ...]:
    """Every answer, all of which must be whole, and a refusal the last of them."""
    methods = [request.first[0] for request in forwarded]
    refused = b"HEAD" if client.written.endswith(b"\r\n\r\n") else b"GET"
    answers, rest = strict_responses(client.written, [*methods, refused], ended=client.ended)
    assert not rest, f"half an answer, or one too many: {rest!r}"
    reasons = [b"".join(answer.all(b"x-bg-reason")) for answer in answers]
    assert not any(reasons[:-1]), f"an answer behind a refusal: {client.written!r}"
    assert not any(reasons) or client.ended, "a refusal that does not close"
    return tuple((answer.first[0], reason) for answer, reason in zip(answers, reasons, strict=True))


def _check_is_what_was_said(data: bytes, forwarded: Sequence[Read]) -> None:
    said = _as_others_read(data, len(forwarded))
    assert len(said) >= len(forwarded), f"others read {said} where {forwarded} went out"
    for out, came in zip(forwarded, said, strict=False):
        target = came.first[1]
        assert out.first[0] == came.first[0]
        assert target.endswith(out.first[1]) or out.first[1] in (
            b"*",
            b"/" + target.partition(b"?")[1] + target.partition(b"?")[2],
        )
        assert out.body == came.body
        authority = _AUTHORITY.match(target)
        hosts = [authority[1]] if authority else came.all(b"host")
        assert out.all(b"host") == hosts or not hosts, "the authority of the target is the Host, whatever Host says"
        _check_fields(out, came, _OWN_REQUEST)
        assert out.all(b"x-forwarded-for") == [CLIENT.encode()]
        assert set(out.trailers) <= set(came.trailers)


def _as_others_read(data: bytes, count: int) -> list[Read]:
    """The first requests in what the client sent, as h11 or, where it is stricter, llhttp reads them."""
    while data[:2] == b"\r\n":
        data = data[2:]
    try:
        return h11_requests(data, at_most=count)
    except Doubt:
        return llhttp_requests(data, at_most=count)


def _check_fields(out: Read, came: Read, own: frozenset[bytes]) -> None:
    left = list(came.fields)
    for field in out.fields:
        name, value = field
        if field == _OWN_VIA and field not in left:
            assert out.fields.count(field) == came.fields.count(field) + 1
        elif name in own:
            assert out.fields.count(field) == 1
            assert value in _OWN_VALUES.get(name, (value,)), f"{name!r} is ours to write, not {value!r}"
        else:
            assert field in left, f"{field} was not sent"
            left.remove(field)
    named = {option.strip().lower() for value in came.all(b"connection") for option in value.split(b",")}
    for name, _ in left:
        like = re.sub(rb"[^0-9a-z]", b"-", name)
        assert like in _ENDS_HERE or like.startswith((b"x-forwarded-", b"x-bg-")) or name in named, f"{name!r} is lost"


# --- responses -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ResponseOutcome:
    """`answers` are the whole answers that the client read; `half` whether there was the beginning of another, and
    `tunnelled` what came behind a 101."""

    answers: tuple[Read, ...]
    half: bool
    tunnelled: bytes
    ended: bool
    was_reset: bool
    parked: bool


def check_response(
    desk: Desk, request: bytes, data: bytes, places: Sequence[int], *, end: str, at_once: bool
) -> ResponseOutcome:
    """Whatever an upstream answers: the client gets the same however it is cut; an answer that it takes for whole is
    read alike by everybody, was whole, and holds nothing that neither the upstream nor this proxy put there."""
    whole = _respond(desk, request, [data], end=end, at_once=False)
    splits = [(cut(data, places), at_once)]
    if len(data) <= BYTE_BY_BYTE:
        splits.append(([data[i : i + 1] for i in range(len(data))], False))
    for pieces, together in splits:
        other = _respond(desk, request, pieces, end=end, at_once=together)
        assert other == whole, f"cut as {pieces}:\n{other}\nwhole:\n{whole}"
    _check_is_what_was_answered(request, data, end, whole)
    return whole


def _respond(desk: Desk, request: bytes, pieces: Sequence[bytes], *, end: str, at_once: bool) -> ResponseOutcome:
    method = request.partition(b" ")[0]
    client = desk.open(lambda number: b"")
    try:
        desk.say(client, [request])
        upstream = desk.upstreams[0]
        desk.say(upstream, pieces, at_once=at_once)
        if end == FIN:
            desk.say(upstream, [None])
        elif end == RST:
            upstream.lose(ConnectionResetError())
            desk.loop.run()
        ended = client.ended and not client.was_reset
        strict, rest = strict_responses(client.written, [method], ended=ended)
        is_tunnel = bool(strict) and strict[-1].first == (b"101",)
        if not is_tunnel:
            for name, others in _other_readings(client.written, method, ended=ended):
                assert others == strict, f"{name} reads {others}, strictly it is {strict}"
        return ResponseOutcome(
            tuple(map(_comparable, strict)),
            half=bool(rest) and not is_tunnel,
            tunnelled=rest if is_tunnel else b"",
            ended=client.ended,
            was_reset=client.was_reset,
            parked=bool(desk.server.parked),
        )
    finally:
        desk.close(client)


def _other_readings(stream: bytes, method: bytes, *, ended: bool) -> list[tuple[str, list[Read]]]:
    readings = [("h11", h11_responses(stream, [method], ended=ended))]
    first = readings[0][1][:1]
    if first and (first[0].all(b"content-length") or first[0].all(b"transfer-encoding")) and method != b"HEAD":
        alone = llhttp_response(stream)
        readings.append(("llhttp", [*([alone] if alone else []), *readings[0][1][1:]]))
    return readings


def _comparable(read: Read) -> Read:
    """Our own answers hold a date, an id and a sentence."""
    reason: Fields = tuple(field for field in read.fields if field[0] == b"x-bg-reason")
    return Read(read.first, reason, b"") if reason else read


def _check_is_what_was_answered(request: bytes, data: bytes, end: str, outcome: ResponseOutcome) -> None:
    relayed = [answer for answer in outcome.answers if not answer.all(b"x-bg-reason")]
    final = [answer for answer in relayed if not answer.first[0].startswith(b"1")]
    if not final:
        return
    came = _final_as_others_read(request.partition(b" ")[0], data, ended=end == FIN)
    assert came, f"told as whole, but it was not: {data!r}"
    assert final[0].first == came[0].first
    assert final[0].body == came[0].body
    assert set(final[0].trailers) <= set(came[0].trailers)
    _check_fields(final[0], came[0], _OWN_RESPONSE)


def _final_as_others_read(method: bytes, data: bytes, *, ended: bool) -> list[Read]:
    """The final answer in what the upstream sent, as h11 or, where it is stricter, llhttp reads it; or none."""
    try:
        said = h11_responses(data, [method], ended=ended)
    except Doubt:
        alone = llhttp_response(data)
        said = [alone] if alone else []
    return [answer for answer in said if not answer.first[0].startswith(b"1")]
