"""Orders and reports are what the API says they are."""

from __future__ import annotations

import msgspec
import pytest

from bgproxy.controlplane.orders import ReplacedWorker, SwitchOrder, SwitchReport
from bgproxy.core.model import GREEN


def test_an_order_waits_for_the_acknowledgement_and_overrides_nothing_unless_told():
    order = SwitchOrder(kind="switch", to=GREEN)
    assert (order.wait, order.force, order.dry_run, order.if_epoch) == ("acked", False, False, None)


def test_an_order_cannot_be_changed_on_its_way():
    with pytest.raises(AttributeError):
        SwitchOrder(kind="switch", to=GREEN).force = True  # type: ignore[misc]


def test_a_report_is_read_back_from_its_json_with_from_as_its_key():
    report = SwitchReport(
        changed=True,
        kind="switch",
        from_="blue",
        to="green",
        epoch=2,
        at="2026-01-01T00:00:00Z",
        replaced_workers=(ReplacedWorker(1, 4242, "did not acknowledge"),),
    )
    as_json = msgspec.json.encode(report)
    assert b'"from":"blue"' in as_json
    assert msgspec.json.decode(as_json, type=SwitchReport) == report
