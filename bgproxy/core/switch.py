"""The switch protocol: from the gates to the last old request, as one table.

    GATES ─▶ INTENT ─▶ READY ──────────────────────────────────────▶ CUTOVER ─▶ ACKNOWLEDGED ─▶ DRAIN ─▶ SETTLED
      │        │         │                                           ▲     │         ▲ │          │          ▲
      ▼        ▼         └▶ CLOSING ─▶ EMPTYING ────────▶ DECIDING ──┘     └▶ REPLACING└──────────┼──────────┘
    REFUSED  REFUSED          │  ▲      │  └▶ CUTTING ─▶──┘ │                     │               ├▶ OVERDUE
                              └▶ EXPELLING      │           │                     ▼               └▶ OVERTAKEN
                                   └────────────┴─▶ REOPENING ─▶ ABORTED     UNCONFIRMED

A step takes what has happened and names the one thing to do next; who performs it reports back with the next event.
A rollback is the same protocol with another target, so it costs the same by construction.

The lower way is the fence: every worker holds new requests before the word moves, and the word moves only when nothing
that may not overlap is left on the old colour. Until DECIDING is over, everything can be taken back: the old colour is
live, and what was held is served by it.

Only from ACKNOWLEDGED on is it proved that no new request can reach the old colour, and only from then on does
"nothing in flight" mean drained: before, a worker might still have been about to begin one. For the same reason
EMPTYING begins only when every worker has said that it holds.
"""

from __future__ import annotations

from enum import Enum, auto


class Phase(Enum):
    GATES = auto()
    INTENT = auto()
    READY = auto()
    CLOSING = auto()
    EXPELLING = auto()  # who does not say that it holds has to be dead
    EMPTYING = auto()
    CUTTING = auto()
    DECIDING = auto()
    REOPENING = auto()
    CUTOVER = auto()
    REPLACING = auto()
    ACKNOWLEDGED = auto()
    DRAIN = auto()
    # Ends:
    SETTLED = auto()
    REFUSED = auto()  # nothing was changed
    ABORTED = auto()  # a fence was taken back: requests waited, none of them reached the new colour
    UNCONFIRMED = auto()  # the word has moved, and a worker that has not confirmed it may still be alive
    OVERDUE = auto()  # the switch is done, requests of the old colour were still running at the deadline
    OVERTAKEN = auto()  # the switch is done, and another one came before the drain was over


class Event(Enum):
    GATES_PASSED = auto()
    GATES_FAILED = auto()
    INTENT_DURABLE = auto()
    INTENT_NOT_WRITTEN = auto()
    INTENT_POSTPONED = auto()  # a rollback does not wait for a disk: it is journaled when the disk returns
    GO_AT_ONCE = auto()
    FENCE_WANTED = auto()
    ALL_ACKNOWLEDGED = auto()
    SOME_SILENT = auto()
    SILENT_ONES_DEAD = auto()
    DEATH_NOT_CONFIRMED = auto()
    OLD_COLOUR_EMPTY = auto()
    FENCE_TIMED_OUT = auto()
    CUT_WANTED = auto()
    REOPENED = auto()
    ANSWER_NOW = auto()
    DRAIN_WANTED = auto()
    DRAIN_TIMED_OUT = auto()
    NEXT_SWITCH_CAME = auto()


class Action(Enum):
    CHECK_GATES = auto()
    WRITE_INTENT = auto()
    CHOOSE_MODE = auto()
    CLOSE_THE_GATE = auto()  # store the word with the hold, tell every worker, await every answer
    EXPEL_SILENT = auto()  # a dead worker dispatches nothing: its death is as good as its answer
    AWAIT_EMPTY = auto()
    CUT_THE_REST = auto()
    WRITE_DECISION = auto()
    REOPEN = auto()  # store the old word without the hold, tell every worker
    CUT_OVER = auto()  # store the word, tell every worker, await every answer; it also ends the hold
    REPLACE_SILENT = auto()  # a dead worker serves nobody: its death is as good as its answer
    CHOOSE_ANSWER = auto()
    WATCH_DRAIN = auto()


