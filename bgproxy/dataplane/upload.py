"""The body of one request on its way to the upstream: framed anew, bounded, and never completed when it is broken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bgproxy.wire import encode, hop_by_hop
from bgproxy.wire.framing import BAD, CHUNKED, decoder_of

if TYPE_CHECKING:
    from bgproxy.dataplane.exchange import Exchange


class Upload:
    """`body` as in RequestHead; `limit` in bytes, 0 for none. A declared length has been held to the limit before."""

    __slots__ = ("_decoder", "_is_chunked", "_limit", "_received")

    def __init__(self, body: int, limit: int) -> None:
        self._decoder = decoder_of(body)
        self._is_chunked = body == CHUNKED
        self._limit = limit
        self._received = 0

    def send_on(self, exchange: Exchange, data: bytes) -> int:
        """Pass on what of `data` is body. framing.MORE, the index behind the body's last byte, or framing.BAD where
        the request has been ended for it."""
        end = self._decoder.feed(data)
        pieces, self._decoder.pieces = self._decoder.pieces, []
        self._received += sum(map(len, pieces))
        if 0 < self._limit < self._received:  # asked first: what is malformed came behind these pieces
            exchange.client_failed(413, "body_too_large", f"the request body is larger than {self._limit} bytes")
            return BAD
        if end == BAD:
            exchange.client_failed(400, "bad_request", "the chunked request body is malformed")
            return BAD
        if pieces:
            exchange.send_body(encode.chunk(pieces) if self._is_chunked else b"".join(pieces))
        if end >= 0 and self._is_chunked:
            exchange.send_body(encode.last_chunk(hop_by_hop.passing_trailers(self._decoder.trailers)))
        return end
