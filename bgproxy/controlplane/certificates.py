"""The certificates that workers show: loaded, watched, replaced as a whole or not at all.

The files are looked at twice a second. What changed is loaded once it has stopped changing, so that a certificate and
its key may be replaced one after the other. A set with anything wrong in it is refused, said so, and the last good one
stays, also for workers that are started later: they get it from here, not from the files.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from bgproxy.config.certificates import load_certificates, warnings_about
from bgproxy.errors import StartupError
from bgproxy.tls.openssl import TICKET_KEY_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bgproxy.config.certificates import CertificateFacts, Loaded, Tls
    from bgproxy.controlplane.events import Emit
    from bgproxy.core.certificates import TlsMaterial

POLL_S: Final = 0.5
TRIAL: Final = (sys.executable, "-m", "bgproxy.tls.openssl")
TRIAL_BOUND_S: Final = 10.0
# A ticket is good for two hours, and the last key is accepted beside the present one: nobody is sent away by a change.
TICKET_KEY_LIFE_S: Final = 12 * 3600.0

_Look = tuple[tuple[int, ...] | None, ...]


class Certificates:
    """`tell` is called with every new set. Without TLS addresses nothing is ever started."""

    def __init__(
        self,
        tls: Tls,
        *,
        emit: Emit,
        poll_s: float = POLL_S,
        trial: Sequence[str] = TRIAL,
        key_life_s: float = TICKET_KEY_LIFE_S,
    ) -> None:
        self._tls, self._emit, self._poll_s, self._trial = tls, emit, poll_s, trial
        self._key_life_s = key_life_s
        self._tell: Callable[[TlsMaterial], None] = lambda material: None
        self._material: TlsMaterial | None = None
        self._facts: tuple[CertificateFacts, ...] = ()
        self._loaded_at = 0.0
        self._refused: dict[str, object] | None = None
        self.reloads = {"ok": 0, "refused": 0}
        self._asked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._seen: _Look = ()
        self._keys_made = 0.0

    @property
    def tell(self) -> Callable[[TlsMaterial], None]:
        return self._tell

    @tell.setter
    def tell(self, tell: Callable[[TlsMaterial], None]) -> None:
        self._tell = tell
        if self._material is not None:
            tell(self._material)

    # --- beginning and end ---

    async def start(self) -> None:
        """Load and watch. StartupError where the set cannot be used: then there is no last good one."""
        self._seen = await asyncio.to_thread(self._look)
        loaded = await asyncio.to_thread(load_certificates, self._tls)
        if loaded.material is None:
            raise StartupError("; ".join(_sentences(loaded)), hint="`bgproxy check` says the same, with places")
        if await self._resumes(loaded.material.pairs[0].pem):
            loaded = msgspec.structs.replace(loaded, material=_with_keys(loaded.material, _new_key()))
        else:
            self._emit(
                "tls_resumption_limited", reason="this Python's OpenSSL cannot share session tickets between workers"
            )
        self._take(loaded)
        self._task = asyncio.ensure_future(self._watch())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def reload(self) -> None:
        """Look now, whether anything changed or not."""
        self._asked.set()

    async def prepare(self, tls: Tls) -> Loaded:
        """What these files are worth; nothing is used yet."""
        version = 1 if self._material is None else self._material.version + 1
        return await asyncio.to_thread(load_certificates, tls, version=version)

    def use(self, tls: Tls, loaded: Loaded) -> None:
        """What was prepared, from now on. Without a first look at the start there is nobody to show them to."""
        if self._material is None or loaded.material is None:
            return
        self._tls = tls
        self._seen = self._look()
        version = self._material.version + 1  # a change of the files may have come in between
        self._accept(
            msgspec.structs.replace(loaded, material=msgspec.structs.replace(loaded.material, version=version))
        )

    async def _resumes(self, pem: bytes) -> bool:
        """Tried out in a process of its own, which may crash without harm."""
        process = await asyncio.create_subprocess_exec(
            *self._trial,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(TRIAL_BOUND_S):
                await process.communicate(pem)
        except TimeoutError:
            process.kill()
            await process.wait()
        return process.returncode == 0

    # --- watching ---

    async def _watch(self) -> None:
        last = self._seen
        while True:
            asked = await self._asked_within(self._poll_s)
            now = await asyncio.to_thread(self._look)
            if asked or (now == last and now != self._seen):
                await self._reload(now)
            last = now
            if time.monotonic() - self._keys_made > self._key_life_s:
                self._change_keys()

    async def _asked_within(self, bound_s: float) -> bool:
        try:
            async with asyncio.timeout(bound_s):
                await self._asked.wait()
        except TimeoutError:
            return False
        self._asked.clear()
        return True

    def _look(self) -> _Look:
        """What tells one state of the files from another. Links are followed: certbot and Kubernetes move those."""
        return tuple(_identity(path) for path in self._tls.files)

    async def _reload(self, seen: _Look) -> None:
        self._seen = seen  # taken before the files are read: what changes meanwhile is another change
        assert self._material is not None
        loaded = await asyncio.to_thread(load_certificates, self._tls, version=self._material.version + 1)
        if loaded.material is None:
            self.reloads["refused"] += 1
            reason = "; ".join(_sentences(loaded))
            self._refused = {"at": _iso(time.time()), "reason": reason}
            self._emit("tls_reload_refused", reason=reason)
            return
        self._accept(loaded)

    def _accept(self, loaded: Loaded) -> None:
        assert self._material is not None
        assert loaded.material is not None
        keys = self._material.ticket_keys
        if keys and loaded.material.client_ca != self._material.client_ca:
            keys = (_new_key(),)  # a session that another authority vouched for is not to be resumed
        self._take(msgspec.structs.replace(loaded, material=_with_keys(loaded.material, *keys)))
        self.reloads["ok"] += 1
        self._emit("tls_reloaded", version=loaded.material.version, certificates=[facts.cert for facts in self._facts])

    def _take(self, loaded: Loaded) -> None:
        assert loaded.material is not None
        if self._material is None or loaded.material.ticket_keys != self._material.ticket_keys:
            self._keys_made = time.monotonic()
        self._material, self._facts, self._loaded_at = loaded.material, loaded.facts, time.time()
        self._refused = None
        if loaded.material.version > 1:  # the first look has said so already, as a warning of the configuration
            for sentence in (text for facts in loaded.facts for text in warnings_about(facts, time.time())):
                self._emit("configuration_warning", warning=sentence)
        self._tell(loaded.material)

    def _change_keys(self) -> None:
        self._keys_made = time.monotonic()
        material = self._material
        if material is not None and material.ticket_keys:
            version = material.version + 1
            changed = _with_keys(material, _new_key(), material.ticket_keys[0])
            self._material = msgspec.structs.replace(changed, version=version)
            self._tell(self._material)

    # --- for those who ask ---

    def expiries(self) -> list[float]:
        """Unix seconds, in the order of the configuration."""
        return [facts.not_after for facts in self._facts]

    def report(self) -> dict[str, Any] | None:
        """The section of the status document; None without TLS."""
        if self._material is None:
            return None
        return {
            "version": self._material.version,
            "age_s": round(time.time() - self._loaded_at, 3),
            "stale": False,
            "loaded_at": _iso(self._loaded_at),
            "certificates": [
                {
                    "names": list(facts.names),
                    "key_type": facts.key_type,
                    "not_before": _iso(facts.not_before),
                    "not_after": _iso(facts.not_after),
                    "expires_in_s": round(facts.not_after - time.time()),
                    "loaded_at": _iso(self._loaded_at),
                    "file": facts.cert,
                }
                for facts in self._facts
            ],
            "last_refused": self._refused,
            "resumption": "all workers" if self._material.ticket_keys else "per worker",
        }


def _identity(path: os.PathLike[str]) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _sentences(loaded: Loaded) -> list[str]:
    return [sentence for _, sentence in loaded.problems] or ["there are no certificates"]


def _new_key() -> bytes:
    return os.urandom(TICKET_KEY_BYTES)


def _with_keys(material: TlsMaterial, *keys: bytes) -> TlsMaterial:
    return msgspec.structs.replace(material, ticket_keys=keys)


def _iso(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
