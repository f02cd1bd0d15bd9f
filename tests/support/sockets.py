"""For transports that only note what is asked of them: a socket that has nothing more to send."""

from __future__ import annotations

import socket
from types import SimpleNamespace

_DESCRIPTOR = socket.socket().detach()  # as long as the process: nobody is told to close it
IDLE_SOCKET = SimpleNamespace(fileno=lambda: _DESCRIPTOR, setsockopt=lambda *_: None)
