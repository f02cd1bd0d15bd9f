from __future__ import annotations

import msgspec
import pytest

from bgproxy.core.settings import (
    AccessLogSettings,
    HeaderSettings,
    HoldSettings,
    Limits,
    StreamPolicy,
    StreamRoute,
    StreamSettings,
    Timeouts,
    UpstreamSettings,
    UpstreamTls,
    WorkerSettings,
)


def test_settings_arrive_in_a_worker_as_they_were_sent():
    sent = WorkerSettings(
        timeouts=Timeouts(header=1.5),
        limits=Limits(body_bytes=7),
        upstream=UpstreamSettings(retries=3),
        headers=HeaderSettings(expose=True),
        access_log=AccessLogSettings(format="json", file="/var/log/a.log"),
        trusted_proxies=("10.0.0.0/8", "::1/128"),
        hold=HoldSettings(max=3, bytes=4, timeout=0.5),
        upstream_tls=UpstreamTls(ca=b"\0\xff", verify=False),
        streams=StreamSettings(StreamPolicy(spread=0.5), (StreamRoute("/chat/", StreamPolicy(close_code=1001)),)),
    )
    for codec in (msgspec.json, msgspec.msgpack):
        assert codec.decode(codec.encode(sent), type=WorkerSettings) == sent


@pytest.mark.parametrize("part", [Timeouts, Limits, UpstreamSettings, HoldSettings])
def test_every_bound_is_set_unless_zero_means_none(part):
    unbounded = {name for name, value in msgspec.structs.asdict(part()).items() if not value > 0}
    assert unbounded <= {"body_bytes"}


def test_an_upstream_connection_is_given_up_before_the_usual_server_closes_it():
    # Node closes idle connections after five seconds; a parked connection must not be found dead in use.
    assert UpstreamSettings().idle_timeout < 5


def test_a_request_target_fits_into_the_head_that_holds_it():
    assert Limits().target_bytes < Limits().head_bytes


def test_a_private_key_does_not_show():
    shown = repr(WorkerSettings(upstream_tls=UpstreamTls(cert=b"public", key=b"secret key")))
    assert "key=***" in shown
    assert "secret" not in shown


def test_settings_never_change_in_place():
    with pytest.raises(AttributeError):
        WorkerSettings().timeouts = Timeouts()
    with pytest.raises(AttributeError):
        WorkerSettings().timeouts.header = 1.0
