"""The status document, put together from a real segment and hand-made neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from bgproxy import __version__
from bgproxy.controlplane.sampler import Sampler
from bgproxy.controlplane.status import Facts, Status
from bgproxy.core.gates import Verdict
from bgproxy.core.health import UpstreamHealth
from bgproxy.core.model import BLUE, GREEN, Address, Colour, Pool, PoolTable, Upstream
from bgproxy.shm import worker_slot
from bgproxy.shm.segment import Segment
from tests.support.slots import answered

NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)

A = Upstream("a", 0, Address("127.0.0.1", 9001), weight=3)
B = Upstream("b", 0, Address("127.0.0.1", 9002))
TABLE = PoolTable(version=1, blue=Pool((A,), release="v1"), green=Pool((B,)))
NEVER_CHECKED = Verdict("upstream_healthy", "green/127.0.0.1:9002", "GET /healthz", False, "never checked yet", 4.0)


class Scene:
    """Every neighbour of the status in one object, with the clock."""

    def __init__(self) -> None:
        self.segment = Segment.create(workers=2)
        self.now = 50.0
        self.state = "steady"
        self.previous: Colour | None = None
        self.last_switch: dict[str, Any] | None = None
        self.refusals: dict[str, list[Verdict]] = {"switch": [], "rollback": []}
        self.ready = 2
        self.ejected: dict[tuple[Colour, int], float] = {}
        self.stale_ids: set[str] = set()
        self.degraded_pools: dict[Colour, str] = {}
        self.health = {
            BLUE: UpstreamHealth("a", 0, str(A.address), True, "t1", 49.5, 200, 0.002, 7, "", 20.0),
            GREEN: UpstreamHealth("b", 0, str(B.address), since=50.0),
        }
        for slot in self.segment.slots:
            slot.cells[worker_slot.HEARTBEAT_NS] = int(49.9e9)
        self.sampler = Sampler(self.segment.slots, clock=self.clock)
        self.status = Status(
            Facts(instance="i", table=TABLE, min_healthy=(1, 1), config_file="/etc/b.toml", config_sha256="ab"),
            self.segment,
            self,
            self,
            self,
            self.sampler,
            clock=self.clock,
            wall=lambda: NOW,
        )

    def clock(self) -> float:
        return self.now

    def verdicts(self, to: Colour, kind: str) -> list[Verdict]:
        return [*self.refusals[kind], Verdict("pool_healthy", to.label, "…", True, "fine")]

    def views(self, colour: Colour) -> list[UpstreamHealth]:
        return [self.health[colour]]

    def degraded(self, colour: Colour) -> str:
        return self.degraded_pools.get(colour, "")

    def is_stale(self, view: UpstreamHealth) -> bool:
        return view.id in self.stale_ids

    def ejected_until(self, colour: Colour, index: int) -> float | None:
        return self.ejected.get((colour, index))


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.segment.close()


def test_it_has_the_promised_keys(scene):
    document = scene.status.document()
    promised = "schema version instance started_at uptime_s epoch live idle state held can_switch rollback last_switch"
    assert set(document) == {*promised.split(), "at", "pools", "workers", "tls", "config", "durable", "journal"}
    pool = "role release healthy total min_healthy in_flight streams draining rps error_share latency_s upstreams"
    assert set(document["pools"]["blue"]) == {
        *pool.split(),
        *("source", "degraded", "age_s", "stale", "traffic_age_s", "remaining", "leaving"),
    }
    (upstream,) = document["pools"]["blue"]["upstreams"]
    assert set(upstream) == {
        *(
            "id",
            "address",
            "up",
            "since_s",
            "weight",
            "in_flight",
            "parked",
            "check",
            "release",
            "ejected_until",
            "drained",
        )
    }
    assert {"ok", "at", "status", "duration_s", "consecutive", "error"} < set(upstream["check"])
    assert set(document["pools"]["blue"]["latency_s"]) == {"p50", "p90", "p99"}
    assert {"configured", "ready", "epochs", "lag_s", "table_version", "table_versions"} < set(document["workers"])
    assert {"file", "sha256", "loaded_at"} < set(document["config"])
    assert document["tls"] is None, "without TLS"
    assert (document["schema"], document["version"]) == ("bgproxy.status/1", __version__)
    orjson.dumps(document)


def test_it_says_who_is_live(scene):
    scene.segment.live.store(8, GREEN)
    scene.now += 3
    document = scene.status.document()
    assert (document["epoch"], document["live"], document["idle"]) == (8, "green", "blue")
    assert [document["pools"][name]["role"] for name in ("blue", "green")] == ["idle", "live"]
    assert document["uptime_s"] == 3.0
    assert document["at"] == "2026-01-31T12:00:00.000Z"


def test_pools_show_health_load_and_the_last_check(scene):
    for slot in scene.segment.slots:
        slot.cells[worker_slot.IN_FLIGHT + BLUE] = 2
        slot.cells[worker_slot.TUNNELS + BLUE] = 1
        slot.cells[worker_slot.EVENT_STREAMS + BLUE] = 1
        slot.cells[worker_slot.row_cell(BLUE, 0, worker_slot.ROW_PARKED)] = 5
    blue, green = (scene.status.document()["pools"][name] for name in ("blue", "green"))
    assert (blue["healthy"], blue["total"], blue["min_healthy"], blue["release"]) == (1, 1, 1, "v1")
    assert (blue["in_flight"], blue["streams"], blue["draining"]) == (4, 4, False)
    assert blue["upstreams"][0]["parked"] == 10
    assert blue["upstreams"][0]["weight"] == 3
    assert blue["upstreams"][0]["check"] == {
        "ok": True,
        "at": "t1",
        "age_s": 0.5,
        "stale": False,
        "status": 200,
        "duration_s": 0.002,
        "consecutive": 7,
        "error": None,
    }
    assert (green["healthy"], green["upstreams"][0]["up"], green["upstreams"][0]["check"]["ok"]) == (0, None, None)
    assert green["age_s"] is None


def test_an_idle_pool_with_old_requests_is_draining(scene):
    scene.segment.slots[1].cells[worker_slot.TUNNELS + GREEN] = 1
    assert scene.status.document()["pools"]["green"]["draining"] is True


def test_what_a_switch_has_left_behind_is_told_with_the_age_of_the_oldest(scene):
    green = scene.status.document()["pools"]["green"]
    assert (green["remaining"], green["leaving"]) == ({"requests": 0, "streams": 0, "oldest_s": None}, 0)
    for number, slot in enumerate(scene.segment.slots, start=1):
        slot.cells[worker_slot.IN_FLIGHT + GREEN] = number
        slot.cells[worker_slot.EVENT_STREAMS + GREEN] = 10 * number
        slot.cells[worker_slot.STREAMS_LEAVING + GREEN] = number
        slot.cells[worker_slot.OLDEST + GREEN] = int(40e9) + number
    pools = scene.status.document()["pools"]
    assert pools["green"]["remaining"] == {"requests": 3, "streams": 30, "oldest_s": 10.0}
    assert pools["green"]["leaving"] == 3
    assert pools["blue"]["remaining"] is None, "it is live"


def test_traffic_figures_come_from_the_sampler(scene):
    scene.sampler.sample()
    answered(scene.segment.slots[0], BLUE, times=20, duration_s=0.005)
    scene.now += 2
    scene.sampler.sample()
    blue = scene.status.document()["pools"]["blue"]
    assert (blue["rps"], blue["error_share"]) == (10.0, 0.0)
    assert blue["latency_s"]["p50"] == pytest.approx(0.005, rel=0.13)


def test_reasons_against_a_switch_are_listed(scene):
    scene.refusals["switch"] = [NEVER_CHECKED]
    can = scene.status.document()["can_switch"]
    assert (can["ok"], can["to"]) == (False, "green")
    assert can["reasons"] == [str(NEVER_CHECKED)]
    scene.refusals["switch"] = []
    assert scene.status.document()["can_switch"]["ok"] is True


def test_without_a_switch_there_is_nothing_to_roll_back_to(scene):
    document = scene.status.document()
    assert document["last_switch"] is None
    assert document["rollback"]["ready"] is False
    assert "no switch yet" in document["rollback"]["reasons"][0]


def test_the_rollback_is_verified_by_the_checks_of_its_pool(scene):
    scene.segment.live.store(1, GREEN)
    scene.previous = BLUE
    scene.last_switch = {"at": "2026-01-31T11:59:50.000Z", "from": "blue", "to": "green", "result": "ok"}
    document = scene.status.document()
    assert document["rollback"] == {
        "ready": True,
        "to": "blue",
        "reasons": [],
        "last_verified_at": "t1",
        "age_s": 0.5,
        "stale": False,
    }
    assert document["last_switch"]["age_s"] == 10.0
    scene.refusals["rollback"] = [NEVER_CHECKED]
    assert scene.status.document()["rollback"]["ready"] is False


def test_a_dead_prober_shows_as_stale_and_not_as_frozen_green(scene):
    scene.stale_ids = {"a"}
    blue = scene.status.document()["pools"]["blue"]
    assert blue["stale"] is True
    assert blue["upstreams"][0]["up"] is None
    assert blue["upstreams"][0]["check"]["stale"] is True


def test_a_dead_sampler_shows_as_stale(scene):
    scene.now += 10
    assert scene.status.document()["pools"]["blue"]["stale"] is True


def test_a_silent_worker_shows_as_stale(scene):
    assert scene.status.document()["workers"]["stale"] is False
    scene.now += 5
    workers = scene.status.document()["workers"]
    assert (workers["stale"], workers["age_s"]) == (True, pytest.approx(5.1))


def test_workers_show_their_epochs_and_lag(scene):
    scene.segment.slots[1].cells[worker_slot.EPOCH_SEEN] = 4
    scene.segment.slots[1].cells[worker_slot.LAG_NS] = 2_000_000
    scene.segment.slots[0].cells[worker_slot.PID] = 4711
    workers = scene.status.document()["workers"]
    assert (workers["configured"], workers["ready"]) == (2, 2)
    assert (workers["epochs"], workers["lag_s"], workers["pids"]) == ([0, 4], [0.0, 0.002], [4711, None])


def test_an_ejected_upstream_says_until_when(scene):
    scene.ejected[BLUE, 0] = 60.0
    upstream = scene.status.document()["pools"]["blue"]["upstreams"][0]
    assert upstream["ejected_until"] == "2026-01-31T12:00:10.000Z"
    scene.now = 61.0
    assert scene.status.document()["pools"]["blue"]["upstreams"][0]["ejected_until"] is None


def test_a_degraded_pool_says_why(scene):
    scene.degraded_pools[BLUE] = "every upstream is down"
    assert scene.status.document()["pools"]["blue"]["degraded"] == "every upstream is down"


def test_it_is_ready_with_all_workers_and_a_routable_upstream(scene):
    scene.ready = 1
    assert scene.status.not_ready() == [
        "1 of 2 workers are ready",
        "no upstream of the live pool (blue) takes traffic",
    ]
    scene.ready = 2
    scene.segment.health.publish(BLUE, [True])
    assert scene.status.not_ready() == []


def test_it_says_whether_what_was_done_is_on_disk(scene):
    assert scene.status.document()["durable"] is True
    scene.status._journal = SimpleNamespace(durable=False, health={"ok": False, "pending": 1})
    document = scene.status.document()
    assert (document["durable"], document["journal"]) == (False, {"ok": False, "pending": 1})
