"""Certificates for tests: one authority per test run, pairs and contexts that trust it."""

from __future__ import annotations

import ssl
from functools import cache
from typing import TYPE_CHECKING, Any

import trustme

from bgproxy.core.certificates import Pair, TlsMaterial

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RSA, ECDSA = trustme.KeyType.RSA, trustme.KeyType.ECDSA


@cache
def authority() -> trustme.CA:
    return trustme.CA(organization_name="Tests of bgproxy")


def issue(*names: str, key_type: trustme.KeyType = ECDSA, **more: Any) -> trustme.LeafCert:
    return authority().issue_cert(*names, key_type=key_type, **more)


def pair(*names: str, key_type: trustme.KeyType = ECDSA) -> Pair:
    leaf = issue(*names, key_type=key_type)
    return Pair(names, key_type.name.lower(), leaf.private_key_and_cert_chain_pem.bytes())


def material(*pairs: Pair, version: int = 1, **more: Any) -> TlsMaterial:
    return TlsMaterial(version, pairs, **more)


def write_pair(leaf: trustme.LeafCert, cert: Path, key: Path) -> None:
    cert.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    key.write_bytes(leaf.private_key_pem.bytes())


def client_context(**attributes: Any) -> ssl.SSLContext:
    """Trusts the authority alone. Attributes are set, like maximum_version."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority().configure_trust(context)
    for name, value in attributes.items():
        setattr(context, name, value)
    return context


def handshake(
    client: ssl.SSLContext,
    server: ssl.SSLContext | Callable[[bytes], ssl.SSLContext],
    name: str,
    session: ssl.SSLSession | None = None,
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Both ends after a handshake in memory. `server` may be chosen by the first bytes of the client."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(to_client, to_server, server_hostname=name or None, session=session)
    _step(asking.do_handshake)
    hello = to_server.read()
    to_server.write(hello)
    chosen = server if isinstance(server, ssl.SSLContext) else server(hello)
    answering = chosen.wrap_bio(to_server, to_client, server_side=True)
    for step in (answering.do_handshake, asking.do_handshake) * 2:
        _step(step)
    _step(lambda: asking.read(1))  # tickets come behind the handshake
    return asking, answering


def _step(step: Callable[[], object]) -> None:
    try:
        step()
    except ssl.SSLWantReadError:
        pass
