"""One health probe: one request on a fresh connection, and what came of it as a plain sentence.

Follows no redirect, asks no proxy variable, keeps no cookie, and reads at most `max_body_bytes` of the answer.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

import aiohttp

from bgproxy import __version__
from bgproxy.core.health import Check, StatusRanges, judge
from bgproxy.tls.upstream import why

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bgproxy.core.model import Address

MAX_RELEASE = 200  # characters; it is shown and compared, not stored
USER_AGENT = f"bgproxy/{__version__}"


class HealthSettings(Protocol):
    """The [health] section: durations in seconds, `jitter` as a share of the interval."""

    @property
    def path(self) -> str: ...
    @property
    def method(self) -> str: ...
    @property
    def interval(self) -> float: ...
    @property
    def timeout(self) -> float: ...
    @property
    def rise(self) -> int: ...
    @property
    def fall(self) -> int: ...
    @property
    def expect_status(self) -> StatusRanges: ...
    @property
    def expect_body(self) -> str: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def jitter(self) -> float: ...
    @property
    def max_body_bytes(self) -> int: ...
    @property
    def release_header(self) -> str: ...


async def probe(address: Address, settings: HealthSettings, *, tls: ssl.SSLContext | None = None) -> Check:
    """Ask once. Never raises but CancelledError: whatever went wrong is the check's error. `tls` as workers use it."""
    started = time.perf_counter()
    status, error, release = 0, "", ""
    try:
        async with asyncio.timeout(settings.timeout):
            status, body, release = await _ask(address, settings, tls)
        error = judge(status, body, expect_status=settings.expect_status, expect_body=settings.expect_body)
    except TimeoutError:
        error = f"no answer within {settings.timeout:g}s"
    except (aiohttp.ClientError, OSError, ValueError) as failure:
        error = explain(failure)
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return Check(at=now, duration_s=time.perf_counter() - started, status=status, error=error, release=release)


async def _ask(address: Address, settings: HealthSettings, tls: ssl.SSLContext | None) -> tuple[int, bytes, str]:
    """Status, as much of the body as is asked for, and the release that the answer names."""
    connector: aiohttp.BaseConnector
    url = str(address) if address.server_name else f"http://{address}"
    if address.is_unix:
        connector, url = aiohttp.UnixConnector(address.path, force_close=True), "http://localhost"
    else:
        # True: what aiohttp does by itself
        connector = aiohttp.TCPConnector(force_close=True, use_dns_cache=False, ssl=True if tls is None else tls)
    headers = {"User-Agent": USER_AGENT, "Connection": "close"} | dict(settings.headers)
    async with (
        aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False, auto_decompress=False
        ) as session,
        session.request(
            settings.method,
            f"{url}{settings.path}",
            headers=headers,
            server_hostname=address.server_name or None,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=None),  # one clock is enough: the caller's
        ) as response,
    ):
        release = response.headers.get(settings.release_header, "")[:MAX_RELEASE]
        return response.status, await _body(response, settings) if settings.expect_body else b"", release


async def _body(response: aiohttp.ClientResponse, settings: HealthSettings) -> bytes:
    body = bytearray()
    while len(body) < settings.max_body_bytes:
        part = await response.content.read(settings.max_body_bytes - len(body))
        if not part:
            break
        body += part
    return bytes(body)


def explain(failure: Exception) -> str:
    """A plain sentence for what a connection or an answer can die of."""
    if isinstance(failure, aiohttp.ClientConnectorCertificateError):
        return why(failure.certificate_error)
    if isinstance(failure, aiohttp.ClientConnectorError):
        return explain(failure.os_error)
    refused = failure if isinstance(failure, ssl.SSLError) else failure.__cause__
    if isinstance(refused, ssl.SSLError):
        return why(refused)
    if isinstance(failure, aiohttp.ServerDisconnectedError | ConnectionResetError | aiohttp.ClientOSError):
        return "the connection was closed before the answer"
    if isinstance(failure, aiohttp.ClientError):
        return "the answer is not valid HTTP"
    if isinstance(failure, socket.gaierror):
        return "the host name does not resolve"
    if isinstance(failure, ConnectionRefusedError):
        return "connection refused"
    if isinstance(failure, FileNotFoundError):
        return "the unix socket does not exist"
    if isinstance(failure, OSError) and failure.errno is not None and failure.errno > 0:
        return os.strerror(failure.errno).lower()
    return f"the probe could not be sent: {failure}"
