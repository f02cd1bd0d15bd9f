"""Random traffic, random switches, workers that are killed: afterwards the real log and the real journal are checked.

And the same with builds that are broken on purpose, which the check has to find.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.house import ROOT, App, Proxy, bgproxy
from tests.support.traffic import Operator, Traffic

# Executed by every Python of the house before anything else: a build of its own.
HOLD_COMES_TOO_LATE = """
from bgproxy.core.switch import NEXT, Action, Event, Phase
assert (Phase.READY, Event.FENCE_WANTED) in NEXT
NEXT[Phase.READY, Event.FENCE_WANTED] = (Phase.CUTOVER, Action.CUT_OVER)
"""
NOBODY_WAITS = """
from bgproxy.core.switch import NEXT, Action, Event, Phase
assert (Phase.CLOSING, Event.ALL_ACKNOWLEDGED) in NEXT
NEXT[Phase.CLOSING, Event.ALL_ACKNOWLEDGED] = (Phase.DECIDING, Action.WRITE_DECISION)
"""
WORKERS_READ_THE_WORD_OF_A_MOMENT_AGO = """
import sys, time
if "bgproxy.worker" in " ".join(sys.orig_argv):
    from bgproxy.dataplane.plane import DataPlane
    build = DataPlane.__init__
    class Late:
        def __init__(self, cells, for_s):
            self.cells, self.word, self.for_s, self.until = cells, cells[0], for_s, 0
        def __getitem__(self, index):
            if time.monotonic() > self.until:
                self.word, self.until = self.cells[0], time.monotonic() + self.for_s
            return self.word
    def init(self, loop, segment, number, say):
        build(self, loop, segment, number, say)
        self.live = Late(self.live, 0.5 * number)
    DataPlane.__init__ = init
