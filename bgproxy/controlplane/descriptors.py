"""As many descriptors as the system allows, for the workers to inherit; and a word where they are too few."""

from __future__ import annotations

import contextlib
import resource
from typing import TYPE_CHECKING

from bgproxy.core.descriptors import needed, room_for_clients

if TYPE_CHECKING:
    from bgproxy.controlplane.events import Emit
    from bgproxy.core.model import PoolTable
    from bgproxy.core.settings import WorkerSettings


def make_the_most_of_descriptors(settings: WorkerSettings, table: PoolTable, *, emit: Emit) -> None:
    """Raise the soft limit to the hard one: the soft one is low for programs that use select(), and this is none.

    Too few is a warning and no error: a worker keeps to what it has (room.py), and that is plenty on a laptop."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # a hard limit above fs.nr_open, as some containers have it
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed(settings, table):
        return
    emit(
        "descriptors_short",
        limit=soft,
        needed=needed(settings, table),
        client_connections=room_for_clients(soft, settings, table),
        configured=settings.limits.connections,
        hint="raise the hard limit: LimitNOFILE= in systemd, --ulimit nofile= in a container; or lower [server.limits]",
    )
