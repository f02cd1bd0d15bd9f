"""Prometheus metrics, rendered when asked for, from the counters that are there anyway.

Labels are bounded: colours, configured upstreams, known methods, codes and reasons; never a path, a host or free text.
"""

from __future__ import annotations

import platform
from collections import Counter
from typing import TYPE_CHECKING, Any, Protocol

from bgproxy import __version__
from bgproxy.controlplane.admin.exposition import EDGES_S, Sample, counter, gauge, histogram, place
from bgproxy.controlplane.sampler import gauge as summed
from bgproxy.core.model import COLOURS, Colour
from bgproxy.shm import worker_slot as slot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from bgproxy.controlplane.orders import SwitchOrder, SwitchReport
    from bgproxy.core.health import UpstreamHealth
    from bgproxy.errors import ControlError
    from bgproxy.shm.segment import Segment

CODE_CLASSES = ("none", "1xx", "2xx", "3xx", "4xx", "5xx")
# A bucket of a slot counts for the first edge that its upper end does not pass: figures err to the slow side.
_FOLD = [place(slot.bucket_upper_s(bucket)) for bucket in range(slot.BUCKETS - 1)] + [len(EDGES_S)]


class Probing(Protocol):
    """What the prober says about the upstreams."""

    @property
    def checks(self) -> Mapping[tuple[Colour, str, str], int]: ...
    def views(self, colour: Colour) -> list[UpstreamHealth]: ...
    def is_stale(self, view: UpstreamHealth) -> bool: ...


class Durations:
    """Counts per edge of EDGES_S and one for what is above; the sum in seconds."""

    def __init__(self) -> None:
        self.buckets = [0] * (len(EDGES_S) + 1)
        self.sum_s = 0.0

    def add(self, duration_s: float) -> None:
        self.buckets[place(duration_s)] += 1
        self.sum_s += duration_s


class Certified(Protocol):
    """What is known about the certificates; expiries in Unix seconds, in the order of the configuration."""

    @property
    def reloads(self) -> Mapping[str, int]: ...
    def expiries(self) -> Sequence[float]: ...


class Journalled(Protocol):
    """What the journal says about itself."""

    @property
    def health(self) -> Mapping[str, Any]: ...


class SwitchCounters:
    """What came of every order since the start of this supervisor."""

    def __init__(self) -> None:
        self.results: Counter[tuple[str, str, str]] = Counter()
        self.acked, self.drained = Durations(), Durations()

    def samples(self) -> list[Sample]:
        return [({"to": to, "kind": kind, "result": result}, n) for (to, kind, result), n in self.results.items()]

    def answered(self, report: SwitchReport) -> None:
        if report.dry_run:
            return
        self.results[report.to, report.kind, "ok" if report.changed else "unchanged"] += 1
        if report.changed:
            self.acked.add(report.acked_s)

    def told(self, event: str, fields: Mapping[str, object]) -> None:
        """A drain may end long after its switch was answered: its event is what counts."""
        if event == "drained":
            self.drained.add(float(str(fields["drain_s"])))

    def failed(self, order: SwitchOrder, error: ControlError) -> None:
        if not order.dry_run:
            to = order.to.label if order.to is not None else "previous"
            self.results[to, order.kind, error.code] += 1


