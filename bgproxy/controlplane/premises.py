"""What a control plane finds before it does anything: the state directory, its lock and journal, and what others left.

Others are workers that outlived their supervisor, a service manager that passes sockets, or a program that is to be
replaced and still runs.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bgproxy.controlplane.inherited import Inherited
from bgproxy.controlplane.journal import Journal
from bgproxy.controlplane.orphans import Orphans
from bgproxy.controlplane.recovery import foresee, recover
from bgproxy.controlplane.state_lock import StateLock, prepare_directory
from bgproxy.controlplane.systemd import passed_sockets
from bgproxy.controlplane.takeover import inherit
from bgproxy.core.journal import State

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from bgproxy.config import Config
    from bgproxy.controlplane.events import Emit
    from bgproxy.controlplane.succession import Predecessor


class Premises(msgspec.Struct, frozen=True, kw_only=True):
    """`state` is what the journal says now; with a predecessor it is foreseen, and loaded when that one lets go."""

    directory: Path
    lock: StateLock
    journal: Journal
    orphans: Orphans
    inherited: Inherited
    state: State
    has_predecessor: bool

    @property
    def are_others_serving(self) -> bool:
        return self.has_predecessor or bool(self.orphans.pids())


async def enter(config: Config, stack: AsyncExitStack, predecessor: Predecessor | None, *, emit: Emit) -> Premises:
    """StartupError, StateCorrupt and StoreUnavailable say why not."""
    directory = config.state.dir
    prepare_directory(directory)
    passed = passed_sockets(os.environ)
    lock = StateLock.adopt(predecessor.hello.lock_fd, directory) if predecessor else StateLock.acquire(directory)
    stack.callback(lock.release)
    journal = Journal(directory, emit=emit)
    stack.callback(journal.close)
    # Those of a predecessor that still lives are its own, until it says who they are.
    orphans = Orphans(emit=emit) if predecessor else Orphans.find(directory, emit=emit)
    stack.callback(orphans.release)
    if predecessor is not None:
        inherited = Inherited(predecessor.bequest)
    else:  # before any of them can be ended: what waits to be accepted there waits for us
        inherited = Inherited(passed, *(inherit(directory, emit=emit) if orphans.pids() else ()))
    stack.callback(inherited.close)
    if predecessor is not None:
        state = foresee(journal)
    else:
        state = await recover(journal, orphans, config.switch.initial, emit=emit)
    return Premises(
        directory=directory,
        lock=lock,
        journal=journal,
        orphans=orphans,
        inherited=inherited,
        state=state,
        has_predecessor=predecessor is not None,
    )
