from __future__ import annotations

import errno

import pytest

from bgproxy.controlplane.journal_file import JournalFile
from bgproxy.controlplane.journal_writer import Queued, Ticket, Writer
from bgproxy.core.journal import Decided, GateSet, PoolsSet, State
from tests.support.faulty_os import MoodyOs

# What it does for who waits is told in test_journal.py, from the order to the disk.
AT = "2026-01-31T12:00:00.000Z"
ON, OFF = GateSet(at=AT, maintenance=True), GateSet(at=AT, maintenance=False)


class Owner:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, object]] = []

    def __getattr__(self, name: str):
        return lambda *what: self.told.append((name, what[0]))

    def names(self) -> list[str]:
        return [name for name, _ in self.told]


class Desk:
    def __init__(self, directory) -> None:
        self.system, self.owner = MoodyOs(), Owner()
        self.file = JournalFile(directory, system=self.system)
        self.file.begin(State(epoch=0, live="blue"), AT)
        self.writer = Writer(self.file, self.owner, lambda: AT)

    def kinds(self) -> list[str]:
        return [entry.kind for entry in self.file.now.state.history]


@pytest.fixture
def desk(tmp_path):
    made = Desk(tmp_path)
    yield made
    made.file.close()


def test_the_queue_comes_before_what_somebody_waits_for(desk):
    desk.system.failing = {"write": errno.EIO}
    desk.writer.accept(Queued(ON))
    assert desk.writer.in_queue() == [ON]
    with pytest.raises(OSError, match="Input/output"):
        desk.writer.write(Ticket(OFF))
    desk.system.failing = {}
    desk.writer.write(Ticket(OFF))
    assert desk.kinds() == ["maintenance on", "maintenance off"]
    assert desk.owner.names() == ["failing", "failing", "written", "healed"]


def test_a_ticket_that_was_given_up_before_its_turn_is_not_written(desk):
    ticket = Ticket(ON)
    assert desk.writer.give_up(ticket)
    desk.writer.write(ticket)
    assert (desk.kinds(), ticket.begun) == ([], False)


def test_a_ticket_that_was_done_in_that_very_moment_cannot_be_given_up(desk):
    ticket = Ticket(ON)
    desk.writer.write(ticket)
    assert not desk.writer.give_up(ticket)


def test_a_ticket_that_was_given_up_while_it_was_written_is_taken_back_before_what_waits(desk):
    ticket = Ticket(ON)
    real, waiting = desk.file.append, [Queued(PoolsSet(at=AT))]

    def given_up_meanwhile(record):
        real(record)
        if record is ON:
            desk.writer.give_up(ticket)
            desk.writer._queue.extend(waiting)

    desk.file.append = given_up_meanwhile
    desk.writer.write(ticket)
    assert desk.kinds() == ["maintenance on", "maintenance off", "pools"]
    assert desk.file.now.state.maintenance is None
    assert desk.owner.names() == ["queued", "written", "written"]


def test_with_an_empty_queue_the_disk_is_tried_beside_the_journal(desk):
    desk.writer.note_failure("it was slow")
    before = desk.file.bytes
    desk.system.failing = {"write": errno.ENOSPC}
    desk.writer.try_again()
    assert desk.writer.error == "No space left on device"
    desk.system.failing = {}
    desk.writer.try_again()
    assert (desk.writer.error, desk.writer.since, desk.file.bytes) == ("", "", before)
    assert desk.owner.names() == ["failing", "failing", "healed"]


def test_what_contradicts_does_not_keep_what_comes_behind_it_waiting(desk):
    wrong = Queued(Decided(at=AT, epoch=5))
    desk.writer.accept(wrong)
    desk.writer.accept(Queued(ON))
    assert desk.owner.names() == ["lost", "written", "written"]
    assert desk.kinds() == ["maintenance on"]
