"""Entity tags of the status document: `e<epoch>-<seq>`, with a new `seq` whenever anything but a clock has moved on."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

# They tell the time of asking, not a change of what is told.
CLOCKS = frozenset({"at", "age_s", "uptime_s", "since_s", "traffic_age_s"})


class Revisions:
    """Remembers the last document it was shown, as a digest."""

    def __init__(self) -> None:
        self._seq = 0
        self._digest = b""

    def tag(self, document: dict[str, Any]) -> str:
        """The tag without its quotes."""
        digest = hashlib.blake2b(orjson.dumps(without_clocks(document)), digest_size=16).digest()
        if digest != self._digest:
            self._seq, self._digest = self._seq + 1, digest
        return f"e{document['epoch']}-{self._seq}"


def without_clocks(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_clocks(item) for key, item in value.items() if key not in CLOCKS}
    if isinstance(value, list | tuple):
        return [without_clocks(item) for item in value]
    return value
