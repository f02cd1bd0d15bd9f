"""What is not HTTP: a problem document, a closed connection, one line in the log."""

from __future__ import annotations

import asyncio
import json

import pytest
from structlog.testing import capture_logs


@pytest.mark.parametrize(
    "raw",
    [
        b"GARBAGE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /status HTTP/1.1\r\n\r\n",
        b"GET /status HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"POST /switch HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
async def test_bytes_that_are_no_request_get_a_problem_and_no_version(api, control, capfd, raw):
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    with capture_logs() as logs:
        writer.write(raw)
        answer = await reader.read()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 400 " in head.splitlines()[0]
    assert json.loads(body)["code"] == "bad_request"
    assert b"Server: bgproxy\r\n" in head
    assert b"aiohttp" not in answer
    assert [log["event"] for log in logs] == ["admin_request_refused"]
    assert "Traceback" not in capfd.readouterr().err
    assert control.orders == []
    writer.close()
    await writer.wait_closed()
