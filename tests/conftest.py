"""What holds for every test."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# How fast a machine is says nothing about the code; the figures come from benchmarks/.
settings.register_profile("bgproxy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("bgproxy")
