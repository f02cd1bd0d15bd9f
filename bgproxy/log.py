"""Events to standard error: one line each, JSON for machines or text for people, never a raw control character.

log = structlog.get_logger()
log.info("cut_over", colour="green", epoch=8)
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import sys
from collections import deque
from typing import TYPE_CHECKING, Any, TextIO

import orjson
import structlog

if TYPE_CHECKING:
    from structlog.typing import EventDict, WrappedLogger

MOST_WAITING = 10_000  # lines
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def set_up(level: str = "info", format: str = "auto", stream: TextIO | None = None) -> None:
    """`format` is json, text, or auto: text on a terminal. `stream` is standard error where none is given."""
    stream = stream or sys.stderr
    lines = _Lines(stream)
    as_text = format == "text" or (format == "auto" and stream.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
            structlog.processors.format_exc_info,
            render_text if as_text else render_json,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=False,  # loggers made at import time follow the configuration that comes later
    )


class _Lines:
    """Writes lines. To say something may never stop what is being done: where nobody reads the other end of the pipe,
    lines wait, and the oldest are lost; where nobody can be told (the reader has left, the disk is full), all are."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._waiting: deque[bytes] = deque(maxlen=MOST_WAITING)
        self._begun = b""  # the rest of a line that did not fit
        self._poll: select.poll | None = None
        with contextlib.suppress(OSError, ValueError):
            self._fd = stream.fileno()
            self._poll = select.poll()
            self._poll.register(self._fd, select.POLLOUT)

    def msg(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            if self._poll is None:
                self._stream.write(line + "\n")
                self._stream.flush()
            else:
                self._waiting.append((line + "\n").encode(errors="backslashreplace"))
                self._write(self._poll)

    debug = info = warning = error = msg

    def _write(self, poll: select.poll) -> None:
        while (self._begun or self._waiting) and poll.poll(0):
            line, self._begun = self._begun or self._waiting.popleft(), b""
            # As much as a pipe that is ready takes without blocking.
            self._begun = line[os.write(self._fd, line[: select.PIPE_BUF]) :]


def render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """ts, level and event first, so that a line can be read by people too. JSON escapes C0; C1 and DEL are ours."""
    ordered = {key: event.pop(key) for key in ("ts", "level", "event") if key in event} | dict(event)
    line = orjson.dumps(ordered, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    return line.translate(_ESCAPES_JSON)


def render_text(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """`2026-01-31T12:00:00.000000Z info     cut_over colour=green epoch=8`; an exception follows on further lines."""
    exception = event.pop("exception", "")
    head = f"{event.pop('ts', '')} {event.pop('level', ''):<8} {_plain(event.pop('event', ''))}"
    line = " ".join([head, *(f"{_plain(key)}={_quoted(value)}" for key, value in event.items())])
    return "\n    ".join([line, *map(_plain, str(exception).splitlines())])


def _quoted(value: Any) -> str:
    text = _plain(value)
    return f'"{text}"' if not text or " " in text or "=" in text else text


def _plain(value: Any) -> str:
    return str(value).translate(_ESCAPES_TEXT)


# A peer's bytes end up in events; on a terminal they must not move the cursor, and in a file not forge a line.
_CONTROLS = [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029]
_ESCAPES_TEXT = {code: repr(chr(code))[1:-1] for code in _CONTROLS}
_ESCAPES_JSON = {code: f"\\u{code:04x}" for code in _CONTROLS}
