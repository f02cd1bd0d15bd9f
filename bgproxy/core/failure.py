"""What can go wrong on the data plane: values that know their status, whose fault they are, and what may be done."""

from __future__ import annotations

import msgspec


class Failure(msgspec.Struct, frozen=True):
    """`status` goes to the client (499 is only logged), `reason` is the metric label, `detail` the sentence."""

    reason: str
    status: int
    detail: str
    # Nothing of the request had been sent: any method may go to another upstream of the same pool.
    nothing_sent: bool = False
    # An idempotent request without a body may be sent once more.
    replayable: bool = False
    # The upstream is to blame, so passive health counts it.
    counts_against_upstream: bool = False


NO_HEALTHY_UPSTREAM = Failure("no_healthy_upstream", 503, "no upstream of the live pool is healthy")
CONNECT_REFUSED = Failure(
    "connect_refused", 502, "the upstream refused the connection", nothing_sent=True, counts_against_upstream=True
)
CONNECT_TIMEOUT = Failure(
    "connect_timeout", 504, "connecting to the upstream took too long", nothing_sent=True, counts_against_upstream=True
)
CONNECT_FAILED = Failure(
    "connect_failed", 502, "the upstream cannot be reached", nothing_sent=True, counts_against_upstream=True
)
CLOSED_BEFORE_RESPONSE = Failure(
    "closed_before_response", 502, "the upstream closed the connection before it answered", replayable=True
)
RESPONSE_TIMEOUT = Failure("response_timeout", 504, "the upstream did not answer in time")
BAD_RESPONSE = Failure("bad_response", 502, "the upstream sent an answer that is not valid HTTP/1.1")
RESPONSE_TRUNCATED = Failure(
    "response_truncated", 502, "the upstream closed the connection in the middle of its answer"
)
RESPONSE_IDLE = Failure("response_idle", 504, "the upstream stopped sending in the middle of its answer")
QUEUE_FULL = Failure("queue_full", 503, "too many requests wait for a connection to the live pool")
QUEUE_TIMEOUT = Failure("queue_timeout", 503, "no connection to the live pool came free in time")
CLIENT_GONE = Failure("client_gone", 499, "the client closed the connection")
TLS_FAILED = Failure(
    "tls_failed", 502, "no TLS connection to the upstream came about", nothing_sent=True, counts_against_upstream=True
)

ALL = (
    NO_HEALTHY_UPSTREAM,
    CONNECT_REFUSED,
    CONNECT_TIMEOUT,
    CONNECT_FAILED,
    CLOSED_BEFORE_RESPONSE,
    RESPONSE_TIMEOUT,
    BAD_RESPONSE,
    RESPONSE_TRUNCATED,
    RESPONSE_IDLE,
    QUEUE_FULL,
    QUEUE_TIMEOUT,
    CLIENT_GONE,
    TLS_FAILED,
)
