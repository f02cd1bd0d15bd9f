"""What one worker tells the supervisor, without a message: gauges, counters, a latency histogram.

The worker alone writes its slot while it lives. When the supervisor has seen it dead, it clears the gauges and hands
the slot to the replacement; counters go on, so their sums never step back.

Offsets are constants so that the hot path can say `cells[IN_FLIGHT + colour] += 1` (27-70 ns).
"""

from __future__ import annotations

from collections.abc import Iterator

from bgproxy.shm.health_board import UPSTREAM_ROWS

# --- gauges: cleared for a replacement -------------------------------------------------------------------------------
PID = 0
EPOCH_SEEN = 1
HEARTBEAT_NS = 2  # CLOCK_MONOTONIC, the same in every process
LAG_NS = 3  # how late the last coarse tick came
TABLE_VERSION = 4
CLIENT_CONNECTIONS = 5
IN_FLIGHT = 8  # + colour; exchanges that are not streams
TUNNELS = 10  # + colour; upgraded connections
EVENT_STREAMS = 12  # + colour; text/event-stream responses
PARKED = 14  # + colour; idle upstream connections
UPSTREAM_CONNECTIONS = 16  # + colour; all upstream connections
WAITING = 18  # + colour; exchanges waiting for an upstream connection
BUFFERED_BYTES = 20
HELD = 21  # requests that wait for the live word to let them go; not in flight
WRITES = 22  # + colour; those of IN_FLIGHT whose method is unsafe
HELD_BYTES = 24  # their heads, and what came of their bodies
OLDEST = 26  # + colour; CLOCK_MONOTONIC ns at which the oldest one began that still runs on a colour that is not live
STREAMS_LEAVING = 28  # + colour; streams that their policy will close, or is closing
GAUGE_CELLS = 64

# --- counters: only go up --------------------------------------------------------------------------------------------
COUNTERS = GAUGE_CELLS
CONNECTIONS_TOTAL = COUNTERS
CONNECTS = COUNTERS + 2  # + colour
REUSES = COUNTERS + 4  # + colour
RETRIES = COUNTERS + 6  # + colour
REQUEST_BYTES = COUNTERS + 8  # + colour
RESPONSE_BYTES = COUNTERS + 10  # + colour
TUNNELS_TOTAL = COUNTERS + 12  # + colour
ACCESS_LOG_DROPPED = COUNTERS + 14
TLS_HANDSHAKES = COUNTERS + 24  # + 1 for those that resumed a session
REDIRECTS = COUNTERS + 26  # plain requests that were sent to https
PIPELINE_PAUSES = COUNTERS + 15
HELD_TOTAL = COUNTERS + 28  # requests that were held
HELD_NS = COUNTERS + 29  # how long, all together; of those that wait no longer

CLIENT_CLOSES = ("keep_alive", "requests", "make_room")
CLOSED = COUNTERS + 16  # + index in CLIENT_CLOSES: closed by us between two requests, as HTTP allows

STREAM_KINDS = ("tunnel", "event_stream")
TUNNEL, EVENT_STREAM = range(2)
STREAMS_CLOSED = COUNTERS + 20  # + 2 * kind + colour; closed by their policy

REJECTIONS = (
    "bad_request",
    "head_too_large",
    "target_too_long",
    "body_too_large",
    "unsupported",  # 405, 417, 501, 505
    "header_timeout",
    "body_timeout",
    "write_timeout",
    "connections",
    "draining",
    "proxy_protocol",  # no PROXY header, a malformed one, or from somebody who is not trusted to send one
    "misdirected",  # 421
    "max_forwards",  # OPTIONS that goes no further: 200
    "tls_handshake",  # it failed
    "tls_timeout",  # it did not end in time
    "plain_on_tls",  # plain HTTP where TLS is spoken
    "no_certificate",  # a redirect to a name that no certificate covers
    "too_many_fields",
    "stalled",
    "buffered_bytes",
    "maintenance",
    "hold_full",
    "hold_timeout",
    "hold_abandoned",  # held, and its client has left
    "fence_cut",  # still running on the old colour when a fence lost patience
)
REJECTED = COUNTERS + 32  # + index in REJECTIONS: refused before a colour was chosen, or cut by a limit

