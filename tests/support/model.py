"""The switch as an explicit-state model: one supervisor, two workers, and everything that can come between.

The supervisor takes its steps from the code's own table, `bgproxy.core.switch.NEXT`; only what an action does is
said here. Workers read the word as they really do: load it, then be counted, and nothing of the same worker between;
whatever another process does may come between. A crashed supervisor leaves its workers as orphans, each on the word
that it left; a successor has a word of its own.

At most `requests` requests exist at a time. Two are enough for every invariant: each speaks of one request or of a
pair, and requests touch each other only in the gauges.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bgproxy.core.switch import ENDS, NEXT, NOT_EXCLUSIVE, Action, Event, Phase

INVARIANTS = {
    "S1": "after a switch was acknowledged, nothing is dispatched under an older epoch",
    "S2": "with a fence, requests of both colours are never in flight at the same time",
    "S3": "an epoch has one colour",
    "S4": "a request that begins after another one has ended never gets an older epoch",
    "S5": "a restart comes up with what was acknowledged or was on its way",
    "S6": "what is held can always be released, and after a fence that was taken back goes to the old colour",
    "S7": "a switch can always end",
    "T1": "the table says what follows whatever can happen",
}
INSTANT, FENCE = "instant", "fence"
NOBODY: tuple[()] = ()  # a slot without a worker, a block without a load: compares with tuples

Table = Mapping[tuple[Phase, Event], tuple[Phase, Action | None]]


class Word(NamedTuple):
    epoch: int
    colour: int
    hold: bool = False

    @property
    def open(self) -> Word:
        return Word(self.epoch, self.colour)


class Worker(NamedTuple):
    """`word` only where it is an orphan: the word that its supervisor left. `loaded` is the word of a block that has
    not counted its request yet; `waking` are requests that were held and are begun anew in this block."""

    word: Word | tuple[()] = NOBODY
    told: bool = False  # it has not looked since the last Published
    empty: bool = False  # it was read as empty by the wait that goes on
    alone: bool = False  # it has noticed that its supervisor is gone
    stuck: bool = False  # killed, and not dead yet: it does nothing any more
    loaded: Word | tuple[()] = NOBODY
    waking: int = 0
    held: int = 0
    flying: tuple[tuple[int, int], ...] = ()  # epoch and colour of each request in flight

    @property
    def requests(self) -> int:
        return bool(self.loaded) + self.waking + self.held + len(self.flying)


class Intent(NamedTuple):
    epoch: int
    colour: int
    mode: str
    decided: bool = False


class Journal(NamedTuple):
    """What a restart reads: the last switch that is known to be over, and one that is not."""

    live: Word
    intent: Intent | None = None


class Running(NamedTuple):
    """One switch on its way. `urgent` passes the gates although there are orphans: a rollback, or by force."""

    phase: Phase
    action: Action
    step: int
    mode: str
    urgent: bool
    before: Word
    to: Word
    journaled: bool = True


class Supervisor(NamedTuple):
    running: Running | None = None


class World(NamedTuple):
    supervisor: Supervisor | None
    word: Word
    workers: tuple[Any, ...]
    orphans: tuple[Worker, ...]
    journal: Journal
    switches: int
    crashes: int
    deaths: int
    answered: int = 0  # the highest epoch whose switch was answered as acknowledged
    ended: int = 0  # the highest epoch of a request that has ended
    fenced: tuple[int, ...] = ()  # epochs that came by a fence
    may_be_live: tuple[int, ...] = ()  # without a supervisor: the epochs that its successor may come up with


@dataclass(frozen=True)
class Build:
    """How the pieces behave. The defaults are the protocol; every departure is a broken build."""

    table: Table = field(default_factory=lambda: NEXT)
    waits_for_holds: bool = True  # CLOSE_THE_GATE awaits every acknowledgement
    waits_for_cutover: bool = True  # CUT_OVER does
    acknowledges_between_blocks: bool = True
    rechecks_on_wake: bool = True
    reopens: bool = True  # REOPEN stores the word without the hold
    tells_of_reopening: bool = True
    leaves_hold_alone: bool = True  # an orphan does not hold for ever
    holds_while_supervised: bool = True
    expels_orphans: bool = True  # with the silent ones
    ends_orphans_before_the_word_moves: bool = True
    completes_undecided: bool = False
    orphans_decide: bool = True  # a restart that finds orphans goes on with their word
    retired_before_serving: bool = False  # a restart kills orphans where a switch is unfinished
    repeats_before_orphans_are_gone: bool = False  # "it is live already" is answered although there are orphans
    reads_of_empty: bool = True  # the old colour is awaited to be empty


@dataclass(frozen=True)
class Bounds:
    switches: int = 2
    crashes: int = 1
    deaths: int = 1
    requests: int = 2
    disk_fails: bool = False  # a rollback is journaled later, and not before a crash
    writes_land_late: bool = False  # what was given up as not written is on disk all the same


class Violation(Exception):
    """`name` is the invariant; `trace` how to get there."""

    def __init__(self, name: str, what: str, trace: tuple[str, ...] = ()) -> None:
        super().__init__(f"{name}: {what}" + "".join(f"\n  {n:2} {step}" for n, step in enumerate(trace, 1)))
        self.name, self.what, self.trace = name, what, trace


Step = tuple[str, World, bool]  # what happens, what comes of it, and whether it is a fault


class Model:
    def __init__(
        self, build: Build | None = None, bounds: Bounds | None = None, watch: Collection[str] = INVARIANTS
    ) -> None:
        self.build, self.bounds, self.watch = build or Build(), bounds or Bounds(), watch
        self.taken: set[tuple[Phase, Event]] = set()  # the ways of the table that were gone

    def broken(self, name: str, what: str) -> None:
        if name in self.watch:
            raise Violation(name, what)

    def start(self) -> World:
        bounds, word = self.bounds, Word(0, 0)
        fresh = (Worker(), Worker())
        return World(Supervisor(), word, fresh, (), Journal(word), bounds.switches, bounds.crashes, bounds.deaths)

    def steps(self, world: World) -> Iterator[Step]:
        yield from self._worker_steps(world)
        if world.supervisor is None:
            yield self._restart(world)
            return
        for slot, worker in enumerate(world.workers):
            if not worker:
                yield "a worker is born", _with_worker(world, slot, Worker()), False
        if world.crashes:
            yield self._crash(world)
        running = world.supervisor.running
        if running is None or running.phase in NOT_EXCLUSIVE:
            yield from self._orders(world, running)
        if running is not None:
            yield from self._perform(world, running)

    # --- workers ------------------------------------------------------------------------------------------------------

    def _worker_steps(self, world: World) -> Iterator[Step]:
        total = sum(worker.requests for worker in (*world.workers, *world.orphans) if worker)
        room = total < self.bounds.requests
        for slot, worker in enumerate(world.workers):
            if worker:
                yield from self._worker(world, slot, worker, world.word, room)
        for index, orphan in enumerate(world.orphans):
            yield from self._worker(world, ~index, orphan, orphan.word, room)

    def _worker(self, world: World, slot: int, worker: Worker, word: Word, room: bool) -> Iterator[Step]:
        name = f"orphan {~slot}" if slot < 0 else f"worker {slot}"
        if slot < 0 or worker.stuck or world.deaths:
            spent = world if slot < 0 or worker.stuck else world._replace(deaths=world.deaths - 1)
            yield f"{name} dies", _killed(spent, slot), not worker.stuck
        if worker.stuck:
            return

        def became(**fields: Any) -> World:
            return _with_worker(world, slot, worker._replace(**fields))

        for request in set(worker.flying):
            left = list(worker.flying)
            left.remove(request)
            ended = became(flying=tuple(left))
            yield f"{name} ends {_named(request)}", ended._replace(ended=max(ended.ended, request[0])), False
        if worker.loaded:
            yield self._counted(world, slot, worker, name)
            if self.build.acknowledges_between_blocks:
                return
        elif worker.waking:
            loaded = word if self.build.rechecks_on_wake else word.open
            yield f"{name} wakes one, and loads {_named(word)}", became(waking=worker.waking - 1, loaded=loaded), False
            return
        elif room:
            if word.epoch < world.ended and self._dispatches(worker, word):
                self.broken("S4", f"{name} begins a request under epoch {word.epoch} after one of {world.ended} ended")
            yield f"{name} loads {_named(word)}", became(loaded=word), False
        if worker.told:
            wakes = worker.held if not word.hold or not self.build.rechecks_on_wake else 0
            looked = became(told=False, waking=worker.waking + wakes, held=worker.held - wakes)
            yield f"{name} looks, and says so", looked, False
        if slot < 0 and not worker.alone and self.build.leaves_hold_alone:
            alone = became(alone=True, waking=worker.waking + worker.held, held=0)
            yield f"{name} sees that it is alone", alone, False

    def _dispatches(self, worker: Worker, word: Word) -> bool:
        return not word.hold or worker.alone or not self.build.holds_while_supervised

    def _counted(self, world: World, slot: int, worker: Worker, name: str) -> Step:
        """The end of the block that began with the load: held, or in flight."""
        word = worker.loaded
        assert isinstance(word, Word)
        if not self._dispatches(worker, word):
            return (
                f"{name} holds it",
                _with_worker(world, slot, worker._replace(loaded=NOBODY, held=worker.held + 1)),
                False,
            )
        request = (word.epoch, word.colour)
        if word.epoch < world.answered:
            self.broken("S1", f"{name} dispatches {_named(request)} after epoch {world.answered} was acknowledged")
        flying = tuple(sorted((*worker.flying, request)))
        then = _with_worker(world, slot, worker._replace(loaded=NOBODY, flying=flying))
        self._check_requests(then)
        return f"{name} dispatches {_named(request)}", then, False

    # --- the supervisor -----------------------------------------------------------------------------------------------

    def _orders(self, world: World, running: Running | None) -> Iterator[Step]:
        if not world.switches:
            return
        if running is not None:  # its drain is watched; any order ends that
            yield "the next switch comes", self._stepped(world, running, Event.NEXT_SWITCH_CAME), False
            return
        spent = world._replace(switches=world.switches - 1)
        before = world.word
        if not world.orphans or self.build.repeats_before_orphans_are_gone:
            # The answer to an order for the colour that is live is an acknowledgement too.
            yield f"{_named(before)} is ordered, and live already", spent._replace(answered=before.epoch), False
        to = Word(before.epoch + 1, 1 - before.colour)
        for mode in (INSTANT, FENCE):
            for urgent in (False, True) if world.orphans or self.bounds.disk_fails else (False,):
                order = Running(Phase.GATES, Action.CHECK_GATES, 0, mode, urgent, before, to)
                label = f"{_named(to)} is ordered: {mode}{', urgently' if urgent else ''}"
                yield label, spent._replace(supervisor=Supervisor(order)), False

    def _perform(self, world: World, running: Running) -> Iterator[Step]:
        match running.action:
            case Action.CHECK_GATES:
                refused = world.orphans and not running.urgent
                yield self._event(world, running, Event.GATES_FAILED if refused else Event.GATES_PASSED)
            case Action.WRITE_INTENT:
                journal = self._intended(world.journal, Intent(*running.to[:2], running.mode))
                yield self._event(world._replace(journal=journal), running, Event.INTENT_DURABLE)
                if self.bounds.writes_land_late:
                    yield self._event(world._replace(journal=journal), running, Event.INTENT_NOT_WRITTEN)
                if self.bounds.disk_fails:
                    yield self._event(world, running, Event.INTENT_NOT_WRITTEN)
                    if running.urgent:
                        yield self._event(world, running._replace(journaled=False), Event.INTENT_POSTPONED)
            case Action.CHOOSE_MODE:
                yield self._event(world, running, Event.FENCE_WANTED if running.mode == FENCE else Event.GO_AT_ONCE)
            case Action.CLOSE_THE_GATE:
                hold = Word(*running.before[:2], True)
                yield from self._publish(world, running, hold, self.build.waits_for_holds)
            case Action.CUT_OVER:
                yield from self._cut_over(world, running)
            case Action.EXPEL_SILENT | Action.REPLACE_SILENT:
                yield from self._kill_silent(world, running)
            case Action.AWAIT_EMPTY | Action.CUT_THE_REST:
                yield from self._await_empty(world, running)
            case Action.WRITE_DECISION:
                yield from self._decide(world, running)
            case Action.REOPEN:
                yield from self._reopen(world, running)
            case Action.CHOOSE_ANSWER:
                yield from self._answer(world, running)
            case Action.WATCH_DRAIN:
                yield self._event(world, running, Event.DRAIN_TIMED_OUT)
                if all(_old_requests(worker, running.before.colour) == 0 for worker in world.workers):
                    yield self._event(world, running, Event.OLD_COLOUR_EMPTY)

    def _publish(self, world: World, running: Running, word: Word, waits: bool) -> Iterator[Step]:
        """Store, tell, await: three steps, with everything else between them."""
        if running.step == 0:
            stored = self._at(world._replace(word=word), running, 1)
            self._check_requests(stored)
            yield f"{_named(word)} is stored", stored, False
        elif running.step == 1:
            told = tuple(worker and worker._replace(told=True) for worker in world.workers)
            yield "every worker is told", self._at(world._replace(workers=told), running, 2), False
        else:
            silent = any(worker and worker.told for worker in world.workers)
            if not waits or not (silent or (world.orphans and self.build.expels_orphans)):
                yield self._event(world, running, Event.ALL_ACKNOWLEDGED)
            else:
                yield self._event(world, running, Event.SOME_SILENT)

    def _cut_over(self, world: World, running: Running) -> Iterator[Step]:
        if running.step == 0 and world.orphans and self.build.ends_orphans_before_the_word_moves:
            yield "the orphans are killed", _without_orphans(world), False
            return
        if running.step == 0 and running.mode == FENCE:
            world = world._replace(fenced=tuple(sorted({*world.fenced, running.to.epoch})))
        yield from self._publish(world, running, running.to, self.build.waits_for_cutover)

    def _kill_silent(self, world: World, running: Running) -> Iterator[Step]:
        killed = _without_orphans(world) if self.build.expels_orphans else world
        for slot, worker in enumerate(world.workers):
            if worker and worker.told:
                killed = _killed(killed, slot)
        yield self._event(killed, running, Event.SILENT_ONES_DEAD)
        # What cannot be killed has been told to die, and does nothing but that.
        stuck = tuple(w and (w._replace(stuck=True) if w.told else w) for w in world.workers)
        stuck_orphans = tuple(o._replace(stuck=True) for o in world.orphans)
        yield self._event(world._replace(workers=stuck, orphans=stuck_orphans), running, Event.DEATH_NOT_CONFIRMED)

    def _await_empty(self, world: World, running: Running) -> Iterator[Step]:
        """The gauges are read one after the other, not at one instant."""
        unread = [slot for slot, worker in enumerate(world.workers) if worker and not worker.empty]
        if not unread or not self.build.reads_of_empty:
            yield self._event(world, running, Event.OLD_COLOUR_EMPTY)
        for slot in unread:
            worker = world.workers[slot]
            if _old_requests(worker, running.before.colour) == 0:
                yield f"worker {slot} is read as empty", _with_worker(world, slot, worker._replace(empty=True)), False
        yield self._event(world, running, Event.FENCE_TIMED_OUT)
        if running.action is Action.AWAIT_EMPTY:
            yield self._event(world, running, Event.CUT_WANTED)

    def _decide(self, world: World, running: Running) -> Iterator[Step]:
        if running.journaled:
            assert world.journal.intent is not None
            journal = world.journal._replace(intent=world.journal.intent._replace(decided=True))
            yield self._event(world._replace(journal=journal), running, Event.INTENT_DURABLE)
            if self.bounds.writes_land_late:
                yield self._event(world._replace(journal=journal), running, Event.INTENT_NOT_WRITTEN)
        if self.bounds.disk_fails:
            yield self._event(world, running, Event.INTENT_NOT_WRITTEN)
            if running.urgent:
                yield self._event(world, running._replace(journaled=False), Event.INTENT_POSTPONED)

    def _reopen(self, world: World, running: Running) -> Iterator[Step]:
        if running.step == 0:
            word = running.before if self.build.reopens else world.word
            yield f"{_named(word)} is stored", self._at(world._replace(word=word), running, 1), False
            return
        if self.build.tells_of_reopening:
            told = tuple(worker and worker._replace(told=True) for worker in world.workers)
            world = world._replace(workers=told)
        yield self._event(world, running, Event.REOPENED)
        if running.journaled:
            closed = world.journal._replace(intent=None)
            yield self._event(world._replace(journal=closed), running, Event.REOPENED)

    def _answer(self, world: World, running: Running) -> Iterator[Step]:
        """The outcome is in the journal before the answer, or comes after it and may never come."""
        answered = world._replace(answered=max(world.answered, running.to.epoch))
        yield self._event(answered, running, Event.DRAIN_WANTED)
        yield self._event(answered, running, Event.ANSWER_NOW)
        if running.journaled:
            known = answered._replace(journal=Journal(running.to))
            yield self._event(known, running, Event.ANSWER_NOW)

    def _event(self, world: World, running: Running, event: Event) -> Step:
        return f"{running.phase.name}: {event.name}", self._stepped(world, running, event), False

    def _stepped(self, world: World, running: Running, event: Event) -> World:
        following = self.build.table.get((running.phase, event))
        if following is None:  # not a matter of what is watched: there is no way on
            raise Violation("T1", f"the table does not say what follows {event.name} in {running.phase.name}")
        self.taken.add((running.phase, event))
        phase, action = following
        if any(worker and worker.empty for worker in world.workers):
            workers = tuple(worker and worker._replace(empty=False) for worker in world.workers)
            world = world._replace(workers=workers)
        if phase in ENDS:
            self._check_end(world, running, phase)
            return world._replace(supervisor=Supervisor())
        assert action is not None
        return self._at(world, running._replace(phase=phase, action=action), 0)

    def _at(self, world: World, running: Running, step: int) -> World:
        return world._replace(supervisor=Supervisor(running._replace(step=step)))

    # --- its end, and the next one ------------------------------------------------------------------------------------

    def _crash(self, world: World) -> Step:
        assert world.supervisor is not None
        orphans = tuple(_orphaned(w, world.word) for w in world.workers if w)
        running = world.supervisor.running
        may_be_live = {world.word.epoch}
        if running is not None and running.phase not in NOT_EXCLUSIVE:
            may_be_live |= {running.to.epoch}
        left = world._replace(
            supervisor=None,
            workers=(),
            orphans=(*world.orphans, *orphans),
            crashes=world.crashes - 1,
            may_be_live=tuple(sorted(may_be_live)),
        )
        return "the supervisor crashes", left, True

    def _restart(self, world: World) -> Step:
        journal, build = world.journal, self.build
        if build.retired_before_serving and journal.intent is not None:
            world = _without_orphans(world)
        if world.orphans and build.orphans_decide:
            live = max(orphan.word for orphan in world.orphans).open
        else:
            live = self._settled(journal)
        if live.epoch not in world.may_be_live:
            self.broken("S5", f"a restart comes up with epoch {live.epoch}; it may be one of {world.may_be_live}")
        intent = journal.intent
        if intent is not None and intent.mode == FENCE and live.epoch == intent.epoch:
            world = world._replace(fenced=tuple(sorted({*world.fenced, live.epoch})))
        fresh = (Worker(), Worker())
        up = world._replace(supervisor=Supervisor(), word=live, workers=fresh, journal=Journal(live), may_be_live=())
        self._check_requests(up)
        return f"a supervisor starts with {_named(live)}", up, False

    # --- what must hold -----------------------------------------------------------------------------------------------

    def _check_requests(self, world: World) -> None:
        flying = {request for worker in (*world.workers, *world.orphans) if worker for request in worker.flying}
        for epoch, colour in flying:
            if (epoch, 1 - colour) in flying or (epoch == world.word.epoch and colour != world.word.colour):
                self.broken("S3", f"epoch {epoch} has two colours")
        for fence in world.fenced:
            new = {colour for epoch, colour in flying if epoch >= fence}
            if any(1 - colour in new for epoch, colour in flying if epoch < fence):
                self.broken("S2", f"both sides of the fence to epoch {fence} are in flight: {sorted(flying)}")

    def _check_end(self, world: World, running: Running, phase: Phase) -> None:
        if world.word.hold:
            self.broken("S6", f"the switch has ended ({phase.name}), and requests are still held")
        if phase in (Phase.ABORTED, Phase.REFUSED) and world.word != running.before:
            self.broken("S6", f"{phase.name} with {_named(world.word)} instead of {_named(running.before)}")

    def _intended(self, journal: Journal, intent: Intent) -> Journal:
        """Who intends the same epoch once more knows that the word did not move."""
        again = journal.intent is not None and journal.intent.epoch == intent.epoch
        return Journal(journal.live if again else self._settled(journal), intent)

    def _settled(self, journal: Journal) -> Word:
        """A fence that was not decided is void; everything else is completed."""
        intent = journal.intent
        if intent is None or (intent.mode == FENCE and not intent.decided and not self.build.completes_undecided):
            return journal.live
        return Word(intent.epoch, intent.colour)


# --- worlds -----------------------------------------------------------------------------------------------------------


def _canonical(world: World) -> World:
    """The two workers are alike, and so are orphans."""
    workers, orphans = tuple(sorted(world.workers)), tuple(sorted(world.orphans))
    if workers == world.workers and orphans == world.orphans:
        return world
    return world._replace(workers=workers, orphans=orphans)


def _with_worker(world: World, slot: int, worker: Worker) -> World:
    """Negative slots are orphans, counted from the first."""
    if slot >= 0:
        return world._replace(workers=(*world.workers[:slot], worker, *world.workers[slot + 1 :]))
    return world._replace(orphans=(*world.orphans[:~slot], worker, *world.orphans[~slot + 1 :]))


def _killed(world: World, slot: int) -> World:
    """Its requests end with it, and whoever waited for them knows that."""
    worker = world.orphans[~slot] if slot < 0 else world.workers[slot]
    ended = max((world.ended, *(epoch for epoch, _ in worker.flying)))
    if slot < 0:
        return world._replace(orphans=world.orphans[:~slot] + world.orphans[~slot + 1 :], ended=ended)
    everyone = (*world.workers[:slot], NOBODY, *world.workers[slot + 1 :])
    return world._replace(workers=everyone, ended=ended)


def _orphaned(worker: Worker, word: Word) -> Worker:
    """What it was told and has not read changes nothing: it looks at the same word when it sees that it is alone. And
    to see that makes no difference where nothing is held and nothing will be."""
    holds = word.hold or worker.held or (worker.loaded and worker.loaded.hold)
    return worker._replace(word=word, told=False, empty=False, alone=not holds)


def _without_orphans(world: World) -> World:
    while world.orphans:
        world = _killed(world, ~0)
    return world


def _old_requests(worker: Any, colour: int) -> int:
    return sum(of == colour for _, of in worker.flying) if worker else 0


def _named(what: Any) -> str:
    return f"{('blue', 'green')[what[1]]} {what[0]}{' with the hold' if len(what) > 2 and what[2] else ''}"


# --- exploring --------------------------------------------------------------------------------------------------------


@dataclass
class Explored:
    states: int
    steps: int
    taken: set[tuple[Phase, Event]]


def explore(build: Build | None = None, bounds: Bounds | None = None, watch: Collection[str] = INVARIANTS) -> Explored:
    """Every state that can be reached, breadth first; Violation with the shortest way to the first that breaks one of
    the invariants in `watch`."""
    gc.disable()  # millions of tuples, and no cycle among them
    try:
        return _explore(Model(build, bounds, watch))
    finally:
        gc.enable()


def _explore(model: Model) -> Explored:
    first = _canonical(model.start())
    numbers = {first: 0}
    parents: list[tuple[int, str]] = [(-1, "")]
    backwards: list[list[int]] = [[]]  # without faults
    queue = deque([first])
    steps = 0

    def trace(number: int) -> tuple[str, ...]:
        way = []
        while number > 0:
            number, label = parents[number]
            way.append(label)
        return tuple(reversed(way))

    while queue:
        world = queue.popleft()
        here = numbers[world]
        try:
            for label, then, is_fault in model.steps(world):
                then = _canonical(then)
                steps += 1
                there = numbers.get(then)
                if there is None:
                    there = numbers[then] = len(parents)
                    parents.append((here, label))
                    backwards.append([])
                    queue.append(then)
                if not is_fault:
                    backwards[there].append(here)
        except Violation as violation:
            raise Violation(violation.name, violation.what, trace(here)) from None
    worlds = list(numbers)
    for name, what, good in (
        ("S6", "a request is held, and nothing can ever release it", _nothing_held),
        ("S7", "a switch is on its way, and can never end", _at_rest),
    ):
        lost = _cannot_reach([number for number, world in enumerate(worlds) if good(world)], backwards)
        if lost is not None and name in model.watch:
            raise Violation(name, what, trace(lost))
    return Explored(len(parents), steps, model.taken)


def _nothing_held(world: World) -> bool:
    return not any(worker.held or worker.waking for worker in (*world.workers, *world.orphans) if worker)


def _at_rest(world: World) -> bool:
    return world.supervisor is not None and world.supervisor.running is None


def _cannot_reach(goals: list[int], backwards: list[list[int]]) -> int | None:
    reached = bytearray(len(backwards))
    stack = goals
    for number in stack:
        reached[number] = 1
    while stack:
        for before in backwards[stack.pop()]:
            if not reached[before]:
                reached[before] = 1
                stack.append(before)
    lost = reached.find(0)
    return None if lost < 0 else lost
