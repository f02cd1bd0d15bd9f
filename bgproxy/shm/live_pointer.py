"""Which colour is live: one aligned word, written by the supervisor alone.

The word is `epoch << 1 | colour`, so nobody reads a colour without its epoch.
"""

from __future__ import annotations

from typing import NamedTuple

from bgproxy.core.model import Colour

MAX_EPOCH = (1 << 63) - 1


class Live(NamedTuple):
    """The live colour and the number of cutovers that led to it."""

    epoch: int
    colour: Colour


def pack(epoch: int, colour: Colour) -> int:
    """ValueError where the epoch does not fit beside the colour in 64 bits."""
    if not 0 <= epoch <= MAX_EPOCH:
        raise ValueError(f"epoch {epoch} is outside 0..{MAX_EPOCH}")
    return epoch << 1 | colour


def unpack(word: int) -> Live:
    return Live(word >> 1, Colour(word & 1))


class LivePointer:
    """`cells` is public for the hot path: `word = live.cells[0]` is the whole read."""

    __slots__ = ("cells",)

    def __init__(self, cells: memoryview) -> None:
        self.cells = cells

    def load(self) -> Live:
        return unpack(self.cells[0])

    def store(self, epoch: int, colour: Colour) -> None:
        """The cutover. Epochs only go forward: ValueError where this one would not."""
        current = self.cells[0] >> 1
        if epoch < current:
            raise ValueError(f"epoch {epoch} is behind the live epoch {current}")
        self.cells[0] = pack(epoch, colour)

    def release(self) -> None:
        self.cells.release()
