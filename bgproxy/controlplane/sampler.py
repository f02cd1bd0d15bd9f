"""Rates, error share and latencies of the last seconds, from the counters in the worker slots.

A sample a second over a short window: asking for the status costs the data plane nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from operator import add, sub
from typing import TYPE_CHECKING, Any

import msgspec

from bgproxy.core.model import COLOURS, Colour
from bgproxy.shm import worker_slot
from bgproxy.shm.worker_slot import BUCKETS, CODE_CLASSES, WorkerSlot

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WINDOW = 10  # samples
INTERVAL_S = 1.0
STALE_AFTER_S = 3 * INTERVAL_S
SERVER_ERRORS = 5
NO_ANSWER = 0


class Totals(msgspec.Struct, frozen=True):
    """Everything one colour has answered since the start, in all workers."""

    buckets: list[int]
    errors: int


class Rates(msgspec.Struct, frozen=True):
    """The last seconds of one colour. Errors are 5xx answers and requests without one; None where nothing was asked."""

    rps: float = 0.0
    error_share: float | None = None
    p50: float | None = None
    p90: float | None = None
    p99: float | None = None


class Sampler:
    """`clock` is monotonic. Without `start` nothing is sampled and the figures are stale."""

    def __init__(self, slots: Sequence[WorkerSlot], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._slots, self._clock = slots, clock
        self._samples: deque[tuple[float, dict[Colour, Totals]]] = deque(maxlen=WINDOW + 1)
        self._task: asyncio.Task[None] | None = None
        self._created = clock()

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="sampler")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def sample(self) -> None:
        self._samples.append((self._clock(), {colour: totals(self._slots, colour) for colour in COLOURS}))

    @property
    def age_s(self) -> float:
        return self._clock() - (self._samples[-1][0] if self._samples else self._created)

    @property
    def stale(self) -> bool:
        return self.age_s > STALE_AFTER_S

    def rates(self, colour: Colour) -> Rates:
        if len(self._samples) < 2:
            return Rates()
        (since, old), (until, new) = self._samples[0], self._samples[-1]
        buckets = list(map(sub, new[colour].buckets, old[colour].buckets))
        requests = sum(buckets)
        if not requests or until <= since:
            return Rates()
        return Rates(
            rps=round(requests / (until - since), 1),
            error_share=round((new[colour].errors - old[colour].errors) / requests, 4),
            p50=quantile(buckets, 0.5),
            p90=quantile(buckets, 0.9),
            p99=quantile(buckets, 0.99),
        )

    async def _run(self) -> None:
        while True:
            self.sample()
            await asyncio.sleep(INTERVAL_S)


def totals(slots: Sequence[WorkerSlot], colour: Colour) -> Totals:
    buckets = [0] * BUCKETS
    errors = 0
    for slot in slots:
        for code_class in range(CODE_CLASSES):
            row, _ = slot.histogram(colour, code_class)
            if code_class in (SERVER_ERRORS, NO_ANSWER):
                errors += sum(row)
            buckets = list(map(add, buckets, row))
    return Totals(buckets, errors)


def quantile(buckets: Sequence[int], share: float) -> float | None:
    """The upper edge, in seconds, of the bucket in which the quantile lies (at most 12.5 % too high); None if empty."""
    rank = share * sum(buckets)
    if not rank:
        return None
    seen = 0
    for bucket, count in enumerate(buckets):
        seen += count
        if seen >= rank:
            return round(worker_slot.bucket_upper_s(bucket), 9)
    raise AssertionError("the counts of the buckets add up to their sum")


def gauge(slots: Sequence[WorkerSlot], cell: int) -> int:
    """One cell, summed over the workers."""
    total: Any = sum(slot.cells[cell] for slot in slots)
    return int(total)