class Metrics:
    """Reads from the segment and the prober, keeps only the switch counters."""

    def __init__(
        self, segment: Segment, prober: Probing, tls: Certified | None = None, journal: Journalled | None = None
    ) -> None:
        self._segment, self._prober, self._tls, self._journal = segment, prober, tls, journal
        self.switches = SwitchCounters()
        self.reloads: Mapping[str, int] = {"ok": 0, "refused": 0}
        self.journal_writes = Durations()

    def render(self) -> str:
        families = (
            *self._switching(),
            *self._journalling(),
            *self._traffic(),
            *self._upstreams(),
            *self._encryption(),
            *self._process(),
        )
        return "\n".join(line for family in families for line in family) + "\n"

    def _switching(self) -> Iterator[list[str]]:
        live = self._segment.live.load()
        yield gauge("live", "1 for the colour that takes new requests.", _by_colour(lambda c: int(c == live.colour)))
        yield gauge("epoch", "Count of cutovers.", [({}, live.epoch)])
        yield counter(
            "switches_total",
            "Switches and rollbacks since the start of the supervisor, by result.",
            [
                ({"to": to, "kind": kind, "result": result}, n)
                for (to, kind, result), n in self.switches.results.items()
            ],
        )
        yield histogram(
            "switch_acked_seconds",
            "From the cutover until every worker had seen it.",
            [({}, self.switches.acked.buckets, self.switches.acked.sum_s)],
        )
        yield histogram(
            "switch_drain_seconds",
            "From the cutover until nothing was in flight on the old colour.",
            [({}, self.switches.drained.buckets, self.switches.drained.sum_s)],
        )

    def _journalling(self) -> Iterator[list[str]]:
        health = self._journal.health if self._journal is not None else {}
        yield gauge("journal_ok", "0 while the disk does not take what it should.", [({}, int(health.get("ok", True)))])
        yield gauge("journal_pending", "Records that wait for the disk.", [({}, health.get("pending", 0))])
        yield counter("journal_records_total", "Records since the journal was begun.", [({}, health.get("seq", 0))])
        yield gauge("journal_bytes", "Size of the present file.", [({}, health.get("bytes", 0))])
        yield histogram(
            "journal_write_seconds",
            "Writing and syncing one record.",
            [({}, self.journal_writes.buckets, self.journal_writes.sum_s)],
        )

    def _traffic(self) -> Iterator[list[str]]:
        yield counter("requests_total", "Requests answered.", self._requests())
        yield histogram(
            "request_duration_seconds", "From the request head to the end of the answer.", self._durations()
        )
        yield gauge("requests_in_flight", "Requests being served, streams not counted.", self._cells(slot.IN_FLIGHT))
        yield gauge("held_requests", "Requests held until a switch is over.", [({}, summed(self._slots, slot.HELD))])
        yield gauge(
            "held_bytes", "Their heads, and what came of their bodies.", [({}, summed(self._slots, slot.HELD_BYTES))]
        )
        yield counter("requests_held_total", "Requests that were held.", [({}, summed(self._slots, slot.HELD_TOTAL))])
        yield counter(
            "request_hold_seconds_total",
            "How long they were held, all together.",
            [({}, summed(self._slots, slot.HELD_NS) / 1e9)],
        )
        yield gauge(
            "streams_active",
            "Upgraded connections and event streams.",
            [
                ({"colour": colour.label, "kind": kind}, summed(self._slots, cell + colour))
                for kind, cell in (("tunnel", slot.TUNNELS), ("event_stream", slot.EVENT_STREAMS))
                for colour in COLOURS
            ],
        )
        yield counter(
            "streams_closed_total",
            "Streams closed by their policy after a switch, or because their worker left.",
            [
                ({"colour": colour.label, "kind": kind}, summed(self._slots, slot.closed_stream_cell(colour, number)))
                for number, kind in enumerate(slot.STREAM_KINDS)
                for colour in COLOURS
            ],
        )
        yield counter("request_bytes_total", "Bytes sent to upstreams.", self._cells(slot.REQUEST_BYTES))
        yield counter("response_bytes_total", "Bytes received from upstreams.", self._cells(slot.RESPONSE_BYTES))
        yield gauge(
            "client_connections", "Open client connections.", [({}, summed(self._slots, slot.CLIENT_CONNECTIONS))]
        )
        yield counter(
            "client_accepts_total",
            "Client connections accepted.",
            [({}, summed(self._slots, slot.CONNECTIONS_TOTAL))],
        )
        yield counter(
            "client_closes_total",
            "Client connections closed by the proxy between two requests, by reason.",
            [({"reason": why}, summed(self._slots, slot.closed_cell(why))) for why in slot.CLIENT_CLOSES],
        )
        yield counter(
            "pipeline_pauses_total",
            "Times a client was no longer read from because it had sent too many requests ahead.",
            [({}, summed(self._slots, slot.PIPELINE_PAUSES))],
        )
        yield gauge(
            "buffered_bytes", "Held in memory for slow peers.", [({}, summed(self._slots, slot.BUFFERED_BYTES))]
        )
        yield counter(
            "rejected_requests_total",
            "Refused before a colour was chosen, or cut by a limit.",
            [({"reason": why}, summed(self._slots, slot.rejected_cell(why))) for why in slot.REJECTIONS],
        )

    def _upstreams(self) -> Iterator[list[str]]:
        yield gauge("upstream_connections", "Connections to upstreams.", self._upstream_connections())
        yield counter("upstream_connects_total", "Connections opened to upstreams.", self._cells(slot.CONNECTS))
        yield counter("upstream_reuses_total", "Requests sent on a parked connection.", self._cells(slot.REUSES))
        yield counter("upstream_retries_total", "Attempts made again in the same pool.", self._cells(slot.RETRIES))
        yield counter(
            "upstream_errors_total",
            "Attempts that failed, by reason.",
            [
                ({"colour": colour.label, "reason": reason}, summed(self._slots, slot.error_cell(colour, reason)))
                for colour in COLOURS
                for reason in slot.UPSTREAM_ERRORS
            ],
        )
        views = [(colour, view) for colour in COLOURS for view in self._prober.views(colour)]
        # Unknown and stale count as not up: nobody may take an old verdict for a good one.
        up = [(colour, view, view.up is True and not self._prober.is_stale(view)) for colour, view in views]
        yield gauge(
            "upstream_up",
            "1 for an upstream that its checks call healthy.",
            [({"colour": colour.label, "upstream": view.id}, int(good)) for colour, view, good in up],
        )
        yield gauge(
            "upstream_drained",
            "1 for an upstream that the operator has drained.",
            [({"colour": colour.label, "upstream": view.id}, int(view.drained)) for colour, view in views],
        )
        yield gauge(
            "pool_healthy",
            "Healthy upstreams of a pool, drained ones not counted.",
            _by_colour(lambda c: sum(good and not view.drained for colour, view, good in up if colour == c)),
        )
        yield counter(
            "health_checks_total",
            "Probes made, by result.",
            [
                ({"colour": colour.label, "upstream": upstream, "result": result}, n)
                for (colour, upstream, result), n in self._prober.checks.items()
            ],
        )

    def _encryption(self) -> Iterator[list[str]]:
        yield counter(
            "tls_handshakes_total",
            "TLS handshakes of clients that succeeded, by whether a session was resumed.",
            [
                ({"resumed": word}, summed(self._slots, slot.TLS_HANDSHAKES + resumed))
                for resumed, word in enumerate(("no", "yes"))
            ],
        )
        yield counter("redirects_total", "Plain requests sent to https.", [({}, summed(self._slots, slot.REDIRECTS))])
        yield counter(
            "access_log_dropped_total",
            "Records of the access log that could not be written.",
            [({}, summed(self._slots, slot.ACCESS_LOG_DROPPED))],
        )
        expiries = self._tls.expiries() if self._tls is not None else ()
        yield gauge(
            "tls_certificate_expiry_seconds",
            "Unix time at which a certificate expires, by its place in the configuration.",
            [({"certificate": str(number)}, at) for number, at in enumerate(expiries)],
        )
        reloads = self._tls.reloads if self._tls is not None else {}
        yield counter(
            "tls_reloads_total",
            "Looks at changed certificate files, by whether they were taken.",
            [({"result": result}, count) for result, count in reloads.items()],
        )

    def _process(self) -> Iterator[list[str]]:
        yield gauge(
            "event_loop_lag_seconds",
            "How late the last tick of a worker came.",
            [({"worker": str(i)}, each.cells[slot.LAG_NS] / 1e9) for i, each in enumerate(self._slots)],
        )
        yield gauge(
            "pool_table_version",
            "The pool table that a worker uses.",
            [({"worker": str(i)}, each.cells[slot.TABLE_VERSION]) for i, each in enumerate(self._slots)],
        )
        yield counter(
            "reloads_total",
            "Reloads of the configuration, by result.",
            [({"result": result}, count) for result, count in self.reloads.items()],
        )
        build = {"version": __version__, "python": platform.python_version()}
        yield gauge("build_info", "Always 1.", [(build, 1)])

    @property
    def _slots(self) -> Sequence[slot.WorkerSlot]:
        return self._segment.slots

    def _cells(self, cell: int) -> list[Sample]:
        return _by_colour(lambda colour: summed(self._slots, cell + colour))

    def _upstream_connections(self) -> Iterator[Sample]:
        for colour in COLOURS:
            parked = summed(self._slots, slot.PARKED + colour)
            # Read one after the other while workers count on: never show less than none.
            busy = max(0, summed(self._slots, slot.UPSTREAM_CONNECTIONS + colour) - parked)
            yield {"colour": colour.label, "state": "parked"}, parked
            yield {"colour": colour.label, "state": "busy"}, busy

    def _requests(self) -> Iterator[Sample]:
        counts: Counter[tuple[int, str, int]] = Counter()
        for each in self._slots:
            for colour, method, code, count in each.requests():
                counts[colour, method, code] += count
        for (colour, method, code), count in counts.items():
            yield {"colour": Colour(colour).label, "method": method, "code": str(code)}, count

    def _durations(self) -> Iterator[tuple[dict[str, str], list[int], float]]:
        for colour in COLOURS:
            for code_class, name in enumerate(CODE_CLASSES):
                counts, total_ns = self._folded(colour, code_class)
                yield {"colour": colour.label, "code_class": name}, counts, total_ns / 1e9

    def _folded(self, colour: Colour, code_class: int) -> tuple[list[int], int]:
        counts, total_ns = [0] * (len(EDGES_S) + 1), 0
        for each in self._slots:
            row, row_ns = each.histogram(colour, code_class)
            total_ns += row_ns
            for bucket, count in enumerate(row):
                if count:
                    counts[_FOLD[bucket]] += count
        return counts, total_ns


def _by_colour(value: Callable[[Colour], float]) -> list[Sample]:
    return [({"colour": colour.label}, value(colour)) for colour in COLOURS]
