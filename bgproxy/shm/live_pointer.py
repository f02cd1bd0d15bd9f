"""Which colour is live, and whether requests are held: one aligned word, written by the supervisor alone.

The word is `epoch << 3 | hold << 1 | colour`. One load tells all three: there is no moment between reading the colour
and reading whether it may be used.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from bgproxy.core.model import Colour

HOLD_SHIFT, EPOCH_SHIFT = 1, 3
HOLD_MASK = 0b110  # `word & HOLD_MASK` is 0 for nearly every request: all that the hot path asks
MAX_EPOCH = (1 << 64 - EPOCH_SHIFT) - 1


class Hold(IntEnum):
    """What a worker does with a request that it has not dispatched yet."""

    OPEN = 0  # dispatches it
    WRITES = 1  # keeps it where its method is unsafe (RFC 9110 9.2.1)
    ALL = 2  # keeps it
    MAINTENANCE = 3  # answers 503 itself


class Live(NamedTuple):
    """The live colour, the number of cutovers that led to it, and what is held."""

    epoch: int
    colour: Colour
    hold: Hold = Hold.OPEN


def pack(epoch: int, colour: Colour, hold: Hold = Hold.OPEN) -> int:
    """ValueError where the epoch does not fit beside the rest in 64 bits."""
    if not 0 <= epoch <= MAX_EPOCH:
        raise ValueError(f"epoch {epoch} is outside 0..{MAX_EPOCH}")
    return epoch << EPOCH_SHIFT | hold << HOLD_SHIFT | colour


def unpack(word: int) -> Live:
    return Live(word >> EPOCH_SHIFT, Colour(word & 1), Hold((word & HOLD_MASK) >> HOLD_SHIFT))


class LivePointer:
    """`cells` is public for the hot path: `word = live.cells[0]` is the whole read."""

    __slots__ = ("cells",)

    def __init__(self, cells: memoryview) -> None:
        self.cells = cells

    def load(self) -> Live:
        return unpack(self.cells[0])

    def store(self, epoch: int, colour: Colour, hold: Hold = Hold.OPEN) -> None:
        """The cutover, or a hold. ValueError where the epoch is behind, or where it would get another colour."""
        now = self.load()
        if epoch < now.epoch:
            raise ValueError(f"epoch {epoch} is behind the live epoch {now.epoch}")
        if epoch == now.epoch and epoch and colour != now.colour:
            raise ValueError(f"epoch {epoch} is that of {now.colour.label} and cannot become that of {colour.label}")
        self.cells[0] = pack(epoch, colour, hold)

    def release(self) -> None:
        self.cells.release()