UPSTREAM_ERRORS = (
    "no_healthy_upstream",
    "connect_refused",
    "connect_timeout",
    "connect_failed",
    "closed_before_response",
    "response_timeout",
    "bad_response",
    "response_truncated",
    "response_idle",
    "queue_full",
    "queue_timeout",
    "client_gone",
    "tls_failed",
)
_ERROR_ROW = 16
ERRORS = REJECTED + 32  # + colour * _ERROR_ROW + index in UPSTREAM_ERRORS

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "OTHER")
CODE_ROW = 600  # one cell per status code, 0..599
COLOUR_REQUESTS = len(METHODS) * CODE_ROW
REQUESTS = ERRORS + 2 * _ERROR_ROW  # + colour * COLOUR_REQUESTS + method * CODE_ROW + code

# A latency bucket is found by bit_length: 8 sub-buckets per power of two of 1.024 µs units, at most 12.5 % wide.
BUCKETS = 256
CODE_CLASSES = 6  # 0 = no answer, 1xx .. 5xx
_HISTOGRAM_ROW = BUCKETS + 1  # the last cell is the sum in ns
COLOUR_HISTOGRAMS = CODE_CLASSES * _HISTOGRAM_ROW
HISTOGRAM = REQUESTS + 2 * COLOUR_REQUESTS  # + colour * COLOUR_HISTOGRAMS + class * HISTOGRAM_ROW + bucket
HISTOGRAM_ROW = _HISTOGRAM_ROW
HISTOGRAM_SUM = BUCKETS

# --- per upstream row: two gauges, two counters ----------------------------------------------------------------------
ROW_IN_FLIGHT, ROW_PARKED, ROW_REQUESTS, ROW_CONNECT_FAILURES = 0, 1, 2, 3
ROW_CELLS = 4
ROWS = HISTOGRAM + 2 * COLOUR_HISTOGRAMS  # + (colour * UPSTREAM_ROWS + index) * ROW_CELLS + field
SLOT_CELLS = -(-(ROWS + 2 * UPSTREAM_ROWS * ROW_CELLS) // 8) * 8  # whole cache lines


def bucket_of(duration_ns: int) -> int:
    """The latency bucket of a duration; everything over 4.5 hours shares the last."""
    units = duration_ns >> 10
    if units < 16:
        return units
    shift = units.bit_length() - 4
    bucket = (shift << 3) + (units >> shift)
    return bucket if bucket < BUCKETS else BUCKETS - 1


def bucket_upper_s(bucket: int) -> float:
    """The upper edge of a bucket in seconds."""
    if bucket < 16:
        units = bucket + 1
    else:
        shift = (bucket >> 3) - 1
        units = ((bucket & 7) + 9) << shift
    return units * 1024 / 1e9


def row_cell(colour: int, index: int, field: int) -> int:
    return ROWS + (colour * UPSTREAM_ROWS + index) * ROW_CELLS + field


def error_cell(colour: int, reason: str) -> int:
    return ERRORS + colour * _ERROR_ROW + UPSTREAM_ERRORS.index(reason)


def rejected_cell(reason: str) -> int:
    return REJECTED + REJECTIONS.index(reason)


def closed_cell(reason: str) -> int:
    return CLOSED + CLIENT_CLOSES.index(reason)


def closed_stream_cell(colour: int, kind: int) -> int:
    return STREAMS_CLOSED + 2 * kind + colour


class WorkerSlot:
    """`cells` is public: the worker counts in it, the supervisor reads it."""

    __slots__ = ("cells",)

    def __init__(self, cells: memoryview) -> None:
        self.cells = cells

    def hand_over(self) -> None:
        """Clear what died with the last worker. Only the supervisor, only once that worker is known to be dead."""
        for cell in range(GAUGE_CELLS):
            self.cells[cell] = 0
        for row in range(ROWS, ROWS + 2 * UPSTREAM_ROWS * ROW_CELLS, ROW_CELLS):
            self.cells[row + ROW_IN_FLIGHT] = 0
            self.cells[row + ROW_PARKED] = 0

    def requests(self) -> Iterator[tuple[int, str, int, int]]:
        """(colour, method, code, count) of every combination that was seen."""
        counts = self.cells[REQUESTS : REQUESTS + 2 * COLOUR_REQUESTS].tolist()
        for cell, count in enumerate(counts):
            if count:
                colour, rest = divmod(cell, COLOUR_REQUESTS)
                method, code = divmod(rest, CODE_ROW)
                yield colour, METHODS[method], code, count

    def histogram(self, colour: int, code_class: int) -> tuple[list[int], int]:
        """Counts per bucket, and the sum of all durations in ns."""
        start = HISTOGRAM + colour * COLOUR_HISTOGRAMS + code_class * HISTOGRAM_ROW
        row = self.cells[start : start + HISTOGRAM_ROW].tolist()
        return row[:BUCKETS], row[HISTOGRAM_SUM]

    def release(self) -> None:
        self.cells.release()
