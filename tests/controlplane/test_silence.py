from __future__ import annotations

from bgproxy.controlplane.silence import Silence

# What it does to workers and orphans is told in test_switcher.py and test_fence.py.


async def test_nobody_silent_and_no_orphans_is_no_silence(bench):
    silence = Silence(bench.workers, bench.orphans, patience_s=1.0)
    assert not silence.is_left_by([])
    assert await silence.end("never said") == []
    assert (silence.replaced, silence.orphans_killed) == ([], [])


async def test_a_silent_worker_is_ended_and_remembered(bench):
    silence = Silence(bench.workers, bench.orphans, patience_s=1.0)
    silent = bench.workers.living()[1]
    assert silence.is_left_by([silent])
    assert await silence.end("said nothing") == []
    assert [(each.worker, each.pid, each.reason) for each in silence.replaced] == [(1, silent.pid, "said nothing")]
    assert silent.dead
