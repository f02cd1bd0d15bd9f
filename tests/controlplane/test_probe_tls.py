"""One probe over TLS: with the settings of the workers, and why it failed."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvloop

from bgproxy.controlplane.probe import probe
from bgproxy.core.health import Check
from bgproxy.core.model import Address
from bgproxy.core.settings import UpstreamTls
from bgproxy.tls.upstream import client_context
from tests.controlplane.test_probe import Settings
from tests.support.http_apps import raw_server
from tests.support.upstream_certificates import ca_pem, cert_pem, key_pem, leaf, server_context

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"


@asynccontextmanager
async def tls_server(context: ssl.SSLContext, name: str = "127.0.0.1") -> AsyncIterator[Address]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK)
            await writer.drain()
            await reader.read()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    yield Address("127.0.0.1", server.sockets[0].getsockname()[1], server_name=name)
    server.close()


def checked(context: ssl.SSLContext, name: str = "127.0.0.1", **tls: object) -> Check:
    """On the loop that the supervisor runs on."""

    async def check() -> Check:
        settings = UpstreamTls(**{"ca": ca_pem()} | tls)
        async with tls_server(context, name) as address:
            return await probe(address, Settings(expect_body="fine"), tls=client_context(settings))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(check())


def test_a_good_answer_over_tls_passes():
    check = checked(server_context())
    assert (check.ok, check.status, check.error) == (True, 200, "")


def test_the_server_name_is_what_is_verified():
    assert checked(server_context("app.internal"), "app.internal").ok
    assert checked(server_context(), "app.internal").error == "the upstream's certificate is not for 'app.internal'"


def test_a_client_certificate_is_shown():
    ours = {"cert": cert_pem(leaf("client.example")), "key": key_pem(leaf("client.example"))}
    assert checked(server_context(asks_for="ours"), **ours).ok


@pytest.mark.parametrize("most", [None, ssl.TLSVersion.TLSv1_2], ids=["TLS 1.3", "TLS 1.2"])
def test_a_missing_client_certificate_fails(most):
    error = checked(server_context(asks_for="ours", most=most)).error
    assert error in (
        "the upstream asks for a client certificate",
        "the upstream refused the handshake: no common cipher, or no client certificate",
        "the connection was closed before the answer",  # where its RST has overtaken its alert
    )


@pytest.mark.parametrize(
    ("context", "error"),
    [
        ({"expired": True}, "the upstream's certificate has expired"),
        ({"by": "another"}, "the upstream's certificate is of an unknown CA (unable to get local issuer certificate)"),
    ],
)
def test_a_certificate_that_cannot_be_verified_fails_in_plain_words(context, error):
    assert checked(server_context(**context)).error == error
    assert checked(server_context(**context), verify=False).ok


async def test_an_upstream_without_tls_is_said_to_have_none():
    async with raw_server(OK) as plain:
        address = Address(plain.host, plain.port, server_name=plain.host)
        check = await probe(address, Settings(timeout=0.3), tls=client_context(UpstreamTls(ca=ca_pem())))
    assert check.error == "no answer within 0.3s"  # it waits for the end of a head


async def test_an_upstream_that_answers_the_hello_with_http_is_said_to_have_no_tls():
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(5)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = Address("127.0.0.1", server.sockets[0].getsockname()[1], server_name="127.0.0.1")
    check = await probe(address, Settings(), tls=client_context(UpstreamTls(ca=ca_pem())))
    server.close()
    assert check.error == "the upstream does not speak TLS"


async def test_an_upstream_that_speaks_tls_behind_a_plain_address_fails():
    async with tls_server(server_context()) as address:
        check = await probe(Address(address.host, address.port), Settings())
    assert check.error == "the connection was closed before the answer"
