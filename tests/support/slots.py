"""Writes into worker slots what a worker would."""

from __future__ import annotations

from bgproxy.core.model import Colour
from bgproxy.shm import worker_slot as slot


def answered(
    to: slot.WorkerSlot,
    colour: Colour,
    *,
    method: str = "GET",
    code: int = 200,
    times: int = 1,
    duration_s: float = 0.001,
) -> None:
    """Count `times` requests that took `duration_s` each."""
    duration_ns = int(duration_s * 1e9)
    to.cells[slot.REQUESTS + colour * slot.COLOUR_REQUESTS + slot.METHODS.index(method) * slot.CODE_ROW + code] += times
    row = slot.HISTOGRAM + colour * slot.COLOUR_HISTOGRAMS + (code // 100) * slot.HISTOGRAM_ROW
    to.cells[row + slot.bucket_of(duration_ns)] += times
    to.cells[row + slot.HISTOGRAM_SUM] += times * duration_ns
