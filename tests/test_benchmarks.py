"""The arithmetic of the benchmarks: what is compared with what, and that a missed bound is reported."""

from __future__ import annotations

import asyncio
import importlib
import os
import socket
import sys
import threading
from pathlib import Path

import pytest

from tests.support.strict import Read

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
KINDS = ("plain", "browser")


@pytest.fixture(autouse=True)
def benchmarks_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    for name in ("bodies", "compare", "hostile", "memory", "paced", "proxies", "rig", "rollback", "strictness"):
        sys.modules.pop(name, None)


@pytest.fixture
def compare():
    return importlib.import_module("compare")


@pytest.fixture
def memory():
    return importlib.import_module("memory")


@pytest.fixture
def hostile():
    return importlib.import_module("hostile")


@pytest.fixture
def rollback():
    return importlib.import_module("rollback")


@pytest.fixture
def bodies():
    return importlib.import_module("bodies")


@pytest.fixture
def strictness():
    return importlib.import_module("strictness")


def samples(compare, **figures):
    """plain and browser alike: peer → CPU µs of each round."""
    return {
        (kind, peer): [compare.Sample(cpu, 40_000.0, 0.9, 2.0, 0.0) for cpu in rounds]
        for kind in KINDS
        for peer, rounds in figures.items()
    }


def test_a_ratio_compares_within_a_round_and_takes_the_median(compare):
    measured = samples(compare, nginx=[10.0, 30.0, 10.0], bgproxy=[12.0, 39.0, 20.0])
    assert compare.ratio(measured, "plain", "bgproxy") == pytest.approx(1.3)


def test_without_nginx_there_is_no_ratio(compare):
    assert compare.ratio(samples(compare, bgproxy=[12.0]), "plain", "bgproxy") is None


def test_a_missed_bound_is_named_for_each_kind_of_request(compare):
    measured = samples(compare, nginx=[10.0], bgproxy=[14.0])
    assert compare.missed(measured, KINDS, 1.35) == [
        f"{kind}: bgproxy costs 1.40 × nginx, at most 1.35 × was asked for" for kind in KINDS
    ]


def test_the_distribution_s_interpreter_is_held_to_the_bound_where_it_runs(compare):
    measured = samples(compare, nginx=[10.0], bgproxy=[14.0], **{"bgproxy-debian": [13.0]})
    assert compare.missed(measured, KINDS, 1.35) == []
    measured = samples(compare, nginx=[10.0], bgproxy=[13.0], **{"bgproxy-debian": [14.0]})
    assert [sentence.split()[1] for sentence in compare.missed(measured, KINDS, 1.35)] == ["bgproxy-debian"] * 2


def test_a_held_bound_says_nothing(compare):
    assert compare.missed(samples(compare, nginx=[10.0], bgproxy=[13.5]), KINDS, 1.35) == []


def test_a_bound_needs_both_proxies_in_the_run(compare, capsys):
    with pytest.raises(SystemExit) as left:
        compare.read_options(["--peers", "bgproxy", "--max-ratio", "1.35"])
    assert left.value.code == 2
    assert "both must be among --peers" in capsys.readouterr().err


def test_memory_over_its_bound_and_a_damaged_body_are_not_held(compare, memory):
    proxy = importlib.import_module("proxies").Proxy("bgproxy", "1", 0, (1,))
    limit = memory.GROWTH_LIMIT

    def held(growth):
        return memory.growth_row("up", proxy, memory.MIB, growth).held

    assert held(memory.Growth(peak=limit, after=0, seconds=1.0, whole=True))
    assert not held(memory.Growth(peak=limit + 1, after=0, seconds=1.0, whole=True))
    assert not held(memory.Growth(peak=0, after=limit + 1, seconds=1.0, whole=True))
    assert not held(memory.Growth(peak=0, after=0, seconds=1.0, whole=False))


def test_bodies_pass_whole_between_the_client_and_the_upstream_of_the_benchmark(bodies):
    size = 3 * bodies.BURST
    with bodies.served() as target:
        assert bodies.upload(target.blue, size) == bodies.expected_digest(size)
        assert bodies.download(target.green, size) == bodies.expected_digest(size)


def test_a_short_body_does_not_have_the_digest_of_a_whole_one(bodies):
    left, right = socket.socketpair()
    with left, right:
        left.sendall(bodies.PIECE[:1000])
        left.shutdown(socket.SHUT_WR)
        assert bodies.slow_digest(right.recv, len(bodies.PIECE)) != bodies.expected_digest(len(bodies.PIECE))


def test_the_rig_reads_cpu_and_memory_of_a_process_from_the_kernel():
    rig = importlib.import_module("rig")
    before = rig.cpu_ns([os.getpid()])
    while rig.cpu_ns([os.getpid()]) == before:
        sum(range(10_000))
    assert rig.rss_bytes(os.getpid()) > 1024 * 1024
    assert rig.peak_rss_bytes(os.getpid()) > 1024 * 1024
    assert os.getpid() in rig.children(os.getppid())


def test_the_rig_says_when_a_process_is_gone():
    rig = importlib.import_module("rig")
    with pytest.raises(rig.RigError, match="is gone"):
        rig.cpu_ns([2**22 + 1])


# --- strictness ------------------------------------------------------------------------------------------------------


def arrived(*fields: tuple[bytes, bytes], target: bytes = b"/", body: bytes = b"", trailers=()) -> Read:
    return Read((b"GET", target), ((b"host", b"a"), (b"via", b"ours"), *fields), body, trailers)


