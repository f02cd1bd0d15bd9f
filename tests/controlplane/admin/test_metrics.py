"""The whole exposition, read back by prometheus-client's own parser."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bgproxy.controlplane.admin.metrics import Metrics
from bgproxy.controlplane.orders import SwitchOrder, SwitchReport
from bgproxy.core.health import UpstreamHealth
from bgproxy.core.model import BLUE, GREEN, Colour
from bgproxy.errors import SwitchRefused
from bgproxy.shm import worker_slot
from bgproxy.shm.segment import Segment
from tests.support.slots import answered


class FakeProber:
    def __init__(self) -> None:
        self.checks: Counter[tuple[Colour, str, str]] = Counter({(BLUE, "a", "passed"): 5})
        self.ups: dict[Colour, bool | None] = {BLUE: True, GREEN: None}
        self.stale = False

    def views(self, colour: Colour) -> list[UpstreamHealth]:
        return [UpstreamHealth({BLUE: "a", GREEN: "b"}[colour], 0, "", self.ups[colour])]

    def is_stale(self, _view: UpstreamHealth) -> bool:
        return self.stale


class Scene:
    def __init__(self) -> None:
        self.segment, self.prober = Segment.create(workers=2), FakeProber()
        self.metrics = Metrics(self.segment, self.prober)

    def samples(self) -> dict[str, float]:
        """`name{label=value,…}` → value, labels in alphabetical order."""
        found = {}
        for family in text_string_to_metric_families(self.metrics.render()):
            assert family.documentation
            for sample in family.samples:
                labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
                key = f"{sample.name}{{{labels}}}"
                assert key not in found
                found[key] = sample.value
        return found


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.segment.close()


def report(**fields: object) -> SwitchReport:
    told = {"changed": True, "kind": "switch", "from_": "blue", "to": "green", "epoch": 1, "at": "t"} | fields
    return SwitchReport(**told)


def test_the_promised_families_are_there(scene):
    names = {family.name for family in text_string_to_metric_families(scene.metrics.render())}
    promised = """live epoch switches switch_acked_seconds switch_drain_seconds requests request_duration_seconds
        requests_in_flight streams_active request_bytes response_bytes client_connections upstream_connections
        upstream_connects upstream_reuses upstream_errors upstream_retries upstream_up pool_healthy health_checks
        rejected_requests event_loop_lag_seconds build_info client_accepts client_closes pipeline_pauses
        upstream_drained pool_table_version reloads
        buffered_bytes tls_handshakes redirects access_log_dropped tls_certificate_expiry_seconds tls_reloads
        held_requests held_bytes requests_held request_hold_seconds streams_closed
        journal_ok journal_pending journal_records journal_bytes journal_write_seconds"""
    assert names == {f"bgproxy_{name}" for name in promised.split()}


def test_the_live_colour_and_epoch(scene):
    scene.segment.live.store(7, GREEN)
    samples = scene.samples()
    assert samples["bgproxy_live{colour=green}"] == 1
    assert samples["bgproxy_live{colour=blue}"] == 0
    assert samples["bgproxy_epoch{}"] == 7


def test_requests_are_summed_over_the_workers(scene):
    for slot in scene.segment.slots:
        answered(slot, GREEN, method="POST", code=503, times=2, duration_s=0.2)
    samples = scene.samples()
    assert samples["bgproxy_requests_total{code=503,colour=green,method=POST}"] == 4
    assert samples["bgproxy_request_duration_seconds_count{code_class=5xx,colour=green}"] == 4
    assert samples["bgproxy_request_duration_seconds_bucket{code_class=5xx,colour=green,le=0.1}"] == 0
    assert samples["bgproxy_request_duration_seconds_bucket{code_class=5xx,colour=green,le=0.25}"] == 4
    assert samples["bgproxy_request_duration_seconds_sum{code_class=5xx,colour=green}"] == pytest.approx(0.8)


def test_records_that_the_access_log_lost_are_counted(scene):
    for slot in scene.segment.slots:
        slot.cells[worker_slot.ACCESS_LOG_DROPPED] = 3
    assert scene.samples()["bgproxy_access_log_dropped_total{}"] == 6


def test_handshakes_are_counted_by_whether_a_session_was_resumed_and_certificates_by_their_place(scene):
    for slot in scene.segment.slots:
        slot.cells[worker_slot.TLS_HANDSHAKES] = 3
        slot.cells[worker_slot.TLS_HANDSHAKES + 1] = 5
        slot.cells[worker_slot.REDIRECTS] = 1
    tls = SimpleNamespace(reloads={"ok": 2, "refused": 1}, expiries=lambda: [1.8e9, 1.9e9])
    scene.metrics = Metrics(scene.segment, scene.prober, tls)
    samples = scene.samples()
    assert samples["bgproxy_tls_handshakes_total{resumed=no}"] == 6
    assert samples["bgproxy_tls_handshakes_total{resumed=yes}"] == 10
    assert samples["bgproxy_redirects_total{}"] == 2
    assert samples["bgproxy_tls_certificate_expiry_seconds{certificate=1}"] == 1.9e9
    assert samples["bgproxy_tls_reloads_total{result=refused}"] == 1


def test_what_lasted_longer_than_the_last_bucket_is_above_every_edge(scene):
    answered(scene.segment.slots[0], BLUE, duration_s=100_000.0)
    samples = scene.samples()
    assert samples["bgproxy_request_duration_seconds_bucket{code_class=2xx,colour=blue,le=30}"] == 0
    assert samples["bgproxy_request_duration_seconds_bucket{code_class=2xx,colour=blue,le=+Inf}"] == 1


def test_gauges_and_counters_of_the_slots(scene):
    cells = scene.segment.slots[1].cells
    cells[worker_slot.UPSTREAM_CONNECTIONS + BLUE] = 5
    cells[worker_slot.PARKED + BLUE] = 3
    cells[worker_slot.TUNNELS + GREEN] = 2
    cells[worker_slot.error_cell(GREEN, "connect_refused")] = 9
    cells[worker_slot.rejected_cell("draining")] = 4
    cells[worker_slot.closed_cell("make_room")] = 6
    cells[worker_slot.PIPELINE_PAUSES] = 7
    cells[worker_slot.BUFFERED_BYTES] = 8
    cells[worker_slot.CONNECTIONS_TOTAL] = 10
    cells[worker_slot.LAG_NS] = 3_000_000
    cells[worker_slot.HELD] = 11
    cells[worker_slot.HELD_BYTES] = 12
    cells[worker_slot.HELD_TOTAL] = 13
    cells[worker_slot.HELD_NS] = 1_500_000_000
    cells[worker_slot.closed_stream_cell(BLUE, worker_slot.EVENT_STREAM)] = 11
    cells[worker_slot.closed_stream_cell(GREEN, worker_slot.TUNNEL)] = 12
    samples = scene.samples()
    assert samples["bgproxy_upstream_connections{colour=blue,state=busy}"] == 2
    assert samples["bgproxy_upstream_connections{colour=blue,state=parked}"] == 3
    assert samples["bgproxy_streams_active{colour=green,kind=tunnel}"] == 2
    assert samples["bgproxy_streams_closed_total{colour=blue,kind=event_stream}"] == 11
    assert samples["bgproxy_streams_closed_total{colour=green,kind=tunnel}"] == 12
    assert samples["bgproxy_upstream_errors_total{colour=green,reason=connect_refused}"] == 9
    assert samples["bgproxy_rejected_requests_total{reason=draining}"] == 4
    assert samples["bgproxy_client_closes_total{reason=make_room}"] == 6
    assert samples["bgproxy_pipeline_pauses_total{}"] == 7
    assert samples["bgproxy_buffered_bytes{}"] == 8
    assert samples["bgproxy_client_accepts_total{}"] == 10
    assert samples["bgproxy_held_requests{}"] == 11
    assert samples["bgproxy_held_bytes{}"] == 12
    assert samples["bgproxy_requests_held_total{}"] == 13
    assert samples["bgproxy_request_hold_seconds_total{}"] == 1.5
    assert samples["bgproxy_event_loop_lag_seconds{worker=1}"] == 0.003


def test_health_shows_and_a_stale_verdict_counts_as_down(scene):
    samples = scene.samples()
    assert samples["bgproxy_upstream_up{colour=blue,upstream=a}"] == 1
    assert samples["bgproxy_upstream_up{colour=green,upstream=b}"] == 0
    assert samples["bgproxy_pool_healthy{colour=blue}"] == 1
    assert samples["bgproxy_health_checks_total{colour=blue,result=passed,upstream=a}"] == 5
    scene.prober.stale = True
    samples = scene.samples()
    assert samples["bgproxy_upstream_up{colour=blue,upstream=a}"] == 0
    assert samples["bgproxy_pool_healthy{colour=blue}"] == 0


def test_switches_are_counted_by_result(scene):
    counters = scene.metrics.switches
    counters.answered(report(acked_s=0.002))
    counters.answered(report(changed=False))
    counters.answered(report(changed=False, dry_run=True))
    counters.failed(SwitchOrder(kind="switch", to=GREEN), SwitchRefused("no", failed=[]))
    counters.failed(SwitchOrder(kind="rollback"), SwitchRefused("no", failed=[]))
    counters.failed(SwitchOrder(kind="rollback", dry_run=True), SwitchRefused("no", failed=[]))
    samples = scene.samples()
    assert {key: value for key, value in samples.items() if key.startswith("bgproxy_switches_total")} == {
        "bgproxy_switches_total{kind=switch,result=ok,to=green}": 1,
        "bgproxy_switches_total{kind=switch,result=unchanged,to=green}": 1,
        "bgproxy_switches_total{kind=switch,result=switch_refused,to=green}": 1,
        "bgproxy_switches_total{kind=rollback,result=switch_refused,to=previous}": 1,
    }
    assert samples["bgproxy_switch_acked_seconds_count{}"] == 1
    assert samples["bgproxy_switch_acked_seconds_bucket{le=0.0025}"] == 1
    assert samples["bgproxy_switch_acked_seconds_sum{}"] == 0.002


def test_drains_are_counted_when_they_end(scene):
    scene.metrics.switches.told("drained", {"colour": "blue", "epoch": 1, "drain_s": 0.2, "streams": 0})
    scene.metrics.switches.told("drain_timed_out", {"colour": "blue", "epoch": 2, "requests": 1, "streams": 0})
    samples = scene.samples()
    assert samples["bgproxy_switch_drain_seconds_count{}"] == 1
    assert samples["bgproxy_switch_drain_seconds_bucket{le=0.25}"] == 1
    assert samples["bgproxy_switch_drain_seconds_sum{}"] == 0.2


def test_the_journal_is_told_by_its_health_and_its_writes_by_their_seconds(scene):
    assert scene.samples()["bgproxy_journal_ok{}"] == 1
    health = {"ok": False, "pending": 2, "seq": 17, "bytes": 4096}
    scene.metrics = Metrics(scene.segment, scene.prober, journal=SimpleNamespace(health=health))
    scene.metrics.journal_writes.add(0.002)
    samples = scene.samples()
    assert [samples[f"bgproxy_journal_{name}{{}}"] for name in ("ok", "pending", "records_total", "bytes")] == [
        0, 2, 17, 4096,
    ]  # fmt: skip
    assert samples["bgproxy_journal_write_seconds_bucket{le=0.001}"] == 0
    assert samples["bgproxy_journal_write_seconds_bucket{le=0.0025}"] == 1
