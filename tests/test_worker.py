"""One worker process from its start to its end, with the test in the supervisor's place."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from bgproxy.core.messages import Drain, Drained, Published, Seen
from bgproxy.core.model import BLUE, GREEN, Pool
from bgproxy.core.settings import AccessLogSettings, WorkerSettings
from bgproxy.shm import worker_slot as slot
from bgproxy.worker import main
from tests.support.plane import Plane, WorkerProcess, eventually, settings
from tests.support.raw_http import PATIENCE_S, request, response
from tests.support.raw_upstream import silent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.raw_upstream import Conversation

NO_POOLS = (Pool(()), Pool(()))
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


@pytest.fixture
def worker() -> Iterator[WorkerProcess]:
    made = WorkerProcess()
    yield made
    complaints = made.end()
    assert not complaints, complaints


@pytest.fixture
def plane(worker: WorkerProcess) -> Iterator[Plane]:
    worker.start(NO_POOLS, WorkerSettings())
    made = Plane(worker)
    yield made
    if worker.process.poll() is None:
        made.close()
    else:
        made.close_surroundings()


def leave_by_message(worker: WorkerProcess, timeout_s: float) -> None:
    worker.tell(Drain(timeout_s))


def leave_by_signal(worker: WorkerProcess, timeout_s: float) -> None:
    worker.process.send_signal(signal.SIGTERM)


# --- beginning --------------------------------------------------------------------------------------------------------


def test_a_worker_reports_what_it_was_configured_with_and_that_it_has_seen_the_word(worker: WorkerProcess) -> None:
    worker.start(NO_POOLS, WorkerSettings())
    assert worker.cells[slot.PID] == worker.process.pid
    assert worker.cells[slot.EPOCH_SEEN] == 1
    assert worker.cells[slot.TABLE_VERSION] == 1


def test_connections_that_came_before_the_worker_are_served(worker: WorkerProcess) -> None:
    early = socket.create_connection((worker.address.host, worker.address.port), timeout=PATIENCE_S)
    early.sendall(request())
    worker.start(NO_POOLS, WorkerSettings())
    assert early.recv(65536).startswith(b"HTTP/1.1 503 ")
    early.close()


def test_a_worker_imports_nothing_of_the_control_plane() -> None:
    listing = "import sys, bgproxy.worker; print(*sorted(sys.modules))"
    output = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True, timeout=60)
    imported = set(output.stdout.split())
    assert "bgproxy.dataplane.plane" in imported
    for name in ("aiohttp", "structlog", "click", "bgproxy.controlplane", "bgproxy.config", "bgproxy.errors"):
        assert name not in imported


def test_a_running_worker_has_not_loaded_aiohttp_either(plane: Plane) -> None:
    assert plane.client().ask().status == 200
    with open(f"/proc/{plane.worker.process.pid}/maps") as maps:
        loaded = maps.read()
    assert "uvloop" in loaded
    assert "aiohttp" not in loaded


def test_a_worker_started_by_hand_says_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([])
    assert exit_.value.code == 2
    assert "started by the supervisor" in _help() or "--segment-fd" in capsys.readouterr().err


def _help() -> str:
    return subprocess.run(
        [sys.executable, "-m", "bgproxy.worker", "--help"], capture_output=True, text=True, check=True, timeout=60
    ).stdout


def test_a_worker_that_nobody_configured_leaves_with_its_supervisor(worker: WorkerProcess) -> None:
    worker.control.shutdown(socket.SHUT_RDWR)
    assert worker.process.wait(PATIENCE_S) == 0


# --- the word ---------------------------------------------------------------------------------------------------------


def test_a_published_word_is_acknowledged_with_the_epoch_that_was_seen(plane: Plane) -> None:
    live = plane.worker.segment.live
    for epoch, colour in ((5, GREEN), (6, BLUE)):
        live.store(epoch, colour)
        plane.worker.tell(Published(epoch))
        assert plane.worker.hear(Seen).epoch == epoch
        assert plane.worker.cells[slot.EPOCH_SEEN] == epoch


def test_after_the_acknowledgement_no_request_reaches_the_old_colour(plane: Plane) -> None:
    stop = threading.Event()
    mistakes: list[str] = []
    begun = threading.Event()

    def ask_on() -> None:
        client = plane.client()
        while not stop.is_set():
            if client.ask().status != 200:
                mistakes.append("not answered")
            begun.set()

    asking = threading.Thread(target=ask_on)
    asking.start()
    begun.wait(PATIENCE_S)
    try:
        for colour in (GREEN, BLUE) * 20:
            plane.publish(colour)
            old = plane.blue if colour is GREEN else plane.green
            new = plane.green if colour is GREEN else plane.blue
            served = len(new.requests)
            eventually(lambda new=new, served=served: len(new.requests) > served + 1, "a request on the new colour")
            count = len(old.requests)
            eventually(lambda new=new, served=served: len(new.requests) > served + 5, "more of them")
            assert len(old.requests) == count
    finally:
        stop.set()
        asking.join()
    assert mistakes == []


def test_without_its_supervisor_a_worker_goes_on_forwarding(plane: Plane) -> None:
    client = plane.client()
    assert client.ask().status == 200
    plane.worker.control.shutdown(socket.SHUT_RDWR)
    beat = plane.worker.cells[slot.HEARTBEAT_NS]
    eventually(lambda: plane.worker.cells[slot.HEARTBEAT_NS] > beat, "the next heartbeat")
    assert client.ask().status == 200
    assert plane.client().ask().status == 200
    plane.worker.segment.live.store(9, GREEN)
    assert plane.client().ask().status == 200
    assert len(plane.green.requests) == 1, "the word alone decides"
    plane.worker.process.send_signal(signal.SIGTERM)
    assert plane.worker.process.wait(PATIENCE_S) == 0


# --- leaving ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leave", [leave_by_message, leave_by_signal])
def test_a_leaving_worker_finishes_what_is_in_flight(
    plane: Plane, leave: Callable[[WorkerProcess, float], None]
) -> None:
    release = threading.Event()

    def script(conversation: Conversation) -> None:
        while True:
            conversation.request()
            release.wait(PATIENCE_S)
            conversation.send(response(200, b"done"))

    plane.blue.script = script
    busy, idle = plane.client(), plane.client()
    busy.send(request())
    eventually(lambda: plane.blue.requests, "the request")
    leave(plane.worker, 30)
    assert idle.is_ended(), "an idle connection is closed at once"
    assert plane.worker.process.poll() is None
    release.set()
    answer = busy.answer()
    assert (answer.body, answer.one("Connection")) == (b"done", "close")
    assert busy.is_ended()
    assert plane.worker.hear(Drained) == Drained(cut_requests=0, cut_streams=0)
    assert plane.worker.process.wait(PATIENCE_S) == 0
    assert plane.worker.cells[slot.IN_FLIGHT] == 0


def test_a_request_that_is_half_sent_when_the_worker_leaves_is_still_served(plane: Plane) -> None:
    client = plane.client()
    client.send(b"GET / HTTP/1.1\r\nHo")
    eventually(lambda: plane.cells[slot.CLIENT_CONNECTIONS] == 1, "the connection")
    plane.worker.tell(Drain(30))
    client.send(b"st: a\r\n\r\n")
    answer = client.answer()
    assert (answer.status, answer.one("Connection")) == (200, "close")
    assert plane.worker.hear(Drained).cut_requests == 0


@pytest.mark.parametrize("leave", [leave_by_message, leave_by_signal])
def test_what_is_not_finished_in_time_is_cut_and_reported(
    plane: Plane, leave: Callable[[WorkerProcess, float], None]
) -> None:
    def script(conversation: Conversation) -> None:
        asked = conversation.request()
        if asked.one("Upgrade"):
            conversation.send(SWITCHING)
        elif asked.target == "/events":
            conversation.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        conversation.rest()

    plane.configure(settings(timeouts={"shutdown": 0.2}))
    plane.blue.script = script
    asking, tunnelled, listening = plane.client(), plane.client(), plane.client()
    asking.send(request())
    listening.send(request(target="/events"))
    listening.until(b"\n\n")
    tunnelled.send(request("GET", "/", "Connection: upgrade", "Upgrade: websocket"))
    assert tunnelled.answer().status == 101
    eventually(lambda: len(plane.blue.requests) == 3, "all three requests")
    leave(plane.worker, 0.2)
    assert plane.worker.hear(Drained) == Drained(cut_requests=1, cut_streams=2)
    assert asking.is_ended()
    assert tunnelled.is_ended()
    assert plane.worker.process.wait(PATIENCE_S) == 0
    assert not any(plane.worker.cells[gauge] for gauge in (slot.IN_FLIGHT, slot.TUNNELS))


def test_a_tunnel_that_is_cut_is_logged(plane: Plane, tmp_path: Path) -> None:
    def script(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(SWITCHING)
        conversation.rest()

    log = tmp_path / "access.log"
    plane.configure(settings(access_log=AccessLogSettings(format="json", file=str(log))))
    plane.blue.script = script
    client = plane.client()
    client.send(request("GET", "/ws", "Connection: upgrade", "Upgrade: websocket"))
    assert client.answer().status == 101
    plane.worker.tell(Drain(0.2))
    assert plane.worker.hear(Drained).cut_streams == 1
    assert plane.worker.process.wait(PATIENCE_S) == 0
    (record,) = map(json.loads, log.read_text().splitlines())
    assert (record["path"], record["status"], record["termination"]) == ("/ws", 101, "drained")


def test_a_leaving_worker_leaves_the_accept_queue_to_its_replacement(plane: Plane) -> None:
    plane.worker.tell(Drain(5))
    plane.worker.hear(Drained)
    assert plane.worker.process.wait(PATIENCE_S) == 0
    client = plane.client()  # the supervisor's copy of the socket goes on listening
    client.send(request())
    descriptor = plane.worker.listeners[0].dup()
    descriptor.settimeout(PATIENCE_S)
    waiting, _ = descriptor.accept()
    assert waiting.recv(65536) == request()
    waiting.close()
    descriptor.close()


def test_ctrl_c_in_a_terminal_is_left_to_the_supervisor(plane: Plane) -> None:
    plane.worker.process.send_signal(signal.SIGINT)
    assert plane.client().ask().status == 200
    assert plane.worker.process.poll() is None


def test_a_worker_that_was_never_configured_leaves_at_once(worker: WorkerProcess) -> None:
    worker.tell(Drain(30))
    assert worker.process.wait(PATIENCE_S) == 0


def test_a_killed_worker_takes_its_connections_with_it_and_leaves_its_counts(plane: Plane) -> None:
    plane.blue.script = silent
    client = plane.client()
    client.send(request())
    eventually(lambda: plane.cells[slot.IN_FLIGHT] == 1, "the request")
    plane.worker.process.kill()
    assert plane.worker.process.wait(PATIENCE_S) == -signal.SIGKILL
    assert client.is_ended()
    assert plane.worker.cells[slot.IN_FLIGHT] == 1, "until the supervisor hands the slot over"
    plane.worker.segment.slots[0].hand_over()
    assert plane.worker.cells[slot.IN_FLIGHT] == 0
