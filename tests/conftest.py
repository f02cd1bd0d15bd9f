"""What holds for every test."""

from __future__ import annotations

import os
import sys

from hypothesis import HealthCheck, settings

# How fast a machine is says nothing about the code; the figures come from benchmarks/.
settings.register_profile("bgproxy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("bgproxy")


# Containers like to forbid bytecode. Here every assert is rewritten and hundreds of Python processes are started: what
# was compiled once is kept, for this process, for the workers of xdist, and for what the tests start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: most tests wait for other processes most of the time."""
    return len(os.sched_getaffinity(0)) + 1
