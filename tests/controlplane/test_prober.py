"""The probing of two pools, with probes that answer what the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from bgproxy.controlplane.prober import Prober
from bgproxy.core.health import Check
from bgproxy.core.model import BLUE, GREEN, Address, Colour, Pool, PoolTable, Upstream
from bgproxy.core.pools import successor, with_drained
from bgproxy.shm.segment import Segment
from tests.support.http_apps import eventually

OK, REFUSED = "", "connection refused"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    path: str = "/healthz"
    method: str = "GET"
    interval: float = 0.05
    timeout: float = 5.0
    rise: int = 1
    fall: int = 1
    expect_status: tuple[tuple[int, int], ...] = ((200, 299),)
    expect_body: str = ""
    headers: dict[str, str] = {}
    jitter: float = 0.0
    max_body_bytes: int = 64 * 1024
    release_header: str = "X-Release"


def pool(*ports: int) -> Pool:
    return Pool(
        tuple(
            Upstream(id=str(port), index=index, address=Address(host="127.0.0.1", port=port))
            for index, port in enumerate(ports)
        )
    )


class World:
    """What the probes find, who is live, and what was told."""

    def __init__(self, segment: Segment, settings: Settings) -> None:
        self.segment, self.live = segment, BLUE
        self.found: dict[int, str | Exception] = {}  # port → error; an absent one never answers
        self.events: list[tuple[str, dict[str, object]]] = []
        self.now: float | None = None
        table = PoolTable(version=1, blue=pool(1, 2), green=pool(3))
        self.prober = Prober(
            settings,
            table,
            segment.health,
            lambda: self.live,
            emit=lambda event, **fields: self.events.append((event, fields)),
            clock=lambda: asyncio.get_running_loop().time() if self.now is None else self.now,
            probe=self.probe,
        )

    async def probe(self, address: Address, _settings: object) -> Check:
        while address.port not in self.found:  # noqa: ASYNC110 - the tests write plain values
            await asyncio.sleep(0.005)
        await asyncio.sleep(0)  # a real probe always waits for something
        found = self.found[address.port]
        if isinstance(found, Exception):
            raise found
        return Check(at="t", duration_s=0.001, status=0 if found else 200, error=found)

    def rows(self, colour: Colour) -> list[bool]:
        return self.segment.health.routable(colour)[: 2 if colour is BLUE else 1]

    def told(self, event: str) -> list[dict[str, object]]:
        return [fields for name, fields in self.events if name == event]


@asynccontextmanager
async def world(**settings: float) -> AsyncIterator[World]:
    segment = Segment.create(workers=1)
    scene = World(segment, Settings(**settings))
    try:
        yield scene
    finally:
        await scene.prober.stop()
        segment.close()


async def test_both_pools_are_probed_and_published():
    async with world() as scene:
        scene.found = {1: OK, 2: REFUSED, 3: OK}
        scene.prober.start()
        assert await scene.prober.all_checked(10)
        assert scene.rows(BLUE) == [True, False]
        assert scene.rows(GREEN) == [True]
        assert [view.up for view in scene.prober.views(BLUE)] == [True, False]
        assert {"colour": "green", "upstream": "3", "checks": 1} in scene.told("upstream_up")
        assert {"colour": "blue", "upstream": "2", "checks": 1, "error": REFUSED} in scene.told("upstream_down")
        assert scene.prober.checks[BLUE, "2", "failed"] >= 1
        assert scene.prober.checks[GREEN, "3", "passed"] >= 1


async def test_an_upstream_that_never_answered_takes_no_traffic():
    async with world() as scene:
        scene.found = {1: OK, 2: OK}
        scene.prober.start()
        assert not await scene.prober.all_checked(0.1)
        assert scene.rows(GREEN) == [False]
        scene.found[3] = OK
        await eventually(lambda: scene.rows(GREEN) == [True])


async def test_rows_are_published_only_when_they_change():
    async with world() as scene:
        scene.found = {1: OK, 2: OK, 3: OK}
        scene.prober.start()
        await scene.prober.all_checked(10)
        version, checks = scene.segment.health.version(BLUE), scene.prober.checks[BLUE, "1", "passed"]
        await eventually(lambda: scene.prober.checks[BLUE, "1", "passed"] >= checks + 3)
        assert scene.segment.health.version(BLUE) == version


async def test_the_last_upstream_of_the_live_pool_goes_on_serving_and_that_is_told_once():
    async with world() as scene:
        scene.found = {1: OK, 2: REFUSED, 3: OK}
        scene.prober.start()
        await scene.prober.all_checked(10)
        scene.found[1] = REFUSED
        await eventually(lambda: scene.prober.degraded(BLUE) != "")
        assert scene.rows(BLUE) == [True, False]
        failures = scene.prober.checks[BLUE, "1", "failed"]
        await eventually(lambda: scene.prober.checks[BLUE, "1", "failed"] > failures + 2)
        assert len(scene.told("pool_degraded")) == 1
        scene.found[2] = OK
        await eventually(lambda: scene.rows(BLUE) == [False, True])
        assert scene.told("pool_recovered") == [{"colour": "blue"}]
        assert scene.prober.degraded(BLUE) == ""


async def test_an_idle_pool_goes_to_zero():
    async with world() as scene:
        scene.found = {1: OK, 2: OK, 3: OK}
        scene.prober.start()
        await scene.prober.all_checked(10)
        scene.found[3] = REFUSED
        await eventually(lambda: scene.rows(GREEN) == [False])
        assert scene.told("pool_degraded") == []


async def test_a_pool_forced_live_with_nothing_up_serves_before_the_word_moves():
    async with world() as scene:
        scene.found = {1: OK, 2: OK, 3: REFUSED}
        scene.prober.start()
        await scene.prober.all_checked(10)
        assert scene.rows(GREEN) == [False]
        scene.prober.live_changed(GREEN, forced=True)
        assert scene.rows(GREEN) == [True]
        assert scene.told("pool_degraded")[0]["forced"] is True
        scene.live = GREEN
        scene.found |= {1: REFUSED, 2: REFUSED}
        await eventually(lambda: scene.rows(BLUE) == [False, False])
        assert scene.rows(GREEN) == [True]


async def test_a_switch_that_did_not_happen_takes_the_emergency_rows_back():
    async with world() as scene:
        scene.found = {1: OK, 2: OK, 3: REFUSED}
        scene.prober.start()
        await scene.prober.all_checked(10)
        scene.prober.live_changed(GREEN, forced=True)
        scene.prober.live_changed(BLUE)
        assert scene.rows(GREEN) == [False]


async def test_after_stop_nothing_is_written_any_more():
    async with world() as scene:
        scene.found = {1: OK, 2: OK, 3: OK}
        scene.prober.start()
        await scene.prober.all_checked(10)
        await scene.prober.stop()
        before = dict(scene.prober.checks), scene.segment.health.version(BLUE)
        scene.prober._take(scene.prober._watched[BLUE, 0], Check(at="t", duration_s=0, error=REFUSED), 1)
        assert (dict(scene.prober.checks), scene.segment.health.version(BLUE)) == before
        assert scene.rows(BLUE) == [True, True]


async def test_a_check_that_breaks_is_told_once_its_verdict_grows_stale_and_checking_goes_on():
    async with world(timeout=1.0) as scene:
        scene.found = {1: OK, 2: OK, 3: OK}
        scene.prober.start()
        await scene.prober.all_checked(10)
        scene.found[3] = RuntimeError("a bug")
        await eventually(lambda: scene.told("probe_broken") != [])
        (view,) = scene.prober.views(GREEN)
        assert not scene.prober.is_stale(view)
        scene.now = asyncio.get_running_loop().time() + 60
        assert scene.prober.is_stale(view)
        (view,) = scene.prober.views(GREEN)
        assert (view.up, view.error) == (None, "the last check was 60s ago")
        told = [{"colour": "green", "upstream": "3", "error": "RuntimeError('a bug')"}]
        assert scene.told("probe_broken") == told
        checks = scene.prober.checks[GREEN, "3", "passed"]
        scene.found[3] = OK
        await eventually(lambda: scene.prober.checks[GREEN, "3", "passed"] > checks)
        (view,) = scene.prober.views(GREEN)
        assert (view.up, scene.prober.is_stale(view)) == (True, False)
        assert scene.told("probe_broken") == told
        scene.found[3] = RuntimeError("a bug")
        await eventually(lambda: scene.told("probe_broken") == 2 * told)


async def test_an_undecided_upstream_is_probed_at_the_fast_interval():
    async with world(interval=600.0, rise=1000) as scene:
        assert scene.prober._watched[BLUE, 0].fast_interval_s == 0.5
    async with world(interval=0.02) as scene:
        assert scene.prober._watched[BLUE, 0].fast_interval_s == 0.02
    async with world(interval=0.1, rise=3) as scene:
        assert scene.prober._watched[BLUE, 0].fast_interval_s == 0.05


# --- from table to table ----------------------------------------------------------------------------------------------


def next_table(scene: World, *, blue: Pool | None = None, green: Pool | None = None) -> PoolTable:
    now = scene.prober._table
    return successor(now, (blue or now.blue, green or now.green), rows=256)


async def probing(scene: World) -> None:
    scene.found = {1: OK, 2: OK, 3: OK}
    scene.prober.start()
    assert await scene.prober.all_checked(10)


async def test_a_considered_upstream_is_probed_and_takes_no_traffic_before_it_is_joined():
    async with world() as scene:
        await probing(scene)
        scene.found |= {4: OK, 5: REFUSED}
        table = next_table(scene, blue=pool(4, 5))
        scene.prober.consider(table)
        assert await scene.prober.all_checked(10)
        assert [view.up for view in scene.prober.views(BLUE, table)] == [True, False]
        assert [view.id for view in scene.prober.views(BLUE)] == ["1", "2"]
        assert scene.segment.health.routable(BLUE)[:4] == [True, True, False, False]
        scene.prober.join()
        assert scene.segment.health.routable(BLUE)[:4] == [True, True, True, False], "for workers of either table"
        scene.prober.adopt()
        assert scene.segment.health.routable(BLUE)[:4] == [False, False, True, False]
        assert [view.id for view in scene.prober.views(BLUE)] == ["4", "5"]
        checks = scene.prober.checks[BLUE, "4", "passed"]
        await eventually(lambda: scene.prober.checks[BLUE, "4", "passed"] > checks + 2)
        assert {name for colour, name, _ in scene.prober.checks if colour is BLUE} == {"4", "5"}


async def test_a_withdrawn_upstream_leaves_no_trace():
    async with world() as scene:
        await probing(scene)
        before = scene.segment.health.version(BLUE)
        scene.found[4] = OK
        scene.prober.consider(next_table(scene, blue=pool(4)))
        assert await scene.prober.all_checked(10)
        scene.prober.withdraw()
        assert [view.id for view in scene.prober.views(BLUE)] == ["1", "2"]
        assert scene.segment.health.version(BLUE) == before
        assert (BLUE, "4", "passed") not in scene.prober.checks
        assert len(scene.prober._watched) == 3


async def test_the_last_one_that_was_up_is_forgotten_with_its_row():
    async with world() as scene:
        await probing(scene)
        scene.found |= {4: OK, 5: OK}
        scene.prober.consider(next_table(scene, blue=pool(1, 4)))
        assert await scene.prober.all_checked(10)
        scene.prober.join()
        scene.prober.adopt()
        table = next_table(scene, blue=pool(1, 4, 5))
        assert table.blue.upstreams[2].index == 1, "the row of an upstream that was up, and is gone"
        scene.found |= {1: REFUSED, 4: REFUSED, 5: REFUSED}
        scene.prober.consider(table)
        await eventually(lambda: [view.up for view in scene.prober.views(BLUE, table)] == [False] * 3)
        scene.prober.join()
        scene.prober.adopt()
        rows = scene.segment.health.routable(BLUE)
        assert not rows[1]
        assert any(rows)


async def test_a_drained_upstream_takes_no_traffic_and_counts_for_nothing():
    async with world() as scene:
        await probing(scene)
        scene.prober.consider(next_table(scene, blue=with_drained(pool(1, 2), ["1"])))
        scene.prober.join()
        assert scene.rows(BLUE) == [True, True], "for workers that do not know it yet"
        scene.prober.adopt()
        assert scene.rows(BLUE) == [False, True]
        assert [(view.up, view.drained, view.is_healthy) for view in scene.prober.views(BLUE)] == [
            (True, True, False),
            (True, False, True),
        ]
        scene.found[2] = REFUSED
        await eventually(lambda: scene.prober.degraded(BLUE) != "")
        assert scene.rows(BLUE) == [False, True], "against the checks, but not against the operator"


async def test_who_is_enabled_is_back_after_its_next_good_check():
    async with world() as scene:
        await probing(scene)
        scene.prober.consider(next_table(scene, blue=with_drained(pool(1, 2), ["1"])))
        scene.prober.join()
        scene.prober.adopt()
        del scene.found[1]  # it answers nobody now, but its last verdict was good
        table = next_table(scene, blue=pool(1, 2))
        scene.prober.consider(table)
        scene.prober.join()
        scene.prober.adopt()
        assert [view.up for view in scene.prober.views(BLUE)] == [None, True]
        assert scene.rows(BLUE) == [False, True]
        scene.found[1] = OK
        await eventually(lambda: scene.rows(BLUE) == [True, True])


async def test_other_settings_are_used_from_the_next_check_on_and_verdicts_stay():
    async with world(interval=600.0) as scene:
        await probing(scene)
        asked: list[str] = []

        async def another(address: Address, settings: Settings) -> Check:
            asked.append(settings.path)
            return await scene.probe(address, settings)

        scene.found[1] = REFUSED
        scene.prober.configure(Settings(path="/other", fall=3), another)
        assert [view.up for view in scene.prober.views(BLUE)] == [True, True]
        await eventually(lambda: [view.up for view in scene.prober.views(BLUE)] == [False, True])
        assert set(asked) == {"/other"}
        assert scene.prober.views(BLUE)[0].consecutive >= 3
