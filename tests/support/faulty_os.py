"""A stand-in for the module `os` that fails, or dies, at a chosen call."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections import Counter
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
        self.made = 0

    def fail_from_now(self, number: int | None, *, after: bool = False) -> None:
        """The call that comes `number` calls later."""
        self._at, self._after = None if number is None else len(self.calls) + number, after

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


class MoodyOs:
    """The module `os` on a disk that changes its mind: `failing` maps calls to the error they end with now, `held`
    names those that hang until `release`. Calls are counted by name in `made`."""

    def __init__(self) -> None:
        self.failing: dict[str, int] = {}
        self.held: set[str] = set()
        self.made: Counter[str] = Counter()
        self._released = threading.Event()

    def release(self) -> None:
        self.held.clear()
        self._released.set()
        self._released = threading.Event()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.made[name] += 1
            if name in self.held:
                assert self._released.wait(30), f"{name} was never released"
            if name in self.failing:
                raise OSError(self.failing[name], os.strerror(self.failing[name]))
            return real(*args, **kwargs)

        return call
