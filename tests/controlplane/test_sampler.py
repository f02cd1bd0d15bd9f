"""Rates out of counters, on a clock that the test turns by hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bgproxy.controlplane.sampler import STALE_AFTER_S, Rates, Sampler, gauge, quantile
from bgproxy.core.model import BLUE, GREEN
from bgproxy.shm import worker_slot
from bgproxy.shm.segment import Segment
from tests.support.http_apps import eventually
from tests.support.slots import answered


@pytest.fixture
def segment() -> Iterator[Segment]:
    made = Segment.create(workers=2)
    yield made
    made.close()


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_rates_are_those_between_the_first_and_the_last_sample(segment):
    clock = Clock()
    sampler = Sampler(segment.slots, clock=clock)
    answered(segment.slots[0], BLUE, times=50, duration_s=0.010)
    sampler.sample()
    clock.now += 2
    answered(segment.slots[0], BLUE, times=90, duration_s=0.010)
    answered(segment.slots[1], BLUE, code=502, times=10, duration_s=1.0)
    sampler.sample()
    rates = sampler.rates(BLUE)
    assert (rates.rps, rates.error_share) == (50.0, 0.1)
    assert rates.p50 == pytest.approx(0.010, rel=0.13)
    assert rates.p99 == pytest.approx(1.0, rel=0.13)
    assert sampler.rates(GREEN) == Rates()


def test_old_samples_leave_the_window(segment):
    clock = Clock()
    sampler = Sampler(segment.slots, clock=clock)
    sampler.sample()
    answered(segment.slots[0], BLUE, times=1000)
    for _ in range(11):
        clock.now += 1
        sampler.sample()
    assert sampler.rates(BLUE) == Rates()


def test_one_sample_is_no_rate(segment):
    sampler = Sampler(segment.slots)
    answered(segment.slots[0], BLUE, times=5)
    sampler.sample()
    assert sampler.rates(BLUE) == Rates()


def test_figures_grow_stale_without_a_new_sample(segment):
    clock = Clock()
    sampler = Sampler(segment.slots, clock=clock)
    assert not sampler.stale
    clock.now += STALE_AFTER_S + 1
    assert sampler.stale
    sampler.sample()
    assert (sampler.stale, sampler.age_s) == (False, 0.0)


async def test_it_samples_by_itself_until_it_is_stopped(segment):
    sampler = Sampler(segment.slots)
    sampler.start()
    await eventually(lambda: len(sampler._samples) > 0)
    await sampler.stop()
    await Sampler(segment.slots).stop()


def test_a_quantile_is_the_upper_edge_of_its_bucket():
    buckets = [0] * worker_slot.BUCKETS
    assert quantile(buckets, 0.5) is None
    buckets[3], buckets[20] = 9, 1
    assert quantile(buckets, 0.9) == pytest.approx(worker_slot.bucket_upper_s(3))
    assert quantile(buckets, 0.91) == pytest.approx(worker_slot.bucket_upper_s(20))


def test_a_gauge_is_summed_over_the_workers(segment):
    segment.slots[0].cells[worker_slot.IN_FLIGHT + GREEN] = 2
    segment.slots[1].cells[worker_slot.IN_FLIGHT + GREEN] = 3
    assert gauge(segment.slots, worker_slot.IN_FLIGHT + GREEN) == 5
