"""What the commands print: answers of the admin API as sentences and small tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_STREAMS = {"configured": "as [switch.streams] says", "keep": "kept", "close-now": "told to come back"}
Document = Mapping[str, Any]


def report(document: Document, undo_suffix: str = "") -> list[str]:
    """A SwitchReport: old → new, epoch, durations, the undo command."""
    if not document["changed"]:
        said = document["detail"] or f"{document['to']} is live already; nothing was changed"
        return [said, f"epoch {document['epoch']}", *_overridden(document)]
    move = f"{document['from']} → {document['to']}"
    lines = [
        f"{move}  epoch {document['epoch']}",
        f"durable in {seconds(document['durable_s'])}, seen by every worker in {seconds(document['acked_s'])}",
    ]
    if document.get("held_s") is not None:
        cut = f", {document['cut']} were cut" if document["cut"] else ""
        held = f"{document['held']} requests were held, for {seconds(document['held_s'])} at most"
        lines.append(f"{document['mode']}: {held}{cut}")
    if document.get("streams_left"):
        lines.append(f"streams left on {document['from']}: {document['streams_left']}, {_STREAMS[document['streams']]}")
    if document.get("drain_s") is not None:
        lines.append(f"the old requests were done in {seconds(document['drain_s'])}")
    lines += _replaced(document)
    lines += _overridden(document)
    if document["detail"]:
        lines.append(document["detail"])
    if document["undo"]:
        lines.append(f"undo: {document['undo']}{undo_suffix}")
    return lines


def gate(document: Document, undo_suffix: str = "") -> list[str]:
    """A GateReport: what is done with requests now, and how to end it."""
    now = {
        "open": f"requests are served by {document['live']}",
        "paused": "new requests are held",
        "maintenance": "every request is answered 503",
    }[document["state"]]
    lines = [f"{document['state']}: {now}" + ("" if document["changed"] else "; nothing was changed")]
    if document["changed"]:
        lines.append(f"seen by every worker in {seconds(document['acked_s'])}, {document['in_flight']} in flight")
    lines += _replaced(document)
    if not document["durable"]:
        lines.append("NOT ON DISK YET: a restart before it is would not know what was done last")
    return [*lines, f"undo: {document['undo']}{undo_suffix}"] if document["changed"] else lines


def upgrade(document: Document) -> list[str]:
    versions = f"version {document['old_version']} → {document['new_version']}"
    return [
        f"pid {document['old_pid']} → {document['new_pid']}  {versions}",
        f"the new program serves after {seconds(document['seconds'])}; the old workers finish what they have",
    ]


def problem(document: Document) -> list[str]:
    """A problem document: the sentence, every reason, what to do."""
    lines = [str(document.get("detail") or document.get("title") or "the admin API refused")]
    lines += [f"  - {text}" for text in document.get("problems", ())]
    # A sentence that gives the reasons already need not be followed by them once more.
    lines += [f"  - {failed_check(each)}" for each in document.get("failed", ()) if str(each["result"]) not in lines[0]]
    if document.get("hint"):
        lines.append(f"hint: {document['hint']}")
    return lines


def preflight(document: Document) -> list[str]:
    to = document["to"]
    if document["ok"]:
        head = f"a switch to {to} would be done now"
    else:
        head = f"a switch to {to} would be refused now"
    return [head, *(f"  - {failed_check(each)}" for each in document["failed"])]


def failed_check(check: Document) -> str:
    since = check.get("since_s")
    for_how_long = "" if since is None else f" (for {seconds(since)})"
    return f"{check['target']}: {check['check']}: {check['result']}{for_how_long}"


def status(document: Document) -> list[str]:
    pools = document["pools"]
    up_for = seconds(document["uptime_s"])
    lines = [
        f"{document['live']} is live  epoch {document['epoch']}  {document['state']}  up {up_for}",
        *_waiting(document),
        "",
        *table(
            ("pool", "role", "healthy", "from", "in flight", "streams", "req/s", "errors", "p50", "p99"),
            [_pool_row(name, pools[name]) for name in ("blue", "green")],
        ),
        "",
        *table(
            ("upstream", "address", "state", "last check"),
            [_upstream_row(name, each) for name in ("blue", "green") for each in pools[name]["upstreams"]],
        ),
        "",
    ]
    lines += [f"{name}: {pools[name]['degraded']}" for name in ("blue", "green") if pools[name].get("degraded")]
    lines += [f"{name}: {left}" for name in ("blue", "green") if (left := _left_behind(pools[name]))]
    return lines + _outlook(document)


def _waiting(document: Document) -> list[str]:
    """What waits for somebody: requests for the word to open, what was done for a disk."""
    held, journal = document.get("held"), document.get("journal")
    lines = [f"held: {held} request{'s' if held > 1 else ''}"] if held else []
    if not document.get("durable", True):
        lines.append("NOT ON DISK YET: what was done last; a restart now would not know it")
    if journal and not journal["ok"]:
        since = f" since {journal['since']}" if journal["since"] else ""
        lines.append(f"journal: cannot be written{since}: {journal['error']}; a switch is refused, a rollback is not")
    return lines


def _outlook(document: Document) -> list[str]:
    workers, may, back, last = (document[key] for key in ("workers", "can_switch", "rollback", "last_switch"))
    stale = "  STALE" if workers["stale"] else ""
    epochs = ", ".join(map(str, workers["epochs"]))
    lines = [f"workers: {workers['ready']} of {workers['configured']} ready, epochs {epochs}{stale}"]
    lines.append(f"switch to {document['idle']}: {_yes_or_reasons(may['ok'], may['reasons'])}")
    lines.append(f"rollback to {back['to'] or '-'}: {_yes_or_reasons(back['ready'], back['reasons'])}")
    if last:
        by = f" by {last['by']}" if last.get("by") else ""
        why = f": {last['reason']}" if last.get("reason") else ""
        lines.append(
            f"last {last.get('kind', 'switch')}: {last.get('from')} → {last.get('to')} at {last.get('at')}{by}{why}"
        )
    return lines


def pools(documents: Iterable[Document]) -> list[str]:
    """Pools with where they come from, and every upstream with why it takes no traffic."""
    lines: list[str] = []
    for each in documents:
        changed = each["changed"]
        since = f" since {changed['at']}, by {changed['by']}" if changed else ""
        why = f": {changed['reason']}" if changed and changed["reason"] else ""
        release = f"  release {each['release']}" if each["release"] else ""
        lines += [
            f"{each['colour']} ({each['role']})  {each['healthy']} of {each['total']} healthy, "
            f"{each['min_healthy']} needed{release}  from {each['source']}{since}{why}",
            *table(
                ("upstream", "weight", "state", "in flight", "last check"),
                [_member_row(upstream) for upstream in each["upstreams"]],
            ),
            "",
        ]
    return lines[:-1]


def _member_row(upstream: Document) -> tuple[str, ...]:
    _, _, state, last = _upstream_row("", upstream)
    return upstream["id"], str(upstream["weight"]), state, str(upstream["in_flight"]), last


def pool_report(document: Document) -> list[str]:
    """A PoolReport: what came and went, and who takes traffic now."""
    lines = [document["detail"]] if document["detail"] else []
    done = [what for what in ("drained", "enabled") if document[what] and document["changed"]]
    lines += [f"{document['colour']}/{document[what]} is {what}" for what in done]
    if document["drain_s"] is not None:
        lines.append(f"nothing is in flight there, after {seconds(document['drain_s'])}")
    if document["changed"] and not (document["drained"] or document["enabled"]):
        lines.append(f"{document['colour']} has other upstreams now (pool table {document['table_version']})")
        lines += [f"  + {id}" for id in document["added"]]
        lines += [f"  - {id}" for id in document["removed"]]
    idle = [each for each in document["upstreams"] if not each["takes_traffic"]]
    return [*lines, *(f"{each['id']} takes no traffic: {each['why_not']}" for each in idle)]


def reload_report(document: Document) -> list[str]:
    """A ReloadReport: key by key."""
    lines = ["the configuration was taken" if document["changed"] else "the configuration is as it was"]
    lines += [f"  {_changed_key(each)}" for each in document["changes"]]
    if document["needs_restart"]:
        lines.append("these need a restart, and are as they were:")
        lines += [f"  {_changed_key(each)}" for each in document["needs_restart"]]
    return [*lines, *(f"warning: {warning}" for warning in document["warnings"])]


def _changed_key(change: Document) -> str:
    return f"{change['key']}: {_value(change['old'])} → {_value(change['new'])}"


def _value(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return '""' if value in (None, "") else str(value)


def _pool_row(name: str, pool: Document) -> tuple[str, ...]:
    errors = pool["error_share"]
    return (
        name,
        pool["role"],
        f"{pool['healthy']}/{pool['total']}" + (" stale" if pool["stale"] else ""),
        pool.get("source", "file"),
        str(pool["in_flight"]),
        str(pool["streams"]),
        f"{pool['rps']:g}",
        "-" if errors is None else f"{errors:.1%}",
        seconds(pool["latency_s"]["p50"]),
        seconds(pool["latency_s"]["p99"]),
    )


def _left_behind(pool: Document) -> str:
    """What still runs on a colour that was left; "" where nothing does."""
    remaining = pool.get("remaining") or {"requests": 0, "streams": 0}
    said = [_many(remaining[what], what) for what in ("requests", "streams") if remaining[what]]
    if not said:
        return ""
    age = "" if remaining["oldest_s"] is None else f", the oldest for {seconds(remaining['oldest_s'])}"
    leaving = f"; {_many(pool['leaving'], 'streams')} will be closed" if pool.get("leaving") else ""
    return f"left by the last switch: {' and '.join(said)}{age}{leaving}"


def _many(count: int, what: str) -> str:
    return f"{count} {what if count != 1 else what.removesuffix('s')}"


def _upstream_row(colour: str, upstream: Document) -> tuple[str, ...]:
    check = upstream["check"]
    state = {True: "up", False: "down", None: "stale" if check["stale"] else "unknown"}[upstream["up"]]
    if upstream.get("drained"):
        state += ", drained"
    if upstream.get("ejected_until"):
        state += ", ejected"
    if check["ok"] is None:
        last = "never checked"
    else:
        outcome = f"{check['status']} in {seconds(check['duration_s'])}" if check["ok"] else check["error"]
        last = f"{outcome}, {seconds(check['age_s'])} ago"
    return (colour, upstream["address"], state, last)


def _yes_or_reasons(yes: bool, reasons: Sequence[str]) -> str:
    return "possible" if yes else "not now: " + "; ".join(reasons)


def _replaced(document: Document) -> list[str]:
    return [
        f"worker {each['worker']} (pid {each['pid']}) was replaced: {each['reason']}"
        for each in document["replaced_workers"]
    ]


def _overridden(document: Document) -> list[str]:
    if not document["overridden"]:
        return []
    return ["overridden by --force:", *(f"  - {failed_check(each)}" for each in document["overridden"])]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [tuple(head), *map(tuple, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def seconds(value: float | None) -> str:
    """A duration in the unit a reader would choose."""
    if value is None:
        return "-"
    if value < 0.001:
        return f"{value * 1e6:.0f} µs"
    if value < 1:
        return f"{value * 1e3:.3g} ms"
    if value < 120:
        return f"{value:.3g} s"
    minutes = int(value) // 60
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 48 * 60 else f"{minutes // 1440} days"
