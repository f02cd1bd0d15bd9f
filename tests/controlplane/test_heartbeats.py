from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import pytest

from bgproxy.controlplane.heartbeats import Heartbeats
from bgproxy.shm import worker_slot
from bgproxy.shm.segment import Segment
from tests.support.proxies import eventually


@pytest.fixture
def segment():
    segment = Segment.create(2)
    yield segment
    segment.close()


@pytest.fixture
async def condemned(segment):
    """What a watch over a silent worker, a starting one and a lively one finds."""
    now = time.monotonic()
    segment.slots[1].cells[worker_slot.HEARTBEAT_NS] = int((now + 3600) * 1e9)
    workers = [
        SimpleNamespace(number=0, ready=True, spawned_at=now - 100, name="silent"),
        SimpleNamespace(number=0, ready=False, spawned_at=now - 100, name="starting"),
        SimpleNamespace(number=1, ready=True, spawned_at=now - 100, name="lively"),
    ]
    found: dict[str, str] = {}
    heartbeats = Heartbeats(
        segment,
        lambda: workers,
        lambda worker, why: found.setdefault(worker.name, why),
        heartbeat_bound_s=0.1,
        start_bound_s=0.1,
    )
    task = asyncio.ensure_future(heartbeats.watch())
    yield found
    task.cancel()


async def test_silent_workers_are_named_with_how_long_and_lively_ones_are_not(condemned):
    await eventually(lambda: len(condemned) == 2, "two verdicts")
    assert condemned["silent"].startswith("has shown no sign of life for 0.")
    assert condemned["starting"] == "was not ready 0.1 s after its start"
