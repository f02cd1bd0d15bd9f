"""May a failed attempt be made again? Never on another colour: the caller asks for an upstream of the same pool.

RFC 9110 section 9.2.2: a proxy must not repeat a request that is not idempotent, unless it knows nothing was sent.
"""

from __future__ import annotations

from bgproxy.core.failure import Failure

SAFE = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE"))  # RFC 9110 9.2.1: everything else writes
IDEMPOTENT = SAFE | {b"PUT", b"DELETE"}


def may_try_another_upstream(failure: Failure, attempts: int, retries: int) -> bool:
    """After a failed connect: nothing was sent, so the method does not matter. `attempts` includes the failed one."""
    return failure.nothing_sent and attempts <= retries


def may_send_again(failure: Failure, method: bytes, *, has_body: bool, reused: bool, resent: bool) -> bool:
    """After a reset: once, on a reused connection only (the peer closed it while idle), where replaying is harmless."""
    return failure.replayable and reused and not resent and not has_body and method in IDEMPOTENT
