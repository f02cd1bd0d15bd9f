"""Held requests under any order of events: none is dispatched under a word that holds it, none is lost or answered
twice, and each goes in its turn."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bgproxy.core.model import BLUE, GREEN
from bgproxy.dataplane import hold as module
from bgproxy.shm import worker_slot as slot
from bgproxy.shm.live_pointer import Hold, pack, unpack
from tests.support.held_desk import HeldClient, HeldDesk

examples = settings(
    max_examples=400, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)

holds = st.sampled_from([Hold.OPEN, Hold.ALL, Hold.ALL, Hold.WRITES, Hold.MAINTENANCE])
few = st.integers(0, 7)
methods = st.sampled_from(["GET", "POST", "DELETE"])
# Most of a run is clients who ask; what is asked is handled at once, or waits for the loop.
asks = st.tuples(st.just("ask"), methods, st.booleans(), st.booleans(), st.sampled_from([0, 1, 1, 2]))
events = st.one_of(
    *(asks, asks, asks, asks),
    st.tuples(st.just("pipeline"), few, methods),
    st.tuples(st.just("rest"), few),
    st.tuples(st.just("store"), holds, st.booleans()),
    st.tuples(st.just("told"), holds, st.booleans()),
    st.tuples(st.just("race"), st.integers(1, 4), holds, st.booleans()),
    st.tuples(st.just("look")),
    st.tuples(st.just("step"), st.integers(1, 6)),
    st.tuples(st.just("run")),
    st.tuples(st.just("answer"), few),
    st.tuples(st.just("die"), few),
    st.tuples(st.just("hang up"), few, st.booleans()),
    st.tuples(st.just("tick"), st.sampled_from([1, 4, 12, 24])),
    st.tuples(st.just("cut"), st.sampled_from([BLUE, GREEN]), st.booleans()),
)
beginnings = st.sampled_from([Hold.ALL, Hold.ALL, Hold.WRITES, Hold.OPEN])
scripts = st.tuples(beginnings, st.lists(events, min_size=15, max_size=40))


class Run:
    """Lets events happen on a desk."""

    def __init__(self, desk: HeldDesk, how: Hold) -> None:
        self.desk = desk
        self._epoch, self._colour = 1, BLUE
        desk.word.store(pack(1, BLUE, how))

    def happens(self, event):
        getattr(self, "_" + event[0].replace(" ", "_"))(*event[1:])

    def ends(self):
        """With an open word, which who is alone need not wait for."""
        if not self.desk.is_alone or unpack(self.desk.word.value).hold is Hold.MAINTENANCE:
            self._store(Hold.OPEN, flip=True)

    def _word(self, how, flip):
        if flip:
            self._epoch, self._colour = self._epoch + 1, GREEN if self._colour is BLUE else BLUE
        return pack(self._epoch, self._colour, how)

    def _client(self, number):
        there = [client for client in self.desk.clients if not client.has_left]
        return there[number % len(there)] if there else None

    def _ask(self, method, body, whole, steps):
        self.desk.clients.append(HeldClient(self.desk))
        self.desk.ask(self.desk.clients[-1], method, body=body, whole=whole)
        self._step(steps)

    def _pipeline(self, number, method):
        client = self._client(number)
        if client is not None and not client.rest:
            self.desk.ask(client, method, body=False, whole=True)

    def _rest(self, number):
        client = self._client(number)
        if client is not None and client.rest:
            rest, client.rest = client.rest, b""
            client.transport.arrive(rest)

    def _store(self, how, flip):
        self.desk.word.store(self._word(how, flip))

    def _told(self, how, flip):
        self._store(how, flip)
        self._look()

    def _between(self, loads, how, flip):
        self.desk.word.after.append((loads, self._word(how, flip)))

    def _race(self, loads, how, flip):
        """It opens, and closes again while the worker lets go."""
        self.desk.loop.run()
        self._told(Hold.OPEN, flip)
        self._between(loads, how, flip=False)
        self._run()

    def _look(self):
        self.desk.plane.held.look()

    def _step(self, count):
        self.desk.loop.step(count)

    def _run(self):
        self.desk.loop.run()

    def _answer(self, number):
        self.desk.answer(number)

    def _die(self, number):
        client = self._client(number)
        if client is not None:
            client.has_left = True
            client.transport.lose(ConnectionResetError())

    def _hang_up(self, number, half):
        """Who is held is not read from, so that only its descriptor shows it; of the others we are told."""
        client = self._client(number)
        if client is None:
            return
        if not client.is_held:
            client.transport.arrive(None)
        else:
            self.desk.hangs_up(client, half=half)

    def _tick(self, steps):
        self.desk.tick(steps)

    def _cut(self, colour, writes):
        module.cut(self.desk.plane, colour, writes=writes)
        if colour != self._colour:
            gauge = slot.WRITES if writes else slot.IN_FLIGHT
            assert self.desk.plane.cells[gauge + colour] == 0, "the cut is complete"

    def _alone(self):
        self.desk.is_alone = True
        self.desk.plane.held.wait_for_nobody()


def tried(script, *, max_connections=3, alone_at=None):
    """`alone_at`: the supervisor dies behind so many events."""
    how, happening = script
    desk = HeldDesk(max_connections=max_connections)
    try:
        run = Run(desk, how)
        for number, event in enumerate(happening):
            if number == alone_at:
                run.happens(("alone",))
            run.happens(event)
        run.ends()
        desk.finish()
        return desk
    finally:
        desk.close()


@examples
@given(scripts, st.integers(1, 3), st.sampled_from([None, None, None, 6]))
def test_whatever_happens(script, max_connections, alone_at):
    patience, module.IN_ORDER_NS = module.IN_ORDER_NS, 1 << 62  # the order is then strict
    try:
        tried(script, max_connections=max_connections, alone_at=alone_at)
    finally:
        module.IN_ORDER_NS = patience
