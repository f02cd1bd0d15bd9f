"""Who calls, and may they? Judged before any handler runs.

A peer on the unix socket is trusted as admin: the file's permissions let nobody else in. On TCP a token decides; with
no token configured (possible on loopback only) every local peer is admin, and Host and Origin keep browsers out.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
import struct
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

import msgspec
from aiohttp import web

from bgproxy.controlplane.admin.problems import Handler, HttpError

if TYPE_CHECKING:
    from collections.abc import Sequence

ROLES = ("read", "switch", "admin")  # each may do what those before it may


class Token(Protocol):
    """One configured token: `sha256` is the hex digest of the secret."""

    @property
    def name(self) -> str: ...
    @property
    def role(self) -> str: ...
    @property
    def sha256(self) -> str: ...


class Caller(msgspec.Struct, frozen=True):
    """`by` is what events and the history say."""

    by: str
    role: str


CALLER = web.RequestKey("caller", Caller)
# Asked by load balancers and service managers, which have no token; they tell nothing but a yes or no.
OPEN_PATHS = frozenset({"/livez", "/readyz"})


class Gatekeeper:
    """The middleware. `allowed_hosts` are names without a port, IPv6 in brackets."""

    def __init__(self, tokens: Sequence[Token], allowed_hosts: Sequence[str]) -> None:
        self.configure(tokens, allowed_hosts)

    def configure(self, tokens: Sequence[Token], allowed_hosts: Sequence[str]) -> None:
        """Who may from the next request on."""
        self._tokens = [(bytes.fromhex(token.sha256), token) for token in tokens]
        self._hosts = frozenset(host.lower() for host in allowed_hosts)

    async def check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        caller = unix_peer(request) or self._tcp_caller(request)
        self._refuse_browsers_from_elsewhere(request)
        needed = "read" if request.method in ("GET", "HEAD") else _needed_to_change(request)
        if request.path not in OPEN_PATHS and ROLES.index(caller.role) < ROLES.index(needed):
            raise HttpError(
                HTTPStatus.FORBIDDEN,
                f"the token {caller.by!r} has the role {caller.role!r}; this needs the role {needed!r}",
            )
        request[CALLER] = caller
        return await handler(request)

    def _tcp_caller(self, request: web.Request) -> Caller:
        if _without_port(_host(request)) not in self._hosts:
            raise HttpError(
                HTTPStatus.MISDIRECTED_REQUEST,
                f"the Host {_host(request)!r} is not one of this admin API",
                hint="add it to allowed_hosts in [admin] if it is meant to be",
            )
        if not self._tokens:
            return Caller(f"tcp:{request.remote}", "admin")
        if request.path in OPEN_PATHS:
            return Caller(f"tcp:{request.remote}", "read")
        return self._bearer(request)

    def _bearer(self, request: web.Request) -> Caller:
        scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
        digest = hashlib.sha256(secret.strip().encode("utf-8", "surrogateescape")).digest()
        # Every token is compared, so that the time tells neither which one matched nor how far.
        matching = [token for known, token in self._tokens if hmac.compare_digest(known, digest)]
        if scheme.lower() != "bearer" or not matching:
            raise HttpError(
                HTTPStatus.UNAUTHORIZED,
                "this needs a valid token" if scheme else "this needs a token",
                hint="send `Authorization: Bearer …`, or use --token-file (BGPROXY_TOKEN_FILE) or the unix socket",
                headers={"WWW-Authenticate": 'Bearer realm="bgproxy"'},
            )
        return Caller(f"token:{matching[0].name}", matching[0].role)

    def _refuse_browsers_from_elsewhere(self, request: web.Request) -> None:
        """A page of another origin may send a request here through its reader's browser; it must not be obeyed."""
        origin = request.headers.get("Origin")
        site = request.headers.get("Sec-Fetch-Site", "none")
        if (origin is not None and origin != f"http://{_host(request)}") or site not in ("none", "same-origin"):
            raise HttpError(HTTPStatus.FORBIDDEN, "requests that come from a page of another origin are refused")


def _needed_to_change(request: web.Request) -> str:
    """Where requests go and by which rules is decided by admins; which of two known versions, by who may switch."""
    return "admin" if request.method == "PUT" or request.path == "/reload" else "switch"


def unix_peer(request: web.Request) -> Caller | None:
    """The caller on the unix socket, by the user id the kernel tells; None for a TCP peer."""
    peer = request.transport.get_extra_info("socket") if request.transport else None
    if peer is None or peer.family != socket.AF_UNIX:
        return None
    # A duplicate, because the socket that uvloop shows has no getsockopt.
    with socket.socket(fileno=os.dup(peer.fileno())) as copy:
        credentials = copy.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    return Caller(f"unix:uid={uid}", "admin")


def _host(request: web.Request) -> str:
    """As it was sent. aiohttp would ask the name server for our own name where it is missing, and block meanwhile."""
    return request.headers.get("Host", "")


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() and name else host).lower()
