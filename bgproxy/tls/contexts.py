"""From certificates to SSL contexts: one for every set of pairs that some name is served with.

OpenSSL decides by the client's signature algorithms which of an ECDSA and an RSA pair in the same context is shown.
"""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from bgproxy.core.certificates import NameTable, TlsMaterial, normal_name, pairs_by_name

if TYPE_CHECKING:
    from collections.abc import Callable

# Forward secret and authenticated, for TLS 1.2; those of 1.3 all are. What cannot do these is from before 2014.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
_MIN_VERSION = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_VERIFY = {"off": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


def new_context(pems: Sequence[bytes], material: TlsMaterial) -> ssl.SSLContext:
    """ssl.SSLError where OpenSSL takes a pair for too weak or does not understand it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _MIN_VERSION[material.min_version]
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    for pem in pems:
        _load(context, pem)
    if material.client_auth != "off":
        context.load_verify_locations(cadata=material.client_ca.decode("ascii", "replace"))
        context.verify_mode = _VERIFY[material.client_auth]
    return context


def _load(context: ssl.SSLContext, pem: bytes) -> None:
    """ssl reads pairs from files alone. This one is memory: a key does not touch a disk on its way."""
    descriptor = os.memfd_create("bgproxy-pair", os.MFD_CLOEXEC)
    try:
        view = memoryview(pem)
        while view:
            view = view[os.write(descriptor, view) :]
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password=_no_password)
    finally:
        os.close(descriptor)


def _no_password() -> bytes:
    """Or OpenSSL would ask for one on the terminal."""
    return b""


def ignore_names_that_are_no_text() -> None:
    """ssl refuses such a handshake, and would also write a traceback to standard error, whenever a stranger likes."""
    usual = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if not (isinstance(unraisable.exc_value, UnicodeDecodeError) and isinstance(unraisable.object, bytes)):
            usual(unraisable)

    sys.unraisablehook = hook


_KEY_NAME_BYTES = 16


class Contexts:
    """Everything that connections of one set of certificates need. A name that nobody has gets the first pair."""

    def __init__(
        self,
        material: TlsMaterial,
        *,
        tune: Callable[[ssl.SSLContext, bytes], object] = lambda context, key: None,
    ) -> None:
        """ssl.SSLError where a pair cannot be used."""
        self._made: dict[tuple[int, ...], ssl.SSLContext] = {}
        self._material = material
        by_name = pairs_by_name(material.pairs)
        self._by_name = NameTable({name: self._context(numbers) for name, numbers in by_name.items()})
        first = material.pairs[0].names
        self.initial = self._context(by_name[first[0]] if first else (0,))
        self.initial.sni_callback = self._select
        keys = material.ticket_keys
        for key in keys[:1]:
            for context in self._made.values():
                tune(context, key)
        # Contexts of the same certificates for tickets that were made under the key before.
        self._last = Contexts(msgspec.structs.replace(material, ticket_keys=keys[1:]), tune=tune) if keys[1:] else None
        self._last_key_name = keys[1][:_KEY_NAME_BYTES] if keys[1:] else b""

    def _context(self, numbers: tuple[int, ...]) -> ssl.SSLContext:
        if numbers not in self._made:
            pems = [self._material.pairs[number].pem for number in numbers]
            self._made[numbers] = new_context(pems, self._material)
        return self._made[numbers]

    def for_hello(self, hello: bytes) -> ssl.SSLContext:
        """The context for a connection that begins so. OpenSSL knows one ticket key per context, and a ticket begins
        with the name of its key: where that of the last key stands in the first bytes, the last key is taken."""
        if self._last is not None and self._last_key_name in hello:
            return self._last.initial
        return self.initial

    def _select(self, connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        """Called by OpenSSL within a handshake."""
        context = self._by_name.find(normal_name(name)) if name else None
        if context is not None and context is not self.initial:
            connection.context = context

    def covers(self, name: str) -> bool:
        """Is there a certificate for this normalized name?"""
        return self._by_name.find(name) is not None
