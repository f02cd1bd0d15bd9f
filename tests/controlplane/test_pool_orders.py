from __future__ import annotations

from bgproxy.controlplane.pool_orders import DEFAULT_TIMEOUT_S, DrainOrder, SetOrder
from bgproxy.core.model import GREEN


def test_an_order_asks_for_nothing_dangerous_by_itself():
    order = SetOrder(colour=GREEN, upstreams=["127.0.0.1:1"])
    assert (order.allow_live, order.release, order.timeout_s) == (False, None, DEFAULT_TIMEOUT_S)
    aside = DrainOrder(colour=GREEN, upstream="127.0.0.1:1")
    assert (aside.enable, aside.force, aside.wait) == (False, False, False)
