"""`state.json` as bgproxy wrote it before there was a journal."""

from __future__ import annotations

import orjson

from bgproxy.controlplane.migration import checksum

MEMBERS = {
    "format": 1,
    "epoch": 8,
    "live": "green",
    "previous": "blue",
    "last_switch": {
        "at": "2026-01-31T12:00:00Z",
        "from": "blue",
        "to": "green",
        "kind": "switch",
        "by": "ci",
        "reason": "1.2 → 1.3",
        "forced": False,
    },
}


def state_file(**members: object) -> bytes:
    """With these members, "absent" for none; its checksum is right for them."""
    everything = {key: value for key, value in (MEMBERS | members).items() if value != "absent"}
    everything["checksum"] = checksum(everything)
    return orjson.dumps(everything, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2) + b"\n"
