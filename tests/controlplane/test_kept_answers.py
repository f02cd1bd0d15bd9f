from __future__ import annotations

from datetime import UTC, datetime

from bgproxy.cli import words
from bgproxy.controlplane.idempotency import KEPT_FOR, Answer, Answers, Kept
from bgproxy.controlplane.journal import Journal
from bgproxy.controlplane.kept_answers import keep_in, kept_by
from bgproxy.core.journal import Intent, State, StoredAnswer

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


async def test_an_answer_outlives_the_process(tmp_path):
    journal = Journal(tmp_path, wall=lambda: NOON)
    await journal.begin(State(epoch=0, live="blue"))
    answer = Answer(504, {"code": "drain_timed_out", "detail": "…"})

    async def work() -> Answer:
        return answer

    await Answers(keep=keep_in(journal)).once("k", "digest", work)
    journal.close()
    again = Journal(tmp_path)
    assert kept_by(again.load()) == {"k": Kept("digest", answer, NOON + KEPT_FOR)}
    again.close()


async def test_an_answer_that_does_not_say_how_long_it_counts_is_given_again():
    stored = StoredAnswer(at="", until="", request_hash="digest", status=200, document={})
    kept = kept_by(State(epoch=0, live="blue", answers={"k": stored}))
    assert kept["k"].until.year == datetime.max.year


async def test_an_order_that_was_done_and_never_answered_is_not_done_twice(tmp_path):
    journal = Journal(tmp_path)
    await journal.begin(State(epoch=0, live="blue"))
    await journal.intend(
        Intent(epoch=1, from_="blue", to="green", kind="rollback", by="ci", key="k", request_hash="digest")
    )
    journal.close()
    again = Journal(tmp_path)
    kept = kept_by(again.load())["k"]
    again.close()
    assert (kept.digest, kept.answer.status) == ("digest", 200)
    said = kept.answer.document
    assert (said["changed"], said["from"], said["to"], said["epoch"]) == (True, "blue", "green", 1)
    assert "the proxy ended before it could answer; this is what the journal says" in words.report(said)
