"""A control plane that answers what the test says, and the real admin API in front of it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from bgproxy.controlplane.admin.app import AdminServer, start_admin
from bgproxy.controlplane.orders import Defaults, GateOrder, GateReport, SwitchOrder, SwitchReport
from bgproxy.controlplane.pool_orders import DrainOrder, PoolReport, SetOrder
from bgproxy.controlplane.reload import ReloadReport
from bgproxy.controlplane.upgrade import UpgradeReport
from bgproxy.core.gates import Verdict
from bgproxy.core.model import Address, Colour

LOOPBACK = Address(host="127.0.0.1", port=0)


class Token(msgspec.Struct, frozen=True):
    name: str
    role: str
    sha256: str


def token(name: str, role: str, secret: str) -> Token:
    return Token(name, role, hashlib.sha256(secret.encode()).hexdigest())


def switch_report(**fields: Any) -> SwitchReport:
    told = {"changed": True, "kind": "switch", "from_": "blue", "to": "green", "epoch": 1, "at": "t"} | fields
    return SwitchReport(**told)


def pool_report(**fields: Any) -> PoolReport:
    told = {"changed": True, "colour": "green", "at": "t", "by": "b", "reason": "", "source": "run time"}
    return PoolReport(**told | {"release": None, "table_version": 2} | fields)


class FakePools:
    """Remembers the orders; answers with `report`, or raises it where it is an exception."""

    def __init__(self) -> None:
        self.orders: list[SetOrder | DrainOrder] = []
        self.reloads: list[str] = []
        self.report: PoolReport | Exception = pool_report()
        self.reload_report: ReloadReport | Exception = ReloadReport(
            changed=False, at="t", by="b", file="f", sha256="", table_version=2, changes=(), needs_restart=()
        )

    async def set(self, order: SetOrder) -> PoolReport:
        self.orders.append(order)
        if isinstance(self.report, Exception):
            raise self.report
        return self.report

    async def drain(self, order: DrainOrder) -> PoolReport:
        self.orders.append(order)
        if isinstance(self.report, Exception):
            raise self.report
        return self.report

    async def reload(self, by: str) -> ReloadReport:
        self.reloads.append(by)
        if isinstance(self.reload_report, Exception):
            raise self.reload_report
        return self.reload_report

    def facts(self, colour: Colour) -> dict[str, Any]:
        return {"source": "run time", "table_version": 2, "changed": {"at": "t", "by": colour.label, "reason": "r"}}


class FakeControl:
    """Remembers the orders; answers with `report`, or raises it where it is an exception."""

    def __init__(self) -> None:
        self.defaults = Defaults()
        self.orders: list[SwitchOrder] = []
        self.upgrades: list[tuple[str, float | None]] = []
        self.gate_orders: list[GateOrder] = []
        self.report: SwitchReport | Exception = switch_report(undo="bgproxy rollback")
        self.verdicts: list[Verdict] = []
        self.document: dict[str, Any] = {"epoch": 3, "live": "blue", "uptime_s": 1.0}
        self.fault: Exception | None = None
        self.reasons: list[str] = []
        self.waits: list[tuple[float | None, bool, int | None]] = []
        self.waited_for, self.drained, self.abandoned = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.drain_error: Exception | None = None
        self.pools = FakePools()

    async def execute(self, order: SwitchOrder) -> SwitchReport:
        self.orders.append(order)
        if isinstance(self.report, Exception):
            raise self.report
        return self.report

    async def change_gate(self, order: GateOrder) -> GateReport:
        self.gate_orders.append(order)
        if isinstance(self.report, Exception):
            raise self.report
        state = {"pause": "paused", "maintenance on": "maintenance"}.get(order.kind, "open")
        return GateReport(
            changed=True, kind=order.kind, state=state, live="blue", epoch=3, at="t", acked_s=0.001, undo="bgproxy …"
        )

    async def upgrade(self, by: str, timeout_s: float | None) -> UpgradeReport:
        self.upgrades.append((by, timeout_s))
        return UpgradeReport(old_pid=1, new_pid=2, old_version="1", new_version="2", seconds=0.5)

    def preflight(self, to: Colour) -> list[Verdict]:
        return self.verdicts

    def status(self) -> dict[str, Any]:
        if self.fault:
            raise self.fault
        return self.document

    async def until_drained(self, timeout_s: float | None, *, streams: bool, if_epoch: int | None) -> None:
        self.waits.append((timeout_s, streams, if_epoch))
        self.waited_for.set()
        try:
            await self.drained.wait()
        except asyncio.CancelledError:
            self.abandoned.set()
            raise
        if self.drain_error is not None:
            raise self.drain_error

    def history(self, limit: int) -> list[dict[str, Any]]:
        return [{"at": "t", "kind": "switch", "epoch": 1}][:limit]

    def metrics(self) -> str:
        return "bgproxy_epoch 3\n"

    def not_ready(self) -> list[str]:
        return self.reasons


class Admin:
    """A running admin API over TCP and a unix socket, with a client for each."""

    def __init__(self, server: AdminServer, tcp: aiohttp.ClientSession, unix: aiohttp.ClientSession) -> None:
        self.server, self.tcp, self.unix = server, tcp, unix

    async def ask(self, method: str, path: str, *, over: str = "tcp", **options: Any) -> Reply:
        session = self.tcp if over == "tcp" else self.unix
        async with session.request(method, f"http://127.0.0.1:{self.port}{path}", **options) as answer:
            return Reply(answer.status, answer.headers, await answer.read())

    @property
    def port(self) -> int:
        assert self.server.address is not None
        return self.server.address.port


class Reply(msgspec.Struct, frozen=True):
    status: int
    headers: Mapping[str, str]  # whatever the case
    body: bytes

    @property
    def document(self) -> Any:
        return msgspec.json.decode(self.body)


@asynccontextmanager
async def admin_api(control: FakeControl, directory: Path, **options: Any) -> AsyncIterator[Admin]:
    path = directory / "admin.sock"
    server = await start_admin(control, listen=LOOPBACK, socket_path=path, pools=control.pools, **options)
    try:
        async with (
            aiohttp.ClientSession() as tcp,
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as unix,
        ):
            yield Admin(server, tcp, unix)
    finally:
        await server.close()
