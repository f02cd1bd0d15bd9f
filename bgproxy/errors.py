"""Every error an operator can meet, with its exit code, HTTP status and problem code.

BgproxyError
├── ConfigError                 exit 3   file:line:col, what was expected, what to do
├── StartupError                exit 1   a socket, a directory, another instance
├── StateCorrupt                exit 1   names the file and the remedy
├── AdminUnreachable            exit 4   client commands only
└── ControlError                         answers of the admin API, as RFC 9457 problems
    ├── BadRequest              400  exit 2
    ├── NothingToRollBackTo     409  exit 5
    ├── SwitchRefused           409  exit 5   carries every failed verdict
    ├── GateConflict            409  exit 5   paused where maintenance was asked for, or the reverse
    ├── PoolRefused             409  exit 5   the same about a change of a pool
    ├── UnknownUpstream         404  exit 2
    ├── ConfigurationRefused    409  exit 3   a reload; carries every problem
    ├── NothingToReload         409  exit 5   it was started without a file
    ├── SwitchInProgress        409  exit 6   names the holder
    ├── StaleEpoch              412  exit 6
    ├── IdempotencyKeyReused    422  exit 2   the key belongs to another order
    ├── UpgradeImpossible       409  exit 5   as things are, the program cannot be replaced
    ├── UpgradeFailed           503  exit 1   the new program is not ready: the old one goes on
    ├── StoreUnavailable        503  exit 1   the intent could not be written: nothing was changed
    ├── WorkersDidNotAcknowledge 504 exit 7   names the workers and tells the truth about the word
    ├── FenceTimedOut           504  exit 7   the old colour did not become empty: the switch was taken back
    ├── DrainTimedOut           504  exit 7   the switch is done, old requests are still running
    └── UpstreamNotUp           504  exit 7   it is enabled, but its checks do not call it up
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_CONFIG, EXIT_UNREACHABLE, EXIT_REFUSED, EXIT_CONFLICT, EXIT_TIMEOUT = range(8)


class BgproxyError(Exception):
    """`str(error)` is the sentence for the operator; `hint` says what to do."""

    exit_code: ClassVar[int] = EXIT_FAILED

    def __init__(self, detail: str, *, hint: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint


class ConfigError(BgproxyError):
    exit_code = EXIT_CONFIG


class StartupError(BgproxyError):
    pass


class StateCorrupt(BgproxyError):
    pass


class AdminUnreachable(BgproxyError):
    exit_code = EXIT_UNREACHABLE


class ControlError(BgproxyError):
    """`code` is stable, `extra` are further members of the problem document. `was_done`: the order was carried out all
    the same, and something else is not as it should be."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"

    def __init__(self, detail: str, *, hint: str = "", extra: dict[str, Any] | None = None) -> None:
        super().__init__(detail, hint=hint)
        self.extra = extra or {}
        self.was_done = False


class BadRequest(ControlError):
    status, code, exit_code = 400, "bad_request", EXIT_USAGE


class NothingToRollBackTo(ControlError):
    status, code, exit_code = 409, "nothing_to_roll_back_to", EXIT_REFUSED


class SwitchRefused(ControlError):
    """`failed` holds one mapping per failed check: gate, target, check, result, since_s."""

    status, code, exit_code = 409, "switch_refused", EXIT_REFUSED

    def __init__(self, detail: str, *, failed: Sequence[dict[str, Any]], hint: str = "") -> None:
        super().__init__(detail, hint=hint, extra={"failed": list(failed)})


class GateConflict(ControlError):
    status, code, exit_code = 409, "gate_conflict", EXIT_REFUSED


class PoolRefused(ControlError):
    """`failed` as in SwitchRefused; nothing was changed."""

    status, code, exit_code = 409, "pool_refused", EXIT_REFUSED

    def __init__(self, detail: str, *, failed: Sequence[dict[str, Any]] = (), hint: str = "") -> None:
        super().__init__(detail, hint=hint, extra={"failed": list(failed)})


class UnknownUpstream(ControlError):
    status, code, exit_code = 404, "unknown_upstream", EXIT_USAGE


class ConfigurationRefused(ControlError):
    """`problems` holds one line per problem; nothing was changed."""

    status, code, exit_code = 409, "configuration_refused", EXIT_CONFIG

    def __init__(self, detail: str, *, problems: Sequence[str], hint: str = "") -> None:
        super().__init__(detail, hint=hint, extra={"problems": list(problems)})


class NothingToReload(ControlError):
    status, code, exit_code = 409, "nothing_to_reload", EXIT_REFUSED


class SwitchInProgress(ControlError):
    status, code, exit_code = 409, "switch_in_progress", EXIT_CONFLICT


class StaleEpoch(ControlError):
    status, code, exit_code = 412, "stale_epoch", EXIT_CONFLICT


class IdempotencyKeyReused(ControlError):
    status, code, exit_code = 422, "idempotency_key_reused", EXIT_USAGE


class UpgradeImpossible(ControlError):
    status, code, exit_code = 409, "upgrade_impossible", EXIT_REFUSED


class UpgradeFailed(ControlError):
    status, code = 503, "upgrade_failed"


class StoreUnavailable(ControlError):
    status, code = 503, "store_unavailable"


class WorkersDidNotAcknowledge(ControlError):
    status, code, exit_code = 504, "workers_did_not_acknowledge", EXIT_TIMEOUT


class FenceTimedOut(ControlError):
    status, code, exit_code = 504, "fence_timed_out", EXIT_TIMEOUT


class DrainTimedOut(ControlError):
    status, code, exit_code = 504, "drain_timed_out", EXIT_TIMEOUT


class UpstreamNotUp(ControlError):
    status, code, exit_code = 504, "upstream_not_up", EXIT_TIMEOUT
