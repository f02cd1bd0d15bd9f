"""One record per exchange: what is in it, what is kept out, and that nothing ever waits for it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from bgproxy.core.model import BLUE, GREEN, Pool
from bgproxy.core.settings import AccessLogSettings
from bgproxy.dataplane import access_log
from bgproxy.dataplane.access_log import AccessLog
from bgproxy.shm import worker_slot as slot
from bgproxy.shm.live_pointer import pack
from tests.support.plane import Plane, WorkerProcess, eventually, settings
from tests.support.raw_http import Ended, request, response

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.raw_upstream import Conversation


@pytest.fixture
def cells() -> memoryview:
    return memoryview(bytearray(8 * slot.SLOT_CELLS)).cast("Q")


def exchange(**differs: Any) -> Any:
    values = {
        "client": SimpleNamespace(peer=SimpleNamespace(address=b"192.0.2.1")),
        "request": SimpleNamespace(method=b"GET", host=b"app.example", target=b"/path?secret=1"),
        "status": 200,
        "request_bytes": 3,
        "response_bytes": 400,
        "started": 5_000_000_000,
        "dispatched": 5_400_000_000,
        "held_ns": 300_000_000,
        "word": pack(7, GREEN),
        "kind_of_stream": None,
        "server": SimpleNamespace(id="g1"),
        "attempts": 2,
        "upstream": object(),
        "was_reused": True,
        "request_id": b"id-1",
    }
    return SimpleNamespace(**(values | differs))


def written(path: Path, cells: memoryview, style: str, *exchanges: Any) -> list[str]:
    log = AccessLog(AccessLogSettings(format=style, file=str(path)), cells)
    for each in exchanges:
        log.record(each, 5_501_234_567, "ok")
    log.close()
    return path.read_text().splitlines()


# --- formats ----------------------------------------------------------------------------------------------------------


def test_a_json_record_tells_the_whole_exchange(tmp_path: Path, cells: memoryview) -> None:
    (line,) = written(tmp_path / "log", cells, "json", exchange())
    record = json.loads(line)
    assert record.pop("ts").endswith("+00:00")
    assert record.pop("boot") == Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    assert record == {
        "remote": "192.0.2.1",
        "method": "GET",
        "host": "app.example",
        "path": "/path",
        "status": 200,
        "bytes_in": 3,
        "bytes_out": 400,
        "duration_s": 0.501235,
        "held_s": 0.3,
        "arrive_ns": 5_000_000_000,
        "dispatch_ns": 5_400_000_000,
        "end_ns": 5_501_234_567,
        "colour": "green",
        "epoch": 7,
        "stream": None,
        "upstream": "g1",
        "attempts": 2,
        "reused": True,
        "request_id": "id-1",
        "termination": "ok",
    }


def test_an_exchange_without_an_upstream_has_none_in_its_record(tmp_path: Path, cells: memoryview) -> None:
    (line,) = written(tmp_path / "log", cells, "json", exchange(server=None, word=pack(1, BLUE)))
    record = json.loads(line)
    assert (record["upstream"], record["colour"], record["epoch"]) == ("", "blue", 1)


def test_a_combined_record_is_what_log_readers_know(tmp_path: Path, cells: memoryview) -> None:
    (line,) = written(tmp_path / "log", cells, "combined", exchange())
    before, _, after = line.partition("] ")
    assert before.startswith("192.0.2.1 - - [")
    assert before.endswith(" +0000")
    assert after == '"GET /path HTTP/1.1" 200 400 "-" "-"'


@pytest.mark.parametrize("style", ["json", "combined"])
def test_no_client_can_write_a_line_of_its_own(tmp_path: Path, cells: memoryview, style: str) -> None:
    hostile = SimpleNamespace(method=b"GET", host=b"\xff\xfe", target=b'/"\xe9\x9f" 200 1?x')
    lines = written(tmp_path / "log", cells, style, exchange(request=hostile), exchange())
    assert len(lines) == 2
    assert all(line.isascii() for line in lines)
    assert "%22" in lines[0]


def test_a_refusal_has_a_record_too(tmp_path: Path, cells: memoryview, monkeypatch: pytest.MonkeyPatch) -> None:
    for style, expected in (
        ("json", '"status":400,"bytes_in":0,"bytes_out":300,'),
        ("combined", '"-" 400 300 "-" "-"'),
    ):
        log = AccessLog(AccessLogSettings(format=style, file=str(tmp_path / style)), cells)
        log.record_refusal(b"192.0.2.1", None, 400, 300, b"id-1")
        monkeypatch.setattr(access_log, "RECORDS", 1)
        log.record_refusal(b"192.0.2.1", None, 400, 300, b"id-2")
        log.close()
        (line,) = (tmp_path / style).read_text().splitlines()
        assert expected in line
    assert cells[slot.ACCESS_LOG_DROPPED] == 2


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_records_over_the_bound_are_dropped_and_counted(
    tmp_path: Path, cells: memoryview, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_log, "RECORDS", 2)
    assert len(written(tmp_path / "log", cells, "json", *[exchange()] * 5)) == 2
    assert cells[slot.ACCESS_LOG_DROPPED] == 3


def test_a_reader_that_does_not_read_is_not_waited_for(
    tmp_path: Path, cells: memoryview, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_log, "BATCHES", 1)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDWR)
    try:
        log = AccessLog(AccessLogSettings(format="combined", file=str(fifo)), cells)
        long = exchange(request=SimpleNamespace(method=b"GET", host=b"a", target=b"/" + b"x" * 200_000))
        flushed = 0

        def is_dropped() -> bool:
            nonlocal flushed
            log.record(long, 1, "ok")
            log.flush()
            flushed += 1
            return cells[slot.ACCESS_LOG_DROPPED] == 1

        eventually(is_dropped, "a record that does not fit")
        assert flushed >= 3, "one is being written, one waits"
        read = 0
        while read < (flushed - 1) * 200_000:
            read += len(os.read(reader, 1 << 20))
        log.close()
    finally:
        os.close(reader)


def test_a_full_disk_is_counted_and_survived(cells: memoryview) -> None:
    log = AccessLog(AccessLogSettings(format="json", file="/dev/full"), cells)
    for expected in (1, 2):
        log.record(exchange(), 1, "ok")
        log.flush()
        eventually(lambda count=expected: cells[slot.ACCESS_LOG_DROPPED] == count, "the loss to be counted")
    log.close()


def test_nothing_to_say_is_nothing_written(tmp_path: Path, cells: memoryview) -> None:
    assert written(tmp_path / "log", cells, "json") == []


def test_a_dash_is_standard_output(cells: memoryview, capfd: pytest.CaptureFixture[str]) -> None:
    log = AccessLog(AccessLogSettings(format="json", file="-"), cells)
    log.record(exchange(), 1, "ok")
    log.close()
    assert json.loads(capfd.readouterr().out)["status"] == 200


# --- through a worker -------------------------------------------------------------------------------------------------


def to(path: Path) -> AccessLogSettings:
    return AccessLogSettings(format="json", file=str(path))


def open_files_of(plane: Plane) -> set[str]:
    descriptors = f"/proc/{plane.worker.process.pid}/fd"
    return {os.readlink(f"{descriptors}/{number}") for number in os.listdir(descriptors)}


@pytest.fixture
def logged(tmp_path: Path) -> Iterator[tuple[Plane, Path]]:
    """A worker of its own, which writes to a file of its own."""
    path = tmp_path / "access.log"
    worker = WorkerProcess()
    try:
        with_log = settings(access_log=to(path))
        worker.start((Pool(()), Pool(())), with_log)
        plane = Plane(worker)
        plane.configure(with_log)
        yield plane, path
        plane.close()
    finally:
        worker.end()


def test_every_way_an_exchange_ends_has_its_word(logged: tuple[Plane, Path]) -> None:
    plane, path = logged

    def script(conversation: Conversation) -> None:
        asked = conversation.request()
        if asked.target == "/cut":
            conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        elif asked.target.startswith("/ok"):
            conversation.send(response(200, b"hello"))
        else:
            conversation.rest()

    plane.blue.script = script
    client = plane.client()
    client.ask("GET", "/ok?token=secret", "X-Request-ID: forged")
    with pytest.raises(Ended):
        client.ask("GET", "/cut")
    leaving = plane.client()
    leaving.send(request(target="/leave"))
    eventually(lambda: len(plane.blue.requests) >= 2 and plane.cells[slot.IN_FLIGHT] == 1, "the request")
    leaving.reset()
    late = plane.client()
    late.send(b"POST /late HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
    plane.configure(settings(timeouts={"body_idle": 0.1}, access_log=to(path)))
    late.send(b"abc")
    assert late.answer("POST").status == 408
    eventually(lambda: path.read_text().count("\n") == 4, "four records")
    assert "secret" not in path.read_text()
    records = {record["path"]: record for record in map(json.loads, path.read_text().splitlines())}
    assert {name: (record["termination"], record["status"]) for name, record in records.items()} == {
        "/ok": ("ok", 200),
        "/cut": ("upstream_reset", 200),
        "/leave": ("client_abort", 499),
        "/late": ("timeout", 408),
    }
    assert records["/ok"]["request_id"] == plane.blue.requests[0].one("X-Request-ID") != "forged"
    assert records["/ok"]["upstream"] == plane.blue.address


def test_what_is_refused_is_found_by_the_id_that_its_client_was_given(logged: tuple[Plane, Path]) -> None:
    plane, path = logged
    plane.configure(settings(limits={"body_bytes": 10}, trusted_proxies=("127.0.0.0/8",), access_log=to(path)))
    broken, large, late = plane.client(), plane.client(), plane.client()
    broken.send(b"GET /\x01 HTTP/1.1\r\n\r\n")
    late.send(request(target="/late"))
    answers = [broken.answer(), large.ask("POST", "/large?x", "X-Request-ID: from-outside", body=b"x" * 11)]
    assert late.answer().status == 200
    eventually(lambda: path.read_text().count("\n") == 3, "three records")
    records = {record["request_id"]: record for record in map(json.loads, path.read_text().splitlines())}
    refused, oversized = (records[answer.one("X-Request-ID")] for answer in answers)
    assert oversized["request_id"] == "from-outside"
    nobody = {"colour": None, "epoch": None, "upstream": "", "termination": "refused"}
    for record, answer in ((refused, answers[0]), (oversized, answers[1])):
        assert record.items() >= (nobody | {"status": answer.status, "bytes_out": len(answer.raw)}).items()
    assert [refused[name] for name in ("method", "host", "path")] == ["", "", ""], "broken bytes are not for a log"
    assert [oversized[name] for name in ("method", "host", "path")] == ["POST", "app.example", "/large"]


def test_a_log_that_was_moved_away_is_opened_anew_and_other_settings_are_taken(
    logged: tuple[Plane, Path],
) -> None:
    plane, path = logged
    client = plane.client()
    client.ask("GET", "/first")
    eventually(lambda: path.read_text().count("\n") == 1, "the first record")
    path.rename(path.with_suffix(".1"))
    plane.configure(settings(access_log=to(path)))
    client.ask("GET", "/second")
    eventually(lambda: path.exists() and path.read_text().count("\n") == 1, "the second record")
    assert "/second" not in path.with_suffix(".1").read_text()
    plane.configure(settings(access_log=AccessLogSettings(format="combined", file=str(path))))
    client.ask("GET", "/third")
    eventually(lambda: '"GET /third HTTP/1.1"' in path.read_text(), "the third record, in another format")
    eventually(lambda: str(path.with_suffix(".1")) not in open_files_of(plane), "the end of the old file")
    plane.configure(settings(access_log=to(path / "not-a-directory")))
    client.ask("GET", "/fourth")
    eventually(lambda: '"GET /fourth HTTP/1.1"' in path.read_text(), "the last log to stay in use")
    plane.configure()
    client.ask("GET", "/fifth")
    plane.configure(settings(access_log=to(path)))
    client.ask("GET", "/sixth")
    eventually(lambda: "/sixth" in path.read_text(), "the sixth record")
    assert "/fifth" not in path.read_text()
