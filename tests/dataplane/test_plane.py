"""What all connections of a worker share: settings that may change, request ids, trust, gauges."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from bgproxy.core.model import BLUE, GREEN, PoolTable
from bgproxy.core.settings import HeaderSettings, WorkerSettings
from bgproxy.dataplane.plane import DataPlane
from bgproxy.shm import worker_slot as slot
from bgproxy.shm.live_pointer import pack
from bgproxy.shm.segment import Segment
from tests.support.plane import eventually, pool, settings
from tests.support.raw_http import request, response
from tests.support.raw_upstream import answering, silent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.plane import Plane


# --- through a worker -------------------------------------------------------------------------------------------------


def test_every_request_has_an_id_of_its_own(plane: Plane) -> None:
    for _ in range(3):
        client = plane.client()
        client.send(b"".join(request() for _ in range(200)))
        for _ in range(200):
            client.answer()
        plane.configure()
    ids = [asked.one("X-Request-ID") for asked in plane.blue.requests]
    assert len(set(ids)) == len(ids) == 600


def test_the_name_of_the_request_id_is_a_setting(plane: Plane) -> None:
    plane.configure(settings(headers=HeaderSettings(request_id="X-Trace")))
    plane.client().ask("GET", "/", "X-Trace: forged", "X-Request-ID: the application's own")
    (asked,) = plane.blue.requests
    assert asked.one("X-Trace") not in ("", "forged")
    assert asked.one("X-Request-ID") == "the application's own"


def test_an_answer_of_the_proxy_names_the_request_that_it_is_about(plane: Plane) -> None:
    plane.blue.script = answering(b"nonsense\r\n\r\n")
    answer = plane.client().ask()
    (asked,) = plane.blue.requests
    assert asked.one("X-Request-ID") in answer.body.decode()
    assert answer.one("Date").endswith("GMT")


def test_a_new_table_is_used_from_the_next_request_on_and_an_old_request_ends_on_the_old(plane: Plane) -> None:
    old = plane.upstream(silent)
    plane.configure(blue=[old])
    waiting = plane.client()
    waiting.send(request())
    eventually(lambda: old.conversations, "the old request")
    kept = plane.client()
    plane.configure(blue=[plane.blue])
    assert kept.ask().body == b"hello"
    old.conversations[0].send(response(200, b"from the old table"))
    assert waiting.answer().body == b"from the old table"
    assert waiting.ask().body == b"hello"
    eventually(plane.is_idle, "no request")
    assert plane.cells[slot.TABLE_VERSION] > 1


def test_the_slot_shows_that_the_worker_lives_and_what_it_holds(plane: Plane) -> None:
    clients = [plane.client() for _ in range(3)]
    for client in clients:
        assert client.ask().status == 200
    eventually(lambda: plane.cells[slot.CLIENT_CONNECTIONS] == 3, "three clients")
    eventually(lambda: plane.cells[slot.PARKED] == 1, "a parked connection")
    beat = plane.cells[slot.HEARTBEAT_NS]
    eventually(lambda: plane.cells[slot.HEARTBEAT_NS] > beat, "the next heartbeat")
    assert plane.cells[slot.LAG_NS] < 10_000_000_000
    assert plane.cells[slot.PID] == plane.worker.process.pid


# --- by itself --------------------------------------------------------------------------------------------------------


@pytest.fixture
def segment() -> Iterator[Segment]:
    made = Segment.create(1)
    yield made
    made.close()


def made(segment: Segment, with_settings: WorkerSettings) -> DataPlane:
    plane = DataPlane(asyncio.get_running_loop(), segment, 0, lambda _: None)
    table = PoolTable(7, pool(["127.0.0.1:1"], release="1.0"), pool(["127.0.0.1:2"]))
    plane.configure(with_settings, table)
    return plane


async def test_trust_goes_by_network(segment: Segment) -> None:
    plane = made(segment, settings(trusted_proxies=("10.0.0.0/8", "fd00::/8")))
    assert plane.is_trusted(b"10.1.2.3")
    assert plane.is_trusted(b"fd00::1")
    assert not plane.is_trusted(b"11.1.2.3")
    assert not plane.is_trusted(b"::10.1.2.3")
    assert not plane.is_trusted(b"unknown"), "the peer of a unix socket"
    assert not made(segment, WorkerSettings()).is_trusted(b"10.1.2.3")


async def test_peers_on_unix_sockets_are_trusted_by_their_word(segment: Segment) -> None:
    plane = made(segment, settings(trusted_proxies=("unix",)))
    assert plane.is_trusted(b"unknown")
    assert not plane.is_trusted(b"10.1.2.3")
    assert made(segment, settings(trusted_proxies=("unix", "10.0.0.0/8"))).is_trusted(b"10.1.2.3")


async def test_clients_are_told_the_version_only_where_the_operator_wants_it(segment: Segment) -> None:
    plane = made(segment, settings(headers=HeaderSettings(expose=True)))
    assert plane.expose(pack(3, BLUE)) == b"\r\nX-BG-Colour: blue\r\nX-BG-Epoch: 3\r\nX-BG-Release: 1.0"
    assert plane.expose(pack(4, GREEN)) == b"\r\nX-BG-Colour: green\r\nX-BG-Epoch: 4"
    assert made(segment, WorkerSettings()).expose(pack(3, BLUE)) == b""


async def test_a_plane_without_clients_is_drained_at_once(segment: Segment) -> None:
    plane = made(segment, WorkerSettings())
    assert await plane.drain(60) == (0, 0)
    assert plane.draining


async def test_a_table_is_in_the_slot_once_it_is_in_use(segment: Segment) -> None:
    made(segment, WorkerSettings())
    assert segment.slots[0].cells[slot.TABLE_VERSION] == 7
