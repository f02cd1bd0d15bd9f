"""What is known before anybody serves: both pools, the word that is live, certificates, and who is healthy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from bgproxy.controlplane.certificates import Certificates
from bgproxy.controlplane.descriptors import make_the_most_of_descriptors
from bgproxy.controlplane.pool_record import FROM_CONFIGURATION, KeptPools, Note, recorded
from bgproxy.controlplane.pool_tables import probe_of, say_overtaken
from bgproxy.controlplane.pools import Standing, first_table, standing
from bgproxy.controlplane.prober import Prober
from bgproxy.core.model import PoolTable
from bgproxy.shm.live_pointer import Hold
from bgproxy.shm.segment import Segment

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from bgproxy.config import Config
    from bgproxy.controlplane.events import Emit
    from bgproxy.controlplane.journal import Journal
    from bgproxy.core.journal import State


class Outlook(msgspec.Struct, frozen=True, kw_only=True):
    """`table` is the first one of `pools`."""

    pools: Standing
    table: PoolTable
    certificates: Certificates
    segment: Segment
    prober: Prober

    def note_pools(self, journal: Journal, state: State) -> None:
        """Where the configuration has overtaken what was set at run time, the record is over from here on."""
        if self.pools.record != recorded(state):
            KeptPools(journal).note(self.pools.record, Note(what=FROM_CONFIGURATION))


async def look_out(config: Config, state: State, stack: AsyncExitStack, *, emit: Emit) -> Outlook:
    """Checks run from here on."""
    pools = standing(config, recorded(state))
    for colour in pools.overtaken:
        say_overtaken(colour, emit)
    table = first_table(pools)
    make_the_most_of_descriptors(config.worker_settings(), table, emit=emit)
    certificates = Certificates(config.tls, emit=emit)
    if config.tls.listen:
        await certificates.start()
        stack.push_async_callback(certificates.stop)
    segment = Segment.create(config.server.workers)
    stack.callback(segment.close)
    segment.live.store(state.epoch, state.live_colour, standing_hold(state))
    prober = Prober(
        config.health,
        table,
        segment.health,
        lambda: segment.live.load().colour,
        emit=emit,
        probe=probe_of(config, table),
    )
    prober.start()
    stack.push_async_callback(prober.stop)
    return Outlook(pools=pools, table=table, certificates=certificates, segment=segment, prober=prober)


def standing_hold(state: State) -> Hold:
    """What an operator asked for that outlives a process."""
    return Hold.OPEN if state.maintenance is None else Hold.MAINTENANCE
