from __future__ import annotations

from bgproxy.controlplane.admin.etag import Revisions


def test_the_sequence_moves_when_anything_but_a_clock_does():
    revisions = Revisions()
    document = {"epoch": 7, "uptime_s": 1.0, "pools": [{"rps": 1.0, "age_s": 0.1}]}
    assert revisions.tag(document) == "e7-1"
    assert revisions.tag(document | {"uptime_s": 2.0, "pools": [{"rps": 1.0, "age_s": 9.9}]}) == "e7-1"
    assert revisions.tag(document | {"pools": [{"rps": 2.0, "age_s": 0.1}]}) == "e7-2"
    assert revisions.tag(document | {"epoch": 8}) == "e8-3"
