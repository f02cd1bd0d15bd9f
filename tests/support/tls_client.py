"""A client that speaks TLS, and says within it exactly what it is told to."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from tests.support.raw_client import RawClient
from tests.support.raw_http import PATIENCE_S

if TYPE_CHECKING:
    import ssl

    from bgproxy.core.model import Address


class TlsClient(RawClient):
    """One connection, its handshake done. `tls` is the socket, to be asked for certificate, session and version."""

    def __init__(
        self,
        address: Address,
        context: ssl.SSLContext,
        name: str = "app.example",
        *,
        session: ssl.SSLSession | None = None,
        receive_buffer: int = 0,
    ) -> None:
        raw = socket.socket()
        if receive_buffer:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        raw.settimeout(PATIENCE_S)
        raw.connect((address.host, address.port))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            # Suppressed, an end without close_notify would look like one with it.
            self.tls = context.wrap_socket(
                raw, server_hostname=name or None, suppress_ragged_eofs=False, session=session
            )
        except BaseException:
            raw.close()
            raise
        self._begin_with(self.tls)
        self.shown: dict[str, Any] = self.tls.getpeercert() or {}  # what the server's certificate says

    def finish_sending(self) -> None:
        """close_notify; the other direction stays."""
        self.tls.settimeout(0)
        try:
            self.tls._sslobj.shutdown()  # type: ignore[attr-defined]  # unwrap() would wait for the answer
        except (BlockingIOError, OSError):
            pass
        self.tls.settimeout(PATIENCE_S)
