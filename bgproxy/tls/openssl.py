"""What Python's ssl module has no name for: ticket keys that every worker shares. Reached through ctypes, in the same
libssl that `_ssl` uses.

Where the SSL_CTX lies inside an SSLContext is not promised by anybody, so nobody who serves may be the first to try:
`python -m bgproxy.tls.openssl` tries it in a process of its own, with a PEM pair on standard input, and its exit code
is the verdict: 0 where a session of one context was resumed by another that has the same keys.
"""

from __future__ import annotations

import ctypes
import ssl
import sys
from typing import Final

from bgproxy.core.certificates import TlsMaterial
from bgproxy.tls.contexts import new_context

TICKET_KEY_BYTES: Final = 80
_SET_SESSION_CACHE_MODE: Final = 44
_SET_TICKET_KEYS: Final = 59


def tune(context: ssl.SSLContext, ticket_key: bytes) -> bool:
    """Only after the check in a process of its own. False where this interpreter has no such door."""
    if len(ticket_key) != TICKET_KEY_BYTES:
        raise ValueError(f"a ticket key has {TICKET_KEY_BYTES} bytes")
    control = _control()
    if control is None:
        return False
    pointer = ctypes.c_void_p.from_address(id(context) + object.__basicsize__)
    control(pointer, _SET_SESSION_CACHE_MODE, 0, None)  # tickets carry their session: nothing to keep per client here
    done: int = control(pointer, _SET_TICKET_KEYS, TICKET_KEY_BYTES, ticket_key)
    return done == 1


def _control() -> ctypes._NamedFuncPointer | None:
    try:
        import _ssl

        control = ctypes.CDLL(_ssl.__file__).SSL_CTX_ctrl
    except (ImportError, OSError, AttributeError):  # built in, or linked statically
        return None
    control.restype = ctypes.c_long
    control.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_char_p)
    return control


def resumes(pem: bytes) -> bool:
    """May crash the process: that is what it is there to find out."""
    key = bytes(range(TICKET_KEY_BYTES))
    contexts = [new_context([pem], TlsMaterial(0, ())) for _ in range(2)]
    if not all(tune(context, key) for context in contexts):
        return False
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    first = _shake_hands(client, contexts[0], None)
    second = _shake_hands(client, contexts[1], first.session)
    return not first.session_reused and second.session_reused is True


def _shake_hands(client: ssl.SSLContext, server: ssl.SSLContext, session: ssl.SSLSession | None) -> ssl.SSLObject:
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(to_client, to_server, session=session)
    answering = server.wrap_bio(to_server, to_client, server_side=True)
    for step in (*(asking.do_handshake, answering.do_handshake) * 3, lambda: asking.read(1)):
        try:
            step()
        except ssl.SSLWantReadError:
            pass
    return asking


def main() -> int:
    return 0 if resumes(sys.stdin.buffer.read()) else 1


if __name__ == "__main__":
    sys.exit(main())
