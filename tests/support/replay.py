"""Many requests at once through a running proxy to an upstream that records every byte and reads it strictly.

Each case is sent from a loopback address of its own, which the proxy passes on in X-Forwarded-For: so each request that
arrives is known by the case that it belongs to, and one that does not say so was hidden in another.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.strict import Doubt, Read, agreed_requests, strict_request, strict_requests

if TYPE_CHECKING:
    from collections.abc import Sequence

CORPUS = Path(os.environ.get("BGPROXY_HTTP_CORPUS", "../shared/http-corpus"))
SEEDS = Path(__file__).resolve().parent.parent / "fuzz" / "corpus" / "request"
MARKER = b"smug"
AT_ONCE = 200
PATIENCE_S = 20.0


@dataclass(frozen=True)
class Case:
    """`expect` is "accept", "reject" or "any": what its authors say of it."""

    name: str
    data: bytes
    expect: str = "any"


def third_party_cases(folder: Path = CORPUS) -> list[Case]:
    """[] where the folder is not there."""
    cases = []
    for file in sorted(folder.glob("*.json")):
        for item in json.loads(file.read_text())["items"]:
            name = f"{file.stem}: {item['id']}"
            cases.append(Case(name, bytes.fromhex(item["hex"]), item.get("expect", "any")))
    return cases


def own_cases() -> list[Case]:
    """The seeds of the fuzzer, without the three bytes that say how to send them."""
    return [Case(f"own: {file.name}", file.read_bytes()[3:]) for file in sorted(SEEDS.iterdir())]


# --- the upstream ----------------------------------------------------------------------------------------------------


class Recording(asyncio.Protocol):
    """One connection of the proxy: every byte of it, and what was read in them until a doubt came up."""

    def __init__(self, upstream: Recorder) -> None:
        self._upstream = upstream
        self._unread = b""
        self._is_encouraged = False
        self.stream = b""
        self.numbers: list[int] = []  # of its requests among all

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._upstream.recordings.append(self)

    def end(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self.stream += data
        try:
            requests, self._unread = strict_requests(self._unread + data)
        except Doubt:
            self._transport.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            self._transport.close()
            return
        if b"\r\n\r\n" in self._unread and b"expect: 100-continue" in self._unread.lower() and not self._is_encouraged:
            self._is_encouraged = True
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        for request in requests:
            self._is_encouraged = False
            self._upstream.answered += 1
            self.numbers.append(self._upstream.answered)
            body = b"%d" % self._upstream.answered
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
            self._transport.write(head if request.first[0] == b"HEAD" else head + body)


class Recorder:
    """The upstream; it answers with the number that a request has among all requests."""

    def __init__(self) -> None:
        self.recordings: list[Recording] = []
        self.answered = 0

    async def open(self, port: int = 0) -> int:
        """Returns the port."""
        made = await asyncio.get_running_loop().create_server(lambda: Recording(self), "127.0.0.1", port, backlog=1024)
        self._server = made
        opened: int = made.sockets[0].getsockname()[1]
        return opened

    async def close(self) -> None:
        self._server.close()
        for _ in range(3):  # what was being accepted becomes a recording first; transports close in the next turn
            for recording in self.recordings:
                recording.end()
            await asyncio.sleep(0)


# --- the client ------------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What became of one case: `answers` is what its client got, `ended` whether the proxy closed the connection (and
    not the client's patience), `forwarded` the requests that the upstream read, `doubts` what it could not read."""

    case: Case
    answers: bytes = b""
    ended: bool = False
    forwarded: list[Read] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

    @property
    def statuses(self) -> list[int]:
        found = re.findall(rb"(?:^|(?<=[\r\n0-9>}]))HTTP/1\.[01] ([1-5][0-9][0-9])", self.answers)
        return [int(status) for status in found]

    @property
    def has_marker(self) -> bool:
        return any(MARKER in request.first[1] for request in self.forwarded)


def _address(number: int) -> str:
    return f"127.{1 + number // 62500}.{number // 250 % 250}.{1 + number % 250}"


async def replay(
    cases: Sequence[Case], port: int, recorder: Recorder, *, quiet_s: float = 0.0, at_once: int = AT_ONCE
) -> list[Outcome]:
    """One outcome per case. A client sends FIN behind its bytes; with `quiet_s` it does not, and leaves when it has
    heard nothing for so long (for proxies that take a FIN for a client that has gone)."""
    gate = asyncio.Semaphore(at_once)
    outcomes = [Outcome(case) for case in cases]

    async def one(number: int, outcome: Outcome) -> None:
        async with gate:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, local_addr=(_address(number), 0), limit=1 << 20
            )
            try:
                writer.write(outcome.case.data)
                if not quiet_s:
                    writer.write_eof()
                outcome.ended = await _listen(reader, outcome, quiet_s)
            except OSError:
                outcome.ended = True
            finally:
                writer.transport.abort()

    await asyncio.gather(*(one(number, outcome) for number, outcome in enumerate(outcomes)))
    _attribute(recorder, outcomes)
    return outcomes


async def _listen(reader: asyncio.StreamReader, outcome: Outcome, quiet_s: float) -> bool:
    while True:
        try:
            data = await asyncio.wait_for(reader.read(1 << 16), quiet_s or PATIENCE_S)
        except TimeoutError:
            return False
        if not data:
            return True
        outcome.answers += data


def _attribute(recorder: Recorder, outcomes: list[Outcome]) -> None:
    by_address = {_address(number): outcome for number, outcome in enumerate(outcomes)}
    found: list[tuple[int, Outcome, Read]] = []
    for recording in recorder.recordings:
        owner: Outcome | None = None
        rest, numbers = recording.stream, iter(recording.numbers)
        while rest:
            try:
                one = strict_request(rest)
                if one is None:
                    if MARKER in rest.partition(b"\r\n")[0] and owner is not None:
                        owner.doubts.append("begins a request with what was hidden")
                    break
                request, end = one
                owner = _sender(request, by_address) or owner
                agreed_requests(rest[:end])
            except Doubt as doubt:
                named = _senders(rest, by_address)
                for sender in named[:1] or ([owner] if owner else []):
                    sender.doubts.append(str(doubt))
                break
            if owner is not None:
                found.append((next(numbers), owner, request))
            rest = rest[end:]
    for _, owner, request in sorted(found, key=lambda each: each[0]):
        owner.forwarded.append(request)


def _sender(request: Read, by_address: dict[str, Outcome]) -> Outcome | None:
    named = request.all(b"x-forwarded-for")
    return by_address.get(named[-1].rpartition(b",")[2].strip().decode("latin-1")) if named else None


def _senders(stream: bytes, by_address: dict[str, Outcome]) -> list[Outcome]:
    found = (address.decode() for address in re.findall(rb"127\.[0-9]+\.[0-9]+\.[0-9]+", stream))
    return [by_address[address] for address in found if address in by_address]
