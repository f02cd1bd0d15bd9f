"""Speaks HTTP to the admin API with the standard library alone, so that a command starts in a moment."""

from __future__ import annotations

import http.client
import json
import os
import select
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bgproxy import __version__
from bgproxy.errors import EXIT_TIMEOUT, AdminUnreachable, BgproxyError

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_ADMIN = "http://127.0.0.1:8081"
CONNECT_TIMEOUT_S = 5.0
SILENCE_S = 10.0  # of an order that is being carried out, before it is asked whether anybody is still there


class UsageProblem(BgproxyError):
    """An option or a file of the client command is not usable."""

    exit_code = 2


class NoAnswerInTime(BgproxyError):
    exit_code = EXIT_TIMEOUT


class Answer:
    """An answer of the admin API; `document` is the JSON body, None where it has none."""

    def __init__(self, status: int, document: Any) -> None:
        self.status, self.document = status, document

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class AdminClient:
    """`targets` are tried in order until one can be connected to. `silence_s` is how long the answer to an order may
    stay away before the admin API is asked whether it is alive."""

    def __init__(self, targets: list[str], token: str = "", *, silence_s: float = SILENCE_S) -> None:
        self._targets, self._token, self._silence_s = targets, token, silence_s

    def get(self, path: str, *, timeout_s: float = 10.0) -> Answer:
        return self._ask("GET", path, None, timeout_s)

    def post(
        self, path: str, body: Mapping[str, Any], *, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> Answer:
        return self._ask("POST", path, body, timeout_s, headers)

    def change(self, method: str, path: str, body: Mapping[str, Any], *, timeout_s: float) -> Answer:
        return self._ask(method, path, body, timeout_s)

    def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        timeout_s: float,
        more_headers: Mapping[str, str] | None = None,
    ) -> Answer:
        connection, target = self._connect()
        headers = {"User-Agent": f"bgproxy-cli/{__version__}", "Accept": "application/json"} | dict(more_headers or {})
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        if body is not None:
            headers["Content-Type"] = "application/json"
        consequence = "" if method == "GET" else "; it may or may not have been carried out"
        try:
            connection.sock.settimeout(timeout_s)
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            if timeout_s > self._silence_s:
                self._wait_for_answer(connection.sock, target, timeout_s, consequence)
            response = connection.getresponse()
            raw = response.read()
        except TimeoutError:
            raise NoAnswerInTime(
                f"the admin API at {target} did not answer within {timeout_s:g}s{consequence}",
                hint="`bgproxy status` tells what is live",
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise AdminUnreachable(
                f"the connection to the admin API at {target} broke: {_reason(error)}",
                hint="`bgproxy status` tells what is live",
            ) from None
        finally:
            connection.close()
        return Answer(response.status, _document(raw, target))

    def _wait_for_answer(self, sock: socket.socket, target: str, timeout_s: float, consequence: str) -> None:
        """An answer may rightly take as long as a drain: not how long it takes is what matters, but whether it can
        still come. TimeoutError where it does not come in time, or the admin API is not alive."""
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            if select.select([sock], [], [], min(left_s, self._silence_s))[0]:
                return
            if left_s > self._silence_s:
                self._ask_whether_alive(target, consequence)
        raise TimeoutError

    def _ask_whether_alive(self, target: str, consequence: str) -> None:
        connection = _connection(target)
        try:
            connection.request("GET", "/livez")
            connection.getresponse().read()
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswerInTime(
                f"the admin API at {target} does not answer any more ({_reason(error)}){consequence}",
                hint="traffic goes on without it; `bgproxy status` tells what is live once it answers, its log why not",
            ) from None
        finally:
            connection.close()

    def _connect(self) -> tuple[http.client.HTTPConnection, str]:
        failures = []
        for target in self._targets:
            connection = _connection(target)
            try:
                connection.connect()
            except (OSError, UnicodeError) as error:  # a name that cannot be one, like a..b, is a UnicodeError
                connection.close()
                failures.append(f"{target} ({_reason(error)})")
                continue
            return connection, target
        raise AdminUnreachable(
            f"no admin API can be reached at {' or '.join(failures)}",
            hint="is bgproxy running? Say where with --admin URL|unix:PATH, or BGPROXY_ADMIN",
        )


def find_admin(explicit: str | None, environment: Mapping[str, str]) -> list[str]:
    """Where the admin API may be: as told, else as the supervisor wrote it down, else at the default address."""
    if explicit:
        return [explicit]
    addresses = state_dir(environment) / "addresses.json"
    try:
        written = json.loads(addresses.read_bytes())
        # The socket first: who may open the file needs no token.
        found = [_prefixed("unix:", written.get("socket")), _prefixed("http://", written.get("admin"))]
    except (OSError, ValueError, AttributeError):
        found = []
    return [target for target in found if target] or [DEFAULT_ADMIN]


def state_dir(environment: Mapping[str, str]) -> Path:
    """The directory that `[state] dir = "auto"` means."""
    if told := environment.get("BGPROXY_STATE__DIR", "auto").removeprefix("auto") or environment.get("STATE_DIRECTORY"):
        return Path(told)
    home = environment.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(home) / "bgproxy"


def read_token(path: str | None) -> str:
    if not path:
        return ""
    try:
        token = Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageProblem(f"the token file {path} cannot be read: {_reason(error)}") from None
    if not token or any(not "!" <= character <= "~" for character in token):
        raise UsageProblem(f"the token file {path} holds no token: one line of printable characters is expected")
    return token


def _prefixed(scheme: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        return ""
    return value if value.startswith(scheme) else scheme + value


def _connection(target: str) -> http.client.HTTPConnection:
    if target.startswith("unix:"):
        return _UnixConnection(target.removeprefix("unix:"), CONNECT_TIMEOUT_S)
    try:
        parts = urlsplit(target if "://" in target else f"http://{target}")
        scheme, host, port, path = parts.scheme, parts.hostname, parts.port, parts.path
    except ValueError:
        scheme, host, port, path = "", None, None, ""
    if scheme != "http" or not host or port is None or path.strip("/"):
        raise UsageProblem(f"--admin {target!r} is not usable: expected http://HOST:PORT or unix:/PATH")
    return http.client.HTTPConnection(host, port, timeout=CONNECT_TIMEOUT_S)


def _document(raw: bytes, target: str) -> Any:
    if not raw.strip():
        return None
    try:
        return json.loads(raw)
    except ValueError:
        raise AdminUnreachable(
            f"what answers at {target} is not the admin API of bgproxy",
            hint="is --admin the address of the proxy itself? The admin API has its own",
        ) from None


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {CONNECT_TIMEOUT_S:g}s"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__