NEXT: dict[tuple[Phase, Event], tuple[Phase, Action | None]] = {
    (Phase.GATES, Event.GATES_PASSED): (Phase.INTENT, Action.WRITE_INTENT),
    (Phase.GATES, Event.GATES_FAILED): (Phase.REFUSED, None),
    (Phase.INTENT, Event.INTENT_DURABLE): (Phase.READY, Action.CHOOSE_MODE),
    (Phase.INTENT, Event.INTENT_NOT_WRITTEN): (Phase.REFUSED, None),
    (Phase.INTENT, Event.INTENT_POSTPONED): (Phase.READY, Action.CHOOSE_MODE),
    (Phase.READY, Event.GO_AT_ONCE): (Phase.CUTOVER, Action.CUT_OVER),
    (Phase.READY, Event.FENCE_WANTED): (Phase.CLOSING, Action.CLOSE_THE_GATE),
    (Phase.CLOSING, Event.ALL_ACKNOWLEDGED): (Phase.EMPTYING, Action.AWAIT_EMPTY),
    (Phase.CLOSING, Event.SOME_SILENT): (Phase.EXPELLING, Action.EXPEL_SILENT),
    (Phase.EXPELLING, Event.SILENT_ONES_DEAD): (Phase.EMPTYING, Action.AWAIT_EMPTY),
    (Phase.EXPELLING, Event.DEATH_NOT_CONFIRMED): (Phase.REOPENING, Action.REOPEN),
    (Phase.EMPTYING, Event.OLD_COLOUR_EMPTY): (Phase.DECIDING, Action.WRITE_DECISION),
    (Phase.EMPTYING, Event.FENCE_TIMED_OUT): (Phase.REOPENING, Action.REOPEN),
    (Phase.EMPTYING, Event.CUT_WANTED): (Phase.CUTTING, Action.CUT_THE_REST),
    (Phase.CUTTING, Event.OLD_COLOUR_EMPTY): (Phase.DECIDING, Action.WRITE_DECISION),
    (Phase.CUTTING, Event.FENCE_TIMED_OUT): (Phase.REOPENING, Action.REOPEN),
    (Phase.DECIDING, Event.INTENT_DURABLE): (Phase.CUTOVER, Action.CUT_OVER),
    (Phase.DECIDING, Event.INTENT_NOT_WRITTEN): (Phase.REOPENING, Action.REOPEN),
    (Phase.DECIDING, Event.INTENT_POSTPONED): (Phase.CUTOVER, Action.CUT_OVER),
    (Phase.REOPENING, Event.REOPENED): (Phase.ABORTED, None),
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

ENDS = frozenset((Phase.SETTLED, Phase.REFUSED, Phase.ABORTED, Phase.UNCONFIRMED, Phase.OVERDUE, Phase.OVERTAKEN))
# The word still names the old colour, with a hold or without one.
BEFORE_THE_CUTOVER = frozenset(
    (
        *(Phase.GATES, Phase.INTENT, Phase.READY, Phase.CLOSING, Phase.EXPELLING, Phase.EMPTYING, Phase.CUTTING),
        *(Phase.DECIDING, Phase.REOPENING, Phase.REFUSED, Phase.ABORTED),
    )
)
HOLDING = frozenset((Phase.CLOSING, Phase.EXPELLING, Phase.EMPTYING, Phase.CUTTING, Phase.DECIDING, Phase.REOPENING))
# Here the next switch may come. A drain holds nobody up: a rollback must be possible during it.
NOT_EXCLUSIVE = ENDS | {Phase.DRAIN}


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
        return self.phase not in NOT_EXCLUSIVE

    @property
    def holding(self) -> bool:
        """Requests may be waiting because of this switch."""
        return self.phase in HOLDING

    @property
    def word_may_have_moved(self) -> bool:
        """False only while it is certain that every request still goes to the old colour."""
        return self.phase not in BEFORE_THE_CUTOVER
