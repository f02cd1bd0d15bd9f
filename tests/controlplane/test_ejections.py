from __future__ import annotations

import pytest

from bgproxy.controlplane.ejections import Ejections
from bgproxy.core.messages import Ejected
from bgproxy.core.model import BLUE, GREEN, Address, Pool, PoolTable, Upstream
from tests.support.proxies import TABLE, Recorder


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def ejections(clock):
    return Ejections(TABLE, emit=Recorder(), clock=clock)


def report(colour: int = GREEN, index: int = 0, for_s: float = 10.0) -> Ejected:
    return Ejected(colour, index, 5, for_s, "connection refused")


def test_an_upstream_is_out_until_the_last_worker_takes_it_back(ejections, clock):
    ejections.add(0, report())
    clock.now = 105.0
    ejections.add(1, report())
    assert ejections.until(GREEN, 0) == 115.0
    assert ejections.until(BLUE, 0) is None
    clock.now = 115.0
    assert ejections.until(GREEN, 0) is None


def test_what_a_worker_said_ends_with_it(ejections):
    ejections.add(0, report())
    ejections.add(1, report(for_s=3.0))
    ejections.forget(0)
    assert ejections.until(GREEN, 0) == 103.0


@pytest.mark.parametrize("wrong", [report(index=256), report(index=-1), report(colour=2)])
def test_a_report_about_no_upstream_is_refused(ejections, wrong):
    with pytest.raises(ValueError, match=r"upstream|Colour"):
        ejections.add(0, wrong)


def test_what_was_said_about_an_upstream_that_left_the_table_is_of_no_interest(ejections):
    other = PoolTable(2, TABLE.blue, Pool((Upstream("g2", 1, Address("127.0.0.1", 9003)),)))
    ejections.add(0, report())
    ejections.table_changed(other)
    assert ejections.until(GREEN, 0) is None
    ejections.add(0, report(index=0))
    assert ejections.until(GREEN, 0) is None, "a late word of a worker that had the last table"
    ejections.add(0, report(index=1))
    assert ejections.until(GREEN, 1) == 110.0
