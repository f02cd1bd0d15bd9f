"""An upstream server that does what its script says, byte by byte, and remembers what it was sent on which connection.

A script is called with one `Conversation` per accepted connection, in a thread of its own; when it returns, the
connection is closed. It may break any rule of HTTP.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from typing import TYPE_CHECKING

from tests.support.raw_http import PATIENCE_S, Ended, Message, Wire, response

if TYPE_CHECKING:
    from collections.abc import Callable

    Script = Callable[["Conversation"], None]
    Answer = bytes | Callable[[Message], bytes]


class Conversation(Wire):
    """One connection, as the script sees it; `number` counts from 0, `ended` is set once the script is done.

    `heard` is every byte that came, where the upstream records; None where it does not.
    """

    def __init__(self, sock: socket.socket, upstream: RawUpstream, number: int) -> None:
        super().__init__(sock)
        self._upstream = upstream
        self.number = number
        self.ended = threading.Event()
        self.heard = bytearray() if upstream.records else None

    def _recv(self, size: int) -> bytes:
        data = super()._recv(size)
        if self.heard is not None:
            self.heard += data
        return data

    def request(self) -> Message:
        """The next whole request; `Ended` where there is none."""
        message = self.message(is_response=False)
        self._upstream.requests.append(message)
        return message

    def shake_hands(self, context: ssl.SSLContext) -> None:
        """TLS from here on. Where it fails, wait for the other side to leave: a RST could overtake the alert."""
        plain = socket.fromfd(self.sock.fileno(), self.sock.family, self.sock.type)
        try:
            self.sock = context.wrap_socket(self.sock, server_side=True)
        except OSError:
            self.sock = plain
            plain.settimeout(PATIENCE_S)
            plain.shutdown(socket.SHUT_WR)
            self.rest()
            raise
        plain.close()

    def say_goodbye(self) -> None:
        """Over TLS: a close_notify, without waiting for the other one. Just closing the socket leaves it out."""
        assert isinstance(self.sock, ssl.SSLSocket)
        self.sock.settimeout(0)
        with contextlib.suppress(ssl.SSLError):  # it would wait for the other one, and for nothing else
            self.sock.unwrap()
        self.sock.settimeout(PATIENCE_S)


def answering(*answers: Answer) -> Script:
    """Keep-alive: one answer after the other over all connections, the last one again and again."""
    given = 0
    lock = threading.Lock()

    def script(conversation: Conversation) -> None:
        nonlocal given
        while True:
            request = conversation.request()
            with lock:
                answer = answers[min(given, len(answers) - 1)]
                given += 1
            conversation.send(answer(request) if callable(answer) else answer)

    return script


def silent(conversation: Conversation) -> None:
    """Takes what comes and never says a word."""
    conversation.rest()


HELLO = answering(response(200, b"hello"))


class RawUpstream:
    """Listens on a port of its own (or a unix socket) from its making to `close`; over TLS with a context."""

    def __init__(
        self,
        script: Script = HELLO,
        *,
        host: str = "127.0.0.1",
        path: str = "",
        receive_buffer: int = 0,
        records: bool = False,
        tls: ssl.SSLContext | None = None,
    ):
        self.script = script
        self.records = records
        self.next_context = (lambda: tls) if tls is not None else None
        self.requests: list[Message] = []
        self.conversations: list[Conversation] = []
        self._errors: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        if path:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(path)
            self.address = f"unix:{path}"
        else:
            self._listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
            if receive_buffer:
                self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            self._listener.bind((host, 0))
            self.port: int = self._listener.getsockname()[1]
            self.address = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
            self.address = f"https://{self.address}" if tls else self.address
        self._listener.listen(128)
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:  # closed: the test is over
                return
            conversation = Conversation(sock, self, len(self.conversations))
            self.conversations.append(conversation)
            thread = threading.Thread(target=self._converse, args=(conversation,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _converse(self, conversation: Conversation) -> None:
        try:
            if self.next_context is not None:
                conversation.shake_hands(self.next_context())
            self.script(conversation)
        except (Ended, OSError):  # the proxy has hung up, or the test is over
            pass
        except BaseException as error:  # a mistake in the script: shown when the test ends
            self._errors.append(error)
        finally:
            conversation.close()
            conversation.ended.set()

    def close(self) -> None:
        """Stop listening and end every connection; a script that failed fails the test."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join(PATIENCE_S)
        self._listener.close()
        for conversation in self.conversations:
            with contextlib.suppress(OSError):
                conversation.sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "a script does not end"
        if self._errors:
            raise self._errors[0]
