from __future__ import annotations

import pytest

from bgproxy.core.descriptors import SPARE, needed, room_for_clients, upstream_connections
from bgproxy.core.model import Address, Pool, PoolTable, Upstream
from bgproxy.core.settings import Limits, UpstreamSettings, WorkerSettings

SETTINGS = WorkerSettings(limits=Limits(connections=1000), upstream=UpstreamSettings(max_connections=100))


def pool(upstreams: int) -> Pool:
    return Pool(tuple(Upstream(str(i), i, Address("127.0.0.1", 1 + i)) for i in range(upstreams)))


TABLE = PoolTable(1, pool(2), pool(1))


def test_both_pools_may_be_in_use_at_once():
    assert upstream_connections(SETTINGS, TABLE) == 300
    assert needed(SETTINGS, TABLE) == 1300 + SPARE


@pytest.mark.parametrize(
    ("descriptors", "room"),
    [
        (1_000_000, 1000),
        (1300 + SPARE, 1000),
        (1299 + SPARE, 999),
        (601 + SPARE, 301),
        (600 + SPARE, 300),
        (500 + SPARE, 250),  # never more than half for upstreams
        (3, 1),
    ],
)
def test_clients_get_what_upstreams_do_not_need(descriptors: int, room: int):
    assert room_for_clients(descriptors, SETTINGS, TABLE) == room
