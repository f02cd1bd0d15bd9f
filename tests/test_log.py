from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
from datetime import UTC, datetime

import pytest
import structlog

from bgproxy import log


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _leave_structlog_as_it_was():
    yield
    structlog.reset_defaults()


def written(format: str = "json", level: str = "info", stream: io.StringIO | None = None) -> io.StringIO:
    stream = stream or io.StringIO()
    log.set_up(level, format, stream)
    return stream


def test_an_event_is_one_json_object_with_its_members():
    out = written()
    structlog.get_logger().info("cut_over", colour="green", epoch=8, acked_s=0.0004)
    (line,) = out.getvalue().splitlines()
    event = json.loads(line)
    assert list(event)[:3] == ["ts", "level", "event"]
    assert {k: event[k] for k in ("level", "event", "colour", "epoch", "acked_s")} == {
        "level": "info",
        "event": "cut_over",
        "colour": "green",
        "epoch": 8,
        "acked_s": 0.0004,
    }
    assert datetime.fromisoformat(event["ts"]).tzinfo == UTC


def test_a_person_reads_the_same_event_as_text():
    out = written("text")
    structlog.get_logger().warning("worker_died", worker=0, how="killed by SIGKILL", note="")
    assert out.getvalue().endswith(' warning  worker_died worker=0 how="killed by SIGKILL" note=""\n')


def test_auto_means_text_on_a_terminal_and_json_elsewhere():
    out = written("auto", stream=Terminal())
    structlog.get_logger().info("ready")
    assert not out.getvalue().startswith("{")
    out = written("auto")
    structlog.get_logger().info("ready")
    assert out.getvalue().startswith("{")


@pytest.mark.parametrize("format", ["json", "text"])
def test_no_control_character_of_a_peer_reaches_the_log(format):
    out = written(format)
    evil = "\x1b[2J\r\nfake event\x7f\x9b\u2028\x00"
    structlog.get_logger().info("probe", error=evil)
    text = out.getvalue()
    assert text.count("\n") == 1
    assert text.endswith("\n")
    assert all(c.isprintable() for c in text[:-1])


def test_json_keeps_what_it_escapes():
    out = written()
    structlog.get_logger().info("probe", error="a\x1b\x7f\nb")
    assert json.loads(out.getvalue())["error"] == "a\x1b\x7f\nb"


def test_events_below_the_level_are_left_out():
    out = written(level="warning")
    structlog.get_logger().info("quiet")
    structlog.get_logger().error("loud")
    assert [json.loads(line)["event"] for line in out.getvalue().splitlines()] == ["loud"]


def test_values_that_json_does_not_know_are_written_as_text():
    out = written()
    structlog.get_logger().info("odd", path=object, mapping={1: 2})
    event = json.loads(out.getvalue())
    assert event["mapping"] == {"1": 2}
    assert "object" in event["path"]


@pytest.mark.parametrize("format", ["json", "text"])
def test_an_exception_is_told_with_its_event(format):
    out = written(format)
    try:
        raise ValueError("first\x1b")
    except ValueError:
        structlog.get_logger().exception("bug")
    assert "ValueError" in out.getvalue()
    assert "\x1b" not in out.getvalue()


def test_a_logger_made_before_the_set_up_follows_it():
    early = structlog.get_logger()
    out = written()
    early.info("later")
    assert json.loads(out.getvalue())["event"] == "later"


class Broken(io.StringIO):
    def write(self, _text: str) -> int:
        raise BrokenPipeError


def test_a_reader_that_has_left_stops_nobody():
    log.set_up("info", "json", Broken())
    structlog.get_logger().warning("worker_died", worker=0)
    closed = io.StringIO()
    closed.close()
    log.set_up("info", "json", closed)
    structlog.get_logger().info("ready")


def test_a_reader_that_does_not_read_stops_nobody_and_later_finds_what_was_said_last(monkeypatch):
    monkeypatch.setattr(log, "MOST_WAITING", 100)
    ours, theirs = os.pipe()
    try:
        with os.fdopen(theirs, "w") as stream:
            log.set_up("info", "json", stream)
            events = structlog.get_logger()
            size = fcntl.fcntl(theirs, fcntl.F_GETPIPE_SZ)
            count = 2 * size // 100
            for number in range(count):
                events.info("said", number=number, padding="x" * 5000 if number == count - 2 else "x" * 60)
            os.set_blocking(ours, False)
            data = b""
            for number in range(count, count + 10):  # what waits is written at the next event
                with contextlib.suppress(BlockingIOError):
                    while part := os.read(ours, 1 << 20):
                        data += part
                events.info("said", number=number)
            with contextlib.suppress(BlockingIOError):
                data += os.read(ours, 1 << 20)
    finally:
        os.close(ours)
    numbers = [json.loads(line)["number"] for line in data.splitlines()]
    assert numbers == sorted(set(numbers))
    assert numbers[0] == 0
    assert len(numbers) < count
    assert numbers[-50:] == list(range(count - 40, count + 10)), "the last ones are whole and in order"