@pytest.mark.parametrize(
    ("theirs", "ours", "said"),
    [
        ([], [], ""),
        ([arrived()], [], ""),
        ([], [arrived()], "refuses"),
        ([arrived()], [arrived()], ""),
        ([arrived()], [arrived(), arrived()], "forwards 1 of 2"),
        ([arrived(target=b"/b")], [arrived(target=b"/a")], "another request line"),
        ([arrived(body=b"b")], [arrived(body=b"a")], "another body"),
        ([arrived((b"x", b"2"))], [arrived((b"x", b"1"))], "not the field x"),
        ([arrived((b"x", b"1"), (b"y", b"2"))], [arrived((b"x", b"1"))], ""),
        ([arrived()], [arrived((b"x-forwarded-for", b"1"))], ""),
        ([arrived()], [arrived(trailers=((b"x", b"1"),))], "not the trailer x"),
    ],
)
def test_a_peer_is_stricter_where_it_refuses_or_changes_what_we_forward(strictness, theirs, ours, said):
    case = strictness.Case("any", b"")
    peer, mine = strictness.Outcome(case, forwarded=theirs), strictness.Outcome(case, forwarded=ours)
    assert strictness.difference(peer, mine) == said


def test_a_peer_that_forwards_what_nobody_can_read_is_not_stricter(strictness):
    case = strictness.Case("any", b"")
    peer, mine = strictness.Outcome(case, doubts=["framed twice"]), strictness.Outcome(case, forwarded=[arrived()])
    assert strictness.difference(peer, mine) == ""
    assert strictness.stricter({"nginx": [peer], "bgproxy": [mine]}, ["nginx"]) == {}


# --- hostile clients --------------------------------------------------------------------------------------------------


def test_one_error_of_the_normal_traffic_or_none_of_it_fails_a_mode(hostile):
    assert hostile.Result("idle", sent=10).passed
    assert not hostile.Result("idle", sent=10, errors={"TimeoutError: ": 1}).passed
    assert not hostile.Result("idle").passed


def test_a_row_shows_what_was_held_and_what_bit(hostile):
    result = hostile.Result("body", 12_000, 10_000, 30_000, {"a": 2, "b": 1}, 1.25, 50 << 20, {"stalled": 1234})
    assert str(result) == "| slow body (`-B`) | 12,000 | 10,000 | 30,000 | 3 | 1.2 | 50 MiB | stalled 1,234 |"
    assert str(hostile.Result("idle")).endswith("| none |")
    header, rule, row = hostile.table([result]).splitlines()
    assert header.count("|") == rule.count("|") == row.count("|")


def test_metrics_are_summed_by_reason(hostile):
    text = """# HELP bgproxy_rejected_requests_total Refused
bgproxy_rejected_requests_total{reason="stalled"} 3
bgproxy_upstream_errors_total{colour="blue",reason="client_gone"} 4
bgproxy_upstream_errors_total{colour="green",reason="client_gone"} 1
bgproxy_client_connections 17
bgproxy_client_accepts_total 1e+05
bgproxy_epoch 9
"""
    counted = {"stalled": 3, "client_gone": 5, "client_connections": 17, "client_accepts": 100_000}
    assert hostile.parsed(text) == counted


def test_every_mode_has_a_title(hostile):
    assert set(hostile.TITLES) == set(hostile.MODES)


def test_an_unknown_mode_is_refused(hostile, capsys):
    with pytest.raises(SystemExit) as left:
        hostile.read_options(["--modes", "idle,nonsense"])
    assert left.value.code == 2
    assert "nonsense unknown" in capsys.readouterr().err


class FakeProxy(threading.Thread):
    """Answers whatever it is asked with `answer`, on one connection after the other."""

    def __init__(self, answer: bytes) -> None:
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.answer = answer

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        with connection:
            while connection.recv(4096):
                connection.sendall(self.answer)


@pytest.mark.parametrize(
    ("answer", "errors"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", {}),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno", {"ValueError: an answer to somebody else: b'no'": 40}),
        (
            b"HTTP/1.1 503 Busy\r\nX-BG-Reason: queue_full\r\nContent-Length: 2\r\n\r\nok",
            {"ValueError: http/1.1 503 busy queue_full": 40},
        ),
    ],
)
def test_the_normal_traffic_counts_every_request_that_did_not_get_its_answer(answer, errors):
    paced = importlib.import_module("paced")
    proxy = FakeProxy(answer)
    proxy.start()
    try:
        said = asyncio.run(paced.run(proxy.port, rate=400, seconds=0.1))
    finally:
        proxy.listener.close()
    assert (said["sent"], said["errors"]) == (40, errors)
    assert said["p99_ms"] > 0


def test_the_rollback_table_shows_every_fault_and_what_misses_the_bound(rollback):
    quick, slow = (
        rollback.Row("nothing", [4.0, 5.0, 90.0], [6.0, 7.0, 99.0]),
        rollback.Row("disk full", [101.0], [102.0], 1),
    )
    text = rollback.table([quick, slow])
    assert "| nothing | **5.0** | 4.0–90.0 | 7.0 |" in text
    durations = {"switch": [5.0, 5.4, 5.2] * 200, "rollback": [5.1, 5.2, 5.3] * 200}
    assert "| switch | **5.20** | 5.40 | 600 |" in rollback.pairs_table(durations)
    assert rollback.missed([quick], durations) == []
    assert rollback.missed([], {"switch": [6.0], "rollback": [5.0]}) == [], "too few to judge by"
    assert rollback.missed([slow], {"switch": [6.0] * 500, "rollback": [5.0] * 500}) == [
        "disk full: 101.0 ms at the median, at most 100",
        "disk full: 1 first responses were not of the restored colour",
        "a switch takes 6.00 ms, a rollback 5.00 ms: more than a tenth apart",
    ]
    assert rollback.missed([quick], {}) == []
