"""Certificates of a CA that exists for the tests alone, as the files an operator would have."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING

import trustme

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime.now(UTC)


@cache
def authority(name: str = "ours") -> trustme.CA:
    return trustme.CA(organization_name=f"{name} CA")


def ca_pem(name: str = "ours") -> bytes:
    return authority(name).cert_pem.bytes()


@cache
def leaf(*names: str, by: str = "ours", expired: bool = False) -> trustme.LeafCert:
    """A certificate for these host names and addresses."""
    until = NOW - timedelta(days=1) if expired else NOW + timedelta(days=1)
    return authority(by).issue_cert(*names, not_before=NOW - timedelta(days=3), not_after=until)


def cert_pem(certificate: trustme.LeafCert) -> bytes:
    return b"".join(blob.bytes() for blob in certificate.cert_chain_pems)


def key_pem(certificate: trustme.LeafCert) -> bytes:
    return certificate.private_key_pem.bytes()


def server_context(
    *names: str, by: str = "ours", expired: bool = False, asks_for: str = "", most: ssl.TLSVersion | None = None
) -> ssl.SSLContext:
    """What a server at 127.0.0.1 (or `names`) needs; `asks_for` names the CA of the client certificates it wants."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf(*(names or ("127.0.0.1",)), by=by, expired=expired).configure_cert(context)
    if asks_for:
        context.verify_mode = ssl.CERT_REQUIRED
        authority(asks_for).configure_trust(context)
    if most is not None:
        context.maximum_version = most
    return context


def write(directory: Path, **files: bytes) -> dict[str, str]:
    """Name → path of a file `name.pem` with that content."""
    written = {}
    for name, data in files.items():
        path = directory / f"{name}.pem"
        path.write_bytes(data)
        written[name] = str(path)
    return written
