"""Orders about pools: other upstreams, one upstream aside and back. What is asked, refused, waited for, answered."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from bgproxy.config.run_time import read_pool
from bgproxy.controlplane import pools
from bgproxy.controlplane.pool_orders import DEFAULT_TIMEOUT_S, DrainOrder, PoolReport, SetOrder
from bgproxy.controlplane.pool_record import ChangedPool, Note
from bgproxy.controlplane.pool_tables import LOOK_EVERY_S
from bgproxy.controlplane.sampler import gauge
from bgproxy.core import gates
from bgproxy.core.model import Colour, Pool, PoolTable, Upstream
from bgproxy.core.pools import added
from bgproxy.errors import (
    BadRequest,
    ConfigError,
    DrainTimedOut,
    PoolRefused,
    UnknownUpstream,
    UpstreamNotUp,
)
from bgproxy.shm import worker_slot

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from bgproxy.controlplane.events import Emit
    from bgproxy.controlplane.orphans import Orphans
    from bgproxy.controlplane.pool_tables import PoolTables
    from bgproxy.controlplane.pools import Standing
    from bgproxy.controlplane.prober import Prober
    from bgproxy.shm.segment import Segment


class PoolChanges:
    """Takes orders about pools; each runs to its end, one after the other."""

    def __init__(
        self,
        tables: PoolTables,
        segment: Segment,
        prober: Prober,
        orphans: Orphans,
        *,
        emit: Emit,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._tables, self._segment, self._prober, self._orphans = tables, segment, prober, orphans
        self._emit, self._wall = emit, wall
        self._tasks: set[asyncio.Task[Any]] = set()

    async def set(self, order: SetOrder) -> PoolReport:
        """ControlError says why the pool is as it was."""
        return await self._to_its_end(self._set(order))

    async def drain(self, order: DrainOrder) -> PoolReport:
        """ControlError says why it is as it was, or, having waited, what is not yet as it should be."""
        return await self._to_its_end(self._drain(order))

    async def close(self) -> None:
        """What is not written down yet is not to be."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _to_its_end(self, work: Coroutine[Any, Any, PoolReport]) -> PoolReport:
        """Also where the client that ordered it is gone: half a change does not exist."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    # --- other upstreams ----------------------------------------------------------------------------------------------

    async def _set(self, order: SetOrder) -> PoolReport:
        colour, at = order.colour, self._now()
        async with self._tables.one_change():
            self._tables.check_epoch(order.if_epoch)
            self._check_live(order)
            before = self._tables.table.pool(colour)
            wanted = self._wanted(order, at)
            after = wanted.pools[colour]
            came, left = tuple(added(before, after)), tuple(added(after, before))
            if self._tables.standing.sources[colour] == pools.AT_RUN_TIME and _same(before, after):
                return self._report(order, at, changed=False, detail=f"{colour.label} is so already")

            def check(table: PoolTable) -> None:
                self._tables.check_epoch(order.if_epoch)
                self._check_live(order)
                self._tables.check_live_pool(table)

            try:
                note = Note(what=_in_words(colour, after), by=order.by, reason=order.reason)
                await self._tables.change(wanted, timeout_s=order.timeout_s, check=check, note=note)
            except PoolRefused as error:
                self._emit("pool_change_refused", colour=colour.label, by=order.by, reason=error.detail)
                raise
            self._emit(
                "pool_changed",
                colour=colour.label,
                version=self._tables.table.version,
                added=list(came),
                removed=list(left),
                release=after.release,
                by=order.by,
                reason=order.reason,
            )
            return self._report(order, at, changed=True, added=came, removed=left)

    def _wanted(self, order: SetOrder, at: str) -> Standing:
        colour = order.colour
        configured = self._tables.config.pools.pool(colour)
        release = self._tables.table.pool(colour).release if order.release is None else order.release
        try:
            pool = read_pool(
                order.upstreams,
                release,
                balance=configured.balance,
                server_name=self._tables.config.upstream_server_name,
            )
        except ConfigError as error:
            raise BadRequest(error.detail) from None
        needed = pools.needed_healthy(self._tables.config, colour, len(pool.upstreams))
        if needed > len(pool.upstreams):
            raise BadRequest(
                f"{needed} healthy upstreams are needed, but these are {len(pool.upstreams)}: nobody could switch to "
                f"{colour.label}",
                hint=f"lower [pools.{colour.label}] min_healthy, or give more upstreams",
            )
        changed = ChangedPool(
            upstreams=pools.as_documents(pool),
            release=release,
            configured=pools.fingerprint(configured),
            at=at,
            by=order.by,
            reason=order.reason,
        )
        return pools.standing(self._tables.config, self._tables.standing.record.with_pool(colour, changed))

    def _check_live(self, order: SetOrder) -> None:
        if order.colour is self._segment.live.load().colour and not order.allow_live:
            raise PoolRefused(
                f"{order.colour.label} is live: its upstreams are changed under traffic only where that is allowed; "
                "nothing was changed",
                hint='give "allow_live": true (--allow-live), or change the idle pool and switch',
            )

    # --- one upstream aside -------------------------------------------------------------------------------------------

    async def _drain(self, order: DrainOrder) -> PoolReport:
        colour, at = order.colour, self._now()
        started = time.perf_counter()
        async with self._tables.one_change():
            self._tables.check_epoch(order.if_epoch)
            upstream = self._find(colour, order.upstream)
            changed = upstream.drained == order.enable
            if changed:
                await self._set_aside(order, upstream)
        said = {"enabled" if order.enable else "drained": upstream.id}
        if order.wait and order.enable:
            await self._until_up(order, upstream)
        elif order.wait:
            await self._until_empty(order, upstream)
        already = f"{upstream.id} is {'enabled' if order.enable else 'drained'} already; nothing was changed"
        return self._report(
            order,
            at,
            changed=changed,
            drain_s=time.perf_counter() - started if order.wait and not order.enable else None,
            detail="" if changed else already,
            **said,
        )

    async def _set_aside(self, order: DrainOrder, upstream: Upstream) -> None:
        colour, record = order.colour, self._tables.standing.record
        others = tuple(each for each in record.drained(colour) if each != upstream.id)
        wanted = pools.standing(
            self._tables.config, record.with_drained(colour, others if order.enable else (*others, upstream.id))
        )

        def check(table: PoolTable) -> None:
            self._tables.check_epoch(order.if_epoch)
            if not order.enable and not order.force:
                self._check_the_others(colour, upstream)

        try:
            what = f"{colour.label}/{upstream.id} {'enabled' if order.enable else 'drained'}"
            note = Note(what=what, by=order.by, reason=order.reason)
            await self._tables.change(wanted, timeout_s=order.timeout_s or DEFAULT_TIMEOUT_S, check=check, note=note)
        except PoolRefused as error:
            self._emit("pool_change_refused", colour=colour.label, by=order.by, reason=error.detail)
            raise
        fields = {"colour": colour.label, "upstream": upstream.id, "by": order.by, "reason": order.reason}
        if order.enable:
            self._emit("upstream_enabled", **fields)
        else:
            self._emit("upstream_drained", **fields)

    def _check_the_others(self, colour: Colour, upstream: Upstream) -> None:
        """Somebody else must be able to take the traffic; and workers that cannot be told must not send any."""
        if pids := self._orphans.pids():
            raise PoolRefused(
                f"workers of an earlier supervisor still run (pid {', '.join(map(str, pids))}) and cannot be told to "
                f"leave {upstream.id} alone; nothing was changed",
                hint="wait until they are gone, or --force",
            )
        if colour is not self._segment.live.load().colour:
            return
        others = [view for view in self._prober.views(colour) if view.index != upstream.index]
        if any(view.is_healthy for view in others):
            return
        failed = [
            gates.Verdict(gates.UPSTREAM_HEALTHY, f"{colour.label}/{view.id}", "healthy", False, gates.condition(view))
            for view in others
        ]
        why = "; ".join(map(str, failed)) or "it is the only one"
        raise PoolRefused(
            f"{colour.label} is live, and without {upstream.id} nobody could take its traffic: {why}; "
            "nothing was changed",
            failed=[verdict.as_dict() for verdict in failed],
            hint="enable or repair another one first; --force drains it all the same, and every request is a 503",
        )

    async def _until_empty(self, order: DrainOrder, upstream: Upstream) -> None:
        cell = worker_slot.row_cell(order.colour, upstream.index, worker_slot.ROW_IN_FLIGHT)
        bound_s = self._tables.config.switch.drain_timeout if order.timeout_s is None else order.timeout_s
        deadline = time.monotonic() + bound_s
        while True:
            now = next(
                (each for each in self._tables.table.pool(order.colour).upstreams if each.id == upstream.id), None
            )
            if now is None or not now.drained:
                raise PoolRefused(f"{upstream.id} was enabled or removed before it was empty")
            left = gauge(self._segment.slots, cell)
            if not left:
                return
            if time.monotonic() >= deadline:
                raise DrainTimedOut(
                    f"{upstream.id} is drained, but after {bound_s:g} s {left} requests and streams still run there",
                    hint="they go on undisturbed; wait before you stop it, or look at bgproxy status",
                    extra={"remaining": {"in_flight": left}, "drain_s": bound_s},
                )
            await asyncio.sleep(LOOK_EVERY_S)

    async def _until_up(self, order: DrainOrder, upstream: Upstream) -> None:
        bound_s = DEFAULT_TIMEOUT_S if order.timeout_s is None else order.timeout_s
        if await self._prober.up_within(order.colour, upstream.index, bound_s):
            return
        view = next((each for each in self._prober.views(order.colour) if each.index == upstream.index), None)
        raise UpstreamNotUp(
            f"{upstream.id} is enabled, but after {bound_s:g} s it takes no traffic: "
            f"{gates.condition(view) if view is not None else 'it was removed'}",
            hint="it takes traffic as soon as its checks call it up; bgproxy status shows them",
        )

    def _find(self, colour: Colour, id: str) -> Upstream:
        for upstream in self._tables.table.pool(colour).upstreams:
            if upstream.id == id:
                return upstream
        known = ", ".join(each.id for each in self._tables.table.pool(colour).upstreams)
        raise UnknownUpstream(f"{colour.label} has no upstream {id!r}", hint=f"it has {known}")

    # --- answers ------------------------------------------------------------------------------------------------------

    def _report(self, order: SetOrder | DrainOrder, at: str, **said: Any) -> PoolReport:
        colour = order.colour
        pool, views = self._tables.table.pool(colour), self._prober.views(colour)
        came = said.get("added", ())
        return PoolReport(
            colour=colour.label,
            at=at,
            by=order.by,
            reason=order.reason,
            source=self._tables.standing.sources[colour],
            release=pool.release or None,
            table_version=self._tables.table.version,
            upstreams=tuple(
                {
                    "id": upstream.id,
                    "weight": upstream.weight,
                    "new": upstream.id in came,
                    "drained": upstream.drained,
                    "up": view.up,
                    "takes_traffic": view.is_healthy,
                    "why_not": "" if view.is_healthy else gates.condition(view),
                }
                for upstream, view in zip(pool.upstreams, views, strict=True)
            ),
            **said,
        )

    def _now(self) -> str:
        return self._wall().astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _in_words(colour: Colour, pool: Pool) -> str:
    ids = ", ".join(each.id if each.weight == 1 else f"{each.id}={each.weight}" for each in pool.upstreams)
    return f"{colour.label}: {ids}" + (f", release {pool.release}" if pool.release else "")


def _same(before: Pool, after: Pool) -> bool:
    def facts(pool: Pool) -> tuple[Any, ...]:
        return pool.release, pool.balance, *((each.id, each.address, each.weight) for each in pool.upstreams)

    return facts(before) == facts(after)
