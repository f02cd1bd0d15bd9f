from __future__ import annotations

import pytest

from bgproxy.core import failure
from bgproxy.core.retry import IDEMPOTENT, may_send_again, may_try_another_upstream

CONNECT_FAILURES = [failure.CONNECT_REFUSED, failure.CONNECT_TIMEOUT, failure.CONNECT_FAILED, failure.TLS_FAILED]


@pytest.mark.parametrize("failed", failure.ALL, ids=lambda f: f.reason)
def test_another_upstream_is_tried_only_when_nothing_was_sent(failed):
    assert may_try_another_upstream(failed, attempts=1, retries=1) is (failed in CONNECT_FAILURES)


@pytest.mark.parametrize(
    ("attempts", "retries", "expected"), [(1, 0, False), (1, 1, True), (2, 1, False), (2, 2, True), (3, 2, False)]
)
def test_no_more_attempts_are_made_than_retries_allow(attempts, retries, expected):
    assert may_try_another_upstream(failure.CONNECT_REFUSED, attempts, retries) is expected


HARMLESS = {"method": b"GET", "has_body": False, "reused": True, "resent": False}


@pytest.mark.parametrize("failed", failure.ALL, ids=lambda f: f.reason)
def test_a_request_is_sent_again_only_after_a_close_before_the_response(failed):
    assert may_send_again(failed, **HARMLESS) is (failed is failure.CLOSED_BEFORE_RESPONSE)


@pytest.mark.parametrize(
    "different",
    [
        {"method": b"POST"},
        {"method": b"PATCH"},
        {"method": b"get"},
        {"method": b"PURGE"},
        {"has_body": True},
        {"reused": False},
        {"resent": True},
    ],
    ids=str,
)
def test_any_doubt_forbids_sending_again(different):
    assert not may_send_again(failure.CLOSED_BEFORE_RESPONSE, **(HARMLESS | different))


@pytest.mark.parametrize("method", sorted(IDEMPOTENT))
def test_idempotent_methods_may_be_sent_again(method):
    assert may_send_again(failure.CLOSED_BEFORE_RESPONSE, **(HARMLESS | {"method": method}))


def test_the_idempotent_methods_are_those_of_the_standard():
    assert {b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"} == IDEMPOTENT
