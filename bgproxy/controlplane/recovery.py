"""What a start comes up with: the journal, and the word of workers that outlived their supervisor.

While such workers serve, clients are told what their word says; so it decides what became of a switch that the process
died in. Where it cannot be read, or cannot be, they are ended first, and the journal decides alone.

In an upgrade the program that is to be replaced goes on writing the journal: its successor only looks at it, until it
may write itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bgproxy.core import replay
from bgproxy.core.journal import State
from bgproxy.core.replay import Witness
from bgproxy.errors import StartupError

if TYPE_CHECKING:
    from bgproxy.controlplane.events import Emit
    from bgproxy.controlplane.journal import Journal
    from bgproxy.controlplane.orphans import Orphans
    from bgproxy.core.model import Colour


async def recover(journal: Journal, orphans: Orphans, initial: Colour, *, emit: Emit) -> State:
    """The state, durable. At the very first start that of the configuration, or what workers serve whose journal was
    moved away. StateCorrupt where there is no telling, StoreUnavailable where the first one cannot be written."""
    witness = await _witness(journal.look(), orphans, emit)
    state = journal.load(witness)
    if state is None:
        state = State(epoch=0, live="green" if initial else "blue")
        if witness is not None:
            state = State(epoch=witness.epoch, live=witness.live)
            emit("state_from_workers", epoch=state.epoch, live=state.live)
        await journal.begin(state)
    return state


def foresee(journal: Journal) -> State:
    """What the journal of a program says that still runs, and writes it: for its successor to prepare itself by."""
    found = journal.look()
    if found is None:
        raise StartupError(
            "the running program's journal is not there any more",
            hint="put it back, or end that program and start this one with [switch] initial as it is to be",
        )
    return found.state


def succeed(journal: Journal, foreseen: State) -> State:
    """From here on the journal is ours: what it says now, with what was written since we looked. StartupError where it
    is not what we prepared for."""
    state = journal.load()
    if state is None or _essence(state) != _essence(foreseen):
        raise StartupError(
            "the journal says something else than when this program prepared itself by it",
            hint="nothing but the running program may write it; repeat the upgrade",
        )
    return state


def _essence(state: State) -> tuple[Any, ...]:
    return state.epoch, state.live, state.previous, state.maintenance, state.pools


async def _witness(found: replay.Replayed | None, orphans: Orphans, emit: Emit) -> Witness | None:
    words = orphans.words()
    known = [word for word in words if word is not None]
    if found is not None and found.open is not None and len(known) < len(words):
        await _end(orphans, "a switch was on its way, and the word that they serve by cannot be read", emit)
        return None
    if not known:
        return None
    newest = max(known)
    witness = Witness(newest.epoch, "green" if newest.colour else "blue")
    if found is not None:
        try:
            replay.recovery(found, witness)
        except ValueError as error:
            await _end(orphans, str(error), emit)
            return None
    return witness


async def _end(orphans: Orphans, why: str, emit: Emit) -> None:
    """They lose what they have: that is less than two colours at once."""
    emit("orphans_not_trusted", pids=list(orphans.pids()), reason=why)
    try:
        await orphans.end_now()
    except ChildProcessError as error:  # killed, and stuck in the kernel: whatever it does next, it is not serving
        emit("orphans_not_killed", error=str(error))
