"""The verdict on an upstream and the rows of a pool, without a probe in sight."""

from __future__ import annotations

import pytest

from bgproxy.core.health import Change, Check, Routing, Tracker, UpstreamHealth, judge, routable
from bgproxy.core.model import Address, Upstream

A = Upstream(id="a", index=0, address=Address(host="127.0.0.1", port=9001))


def tracker(rise: int = 2, fall: int = 3) -> Tracker:
    return Tracker(A, rise=rise, fall=fall, generation=1, now=100.0)


def passed(at: str = "t") -> Check:
    return Check(at=at, duration_s=0.01, status=200)


def failed(error: str = "connection refused") -> Check:
    return Check(at="t", duration_s=0.02, error=error)


def record(subject: Tracker, *outcomes: str, start: float = 101.0) -> list[Change]:
    """`+` is a success, `-` a failure, one second apart."""
    return [
        subject.record(passed() if outcome == "+" else failed(), generation=1, now=start + second)
        for second, outcome in enumerate(outcomes)
    ]


def test_an_upstream_is_unknown_before_its_first_check():
    view = tracker().view
    assert (view.up, view.checked_at, view.consecutive, view.at, view.since) == (None, None, 0, "", 100.0)
    assert (view.id, view.index, view.address) == ("a", 0, "127.0.0.1:9001")


def test_it_needs_rise_successes_in_a_row_to_be_up():
    subject = tracker(rise=3)
    assert record(subject, *"+-++") == [Change.NONE] * 4
    assert subject.view.up is None
    assert record(subject, "+", start=110.0) == [Change.WENT_UP]
    assert (subject.view.up, subject.view.since, subject.view.consecutive) == (True, 110.0, 3)


def test_an_unknown_upstream_needs_fall_failures_to_be_called_down():
    subject = tracker(fall=3)
    assert record(subject, *"---") == [Change.NONE, Change.NONE, Change.WENT_DOWN]
    assert (subject.view.up, subject.view.error) == (False, "connection refused")


def test_one_failed_check_does_not_take_an_upstream_down():
    subject = tracker()
    record(subject, *"++")
    assert record(subject, *"--+--", start=110.0) == [Change.NONE] * 5
    assert (subject.view.up, subject.view.since) == (True, 102.0)
    assert record(subject, "-", start=120.0) == [Change.WENT_DOWN]
    assert (subject.view.up, subject.view.since) == (False, 120.0)


def test_it_comes_back_after_rise_successes():
    subject = tracker()
    record(subject, *"---")
    assert record(subject, *"++", start=110.0) == [Change.NONE, Change.WENT_UP]
    assert subject.view.error == ""


def test_the_view_shows_the_last_check():
    subject = tracker()
    subject.record(Check(at="2026-01-01T00:00:00Z", duration_s=0.5, status=503, error="no"), generation=1, now=107.0)
    view = subject.view
    assert (view.at, view.checked_at, view.status, view.duration_s, view.error) == (
        "2026-01-01T00:00:00Z",
        107.0,
        503,
        0.5,
        "no",
    )


def test_a_result_of_another_generation_is_dropped():
    subject = tracker(rise=1)
    assert subject.record(passed(), generation=0, now=101.0) is Change.DROPPED
    assert subject.view.up is None


def test_a_late_result_after_retirement_is_dropped():
    subject = tracker(rise=1)
    record(subject, "+")
    subject.retire()
    assert subject.record(failed(), generation=1, now=105.0) is Change.DROPPED
    assert subject.view.up is True


def views(*ups: bool | None) -> list[UpstreamHealth]:
    return [UpstreamHealth(id=str(i), index=i, address="", up=up) for i, up in enumerate(ups)]


def test_only_upstreams_that_are_up_take_traffic():
    assert routable(views(True, False, None), live=True) == Routing((True, False, False))


def test_the_last_upstream_of_the_live_pool_is_not_taken_out():
    routing = routable(views(False, False), live=True, last_up=(False, True))
    assert routing.rows == (False, True)
    assert "down" in routing.degraded


def test_an_idle_pool_goes_to_zero_honestly():
    assert routable(views(False, False), live=False, last_up=(False, True)) == Routing((False, False))


def test_a_pool_that_is_live_without_having_been_up_tries_every_checked_upstream():
    routing = routable(views(False, None, False), live=True)
    assert routing.rows == (True, False, True)
    assert routing.degraded


def test_a_live_pool_that_was_never_checked_takes_no_traffic_and_is_not_called_degraded():
    assert routable(views(None, None), live=True) == Routing((False, False))


def test_an_upstream_that_came_back_replaces_the_emergency_rows():
    assert routable(views(True, False), live=True, last_up=(False, True)) == Routing((True, False))


@pytest.mark.parametrize(
    ("status", "body", "ranges", "text", "error"),
    [
        (204, b"", [(200, 299)], "", ""),
        (302, b"", [(200, 299)], "", "answered 302, expected 200-299"),
        (503, b"", [(200, 200), (400, 404)], "", "answered 503, expected 200 or 400-404"),
        (401, b"", [(200, 200), (400, 404)], "", ""),
        (200, b"all fine here", [(200, 299)], "fine", ""),
        (200, b"warming up", [(200, 299)], "fine", "answered 200, but the body does not contain 'fine'"),
        (200, "schön".encode(), [(200, 299)], "schön", ""),
    ],
)
def test_an_answer_is_judged_by_status_and_body(status, body, ranges, text, error):
    assert judge(status, body, expect_status=ranges, expect_body=text) == error


def test_the_release_is_that_of_the_last_check_that_succeeded():
    subject = tracker(rise=1, fall=1)
    for check, release in (
        (Check("t", 0.0, 200, release="1.0"), "1.0"),
        (Check("t", 0.0, 500, "answered 500", release="oops"), "1.0"),
        (Check("t", 0.0, 200, release="2.0"), "2.0"),
        (Check("t", 0.0, 200), ""),
    ):
        subject.record(check, generation=1, now=101.0)
        assert subject.view.release == release


def test_other_thresholds_count_from_the_next_result_on():
    tracker = Tracker(Upstream("a", 0, Address("127.0.0.1", 1)), rise=5, fall=5, generation=1, now=0.0)
    good = Check(at="t", duration_s=0.1, status=200)
    assert tracker.record(good, generation=1, now=1.0) is Change.NONE
    tracker.configure(rise=2, fall=1)
    assert tracker.record(good, generation=1, now=2.0) is Change.WENT_UP


def test_who_is_drained_takes_no_traffic_whatever_its_checks_say():
    def views(*facts: tuple[bool | None, bool]) -> list[UpstreamHealth]:
        return [
            UpstreamHealth(str(index), index, "a", up=up, drained=drained) for index, (up, drained) in enumerate(facts)
        ]

    assert routable(views((True, True), (True, False)), live=True).rows == (False, True)
    kept = routable(views((False, True), (False, False)), live=True, last_up=(True, True))
    assert kept.rows == (False, True)
    tried = routable(views((False, True), (False, False), (None, False)), live=True, last_up=(True, False, False))
    assert tried.rows == (False, True, False), "the last one that was up is drained"
    assert [view.is_healthy for view in views((True, True), (True, False), (None, False))] == [False, True, False]
