"""TLS towards upstreams: one context for all of them, and in words why a connection did not come about.

Both planes need it: workers forward with it, probes check with it, and the configuration is tried out with it, so that
a bad file is found before anything starts.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bgproxy.core.settings import UpstreamTls

# What OpenSSL calls it (`SSLError.reason`, parts of it) → what it means to an operator.
_REASONS: Final = (
    (("CERTIFICATE_REQUIRED",), "the upstream asks for a client certificate"),
    (
        ("ALERT_UNKNOWN_CA", "ALERT_BAD_CERTIFICATE", "ALERT_CERTIFICATE_", "ALERT_UNSUPPORTED_CERTIFICATE"),
        "the upstream does not accept the client certificate",
    ),
    (("ALERT_ACCESS_DENIED", "ALERT_DECRYPT_ERROR"), "the upstream refuses the client certificate"),
    (("UNRECOGNIZED_NAME",), "the upstream does not know the server name"),
    (("NO_APPLICATION_PROTOCOL",), "the upstream does not speak HTTP/1.1 over TLS"),
    (("PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL"), "the upstream does not speak TLS 1.2 or later"),
    (("WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"), "the upstream does not speak TLS"),
    (("HTTP_REQUEST", "HTTPS_PROXY_REQUEST"), "the upstream does not speak TLS"),
    (("HANDSHAKE_FAILURE",), "the upstream refused the handshake: no common cipher, or no client certificate"),
)
_EXPIRED, _NOT_YET_VALID, _SELF_SIGNED, _SELF_SIGNED_IN_CHAIN, _NO_ISSUER, _NO_FIRST = 10, 9, 18, 19, 20, 21
_WRONG_NAME, _WRONG_ADDRESS = 62, 64
_UNKNOWN_CA: Final = (_SELF_SIGNED, _SELF_SIGNED_IN_CHAIN, _NO_ISSUER, _NO_FIRST)


class BadFile(ValueError):
    """One of the files cannot be used; `key` is its name in the configuration, the text the half sentence behind it."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key


def client_context(settings: UpstreamTls) -> ssl.SSLContext:
    """TLS 1.2 or later, HTTP/1.1, and who the upstream must be; BadFile where a file is not what it should be."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if not settings.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif settings.ca:
        _trust(context, settings.ca)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if settings.cert:
        _show(context, settings)
    return context


def system_store_is_empty() -> bool:
    """Is there nobody whom the system trusts? So in a container without the package ca-certificates."""
    paths = ssl.get_default_verify_paths()  # None for what does not exist
    try:
        return not paths.cafile and not (paths.capath and any(Path(paths.capath).iterdir()))
    except OSError:
        return True


def why(error: BaseException) -> str:
    """In plain words, for the operator: may name a host."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _why_not_verified(error)
    if isinstance(error, ssl.SSLError):
        reason = error.reason or ""
        for parts, sentence in _REASONS:
            if any(part in reason for part in parts):
                return sentence
        return f"the TLS handshake failed ({reason.lower().replace('_', ' ') or 'no reason given'})"
    return "the upstream closed the connection during the TLS handshake"


def _why_not_verified(error: ssl.SSLCertVerificationError) -> str:
    code, message = error.verify_code, error.verify_message
    if code == _EXPIRED:
        return "the upstream's certificate has expired"
    if code == _NOT_YET_VALID:
        return "the upstream's certificate is not valid yet"
    if code in _UNKNOWN_CA:
        return f"the upstream's certificate is of an unknown CA ({message})"
    if code in (_WRONG_NAME, _WRONG_ADDRESS):
        name = message.partition("'")[2].rpartition("'")[0]
        return f"the upstream's certificate is not for {name!r}"
    return f"the upstream's certificate is not acceptable ({message})"


# --- files ----------------------------------------------------------------------------------------------------------


def _trust(context: ssl.SSLContext, ca: bytes) -> None:
    with _as_file(ca) as path:
        try:
            context.load_verify_locations(cafile=path)
        except ssl.SSLError:
            raise BadFile("ca", "the file holds no certificate, or a damaged one; expected PEM") from None


def _show(context: ssl.SSLContext, settings: UpstreamTls) -> None:
    """The key is refused where it needs a passphrase: nobody is there to type it when a worker is started."""
    asked: list[bool] = []

    def passphrase() -> str:
        asked.append(True)
        return ""

    with _as_file(settings.cert) as cert, _as_file(settings.key or settings.cert) as key:
        try:
            context.load_cert_chain(cert, key, passphrase)
        except ssl.SSLError as error:
            raise _bad_pair(settings, error, asks_for_passphrase=bool(asked)) from None


def _bad_pair(settings: UpstreamTls, error: ssl.SSLError, *, asks_for_passphrase: bool) -> BadFile:
    where = "key" if settings.key else "cert"
    if asks_for_passphrase:
        return BadFile(where, "the private key is encrypted; expected one without a passphrase")
    if error.reason and "MISMATCH" in error.reason:
        return BadFile(where, "the private key is not that of the certificate; expected the key it was made with")
    try:
        with _as_file(settings.cert) as cert:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=cert)
    except ssl.SSLError:
        return BadFile("cert", "the file holds no certificate, or a damaged one; expected PEM")
    if b"PRIVATE KEY-----" not in (settings.key or settings.cert):
        hint = "expected PEM" if settings.key else "expected it in the same file, or its own file in key"
        return BadFile(where, f"the file holds no private key; {hint}")
    return BadFile(where, f"the certificate and its key cannot be used ({(error.reason or 'damaged').lower()})")


@contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """A path that holds the data for a moment: OpenSSL takes certificates and keys from files only."""
    descriptor = os.memfd_create("bgproxy-tls", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
