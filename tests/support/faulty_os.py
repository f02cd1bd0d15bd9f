"""A stand-in for the module `os` that fails, or dies, at a chosen call."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class Died(BaseException):
    """The process ends here: nothing after it runs, not even a clean-up."""


class FaultyOs:
    """Counts the calls that matter and lets `fault` act before (or `after` it) the one with this number."""

    CALLS = ("open", "write", "fsync", "close", "replace", "unlink")

    def __init__(self, at: int | None = None, *, fault: str = "raise", after: bool = False, once: bool = True) -> None:
        self.calls: list[str] = []
        self._at, self._fault, self._after, self._once = at, fault, after, once
        self._dead = False

    def __getattr__(self, name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._dead:
                raise Died
            number = len(self.calls)
            self.calls.append(name)
            hit = self._at is not None and (number == self._at if self._once else number >= self._at)
            if not hit:
                return real(*args, **kwargs)
            if self._fault == "short" and name == "write":
                return real(args[0], bytes(args[1])[: max(1, len(args[1]) // 2)])
            if self._after or name == "close":  # a close that is not made would leak into the next test
                with contextlib.suppress(FileNotFoundError):
                    real(*args, **kwargs)
            if self._fault == "die":
                self._dead = True
                raise Died
            if self._fault == "raise":
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **kwargs)

        return call
