from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bgproxy.controlplane.admin.exposition import EDGES_S, counter, gauge, histogram, place


def parsed(lines: list[str]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    (family,) = text_string_to_metric_families("\n".join(lines) + "\n")
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in family.samples}


def test_labels_are_escaped():
    nasty = 'a"b\\c\nd'
    assert parsed(gauge("up", "About.", [({"upstream": nasty}, 1)])) == {("bgproxy_up", (("upstream", nasty),)): 1.0}


def test_a_counter_without_labels_has_no_braces():
    assert counter("things_total", "About.", [({}, 3)])[-1] == "bgproxy_things_total 3"


def test_a_histogram_is_cumulative():
    counts = [1, 0, 2, *([0] * (len(EDGES_S) - 3)), 4]
    samples = parsed(histogram("d_seconds", "About.", [({"colour": "blue"}, counts, 1.5)]))
    blue = ("colour", "blue")
    assert samples["bgproxy_d_seconds_bucket", (blue, ("le", "0.0005"))] == 1
    assert samples["bgproxy_d_seconds_bucket", (blue, ("le", "0.0025"))] == 3
    assert samples["bgproxy_d_seconds_bucket", (blue, ("le", "30"))] == 3
    assert samples["bgproxy_d_seconds_bucket", (blue, ("le", "+Inf"))] == 7
    assert samples["bgproxy_d_seconds_count", (blue,)] == 7
    assert samples["bgproxy_d_seconds_sum", (blue,)] == 1.5


@pytest.mark.parametrize(("value", "edge"), [(0.0, 0), (0.0005, 0), (0.00051, 1), (30.0, 14), (31.0, 15)])
def test_a_value_belongs_to_the_first_edge_not_below_it(value, edge):
    assert place(value) == edge
