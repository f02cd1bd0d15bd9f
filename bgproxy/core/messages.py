"""What supervisor and worker say to each other on the control socket: one JSON object a line.

Requests carry no truth of their own: the live word and the counters are in shared memory, a message only says "look".
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from bgproxy.core.certificates import TlsMaterial
from bgproxy.core.model import PoolTable
from bgproxy.core.settings import WorkerSettings

CONFIGURED = "configured"
MAX_LINE = 4 * 1024 * 1024  # bytes; a table of 512 upstreams needs about 100 KB


class Configure(msgspec.Struct, frozen=True, tag="configure"):
    """Supervisor → worker: serve with these; answered by TableAccepted."""

    settings: WorkerSettings
    table: PoolTable


class Certify(msgspec.Struct, frozen=True, tag="certify"):
    """Supervisor → worker: show these certificates in every handshake from now on; answered by Certified.

    Before the first Configure where there are addresses that speak TLS. It holds private keys.
    """

    material: TlsMaterial


class Published(msgspec.Struct, frozen=True, tag="published"):
    """Supervisor → worker: the live word was stored, look at it; answered by Seen with the same number.

    Words may repeat (a hold comes and goes), numbers never do within a supervisor's life. `streams` is what becomes of
    those of the colour that this switch left: as configured, `keep`, or `close-now`.
    """

    sequence: int
    streams: str = CONFIGURED


class Cut(msgspec.Struct, frozen=True, tag="cut"):
    """Supervisor → worker: end what still runs on `colour` and no longer may; with `writes` only unsafe requests.

    Streams stay. That it is done shows in the gauges; there is no answer.
    """

    colour: int
    writes: bool = False


IDLE_GRACE_S = 2.0  # busy clients ask several times in it, and nobody waits for it who is in a hurry


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    """Supervisor → worker: stop accepting, finish within `timeout_s`, report Drained, leave.

    Idle connections may ask once more within `idle_s`: where others serve from now on, not where nobody does."""

    timeout_s: float
    idle_s: float = 0.0


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """Worker → supervisor: accepting connections on every listener."""

    pid: int


class TableAccepted(msgspec.Struct, frozen=True, tag="table_accepted"):
    """Worker → supervisor: every request from now on is spread over this table."""

    version: int


class Seen(msgspec.Struct, frozen=True, tag="seen"):
    """Worker → supervisor: the word was looked at after store `sequence`: every request from now on is treated as it,
    or a later one, says. 0 where nobody asked."""

    sequence: int
    epoch: int


class Ejected(msgspec.Struct, frozen=True, tag="ejected"):
    """Worker → supervisor: an upstream failed `failures` connects in a row; this worker leaves it out for `for_s`."""

    colour: int
    index: int
    failures: int
    for_s: float
    error: str


class Certified(msgspec.Struct, frozen=True, tag="certified"):
    """Worker → supervisor: this set of certificates is in use; with an `error` it is not, and the last one still is."""

    version: int
    error: str = ""


class OutOfDescriptors(msgspec.Struct, frozen=True, tag="out_of_descriptors"):
    """Worker → supervisor: all of its `limit` descriptors are in use; new connections are closed unheard."""

    limit: int


class Drained(msgspec.Struct, frozen=True, tag="drained"):
    """Worker → supervisor: no connection is left; what had to be cut at the deadline."""

    cut_requests: int
    cut_streams: int


ToWorker: TypeAlias = Configure | Certify | Published | Cut | Drain
ToSupervisor: TypeAlias = Ready | TableAccepted | Seen | Ejected | Certified | OutOfDescriptors | Drained

_encode = msgspec.json.Encoder().encode
_decode_to_worker = msgspec.json.Decoder(ToWorker).decode
_decode_to_supervisor = msgspec.json.Decoder(ToSupervisor).decode


class LineSplitter:
    """Bytes in, whole lines out; a line over MAX_LINE is a ValueError."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE:
            raise ValueError(f"a control message is longer than {MAX_LINE} bytes")
        return lines


def encode(message: ToWorker | ToSupervisor) -> bytes:
    return _encode(message) + b"\n"


def decode_to_worker(line: bytes) -> ToWorker:
    """msgspec.DecodeError says what was expected."""
    message: ToWorker = _decode_to_worker(line)
    return message


def decode_to_supervisor(line: bytes) -> ToSupervisor:
    """msgspec.DecodeError says what was expected."""
    message: ToSupervisor = _decode_to_supervisor(line)
    return message
