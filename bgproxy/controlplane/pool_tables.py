"""From one pool table to the next while traffic runs: asked first, written down, told to every worker, then in use.

New upstreams are probed before anybody depends on them. What is refused is refused before anything has changed; once it
is written down there is no way back, as with a switch: a worker that does not take the table is killed and replaced.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from bgproxy.controlplane.probe import probe
from bgproxy.core import gates
from bgproxy.core.model import COLOURS, Colour, PoolTable
from bgproxy.core.pools import added, successor
from bgproxy.errors import BadRequest, PoolRefused, StaleEpoch, SwitchInProgress, WorkersDidNotAcknowledge
from bgproxy.shm.health_board import UPSTREAM_ROWS
from bgproxy.tls.upstream import client_context

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from bgproxy.config import Config
    from bgproxy.controlplane.events import Emit
    from bgproxy.controlplane.pool_record import KeptPools, Note
    from bgproxy.controlplane.pools import Standing
    from bgproxy.controlplane.prober import Probe, Prober
    from bgproxy.controlplane.workers import Workers
    from bgproxy.core.settings import WorkerSettings
    from bgproxy.shm.segment import Segment

LOOK_EVERY_S = 0.02


def probe_of(config: Config, table: PoolTable) -> Probe:
    """How these upstreams are asked: over TLS as workers do it."""
    return partial(probe, tls=client_context(config.upstream_tls) if table.over_tls else None)


class PoolTables:
    """`standing`, `table` and `config` are what holds now; `adopted` is called after each change of them.

    `is_switching` tells whether the word is about to move; `settings` makes worker settings of a configuration.
    """

    def __init__(
        self,
        config: Config,
        standing: Standing,
        table: PoolTable,
        persisted: KeptPools,
        segment: Segment,
        prober: Prober,
        workers: Workers,
        *,
        is_switching: Callable[[], bool],
        settings: Callable[[Config], WorkerSettings],
        emit: Emit,
    ) -> None:
        self.config, self.standing, self.table = config, standing, table
        self.adopted: Callable[[], None] = lambda: None
        self._lock = asyncio.Lock()
        self._is_upgrading = False
        self._persisted, self._segment, self._prober = persisted, segment, prober
        self._workers, self._is_switching = workers, is_switching
        self._settings, self._emit = settings, emit
        self._held: tuple[set[int], set[int]] = (set(), set())

    @asynccontextmanager
    async def one_change(self) -> AsyncIterator[None]:
        """One at a time, reloads among them; SwitchInProgress where the whole program is about to be another."""
        async with self._lock:
            if self._is_upgrading:
                raise SwitchInProgress(
                    "an upgrade is running; nothing was changed", hint="repeat it when that one has ended"
                )
            yield

    def hold_for_upgrade(self) -> Callable[[], None]:
        """No change until the returned function is called: the new program starts with what is there now.
        SwitchInProgress where one is running."""
        if self._lock.locked():
            raise SwitchInProgress(
                "a pool change or a reload is running; nothing was changed", hint="repeat it when that one has ended"
            )
        self._is_upgrading = True

        def release() -> None:
            self._is_upgrading = False

        return release

    async def change(
        self,
        wanted: Standing,
        *,
        timeout_s: float,
        check: Callable[[PoolTable], None],
        note: Note,
        config: Config | None = None,
        commit: Callable[[], None] = lambda: None,
    ) -> None:
        """Within `one_change`. `check` is asked in the last moment, and may raise; `commit` is called once there is no
        way back. With a `config` its settings for workers and probes are used from then on."""
        config = config or self.config
        try:
            table = successor(self.table, wanted.pools, rows=UPSTREAM_ROWS, held=self._held)
        except ValueError as error:
            raise BadRequest(str(error)) from None
        asked = probe_of(config, table)
        self._prober.consider(table, config.health, asked)
        try:
            await self._prober.considered_checked(timeout_s)
            await self._until_not_switching(timeout_s)
            check(table)
            # From here on the gates refuse a switch, until every worker has the table.
            self._workers.announce_table(table.version)
            if wanted.record != self.standing.record:
                await self._persisted.save_pools(wanted.record, note)
        except BaseException:
            self._workers.announce_table(self.table.version)
            self._prober.withdraw()
            raise
        commit()
        await self._tell(config, wanted, table, asked)

    async def _tell(self, config: Config, wanted: Standing, table: PoolTable, asked: Probe) -> None:
        ack_s = config.switch.ack_timeout
        self._prober.join()
        silent = await self._workers.reconfigure(self._settings(config), table, ack_s)
        reason = f"did not take pool table {table.version} within {ack_s:g} s"
        deaths = await asyncio.gather(*(self._workers.kill_and_replace(worker, reason) for worker in silent))
        alive = [f"worker {w.number} (pid {w.pid})" for w, dead in zip(silent, deaths, strict=True) if not dead]
        self._prober.adopt()
        if config.health != self.config.health or config.upstream_tls != self.config.upstream_tls:
            self._prober.configure(config.health, asked)
        for colour in COLOURS:  # a worker that is still there may go by the rows of the last table
            rows = {upstream.index for upstream in self.table.pool(colour).upstreams}
            self._held[colour].update(rows) if alive else self._held[colour].clear()
        overtaken = wanted.overtaken
        self.config, self.table = config, table
        self.standing = msgspec.structs.replace(wanted, overtaken=())
        for colour in overtaken:
            say_overtaken(colour, self._emit)
        self.adopted()
        if alive:
            raise WorkersDidNotAcknowledge(
                f"pool table {table.version} is in use, but {'; '.join(alive)} did not take it and could not be "
                "killed: until that ends, requests may still reach upstreams that are drained or gone",
                hint="kill -9 the named processes; if they stay, the machine has to be restarted",
                extra={"workers": alive},
            )

    async def _until_not_switching(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while self._is_switching():
            if time.monotonic() >= deadline:
                raise SwitchInProgress(
                    "a switch or an upgrade is running; nothing was changed", hint="repeat it when that one has ended"
                )
            await asyncio.sleep(LOOK_EVERY_S)

    # --- what may stand in the way ------------------------------------------------------------------------------------

    def check_epoch(self, if_epoch: int | None) -> None:
        live = self._segment.live.load()
        if if_epoch is not None and if_epoch != live.epoch:
            raise StaleEpoch(
                f"the epoch is {live.epoch} ({live.colour.label} is live) and not {if_epoch}; nothing was changed",
                hint="look at bgproxy status, decide again, and repeat it with the present epoch",
                extra={"epoch": live.epoch, "live": live.colour.label},
            )

    def check_live_pool(self, table: PoolTable) -> None:
        """Other upstreams for the live pool need at least one among them that its checks call healthy."""
        live = self._segment.live.load().colour
        before, after = self.table.pool(live), table.pool(live)
        views = self._prober.views(live, table)
        if not (added(before, after) or added(after, before)) or any(view.is_healthy for view in views):
            return
        check = f"{self.config.health.method} {self.config.health.path}"
        failed = [
            gates.Verdict(gates.UPSTREAM_HEALTHY, f"{live.label}/{view.id}", check, False, gates.condition(view))
            for view in views
        ]
        raise PoolRefused(
            f"{live.label} is live, and none of its upstreams would be healthy: "
            f"{'; '.join(map(str, failed))}; nothing was changed",
            failed=[verdict.as_dict() for verdict in failed],
            hint="start or repair them and repeat it",
        )

    def facts(self, colour: Colour) -> dict[str, Any]:
        """How the pool came to be as it is."""
        changed = self.standing.record.changed(colour)
        return {
            "source": self.standing.sources[colour],
            "table_version": self.table.version,
            "changed": None if changed is None else {"at": changed.at, "by": changed.by, "reason": changed.reason},
        }


def say_overtaken(colour: Colour, emit: Emit) -> None:
    emit(
        "pool_from_file",
        colour=colour.label,
        reason="its upstreams in the configuration have changed, so what was set at run time counts no longer",
    )
