"""The admin API: its own listeners, never those of the data plane; JSON in, JSON out.

`start_admin` is all that the supervisor needs; the handlers speak to a `ControlPlane`, which tests can play themselves.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from aiohttp import web

from bgproxy.controlplane.admin import pools as pool_handlers
from bgproxy.controlplane.admin import sockets
from bgproxy.controlplane.admin.auth import Gatekeeper, Token
from bgproxy.controlplane.admin.bodies import MAX_BODY
from bgproxy.controlplane.admin.connection import Connection
from bgproxy.controlplane.admin.etag import Revisions
from bgproxy.controlplane.admin.handlers import ANSWERS, CONTROL, READING, REVISIONS, ControlPlane, Reading
from bgproxy.controlplane.admin.handlers import ROUTES as BASIC_ROUTES
from bgproxy.controlplane.admin.pools import POOLS, Pools
from bgproxy.controlplane.admin.problems import Handler, as_problems, harden_every_answer
from bgproxy.controlplane.admin.sockets import Doors
from bgproxy.controlplane.idempotency import Answers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bgproxy.core.model import Address

ROUTES = (*BASIC_ROUTES, *pool_handlers.ROUTES)
LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
WILDCARDS = ("0.0.0.0", "::")
KEEP_ALIVE_S = 30.0
CLOSE_TIMEOUT_S = 5.0  # for requests that are still running when the server closes


def make_app(
    control: ControlPlane, gatekeeper: Gatekeeper, pools: Pools | None = None, answers: Answers | None = None
) -> web.Application:
    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await gatekeeper.check(request, handler)

    app = web.Application(middlewares=[as_problems, check], client_max_size=MAX_BODY)
    app[CONTROL] = control
    app[ANSWERS] = answers or Answers()
    app[READING] = Reading()
    app[REVISIONS] = Revisions()
    if pools is not None:
        app[POOLS] = pools
    app.on_response_prepare.append(harden_every_answer)
    app.add_routes(ROUTES)
    return app


class AdminServer:
    """A running admin API. `address` is the TCP address actually bound, None without one."""

    def __init__(
        self, runner: web.AppRunner, listeners: list[asyncio.Server], doors: Doors, gatekeeper: Gatekeeper
    ) -> None:
        self._runner, self._listeners, self._gatekeeper = runner, listeners, gatekeeper
        self.address, self.path = doors.address, doors.path
        self._inode = self.path.lstat().st_ino if self.path is not None else 0

    @property
    def url(self) -> str:
        """What `--admin` takes: the TCP address if there is one, else the unix socket."""
        return f"http://{self.address}" if self.address is not None else f"unix:{self.path}"

    def configure(self, tokens: Sequence[Token], allowed_hosts: Sequence[str]) -> None:
        """Who may from the next request on."""
        self._gatekeeper.configure(tokens, [*allowed_hosts, *_own_host(self.address)])

    def disown(self) -> None:
        """From here on the socket file is a successor's."""
        self.path = None

    async def close(self) -> None:
        """Stop listening, let running requests finish within a few seconds, remove the socket file."""
        if self.path is not None:
            sockets.remove_unix(self.path, self._inode)
        for listener in self._listeners:
            listener.close()
        await self._runner.cleanup()


async def start_admin(
    control: ControlPlane,
    *,
    listen: Address | None = None,
    socket_path: Path | None = None,
    doors: Doors | None = None,
    tokens: Sequence[Token] = (),
    allowed_hosts: Sequence[str] = LOCAL_HOSTS,
    answers: Answers | None = None,
    pools: Pools | None = None,
) -> AdminServer:
    """On `doors` that are open already, else on these addresses: then StartupError names the one that cannot be had."""
    if doors is None:
        doors = Doors.open(listen, socket_path)
    gatekeeper = Gatekeeper(tokens, [*allowed_hosts, *_own_host(doors.address)])
    app = make_app(control, gatekeeper, pools, answers)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=CLOSE_TIMEOUT_S)
    await runner.setup()
    assert runner.server is not None
    loop = asyncio.get_running_loop()
    connection = partial(
        Connection,
        runner.server,
        loop=loop,
        access_log=None,  # type: ignore[arg-type]  # None turns it off, the annotation forgot
        keepalive_timeout=KEEP_ALIVE_S,
        max_headers=100,
    )
    listeners = [await loop.create_server(connection, sock=each, backlog=sockets.BACKLOG) for each in doors.sockets]
    return AdminServer(runner, listeners, doors, gatekeeper)


def _own_host(listen: Address | None) -> list[str]:
    """A name under which nobody but this machine can be meant; "every interface" is not one."""
    if listen is None or listen.host in WILDCARDS:
        return []
    return [f"[{listen.host}]" if ":" in listen.host else listen.host]
