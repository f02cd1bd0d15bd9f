from __future__ import annotations

import pytest

from bgproxy.controlplane.checklist import Checklist
from bgproxy.controlplane.orphans import Orphans
from bgproxy.core.gates import failed
from bgproxy.core.health import UpstreamHealth
from bgproxy.core.model import BLUE, GREEN, Colour
from tests.support.proxies import FakeProxy


class OneUpstream:
    def views(self, colour: Colour) -> list[UpstreamHealth]:
        return [UpstreamHealth(colour.label, 0, "127.0.0.1:1", up=colour is BLUE, checked_at=1.0)]


@pytest.fixture
async def checklist(tmp_path):
    proxy = FakeProxy(tmp_path, workers=1)  # not started
    orphans = Orphans(emit=proxy.emit)
    yield Checklist(proxy.segment, proxy.workers, orphans, OneUpstream(), min_healthy=(1, 0), check="GET /up")
    await proxy.close()


def test_the_snapshot_is_of_both_pools_and_all_workers(checklist):
    now = checklist.snapshot()
    assert (now.live, now.epoch, now.check) == (BLUE, 0, "GET /up")
    assert (now.blue.healthy, now.blue.min_healthy) == (1, 1)
    assert (now.green.healthy, now.green.min_healthy) == (0, 0)
    assert [worker.ready for worker in now.workers] == [False]


def test_a_rollback_has_the_shorter_list(checklist):
    assert [verdict.gate for verdict in failed(checklist.verdicts(GREEN, "switch"))] == ["workers_ready"]
    assert failed(checklist.verdicts(GREEN, "rollback")) == []
