"""One case of bytes through the proxy: what the client got, and what a recording upstream was sent.

The upstream answers every whole request with its target and keeps every byte. What it kept is read by h11, which shares
no code with the proxy and knows nothing of what was meant.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import h11

from tests.support.plane import settings
from tests.support.raw_http import PATIENCE_S, Ended, request, response
from tests.support.raw_upstream import answering

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bgproxy.core.settings import WorkerSettings
    from tests.support.plane import Plane
    from tests.support.raw_client import RawClient
    from tests.support.raw_http import Message
    from tests.support.raw_upstream import Conversation, RawUpstream, Script

SMUGGLED = request(target="/smuggled")
# A connection that should have been dropped is not closed by its idle timeout while the test waits.
PARKED_FOR_LONG = settings(upstream={"idle_timeout": 60})
# What the proxy says of itself and of the client in every request.
OWN_FIELDS = {"host", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "via", "x-request-id"}


@dataclass(frozen=True)
class Whole:
    """A complete request, as an upstream understands it; field names lower-case, in the order they came."""

    method: str
    target: str
    fields: tuple[tuple[str, str], ...]
    body: bytes = b""
    trailers: tuple[tuple[str, str], ...] = ()

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key == name]

    @property
    def end_to_end(self) -> tuple[tuple[str, str], ...]:
        return tuple(field for field in self.fields if field[0] not in OWN_FIELDS)


def whole_requests(heard: bytes) -> tuple[list[Whole], bytes]:
    """The complete requests in what one connection was sent, and the beginning of one that was never completed."""
    found: list[Whole] = []
    while heard:
        reader = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        reader.receive_data(heard)
        read = _one(reader)
        if read is None:
            return found, heard
        head = heard.partition(b"\r\n\r\n")[0]
        assert head.count(b"\n") == head.count(b"\r\n") == head.count(b"\r"), "lines that do not end with CRLF"
        assert len(read.all("content-length") + read.all("transfer-encoding")) <= 1, "framed twice"
        assert len(read.all("host")) == 1
        found.append(read)
        heard = reader.trailing_data[0]
    return found, b""


def _one(reader: h11.Connection) -> Whole | None:
    head, body = None, b""
    while (event := reader.next_event()) is not h11.NEED_DATA:
        if isinstance(event, h11.Request):
            assert event.http_version == b"1.1", "always our own version"
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            return Whole(
                head.method.decode(), head.target.decode("latin-1"), _text(head.headers), body, _text(event.headers)
            )
    return None


def _text(fields: object) -> tuple[tuple[str, str], ...]:
    return tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in fields)  # type: ignore[attr-defined]


def echo_target(asked: Message) -> bytes:
    return response(200, asked.target.encode("latin-1"))


class Through:
    """A plane whose live pool is one recording upstream, which answers with the target unless a script is given."""

    def __init__(
        self, plane: Plane, with_settings: WorkerSettings | None = None, *, script: Script | None = None
    ) -> None:
        self.plane = plane
        self.upstream: RawUpstream = plane.upstream(script or answering(echo_target), records=True)
        plane.configure(with_settings or PARKED_FOR_LONG, blue=[self.upstream])

    # --- what the client says -----------------------------------------------------------------------------------------

    def at_once(self, sent: bytes) -> RawClient:
        client = self.plane.client()
        client.send(sent)
        return client

    def bit_by_bit(self, table: Mapping[str, bytes]) -> dict[str, RawClient]:
        """All cases of a table at a time, each on a connection of its own: a byte to each, and the next when the worker
        has read them. (Long ones in some hundred pieces.)"""
        clients = {name: self.plane.client() for name in table}
        left = {name: _pieces(sent) for name, sent in table.items()}
        while left:
            for name, pieces in tuple(left.items()):
                try:
                    clients[name].send(pieces.pop())
                except OSError:  # refused a while ago, and left
                    pieces.clear()
                if not pieces:
                    del left[name]
            assert self.plane.cells is not None, "the worker answers: it has read what was there"
        return clients

    # --- what the upstream was sent -----------------------------------------------------------------------------------

    def conversations(self) -> list[tuple[Conversation, list[Whole], bytes]]:
        """Each connection with the whole requests on it, and the beginning of one that was not completed.

        A request is made first, must succeed, and is left out. Connections are accepted in their order, so whatever was
        opened before its answer is among them.
        """
        with contextlib.closing(self.plane.client()) as client:
            answer = client.ask(target="/probe")
        assert (answer.status, answer.body) == (200, b"/probe"), "a later request is harmed"
        found = []
        for conversation in self.upstream.conversations:
            assert conversation.heard is not None
            whole, rest = whole_requests(bytes(conversation.heard))
            found.append((conversation, [each for each in whole if each.target != "/probe"], rest))
        return found

    def assert_nothing_was_sent(self) -> None:
        assert [(whole, rest) for _, whole, rest in self.conversations() if whole or rest] == []

    def assert_nothing_was_completed(self) -> None:
        """Whatever was sent was cut: no whole request, and the connection closed."""
        for conversation, whole, rest in self.conversations():
            assert whole == []
            if rest:
                assert conversation.ended.wait(PATIENCE_S), "the upstream connection is still open"
                assert whole_requests(bytes(conversation.heard or b""))[1].startswith(rest)

    def requests(self) -> list[Whole]:
        """Everything that came, which must be whole requests and nothing else."""
        conversations = self.conversations()
        assert [rest for _, _, rest in conversations if rest] == []
        return [each for _, whole, _ in conversations for each in whole]

    # --- what the client got ------------------------------------------------------------------------------------------

    def assert_refused(self, client: RawClient, status: int, reason: str, *, method: str = "GET") -> None:
        """One framed answer of ours, and nothing behind it but the end of the connection."""
        answer = client.answer(method)
        assert (answer.status, answer.one("X-BG-Reason")) == (status, reason), answer.raw
        assert answer.one("Connection") == "close"
        assert (int(answer.one("Content-Length")) == len(answer.body)) is (method != "HEAD")
        assert client.is_ended(), "nothing more is read as a request"
        client.close()

    def assert_all_refused(self, table: Mapping[str, bytes], status: int, reason: str, *, method: str = "GET") -> None:
        """Every case of a table bit by bit, with a further request behind it."""
        for name, client in self.bit_by_bit({name: sent + SMUGGLED for name, sent in table.items()}).items():
            try:
                self.assert_refused(client, status, reason, method=method)
            except (AssertionError, Ended) as error:
                raise AssertionError(f"{name}: {error}") from error


def _pieces(data: bytes) -> list[bytes]:
    """The last first."""
    size = 1 + len(data) // 400
    return [data[i : i + size] for i in range(0, len(data), size)][::-1]


class Prompted(Through):
    """The test itself speaks for the upstream to requests for `/case…`; all others get a clean answer."""

    def __init__(self, plane: Plane, with_settings: WorkerSettings | None = None, *, reads_bodies: bool = True) -> None:
        """`reads_bodies`: wait for whole requests; else a prompt is due behind the head of the first request."""
        self._waiting: dict[str, Conversation] = {}
        self._asked = threading.Condition()
        self._reads_bodies = reads_bodies
        super().__init__(plane, with_settings, script=self._listen)

    def _listen(self, conversation: Conversation) -> None:
        while True:
            if self._reads_bodies:
                target = conversation.request().target
            else:
                target = conversation.until(b"\r\n\r\n").split(b" ")[1].decode()
            if target.startswith("/case"):
                with self._asked:
                    self._waiting[target] = conversation
                    self._asked.notify_all()
            else:
                conversation.send(response(200, target.encode()))
            if not self._reads_bodies:
                conversation.rest()

    def ask(
        self, target: str = "/case", *fields: str, method: str = "GET", body: bytes = b"", version: str = "1.1"
    ) -> tuple[RawClient, Prompt]:
        """A client that waits for its answer, and who is to give it."""
        client = self.at_once(request(method, target, *fields, body=body, version=version))
        return client, self.prompt(target)

    def prompt(self, target: str = "/case") -> Prompt:
        with self._asked:
            assert self._asked.wait_for(lambda: target in self._waiting, PATIENCE_S), f"no request for {target}"
            return Prompt(self._waiting.pop(target))

    def spell(self, said: Mapping[Prompt, bytes]) -> None:
        """All at a time, a byte each, and the next when the worker has read them."""
        left = {prompt: _pieces(data) for prompt, data in said.items()}
        while left:
            for prompt, pieces in tuple(left.items()):
                prompt.say(pieces.pop())
                if not pieces:
                    del left[prompt]
            self.settle()

    def settle(self) -> None:
        """The worker has read what was sent to it until now."""
        assert self.plane.cells is not None


class Prompt:
    """The upstream's end of one connection, in the test's hand; its script goes on reading requests."""

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation

    def say(self, data: bytes) -> None:
        try:
            self.conversation.sock.sendall(data)
        except OSError:  # the proxy has hung up: seen in what it did
            pass

    def finish(self) -> None:
        """FIN, and go on reading."""
        with contextlib.suppress(OSError):
            self.conversation.finish_sending()

    def close(self) -> None:
        """FIN, and nothing is read any more."""
        with contextlib.suppress(OSError):
            self.conversation.sock.shutdown(socket.SHUT_RD)  # its script wakes, and closes

    def reset(self) -> None:
        with contextlib.suppress(OSError):
            self.conversation.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.close()

    @property
    def is_ended(self) -> bool:
        return self.conversation.ended.is_set()

    def assert_dropped(self) -> None:
        assert self.conversation.ended.wait(PATIENCE_S), "the upstream connection is still open"
