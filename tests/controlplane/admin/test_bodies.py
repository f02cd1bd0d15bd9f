"""Strict reading: what is not exactly a known request is refused by name, and never reaches the control plane."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgproxy.controlplane.admin import bodies
from bgproxy.controlplane.admin.bodies import parse_object
from bgproxy.errors import BadRequest

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{}", "'to'"),
        (b"", "'to'"),
        (b'{"to": "red"}', "'to'"),
        (b'{"to": 1}', "'to'"),
        (b'{"to": "green", "if_epoch": "7"}', "'if_epoch'"),
        (b'{"to": "green", "if_epoch": true}', "'if_epoch'"),
        (b'{"to": "green", "if_epoch": -1}', "'if_epoch'"),
        (b'{"to": "green", "force": 1}', "'force'"),
        (b'{"to": "green", "wait": "forever"}', "'wait'"),
        (b'{"to": "green", "mode": "slowly"}', "'mode'"),
        (b'{"to": "green", "timeout": "5 minutes"}', "'timeout'"),
        (b'{"to": "green", "timeout": -1}', "'timeout'"),
        (b'{"to": "green", "timeout": 1e300}', "'timeout'"),
        (b'{"to": "green", "reason": null}', "'reason'"),
        (b'{"to": "green", "reason": "x\\ud800"}', "'reason'"),
        (b'{"to": "green", "expect_release": "x\\ud800"}', "'expect_release'"),
        (b'{"to": "green", "target": "x"}', "'target'"),
        (b'{"to": "green", "to": "blue"}', "'to' is given twice"),
        (b'{"to": "green", "timeout": NaN}', "NaN"),
        (b'["green"]', "JSON object"),
        (b'"green"', "JSON object"),
        (b"to=green", "line 1 column 1"),
        (b'{"to": "gr\xff"}', "not UTF-8"),
        (b"[" * 60_000, "nested too deeply"),
        (b'{"to": "green", "if_epoch": ' + b"9" * 6000 + b"}", "a number too long"),
    ],
)
async def test_a_body_that_is_not_right_is_refused_by_name(api, control, body, said):
    reply = await api.ask("POST", "/switch", data=body, headers=JSON)
    assert (reply.status, reply.document["code"]) == (400, "bad_request")
    assert said in reply.document["detail"]
    assert control.orders == []


async def test_an_unknown_key_comes_with_a_suggestion(api):
    reply = await api.ask("POST", "/switch", json={"to": "green", "if_epcoh": 3})
    assert reply.document["hint"] == "did you mean 'if_epoch'?"


async def test_a_rollback_names_no_colour(api, control):
    reply = await api.ask("POST", "/rollback", json={"to": "blue"})
    assert (reply.status, control.orders) == (400, [])


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
async def test_what_a_form_can_send_is_refused(api, control, content_type):
    reply = await api.ask("POST", "/switch", data=b'{"to": "green"}', headers={"Content-Type": content_type})
    assert (reply.status, reply.document["code"]) == (415, "unsupported_media_type")
    assert control.orders == []


async def test_a_charset_parameter_is_fine(api):
    headers = {"Content-Type": "application/json; charset=utf-8"}
    assert (await api.ask("POST", "/switch", data=b'{"to": "green"}', headers=headers)).status == 200


async def test_a_body_that_does_not_arrive_is_given_up(api, monkeypatch):
    monkeypatch.setattr(bodies, "BODY_TIMEOUT_S", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(
        b"POST /switch HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
    )
    assert await reader.readline() == b"HTTP/1.1 408 Request Timeout\r\n"
    writer.close()
    await writer.wait_closed()


@given(st.binary(max_size=200))
def test_no_bytes_do_anything_but_parse_or_be_refused(raw):
    try:
        parsed = parse_object(raw)
    except BadRequest:
        return
    assert isinstance(parsed, dict)
