"""The switch protocol: from the gates to the last old request, as one table.

    GATES ──▶ INTENT ──▶ CUTOVER ──▶ ACKNOWLEDGED ──▶ DRAIN ──▶ SETTLED
      │         │           │             ▲  │           │         ▲
      │         │           └▶ REPLACING ─┘  └───────────┼─────────┘
      ▼         ▼                   ▼                    ├▶ OVERDUE
    REFUSED   REFUSED          UNCONFIRMED               └▶ OVERTAKEN

A step takes what has happened and names the one thing to do next; who performs it reports back with the next event.
A rollback is the same protocol with another target, so it costs the same by construction.

Only from ACKNOWLEDGED on is it proved that no new request can reach the old colour, and only from then on does
"nothing in flight" mean drained: before, a worker might still have been about to begin one.
"""

from __future__ import annotations

from enum import Enum, auto


class Phase(Enum):
    GATES = auto()
    INTENT = auto()
    CUTOVER = auto()
    REPLACING = auto()
    ACKNOWLEDGED = auto()
    DRAIN = auto()
    # Ends:
    SETTLED = auto()
    REFUSED = auto()  # nothing was changed
    UNCONFIRMED = auto()  # the word has moved, and a worker that has not confirmed it may still be alive
    OVERDUE = auto()  # the switch is done, requests of the old colour were still running at the deadline
    OVERTAKEN = auto()  # the switch is done, and another one came before the drain was over


class Event(Enum):
    GATES_PASSED = auto()
    GATES_FAILED = auto()
    INTENT_DURABLE = auto()
    INTENT_NOT_WRITTEN = auto()
    ALL_ACKNOWLEDGED = auto()
    SOME_SILENT = auto()
    SILENT_ONES_DEAD = auto()
    DEATH_NOT_CONFIRMED = auto()
    ANSWER_NOW = auto()
    DRAIN_WANTED = auto()
    OLD_COLOUR_EMPTY = auto()
    DRAIN_TIMED_OUT = auto()
    NEXT_SWITCH_CAME = auto()


class Action(Enum):
    CHECK_GATES = auto()
    WRITE_INTENT = auto()
    CUT_OVER = auto()  # store the word, tell every worker, await every answer
    REPLACE_SILENT = auto()  # a dead worker serves nobody: its death is as good as its answer
    CHOOSE_ANSWER = auto()
    WATCH_DRAIN = auto()


NEXT: dict[tuple[Phase, Event], tuple[Phase, Action | None]] = {
    (Phase.GATES, Event.GATES_PASSED): (Phase.INTENT, Action.WRITE_INTENT),
    (Phase.GATES, Event.GATES_FAILED): (Phase.REFUSED, None),
    (Phase.INTENT, Event.INTENT_DURABLE): (Phase.CUTOVER, Action.CUT_OVER),
    (Phase.INTENT, Event.INTENT_NOT_WRITTEN): (Phase.REFUSED, None),
    (Phase.CUTOVER, Event.ALL_ACKNOWLEDGED): (Phase.ACKNOWLEDGED, Action.CHOOSE_ANSWER),
    (Phase.CUTOVER, Event.SOME_SILENT): (Phase.REPLACING, Action.REPLACE_SILENT),
    (Phase.REPLACING, Event.SILENT_ONES_DEAD): (Phase.ACKNOWLEDGED, Action.CHOOSE_ANSWER),
    (Phase.REPLACING, Event.DEATH_NOT_CONFIRMED): (Phase.UNCONFIRMED, None),
    (Phase.ACKNOWLEDGED, Event.ANSWER_NOW): (Phase.SETTLED, None),
    (Phase.ACKNOWLEDGED, Event.DRAIN_WANTED): (Phase.DRAIN, Action.WATCH_DRAIN),
    (Phase.DRAIN, Event.OLD_COLOUR_EMPTY): (Phase.SETTLED, None),
    (Phase.DRAIN, Event.DRAIN_TIMED_OUT): (Phase.OVERDUE, None),
    (Phase.DRAIN, Event.NEXT_SWITCH_CAME): (Phase.OVERTAKEN, None),
}

ENDS = frozenset((Phase.SETTLED, Phase.REFUSED, Phase.UNCONFIRMED, Phase.OVERDUE, Phase.OVERTAKEN))
BEFORE_THE_CUTOVER = frozenset((Phase.GATES, Phase.INTENT, Phase.REFUSED))
# Here the next switch has to wait. A drain holds nobody up: a rollback must be possible during it.
EXCLUSIVE = frozenset((Phase.GATES, Phase.INTENT, Phase.CUTOVER, Phase.REPLACING, Phase.ACKNOWLEDGED))


class Switch:
    """One run of the protocol. It begins at the gates: `CHECK_GATES` is the first action."""

    __slots__ = ("phase",)

    def __init__(self) -> None:
        self.phase = Phase.GATES

    def step(self, event: Event) -> Action | None:
        """The next action, None at an end. ValueError where the event cannot follow: then the caller is wrong."""
        following = NEXT.get((self.phase, event))
        if following is None:
            raise ValueError(f"{event.name} cannot happen in {self.phase.name}")
        self.phase, action = following
        return action

    @property
    def ended(self) -> bool:
        return self.phase in ENDS

    @property
    def exclusive(self) -> bool:
        return self.phase in EXCLUSIVE

    @property
    def word_may_have_moved(self) -> bool:
        """False only while it is certain that every request still goes to the old colour."""
        return self.phase not in BEFORE_THE_CUTOVER
