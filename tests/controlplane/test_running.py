"""The order of the end and of the beginning; tests/test_supervisor.py has the whole of it."""

from __future__ import annotations

import asyncio
import os
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from bgproxy.controlplane.running import Running, describe
from bgproxy.core.model import GREEN
from bgproxy.errors import UpgradeImpossible
from bgproxy.shm.live_pointer import Hold
from tests.support.proxies import eventually


class House:
    """Every part says what it was asked for."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.fields: list[dict[str, Any]] = []
        self.addresses = {"pid": os.getpid()}
        self.upgrade = SimpleNamespace(execute=self.refuse, cancel=self.a("cancelled"), is_done=False)
        config = SimpleNamespace(
            server=SimpleNamespace(timeouts=SimpleNamespace(shutdown=0.0)), switch=SimpleNamespace(ack_timeout=0.1)
        )
        self.gate = SimpleNamespace(standing=Hold.OPEN, stand=self.a("opened"))
        self.running = Running(
            tables=SimpleNamespace(config=config),  # type: ignore[arg-type]
            records=SimpleNamespace(own=self.a("owned"), write_addresses=self.s("addresses")),  # type: ignore[arg-type]
            takeover=SimpleNamespace(publish=self.s("published")),  # type: ignore[arg-type]
            lock=SimpleNamespace(sign=self.s("signed")),  # type: ignore[arg-type]
            segment=SimpleNamespace(  # type: ignore[arg-type]
                live=SimpleNamespace(load=lambda: SimpleNamespace(colour=GREEN, epoch=7)), slots=()
            ),
            notifier=SimpleNamespace(  # type: ignore[arg-type]
                ready=self.s("ready"), watch=self.s("watched"), stopping=self.s("stopping"), close=self.s("unwatched")
            ),
            upgrade=self.upgrade,  # type: ignore[arg-type]
            admin=SimpleNamespace(disown=self.s("admin disowned"), close=self.a("admin closed")),  # type: ignore[arg-type]
            events=SimpleNamespace(emit=self.emit, listen=self.s("listened")),  # type: ignore[arg-type]
            listeners=SimpleNamespace(  # type: ignore[arg-type]
                disown=self.s("listeners disowned"), close=self.s("listeners closed")
            ),
            workers=SimpleNamespace(ready=2, living=list, drain=self.drain),  # type: ignore[arg-type]
            orphans=SimpleNamespace(retire=self.a("retired")),  # type: ignore[arg-type]
            switcher=SimpleNamespace(close=self.a("orders refused")),  # type: ignore[arg-type]
            gate=self.gate,  # type: ignore[arg-type]
            addresses=self.addresses,
            retiring=[],
        )
        self.idle_s = -1.0

    def s(self, what: str) -> Any:
        return lambda *_: self.said.append(what)

    def a(self, what: str) -> Any:
        async def say(*_: Any) -> None:
            self.said.append(what)

        return say

    def emit(self, event: str, /, **fields: Any) -> None:
        self.said.append(event)
        self.fields.append(fields)

    async def refuse(self, by: str) -> None:
        raise UpgradeImpossible(f"not for {by}")

    async def drain(self, timeout_s: float, *, idle_s: float) -> list[Any]:
        self.said.append("drained")
        self.idle_s = idle_s
        return []


@pytest.fixture
def house():
    return House()


PATIENT = SimpleNamespace(lost=asyncio.Event())


async def test_it_is_told_to_others_before_the_old_workers_are_asked_to_leave(house):
    announced = []
    await house.running.announce(announced.append, None)
    await asyncio.gather(*house.running.retiring)
    first = ["owned", "addresses", "signed", "published", "ready", "ready", "listened", "watched", "retired"]
    assert house.said == first
    assert announced == [house.addresses]
    asyncio.get_running_loop().remove_signal_handler(signal.SIGUSR2)


async def test_a_predecessor_is_let_go_when_others_find_us(house):
    predecessor: Any = SimpleNamespace(serving=house.s("let go"))
    await house.running.announce(lambda _: None, predecessor)
    assert house.said.index("signed") < house.said.index("let go") < house.said.index("published")
    asyncio.get_running_loop().remove_signal_handler(signal.SIGUSR2)


async def test_a_signal_for_an_upgrade_that_cannot_be_is_told(house):
    await house.running.announce(lambda _: None, None)
    os.kill(os.getpid(), signal.SIGUSR2)
    await eventually(lambda: "upgrade_refused" in house.said, "the refusal")
    assert house.fields[-1] == {"reason": "not for SIGUSR2"}
    asyncio.get_running_loop().remove_signal_handler(signal.SIGUSR2)


def test_it_describes_itself(house):
    assert describe(house.running.segment, house.running.workers) == "green is live, epoch 7, 2 workers"


async def test_at_the_end_nobody_is_let_in_any_more(house):
    assert await house.running.stop(PATIENT) == 0
    assert [each for each in house.said if each in ("cancelled", "stopping", "listeners closed", "drained")] == [
        *("cancelled", "stopping", "stopping", "listeners closed", "drained")
    ]
    assert "listeners disowned" not in house.said
    assert house.idle_s == 0.0


async def test_at_the_end_what_is_paused_is_let_go_before_anybody_leaves(house):
    house.gate.standing = Hold.ALL
    assert await house.running.stop(PATIENT) == 0
    assert house.said.index("orders refused") < house.said.index("opened") < house.said.index("listeners closed")
    house.said.clear()
    house.gate.standing = Hold.MAINTENANCE
    assert await house.running.stop(PATIENT) == 0
    assert "opened" not in house.said


async def test_at_the_end_of_one_that_was_replaced_what_has_a_name_stays(house):
    house.upgrade.is_done = True
    assert await house.running.stop(PATIENT) == 0
    for each in ("listeners disowned", "admin disowned", "admin closed"):
        assert house.said.index(each) < house.said.index("listeners closed")
    assert house.said.count("stopping") == 1, "the service does not stop"
    assert house.idle_s > 0


async def test_after_an_upgrade_that_failed_all_is_said_again(house):
    house.running.resume()
    await asyncio.gather(*house.running.retiring)
    assert house.said == ["addresses", "signed", "ready", "retired"]
