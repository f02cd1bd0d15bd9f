"""Fake workers, a faulty disk and a prober that is told: the switcher over all of them, on a bench."""

from __future__ import annotations

from bgproxy.controlplane.checklist import Checklist
from bgproxy.controlplane.gate import Gate
from bgproxy.controlplane.journal import Journal
from bgproxy.controlplane.journal_file import read_file
from bgproxy.controlplane.orders import GateOrder, SwitchOrder
from bgproxy.controlplane.orphans import Orphans
from bgproxy.controlplane.switcher import Switcher
from bgproxy.core import replay
from bgproxy.core.health import UpstreamHealth
from bgproxy.core.journal import FILE, State, read
from bgproxy.core.model import GREEN, Colour
from bgproxy.shm import worker_slot
from tests.support.faulty_os import MoodyOs
from tests.support.proxies import PATIENCE_S, TABLE, FakeProxy


class FakeProber:
    def __init__(self) -> None:
        self.down: set[Colour] = set()
        self.releases: dict[Colour, str] = {}
        self.announced: list[tuple[Colour, bool]] = []

    def views(self, colour: Colour) -> list[UpstreamHealth]:
        down = colour in self.down
        (upstream,) = TABLE.pool(colour).upstreams
        return [
            UpstreamHealth(
                upstream.id,
                0,
                str(upstream.address),
                up=not down,
                checked_at=1.0,
                consecutive=3,
                error="connection refused" if down else "",
                release=self.releases.get(colour, ""),
            )
        ]

    def live_changed(self, colour: Colour, forced: bool = False) -> None:
        self.announced.append((colour, forced))


DEFAULTS = {
    "ack_timeout_s": PATIENCE_S,
    "drain_timeout_s": PATIENCE_S,
    "fence_timeout_s": PATIENCE_S,
    "fence_policy": "abort",
}


class Bench(FakeProxy):
    """Fake workers with a switcher over them."""

    def __init__(self, directory, **options) -> None:
        super().__init__(directory, workers=options.pop("workers", 2))
        self.directory = directory
        self.system = MoodyOs()
        self.journal = Journal(directory, system=self.system, emit=self.emit, retry_s=0.02)
        self.prober = FakeProber()
        self.orphans = Orphans(emit=self.emit)
        self.gate = Gate(self.segment, self.workers)
        self.began_with = state = options.pop("state", State(epoch=0, live="blue"))
        self.segment.live.store(state.epoch, state.live_colour)
        self.switcher = Switcher(
            state,
            self.segment,
            self.journal,
            self.workers,
            self.orphans,
            Checklist(self.segment, self.workers, self.orphans, self.prober, min_healthy=(1, 1), check="GET /healthz"),
            announce=self.prober.live_changed,
            emit=self.emit,
            gate=self.gate,
            **(DEFAULTS | options),
        )

    async def start(self) -> None:
        await self.journal.begin(self.began_with)
        await super().start()

    async def switch(self, to: Colour = GREEN, **order):
        return await self.switcher.execute(SwitchOrder(kind="switch", to=to, **order))

    async def fence(self, **order):
        return await self.switch(**({"mode": "fence"} | order))

    async def change_gate(self, kind, **order):
        return await self.switcher.change_gate(GateOrder(kind=kind, **order))

    async def rollback(self, **order):
        return await self.switcher.execute(SwitchOrder(kind="rollback", **order))

    def on_disk(self) -> State:
        """What a restart would come up with."""
        return replay.settled(read(read_file(self.directory / FILE)).records).state

    def busy_with(self, colour: Colour, requests: int) -> None:
        self.segment.slots[0].cells[worker_slot.IN_FLIGHT + colour] = requests

    async def close(self) -> None:
        await self.switcher.close()
        self.journal.close()
        await super().close()
