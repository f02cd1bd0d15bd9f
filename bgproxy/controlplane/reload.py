"""The configuration read again while everything runs: judged as a whole, applied all or nothing.

What only a restart can bring about is named and left as it is; the rest of the file is applied all the same.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from bgproxy.config.changes import Change, differences, effective
from bgproxy.controlplane import pools
from bgproxy.controlplane.pool_orders import DEFAULT_TIMEOUT_S
from bgproxy.controlplane.pool_record import FROM_CONFIGURATION, Note
from bgproxy.controlplane.pool_tables import probe_of
from bgproxy.errors import ConfigError, ConfigurationRefused, ControlError, NothingToReload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bgproxy.config import Config
    from bgproxy.config.certificates import Loaded
    from bgproxy.controlplane.certificates import Certificates
    from bgproxy.controlplane.events import Emit
    from bgproxy.controlplane.pool_tables import PoolTables
    from bgproxy.controlplane.systemd import Notifier
    from bgproxy.core.model import PoolTable
    from bgproxy.shm.segment import Segment

HINT = "nothing was changed; repair the file (`bgproxy check FILE` says the same, with places) and repeat it"


class ReloadReport(msgspec.Struct, frozen=True, kw_only=True):
    """What is different now, and what waits for a restart."""

    changed: bool
    at: str
    by: str
    file: str
    sha256: str
    table_version: int
    changes: tuple[Change, ...]
    needs_restart: tuple[Change, ...]
    warnings: tuple[str, ...] = ()


class Reload:
    """`reread` reads the same file with the same flags and environment, None where there is no file. `applied` is told
    the configuration from which it is in use, `notifier` that it is being read, and then what `describe` says."""

    def __init__(
        self,
        reread: Callable[[], Config] | None,
        tables: PoolTables,
        segment: Segment,
        certificates: Certificates,
        *,
        emit: Emit,
        notifier: Notifier,
        describe: Callable[[], str],
    ) -> None:
        self._reread, self._tables, self._segment = reread, tables, segment
        self._certificates, self._emit = certificates, emit
        self.applied: Callable[[Config], None] = lambda _: None
        self._notifier, self._describe = notifier, describe
        self.results = {"ok": 0, "refused": 0}
        self._tasks: set[asyncio.Task[ReloadReport]] = set()

    async def execute(self, by: str) -> ReloadReport:
        """ControlError says why nothing was changed."""
        task = asyncio.get_running_loop().create_task(self._counted(by))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def on_signal(self) -> None:
        """The same for SIGHUP: whatever comes of it is in the log."""
        if self._reread is None:
            self._certificates.reload()
        try:
            await self.execute("signal:SIGHUP")
        except ControlError:
            pass  # told as an event
        except Exception as error:  # a fault of ours: the next signal may find things better
            self._emit("reload_refused", by="signal:SIGHUP", problems=[f"a fault in bgproxy: {error!r}"])

    async def follow(self, asked: asyncio.Event) -> None:
        """Reload whenever it is asked for."""
        while True:
            await asked.wait()
            asked.clear()
            await self.on_signal()

    async def close(self) -> None:
        """What is not written down yet is not to be."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _counted(self, by: str) -> ReloadReport:
        try:
            async with self._tables.one_change():
                with self._announced():
                    report = await self._execute(by)
        except ControlError as error:
            self.results["refused"] += 1
            self._emit("reload_refused", by=by, problems=error.extra.get("problems") or [error.detail])
            raise
        self.results["ok"] += 1
        self._emit("reloaded", by=by, changed=[_said(each) for each in report.changes], version=report.table_version)
        if report.needs_restart:
            self._emit("reload_needs_restart", keys=[_said(each) for each in report.needs_restart])
        return report

    @contextmanager
    def _announced(self) -> Iterator[None]:
        self._notifier.reloading("reading the configuration again")
        try:
            yield
        finally:
            self._notifier.ready(self._describe())

    async def _execute(self, by: str) -> ReloadReport:
        running = self._tables.config
        wanted = await self._read()
        config = effective(running, wanted)
        loaded = await self._look_at_files(config)
        await self._try_health(running, config)
        standing = pools.standing(config, self._tables.standing.record)

        def commit() -> None:
            if loaded is not None:
                self._certificates.use(config.tls, loaded)

        await self._tables.change(
            standing,
            timeout_s=DEFAULT_TIMEOUT_S,
            check=self._check_live,
            note=Note(what=FROM_CONFIGURATION, by=by),
            config=config,
            commit=commit,
        )
        self.applied(config)
        for warning in set(config.warnings) - set(running.warnings):
            self._emit("configuration_warning", warning=warning)
        changes = differences(running, config)
        return ReloadReport(
            changed=bool(changes),
            at=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            by=by,
            file=config.source.file,
            sha256=config.source.sha256,
            table_version=self._tables.table.version,
            changes=changes,
            needs_restart=differences(config, wanted),
            warnings=config.warnings,
        )

    async def _read(self) -> Config:
        if self._reread is None:
            raise NothingToReload(
                "it was started without a configuration file, so there is nothing to reload",
                hint="start it with -c FILE; upstreams can be changed with bgproxy pool set",
            )
        try:
            return await asyncio.to_thread(self._reread)
        except ConfigError as error:
            raise _refused(error.detail.splitlines()) from None

    async def _look_at_files(self, config: Config) -> Loaded | None:
        """Those that the configuration names and somebody else opens later."""
        if config.log.access != "off" and config.log.access_file != "-":
            try:
                await asyncio.to_thread(_try_to_append, config.log.access_file)
            except OSError as error:
                raise _refused([f"[log] access_file: {config.log.access_file!r}: {error.strerror}"]) from None
        if not config.tls.listen:
            return None
        loaded = await self._certificates.prepare(config.tls)
        if loaded.material is None:
            raise _refused([f"[tls] {sentence}" for _, sentence in loaded.problems])
        return loaded

    async def _try_health(self, running: Config, config: Config) -> None:
        """Another probe must not call the whole live pool down: it is tried before it counts."""
        if running.health == config.health:
            return
        live = self._segment.live.load().colour
        upstreams = [each for each in self._tables.table.pool(live).upstreams if not each.drained]
        ask = probe_of(config, self._tables.table)
        checks = await asyncio.gather(*(ask(each.address, config.health) for each in upstreams))
        if checks and not any(check.ok for check in checks):
            before = await asyncio.gather(
                *(probe_of(running, self._tables.table)(each.address, running.health) for each in upstreams)
            )
            if any(check.ok for check in before):
                raise _refused(
                    [
                        f"[health] would call {live.label}/{each.id} down, and {live.label} is live: {check.error}"
                        for each, check in zip(upstreams, checks, strict=True)
                    ]
                )

    def _check_live(self, table: PoolTable) -> None:
        self._tables.check_live_pool(table)


def _refused(problems: list[str]) -> ConfigurationRefused:
    count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
    return ConfigurationRefused(f"the configuration was not taken, it has {count}", problems=problems, hint=HINT)


def _try_to_append(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640))


def _said(change: Change) -> str:
    return f"{change.key}: {_text(change.old)} → {_text(change.new)}"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_text, value)) + "]"
    return "" if value is None else str(value)
