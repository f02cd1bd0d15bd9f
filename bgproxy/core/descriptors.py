"""How many client connections the descriptors of a process have room for."""

from __future__ import annotations

from bgproxy.core.model import PoolTable
from bgproxy.core.settings import WorkerSettings

# What a worker opens besides: listeners, seam, control socket, log, look-ups, and connections that are being refused.
SPARE = 128


def upstream_connections(settings: WorkerSettings, table: PoolTable) -> int:
    """The most that may be open at once, both colours together: around a switch both are in use."""
    return settings.upstream.max_connections * (len(table.blue.upstreams) + len(table.green.upstreams))


def needed(settings: WorkerSettings, table: PoolTable) -> int:
    """Descriptors with which no configured limit is cut short."""
    return SPARE + settings.limits.connections + upstream_connections(settings, table)


def room_for_clients(descriptors: int, settings: WorkerSettings, table: PoolTable) -> int:
    """At most the configured limit, at least 1. Upstreams are left what they may need, up to half of all."""
    available = descriptors - SPARE
    for_upstreams = min(upstream_connections(settings, table), available // 2)
    return max(1, min(settings.limits.connections, available - for_upstreams))
