from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from bgproxy.controlplane.idempotency import KEPT_FOR, MOST, Answer, Answers, Kept, digest_of
from bgproxy.controlplane.orders import SwitchOrder
from bgproxy.core.model import GREEN
from bgproxy.errors import IdempotencyKeyReused

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
ORDER = SwitchOrder(kind="switch", to=GREEN, by="ci", key="k")


class Work:
    """Counts how often it was done, and waits for `go` if it is told to."""

    def __init__(self, answer: Answer | None = None) -> None:
        self.done = 0
        self.answer = answer or Answer(200, {"epoch": 1})
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self) -> Answer:
        self.done += 1
        await self.go.wait()
        return self.answer


async def test_the_same_key_gets_the_same_answer_and_the_work_is_done_once():
    answers, work = Answers(), Work()
    assert await answers.once("k", "d", work) == (work.answer, False)
    assert await answers.once("k", "d", work) == (work.answer, True)
    assert work.done == 1


async def test_who_asks_while_the_first_is_at_work_gets_its_answer():
    answers, work = Answers(), Work()
    work.go.clear()
    first = asyncio.create_task(answers.once("k", "d", work))
    second = asyncio.create_task(answers.once("k", "d", work))
    await asyncio.sleep(0)  # a turn of the loop, in which both begin
    with pytest.raises(IdempotencyKeyReused):
        await answers.once("k", "another", work)
    first.cancel()  # its client left; the work goes on
    work.go.set()
    assert await second == (work.answer, True)
    assert work.done == 1


async def test_a_key_of_another_order_is_refused():
    answers, work = Answers(), Work()
    await answers.once("k", "d", work)
    with pytest.raises(IdempotencyKeyReused, match="'k' was used for another order; nothing was changed"):
        await answers.once("k", "another", work)


async def test_a_refusal_is_judged_anew():
    answers, work = Answers(), Work(Answer(409, {}, is_final=False))
    assert await answers.once("k", "d", work) == (work.answer, False)
    work.answer = Answer(200, {})
    assert await answers.once("k", "d", work) == (work.answer, False)
    assert work.done == 2


async def test_an_error_of_the_work_reaches_everybody_who_waits_and_is_not_kept():
    answers = Answers()

    async def fails() -> Answer:
        raise RuntimeError("a fault")

    for _ in range(2):
        with pytest.raises(RuntimeError):
            await answers.once("k", "d", fails)
    assert await answers.once("k", "d", Work()) == (Answer(200, {"epoch": 1}), False)


async def test_what_was_kept_before_a_restart_is_answered_after_it_and_what_is_new_is_kept_before_the_answer():
    kept: dict[str, Kept] = {}

    async def keep(key: str, one: Kept) -> None:
        kept[key] = one

    work = Work()
    await Answers(keep=keep, wall=lambda: NOON).once("k", "d", work)
    assert kept == {"k": Kept("d", work.answer, NOON + KEPT_FOR)}
    kept = {"k": msgspec.structs.replace(kept["k"], until=datetime.max.replace(tzinfo=UTC))}
    assert await Answers(kept).once("k", "d", work) == (work.answer, True)
    assert work.done == 1


async def test_after_a_day_the_key_is_free_for_a_new_order():
    now = NOON
    answers, work = Answers(wall=lambda: now), Work()
    await answers.once("k", "d", work)
    now += KEPT_FOR - timedelta(seconds=1)
    assert (await answers.once("k", "d", work))[1]
    now += timedelta(seconds=1)
    assert not (await answers.once("k", "another", work))[1]
    assert (await answers.once("k", "another", work))[1]
    assert work.done == 2


async def test_the_oldest_answers_are_forgotten_first():
    answers, work = Answers(), Work()
    for number in range(MOST + 1):
        await answers.once(str(number), "d", work)
    assert (await answers.once("1", "d", work))[1]
    assert not (await answers.once("0", "d", work))[1]


def test_the_digest_is_that_of_what_is_ordered_and_not_of_who_orders_it():
    assert digest_of(ORDER) == digest_of(SwitchOrder(kind="switch", to=GREEN, by="another", key="another"))
    assert digest_of(ORDER) != digest_of(SwitchOrder(kind="switch", to=GREEN, by="ci", key="k", reason="why"))
