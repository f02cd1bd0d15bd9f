"""Third-party requests, two thousand and more, through a real worker: nothing ambiguous comes out at the other end.

The corpora are not part of the project; BGPROXY_HTTP_CORPUS names their folder.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import pytest

from bgproxy.core.model import Pool
from bgproxy.core.settings import WorkerSettings
from tests.support.plane import WorkerProcess, pool
from tests.support.replay import CORPUS, Case, Outcome, Recorder, replay, third_party_cases
from tests.support.strict import strict_responses

if TYPE_CHECKING:
    from collections.abc import Iterator

FEW = 20
POST = b"POST /a HTTP/1.1\r\nHost: a\r\n"
HIDDEN = b"0\r\n\r\nGET /smug HTTP/1.1\r\nHost: a\r\n\r\n"
# One of each kind, so that the replay itself is tried where the corpora are not there.
OWN = [
    Case("plain", b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n", "accept"),
    Case("two", b"GET /a HTTP/1.1\r\nHost: a\r\n\r\nHEAD /b HTTP/1.1\r\nHost: a\r\n\r\n", "accept"),
    Case("body", POST + b"Content-Length: 5\r\n\r\nhello", "accept"),
    Case("chunked", POST + b"Transfer-Encoding: chunked\r\n\r\n1;x\r\na\r\n0\r\n\r\n", "accept"),
    Case("both", POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "reject"),
    Case("hidden", POST + b"Content-Length: %d\r\n\r\n%b" % (len(HIDDEN), HIDDEN)),
    Case("short", POST + b"Content-Length: 50\r\n\r\nGET /smug HTTP/1.1\r\n\r\n"),
]


@pytest.fixture(scope="module")
def worker() -> Iterator[WorkerProcess]:
    started = WorkerProcess()
    started.start((Pool(()), Pool(())), WorkerSettings())
    yield started
    complaints = started.end()
    assert not complaints, complaints


def through(worker: WorkerProcess, cases: list[Case]) -> list[Outcome]:
    async def run() -> list[Outcome]:
        recorder = Recorder()
        port = await recorder.open()
        here = pool([f"127.0.0.1:{port}"])
        worker.configure((here, here), WorkerSettings())
        try:
            return await replay(cases, worker.address.port, recorder)
        finally:
            await recorder.close()

    return asyncio.run(run())


def what_is_wrong(outcome: Outcome) -> str:
    """ "" where all is well."""
    if outcome.doubts:
        return f"forwarded and not read alike: {outcome.doubts}"
    if outcome.has_marker:
        return "what was hidden became a request"
    if not outcome.ended:
        return "never closed"
    if outcome.case.expect == "reject" and outcome.forwarded and 200 in outcome.statuses[:1]:
        return f"answered, though it is to be refused: {outcome.answers!r}"
    methods = [request.first[0] for request in outcome.forwarded]
    refused = b"HEAD" if outcome.answers.endswith(b"\r\n\r\n") else b"GET"  # our own answers have a body but to HEAD
    answers, rest = strict_responses(outcome.answers, [*methods, refused], ended=False)
    if rest:
        return f"not an answer: {rest!r}"
    numbers = [int(answer.body) for answer in answers if answer.body.isdigit()]
    if numbers != sorted(numbers):
        return f"answers out of order: {numbers}"
    refusals = [number for number, answer in enumerate(answers) if answer.all(b"x-bg-reason")]
    if refusals and (refusals != [len(answers) - 1] or answers[-1].all(b"connection") != [b"close"]):
        return f"a refusal that is not the last word: {outcome.answers!r}"
    return ""


def failures(outcomes: list[Outcome]) -> str:
    """A report of those that are wrong, "" for none."""
    wrong = [(outcome, found) for outcome in outcomes if (found := what_is_wrong(outcome))]
    lines = [f"{outcome.case.name}: {found}\n    sent {outcome.case.data[:300]!r}" for outcome, found in wrong[:FEW]]
    return f"{len(wrong)} of {len(outcomes)}:\n" + "\n".join(lines) if wrong else ""


def test_the_replay_sees_what_is_forwarded_and_what_is_refused(worker):
    by_name = {outcome.case.name: outcome for outcome in through(worker, OWN)}
    assert not failures(list(by_name.values()))
    assert {name: len(outcome.forwarded) for name, outcome in by_name.items()} == {
        "plain": 1,
        "two": 2,
        "body": 1,
        "chunked": 1,
        "both": 0,
        "hidden": 1,
        "short": 0,
    }
    assert by_name["both"].statuses == [400]
    assert re.search(rb"\r\n\r\n[0-9]+$", by_name["plain"].answers)


@pytest.mark.skipif(not CORPUS.is_dir(), reason="BGPROXY_HTTP_CORPUS names no folder")
def test_nothing_ambiguous_of_the_third_party_requests_is_forwarded(worker):
    cases = third_party_cases()
    assert len(cases) > 2000
    outcomes = through(worker, cases)
    assert not failures(outcomes), failures(outcomes)
    assert sum(1 for outcome in outcomes if outcome.forwarded) > 100  # and it does forward
