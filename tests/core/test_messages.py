from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgproxy.core import messages
from bgproxy.core.messages import (
    Configure,
    Cut,
    Drain,
    Drained,
    Ejected,
    LineSplitter,
    OutOfDescriptors,
    Published,
    Ready,
    Seen,
    TableAccepted,
    decode_to_supervisor,
    decode_to_worker,
    encode,
)
from bgproxy.core.model import Address, Pool, PoolTable, Upstream
from bgproxy.core.settings import WorkerSettings

TABLE = PoolTable(
    3,
    Pool((Upstream("a", 0, Address("127.0.0.1", 9001), 2),), release="1.0"),
    Pool((Upstream("b", 0, Address(path="/run/b.sock")),), balance="round-robin"),
)
TO_WORKER = [Configure(WorkerSettings(trusted_proxies=("10.0.0.0/8",)), TABLE), Published(8), Cut(1, True), Drain(1.5)]
TO_SUPERVISOR = [
    *(Ready(17), TableAccepted(3), Seen(8, 3)),
    *(Ejected(1, 0, 5, 10.0, 'refused\n"x"'), OutOfDescriptors(1024), Drained(2, 1)),
]


@pytest.mark.parametrize("message", TO_WORKER)
def test_what_the_supervisor_says_arrives_as_it_was(message):
    (line,) = LineSplitter().feed(encode(message))
    assert decode_to_worker(line) == message


@pytest.mark.parametrize("message", TO_SUPERVISOR)
def test_what_a_worker_says_arrives_as_it_was(message):
    (line,) = LineSplitter().feed(encode(message))
    assert decode_to_supervisor(line) == message


@pytest.mark.parametrize("message", [*TO_WORKER, *TO_SUPERVISOR])
def test_a_message_is_one_line_whatever_its_texts_hold(message):
    assert encode(message).count(b"\n") == 1


def test_a_message_in_the_wrong_direction_is_refused():
    with pytest.raises(msgspec.DecodeError):
        decode_to_worker(encode(Ready(1)))
    with pytest.raises(msgspec.DecodeError):
        decode_to_supervisor(encode(Published(1)))


@pytest.mark.parametrize("line", [b"", b"{}", b"nonsense", b'{"type":"seen"}', b'{"type":"seen","epoch":"8"}'])
def test_a_line_that_is_no_message_is_a_decode_error(line):
    with pytest.raises(msgspec.DecodeError):
        decode_to_supervisor(line)


@given(st.lists(st.integers(0, 2**40), max_size=8), st.lists(st.integers(1, 30), max_size=30))
def test_lines_come_out_whole_however_the_bytes_arrive(epochs, cuts):
    data = b"".join(encode(Seen(epoch, epoch)) for epoch in epochs)
    splitter, lines = LineSplitter(), []
    for size in cuts:
        lines += splitter.feed(data[:size])
        data = data[size:]
    lines += splitter.feed(data)
    assert [decode_to_supervisor(line) for line in lines] == [Seen(epoch, epoch) for epoch in epochs]


def test_a_line_without_an_end_is_refused_before_it_fills_the_memory(monkeypatch):
    monkeypatch.setattr(messages, "MAX_LINE", 16)
    splitter = LineSplitter()
    assert splitter.feed(b"x" * 16) == []
    with pytest.raises(ValueError, match="longer than 16 bytes"):
        splitter.feed(b"x")