"""


@pytest.fixture
def house(start: Callable[..., Proxy], tmp_path: Path) -> Iterator[Callable[..., Proxy]]:
    """A proxy with an access log, in front of two apps that take their time."""
    with contextlib.ExitStack() as stack:

        def build(sitecustomize: str = "") -> Proxy:
            blue, green = (App(name, module="latency_app") for name in ("blue", "green"))
            stack.callback(green.end)
            stack.callback(blue.end)
            (tmp_path / "sitecustomize.py").write_text(sitecustomize)
            env = {
                "BGPROXY_LOG__ACCESS": "json",
                "BGPROXY_LOG__ACCESS_FILE": str(tmp_path / "access.log"),
                "BGPROXY_SWITCH__ACK_TIMEOUT": "15s",
                "BGPROXY_SWITCH__FENCE_TIMEOUT": "15s",
                "BGPROXY_SWITCH__HOLD_TIMEOUT": "30s",
                "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
            }
            return start(blue, green, env=env)

        yield build


def run(proxy: Proxy, seed: int, moves: int, *, kills: int = 0, mode: str | None = None) -> tuple[Traffic, Operator]:
    traffic = Traffic(proxy.port, seed)
    operator = Operator(proxy.addresses["admin"], seed)

    async def work() -> None:
        async with operator:
            await traffic.more(20)
            for number in range(moves):
                await operator.move(**({} if mode is None else {"mode": mode}))
                if number % 3 == 2 and number // 3 < kills and (pid := await operator.worker()):
                    os.kill(pid, signal.SIGKILL)
                await traffic.more(15)

    traffic.run(work)
    assert proxy.end() == 0
    return traffic, operator


def verified(proxy: Proxy, tmp_path: Path) -> dict[str, Any]:
    done = bgproxy("verify-log", str(tmp_path / "access.log"), "--state-dir", str(proxy.state_dir), "-o", "json")
    assert done.stderr == ""
    document: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode == 0) is (document["verdict"] == "proved")
    return document


def colours(tmp_path: Path) -> dict[str, str]:
    """What the log says of every path."""
    lines = (tmp_path / "access.log").read_bytes().splitlines()
    return {record["path"]: record["colour"] for record in map(json.loads, lines) if record["path"].startswith("/r/")}


@pytest.mark.parametrize(
    ("moves", "kills"), [(7, 1), pytest.param(150, 20, marks=[pytest.mark.soak, pytest.mark.timeout(900)])]
)
def test_whatever_happens_the_log_proves_that_every_request_went_where_the_switches_say(
    house: Callable[..., Proxy], tmp_path: Path, moves: int, kills: int, record_property: Callable[[str, object], None]
) -> None:
    proxy = house()
    traffic, operator = run(proxy, seed=moves, moves=moves, kills=kills)
    document = verified(proxy, tmp_path)
    record_property("records", document["records"])
    assert document["verdict"] == "proved", document["violations"]
    assert document["switches"] == len(operator.done)
    fences = [fence for fence in document["fences"] if fence["gap_s"] is not None]
    assert len(fences) == sum(done["mode"] != "instant" for done in operator.done) > 0
    logged = colours(tmp_path)
    wrong = [each for each in traffic.answers if each.colour and logged.get(each.path, each.colour) != each.colour]
    assert wrong == []
    # What a killed worker had not written yet is lost, and nothing else.
    missing = sum(each.path not in logged for each in traffic.answers)
    assert missing == 0 or kills
    print(f"{document['records']} records, {len(operator.done)} switches, {len(fences)} fences, {missing} lost")


@pytest.mark.parametrize(
    ("build", "mode", "check"),
    [
        pytest.param(HOLD_COMES_TOO_LATE, "fence", "C3", id="the word is stored before the hold"),
        pytest.param(NOBODY_WAITS, "fence", "C3", id="the fence waits for nobody", marks=pytest.mark.soak),
        pytest.param(
            WORKERS_READ_THE_WORD_OF_A_MOMENT_AGO, "instant", "C2", id="a word that is late", marks=pytest.mark.soak
        ),
    ],
)
def test_a_build_that_is_broken_on_purpose_is_found(
    house: Callable[..., Proxy], tmp_path: Path, build: str, mode: str, check: str
) -> None:
    proxy = house(build)
    run(proxy, seed=1, moves=3, mode=mode)
    document = verified(proxy, tmp_path)
    assert document["verdict"] == "violated"
    violation = document["violations"]["first"][0]
    assert {each["check"] for each in document["violations"]["first"]} == {check}
    assert violation["journal"]["mode"] == mode
    one, other = violation["records"]
    assert one["colour"] != other["colour"]
    assert one["end_ns"] > other["dispatch_ns"] if check == "C3" else one["arrive_ns"] > other["end_ns"]


# Between the decision and the word, in the supervisor only, and once.
DIES_BEFORE_THE_WORD_MOVES = """
import os, pathlib, signal, sys
if "bgproxy.worker" not in " ".join(sys.orig_argv):
    from bgproxy.controlplane.gate import Gate
    move = Gate.move
    def die_once(self, epoch, colour):
        died = pathlib.Path(__file__).with_name("died")
        if died.exists():
            return move(self, epoch, colour)
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    Gate.move = die_once
"""


@pytest.mark.soak
@pytest.mark.parametrize("mode", ["instant", "fence"])
def test_a_supervisor_that_dies_between_the_decision_and_the_word_leaves_no_two_epochs_beside_each_other(
    house: Callable[..., Proxy], tmp_path: Path, mode: str
) -> None:
    proxy = house(DIES_BEFORE_THE_WORD_MOVES)
    traffic = Traffic(proxy.port, seed=3)
    operator = Operator(proxy.addresses["admin"], seed=3)

    async def work() -> None:
        await traffic.more(20)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            async with operator:
                await operator.move(mode=mode)
        await asyncio.to_thread(proxy.process.wait)
        await traffic.more(20)  # on workers that are alone
        await asyncio.to_thread(proxy.start_again)
        await traffic.more(60)

    traffic.run(work)
    assert (tmp_path / "died").exists()
    assert proxy.end() == 0
    document = verified(proxy, tmp_path)
    assert document["verdict"] == "proved", document["violations"]
