from __future__ import annotations

import re
from http import HTTPStatus

import pytest

from bgproxy.core import failure
from bgproxy.core.failure import ALL, Failure

every_failure = pytest.mark.parametrize("each", ALL, ids=lambda each: each.reason)


def test_the_list_of_failures_is_complete_and_each_reason_is_its_own():
    defined = [value for value in vars(failure).values() if isinstance(value, Failure)]
    assert defined == list(ALL)
    assert len({each.reason for each in ALL}) == len(ALL)


@every_failure
def test_a_failure_is_known_by_the_name_of_its_reason(each):
    assert getattr(failure, each.reason.upper()) is each
    assert re.fullmatch("[a-z_]+", each.reason)


@every_failure
def test_a_failure_is_answered_as_a_fault_of_the_gateway_or_only_logged(each):
    assert each.status in (*(s.value for s in (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE)), 504, 499)


@every_failure
def test_a_time_that_ran_out_on_the_upstream_is_a_504(each):
    ran_out = each.reason in ("connect_timeout", "response_timeout", "response_idle")
    assert (each.status == 504) is ran_out


@every_failure
def test_a_detail_is_a_sentence_that_gives_no_address_and_no_path_away(each):
    assert each.detail == each.detail.strip()
    assert not re.search(r"[/:%{}\d]", each.detail.replace("HTTP/1.1", ""))


@every_failure
def test_what_was_not_sent_at_all_need_not_be_replayed(each):
    assert not (each.nothing_sent and each.replayable)


def test_only_failures_to_connect_eject_an_upstream():
    blamed = {each.reason for each in ALL if each.counts_against_upstream}
    assert blamed == {"connect_refused", "connect_timeout", "connect_failed", "tls_failed"}


def test_a_failure_never_changes():
    with pytest.raises(AttributeError):
        failure.BAD_RESPONSE.status = 200
