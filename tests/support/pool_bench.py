"""Pools over fake workers, with probes that find what the test says: for tests of their changes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from bgproxy.config import Config, load
from bgproxy.controlplane import pool_tables
from bgproxy.controlplane.journal import Journal
from bgproxy.controlplane.journal_file import JournalFile
from bgproxy.controlplane.orphans import Orphans
from bgproxy.controlplane.pool_changes import PoolChanges
from bgproxy.controlplane.pool_record import KeptPools, PoolRecord, recorded
from bgproxy.controlplane.pool_tables import PoolTables
from bgproxy.controlplane.pools import first_table, standing
from bgproxy.controlplane.prober import Prober
from bgproxy.controlplane.workers import Workers
from bgproxy.core.health import Check
from bgproxy.core.journal import State
from bgproxy.core.model import BLUE, Address
from tests.support.faulty_os import MoodyOs
from tests.support.proxies import FakeProxy

TEXT = """
[pools.blue]
upstreams = ["127.0.0.1:1", "127.0.0.1:2"]
[pools.green]
upstreams = ["127.0.0.1:3"]
[health]
interval = "50ms"
rise = 1
fall = 1
[switch]
ack_timeout = "{ack}"
"""


class PoolBench(FakeProxy):
    """`found` is what a probe of a port finds: "" for well; an absent one never answers."""

    def __init__(self, directory: Path, monkeypatch: Any, *, ack: str = "10s", workers: int = 2) -> None:
        super().__init__(directory, workers)
        self.directory = directory
        self.file = directory / "bgproxy.toml"
        self.file.write_text(TEXT.format(ack=ack))
        self.found: dict[int, str] = {1: "", 2: "", 3: ""}
        self.switching = False
        self.system = MoodyOs()
        monkeypatch.setattr(pool_tables, "probe_of", lambda config, table: self.probe)
        config = self.read()
        self.journal = Journal(directory, system=self.system, emit=self.emit)
        self.persisted = KeptPools(self.journal)
        stands = standing(config, PoolRecord())
        table = first_table(stands)
        self.orphans = Orphans(emit=self.emit)
        self.prober = Prober(
            config.health,
            table,
            self.segment.health,
            lambda: self.segment.live.load().colour,
            emit=self.emit,
            probe=self.probe,
        )
        self.workers = Workers(
            self.segment, self.listeners, config.worker_settings(), table, emit=self.emit, command=self.command
        )
        self.tables = PoolTables(
            config,
            stands,
            table,
            self.persisted,
            self.segment,
            self.prober,
            self.workers,
            is_switching=lambda: self.switching,
            settings=Config.worker_settings,
            emit=self.emit,
        )
        self.changes = PoolChanges(self.tables, self.segment, self.prober, self.orphans, emit=self.emit)

    def read(self) -> Config:
        return load(self.file, env={"BGPROXY_STATE__DIR": str(self.directory)})

    async def probe(self, address: Address, settings: Any) -> Check:
        while address.port not in self.found:  # noqa: ASYNC110 - the tests write plain values
            await asyncio.sleep(0.005)
        await asyncio.sleep(0)
        error = self.found[address.port]
        return Check(at="t", duration_s=0.001, status=0 if error else 200, error=error)

    async def start(self) -> None:
        self.prober.start()
        assert await self.prober.all_checked(10)
        await self.journal.begin(State(epoch=0, live="blue"))
        await super().start()

    async def close(self) -> None:
        await self.changes.close()
        await self.prober.stop()
        await super().close()
        self.journal.close()

    def record(self) -> PoolRecord:
        """As a restart would find it."""
        found = JournalFile(self.directory).look()
        assert found is not None
        return recorded(found.state)

    def ids(self, colour: int) -> list[str]:
        return [upstream.id for upstream in self.tables.table.pool(colour).upstreams]

    def is_untouched(self) -> bool:
        """Is everything as it was at the start?"""
        return (
            self.tables.table.version == self.workers.table_version == 1
            and self.record() == PoolRecord()
            and {view.table_version for view in self.workers.views()} == {1}
            and [view.id for view in self.prober.views(BLUE)] == ["127.0.0.1:1", "127.0.0.1:2"]
        )
