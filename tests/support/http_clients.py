"""Real HTTP clients behind one small interface: each does what it does by itself, nothing is configured away."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import aiohttp
import httpx
import requests

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence

PATIENCE_S = 30


class Answer(NamedTuple):
    """`fields` with lower-case names; `body` as the client hands it to its user."""

    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.body)
        return document


class Client(Protocol):
    """One session: its cookies and its connections are kept. `chunks` are sent as they are made, without a length."""

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        chunks: Sequence[bytes] = (),
        follow: bool = False,
        fields: dict[str, str] | None = None,
    ) -> Answer: ...

    def pieces(self, path: str) -> Iterator[bytes]:
        """The body of an answer, as it comes."""
        ...

    def close(self) -> None: ...


class Requests:
    def __init__(self, url: str) -> None:
        self._url = url
        self._session = requests.Session()
        self._session.trust_env = False

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        chunks: Sequence[bytes] = (),
        follow: bool = False,
        fields: dict[str, str] | None = None,
    ) -> Answer:
        data = iter(chunks) if chunks else body or None
        done = self._session.request(
            method, self._url + path, data=data, headers=fields, allow_redirects=follow, timeout=PATIENCE_S
        )
        return Answer(done.status_code, {name.lower(): value for name, value in done.headers.items()}, done.content)

    def pieces(self, path: str) -> Iterator[bytes]:
        with self._session.get(self._url + path, stream=True, timeout=PATIENCE_S) as answer:
            yield from answer.iter_content(None)

    def close(self) -> None:
        self._session.close()


class Httpx:
    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=PATIENCE_S, trust_env=False)

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        chunks: Sequence[bytes] = (),
        follow: bool = False,
        fields: dict[str, str] | None = None,
    ) -> Answer:
        content = iter(chunks) if chunks else body or None
        done = self._client.request(method, path, content=content, headers=fields, follow_redirects=follow)
        return Answer(done.status_code, dict(done.headers), done.content)

    def pieces(self, path: str) -> Iterator[bytes]:
        with self._client.stream("GET", path) as answer:
            yield from answer.iter_bytes()

    def close(self) -> None:
        self._client.close()


class Aiohttp:
    """In a loop of its own, driven from outside."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._runner = asyncio.Runner()
        self.session = self.run(self._make())

    async def _make(self) -> aiohttp.ClientSession:
        # By default it keeps no cookies of addresses without a name.
        jar = aiohttp.CookieJar(unsafe=True)
        return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE_S), cookie_jar=jar)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(work)

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        chunks: Sequence[bytes] = (),
        follow: bool = False,
        fields: dict[str, str] | None = None,
    ) -> Answer:
        answer: Answer = self.run(self._ask(method, path, body, chunks, follow, fields))
        return answer

    async def _ask(
        self, method: str, path: str, body: bytes, chunks: Sequence[bytes], follow: bool, fields: dict[str, str] | None
    ) -> Answer:
        async def each() -> AsyncIterator[bytes]:
            for chunk in chunks:
                yield chunk

        data = each() if chunks else io.BytesIO(body) if body else None
        expects = (fields or {}).get("Expect") == "100-continue"
        kept = {name: value for name, value in (fields or {}).items() if name != "Expect"}
        async with self.session.request(
            method, self.url + path, data=data, headers=kept, allow_redirects=follow, expect100=expects
        ) as done:
            fields = {name.lower(): value for name, value in done.headers.items()}
            return Answer(done.status, fields, await done.read())

    def pieces(self, path: str) -> Iterator[bytes]:
        answer = self.run(self._open(path))
        try:
            while piece := self.run(answer.content.readany()):
                yield piece
        finally:
            answer.close()

    async def _open(self, path: str) -> aiohttp.ClientResponse:
        return await self.session.get(self.url + path)

    def close(self) -> None:
        self.run(self.session.close())
        self._runner.close()


class Curl:
    """A process per request; its cookies are in a file."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._directory = Path(tempfile.mkdtemp())
        self._jar = str(self._directory / "cookies")

    def _command(self, *arguments: str) -> list[str]:
        return ["curl", "-q", "-sS", "--noproxy", "*", "--max-time", str(PATIENCE_S), *arguments]

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        chunks: Sequence[bytes] = (),
        follow: bool = False,
        fields: dict[str, str] | None = None,
    ) -> Answer:
        heads, out = self._directory / "heads", self._directory / "body"
        out.write_bytes(b"")
        command = self._command("-D", str(heads), "-o", str(out), "-b", self._jar, "-c", self._jar, self._url + path)
        command += ["--head"] if method == "HEAD" else ["-X", method] if method != "GET" else []
        command += [word for name, value in (fields or {}).items() for word in ("-H", f"{name}: {value}")]
        command += ["-L"] if follow else []
        if chunks:
            command += ["-H", "Transfer-Encoding: chunked", "-T", "-"]
        elif body:
            command += ["--data-binary", "@-", "-H", "Content-Type: application/octet-stream"]
        subprocess.run(command, input=b"".join(chunks) or body, check=True, timeout=PATIENCE_S)
        last = heads.read_bytes().decode("latin-1").rstrip("\r\n").split("\r\n\r\n")[-1]
        first, *lines = last.split("\r\n")
        pairs = (line.partition(":") for line in lines)
        received = b"" if method == "HEAD" else out.read_bytes()
        return Answer(int(first.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}, received)

    def pieces(self, path: str) -> Iterator[bytes]:
        with subprocess.Popen(self._command("-N", self._url + path), stdout=subprocess.PIPE, bufsize=0) as process:
            assert process.stdout is not None
            try:
                while piece := process.stdout.read(65536):
                    yield piece
            finally:
                process.terminate()

    def close(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._directory)
