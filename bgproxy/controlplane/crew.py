"""Who serves: the workers, and the records by which others find them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from bgproxy.controlplane.records import Records
from bgproxy.controlplane.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bgproxy.config import Config
    from bgproxy.controlplane.events import Emit
    from bgproxy.controlplane.openings import Openings
    from bgproxy.controlplane.outlook import Outlook
    from bgproxy.controlplane.premises import Premises


class Crew(msgspec.Struct, frozen=True, kw_only=True):
    workers: Workers
    records: Records


def muster(
    config: Config, premises: Premises, outlook: Outlook, openings: Openings, *, command: Sequence[str], emit: Emit
) -> Crew:
    """None of them is started yet."""
    listeners, takeover = openings.listeners, openings.takeover
    records = Records(
        premises.directory,
        premises.orphans,
        {*listeners.addresses, *map(str, (*config.server.listen, *config.tls.listen))},
        in_thread=premises.journal.in_thread,
        emit=emit,
        has_predecessor=premises.has_predecessor,
    )
    records.workers = Workers(
        outlook.segment,
        listeners,
        config.worker_settings(tls_port=listeners.tls_port),
        outlook.table,
        emit=emit,
        record=records.record,
        command=command,
        takeover_fd=-1 if takeover is None else takeover.fd,
    )
    outlook.certificates.tell = records.workers.certify
    premises.orphans.changed = records.write
    return Crew(workers=records.workers, records=records)
