"""What happened, said once: every part of the control plane that has something to tell the operator says it here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

# What an operator should look at is a warning, everything else is information.
WARNINGS = frozenset(
    {
        "configuration_warning",
        "descriptors_short",
        "drain_timed_out",
        "fence_taken_back",
        "gate_not_durable",
        "journal_not_written",
        "journal_tail_cut",
        "journal_unavailable",
        "orphans_found",
        "orphans_killed",
        "orphans_not_killed",
        "orphans_not_trusted",
        "pool_change_refused",
        "pool_degraded",
        "pool_from_file",
        "probe_broken",
        "sockets_not_inherited",
        "state_from_workers",
        "reload_needs_restart",
        "reload_refused",
        "rollback_not_durable",
        "switch_not_written",
        "switch_recovered",
        "switch_refused",
        "tls_not_taken",
        "tls_reload_refused",
        "tls_resumption_limited",
        "upgrade_failed",
        "upgrade_refused",
        "upstream_down",
        "upstream_ejected",
        "verdicts_missing",
        "worker_crash_loop",
        "worker_died",
        "worker_killed",
        "worker_not_started",
        "worker_out_of_descriptors",
        "workers_did_not_acknowledge",
        "workers_record_unusable",
        "addresses_not_written",
    }
)


class Emit(Protocol):
    def __call__(self, event: str, /, **fields: object) -> None: ...


class Events:
    """Hands every event to the log and to those who asked to be told."""

    def __init__(self) -> None:
        self._log: Any = structlog.get_logger("bgproxy")
        self._listeners: list[Callable[[str, dict[str, object]], None]] = []

    def listen(self, listener: Callable[[str, dict[str, object]], None]) -> None:
        self._listeners.append(listener)

    def emit(self, event: str, /, **fields: object) -> None:
        """`event` is a verb phrase in the past, like `upstream_down`; fields are plain values."""
        write = self._log.warning if event in WARNINGS else self._log.info
        write(event, **fields)
        for listener in self._listeners:
            listener(event, fields)
