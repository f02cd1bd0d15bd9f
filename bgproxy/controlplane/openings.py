"""Where others come in: the listening sockets for clients, the doors of the admin API, and the one for a successor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from bgproxy.controlplane.admin.sockets import Doors
from bgproxy.controlplane.listeners import Listeners
from bgproxy.controlplane.takeover import Takeover
from bgproxy.errors import StartupError
from bgproxy.shm.bequest import Bequest

if TYPE_CHECKING:
    from contextlib import AsyncExitStack
    from pathlib import Path

    from bgproxy.config import Config
    from bgproxy.controlplane.events import Emit
    from bgproxy.controlplane.premises import Premises


class Openings(msgspec.Struct, frozen=True, kw_only=True):
    """`takeover` is None where workers do not outlive us, or the directory takes no socket."""

    listeners: Listeners
    doors: Doors
    takeover: Takeover | None

    @property
    def bequest(self) -> Bequest:
        """What a new program inherits."""
        return Bequest((*self.listeners.bequest.heirlooms, *self.doors.bequest.heirlooms))

    def addresses(self) -> dict[str, Any]:
        return {"listen": self.listeners.plain_addresses, "tls": self.listeners.tls_addresses}


def open_up(
    config: Config, premises: Premises, stack: AsyncExitStack, *, workers_outlive: bool, emit: Emit
) -> Openings:
    """With what was inherited in its place. StartupError names what cannot be opened, and what nobody wants."""
    inherited = premises.inherited
    listeners = Listeners.open(
        config.server.listen,
        config.server.workers,
        tls=config.tls.listen,
        held_by_orphans=premises.orphans.listen,
        inherited=inherited,
    )
    stack.callback(listeners.close)
    doors = Doors.open(config.admin.listen, config.admin.socket, inherited)
    stack.callback(doors.close)
    if inherited.unwanted and not premises.has_predecessor:
        raise StartupError(
            f"systemd passes a socket for {', '.join(inherited.unwanted)}, and nothing in the configuration is there",
            hint="add it to [server] listen, [tls] listen or [admin] listen, or take it out of the socket unit",
        )
    inherited.close()
    takeover = _takeover(premises.directory, emit) if workers_outlive else None
    if takeover is not None:
        stack.callback(takeover.close)
    return Openings(listeners=listeners, doors=doors, takeover=takeover)


def _takeover(directory: Path, emit: Emit) -> Takeover | None:
    try:
        return Takeover(directory)
    except OSError as error:  # a file system without sockets: then a successor opens its own
        emit("sockets_not_inherited", error=f"{directory} takes no socket: {error.strerror}")
        return None
