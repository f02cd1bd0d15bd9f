from __future__ import annotations

from structlog.testing import capture_logs

from bgproxy.controlplane.events import Events


def test_an_event_is_logged_with_its_fields():
    with capture_logs() as logs:
        Events().emit("upstream_up", colour="blue", upstream="a")
    assert logs == [{"event": "upstream_up", "log_level": "info", "colour": "blue", "upstream": "a"}]


def test_what_an_operator_must_look_at_is_a_warning():
    with capture_logs() as logs:
        Events().emit("pool_degraded", colour="blue")
    assert logs[0]["log_level"] == "warning"


def test_listeners_are_told():
    told: list[tuple[str, dict[str, object]]] = []
    events = Events()
    events.listen(lambda event, fields: told.append((event, fields)))
    events.emit("upstream_down", error="connection refused")
    assert told == [("upstream_down", {"error": "connection refused"})]
