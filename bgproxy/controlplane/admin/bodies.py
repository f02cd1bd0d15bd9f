"""What a caller may ask for, read strictly: an unknown key, a wrong type or a key given twice is refused by name."""

from __future__ import annotations

import asyncio
import difflib
import json
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import msgspec

from bgproxy.controlplane.admin.problems import HttpError
from bgproxy.controlplane.orders import Defaults, FencePolicy, GateKind, GateOrder, Mode, StreamsOrder, SwitchOrder
from bgproxy.core.model import Colour
from bgproxy.errors import BadRequest

if TYPE_CHECKING:
    from aiohttp import web

MAX_BODY = 64 * 1024  # bytes
BODY_TIMEOUT_S = 10.0
MAX_TIMEOUT_S = 24 * 3600.0

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

Reason = Annotated[str, msgspec.Meta(max_length=1000)]
Epoch = Annotated[int, msgspec.Meta(ge=0)]


class RollbackBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """`timeout` bounds the wait for the drain, `fence_timeout` that for an empty old colour: durations like "30s", or
    numbers of seconds."""

    mode: Mode | None = None
    fence_timeout: float | str | None = None
    fence_policy: FencePolicy | None = None
    streams: StreamsOrder = "configured"
    if_epoch: Epoch | None = None
    reason: Reason = ""
    wait: Literal["acked", "drained"] | None = None
    timeout: float | str | None = None
    force: bool = False
    dry_run: bool = False


class PauseBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """`timeout` bounds the wait for the drain, as for a switch."""

    reason: Reason = ""
    wait: Literal["acked", "drained"] = "acked"
    timeout: float | str | None = None


class MaintenanceBody(PauseBody, forbid_unknown_fields=True, frozen=True, kw_only=True):
    on: bool


class UpgradeBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """`timeout`: until the new program is ready."""

    timeout: float | str | None = None


class SwitchBody(RollbackBody, forbid_unknown_fields=True, frozen=True, kw_only=True):
    to: Literal["blue", "green"]
    expect_release: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] | None = None


B = TypeVar("B", bound=msgspec.Struct)


async def switch_order(request: web.Request, *, by: str, defaults: Defaults) -> SwitchOrder:
    body = _typed(await _document(request), SwitchBody)
    order = _order(request, "switch", Colour.named(body.to), body, by, defaults)
    return msgspec.structs.replace(order, expect_release=_text(body.expect_release or "", "expect_release"))


async def rollback_order(request: web.Request, *, by: str, defaults: Defaults) -> SwitchOrder:
    """The way out is never a fence unless it is asked for: it must not wait for what is broken."""
    body = _typed(await _document(request), RollbackBody)
    return _order(request, "rollback", None, body, by, msgspec.structs.replace(defaults, mode="instant"))


async def gate_order(request: web.Request, kind: Literal["pause", "resume"], *, by: str) -> GateOrder:
    return _gate_order(kind, _typed(await _document(request), PauseBody), by)


async def maintenance_order(request: web.Request, *, by: str) -> GateOrder:
    body = _typed(await _document(request), MaintenanceBody)
    return _gate_order("maintenance on" if body.on else "maintenance off", body, by)


def _gate_order(kind: GateKind, body: PauseBody, by: str) -> GateOrder:
    return GateOrder(
        kind=kind, by=by, reason=_text(body.reason), wait=body.wait, timeout_s=_seconds_or_none(body.timeout, "timeout")
    )


async def upgrade_timeout(request: web.Request) -> float | None:
    """In seconds; None is the configured one."""
    return _seconds_or_none(_typed(await _document(request), UpgradeBody).timeout, "timeout")


def colour_of_query(request: web.Request) -> Colour:
    unknown = [key for key in request.query if key != "to"]
    if unknown:
        raise BadRequest(f"the query parameter {unknown[0]!r} is unknown; only 'to' is expected")
    texts = request.query.getall("to", [])
    if len(texts) != 1:
        raise BadRequest("the query parameter 'to' is expected once: /preflight?to=blue or /preflight?to=green")
    return _colour(texts[0])


class DrainWanted(msgspec.Struct, frozen=True):
    """What `GET /status?wait=drained` asks for; `timeout_s` None is the configured bound."""

    timeout_s: float | None
    streams: bool
    if_epoch: int | None


def drain_of_query(request: web.Request) -> DrainWanted | None:
    """None where nothing is to be waited for. A misspelt wait must not look like one that is over."""
    known = ("wait", "timeout", "streams", "if_epoch")
    for key in request.query:
        if key not in known or len(request.query.getall(key)) > 1:
            raise BadRequest(
                f"the query parameter {key!r} is {'given twice' if key in known else 'unknown'}",
                hint="as in /status?wait=drained&timeout=30s&streams=1&if_epoch=7",
            )
    wait, timeout, streams, epoch = map(request.query.get, known)
    if wait is None and request.query:
        raise BadRequest("'timeout', 'streams' and 'if_epoch' are about a wait; expected wait=drained with them")
    if wait not in (None, "drained"):
        raise BadRequest(f"'wait': {wait!r} is nothing that can be waited for; expected 'drained'")
    if streams not in (None, "0", "1"):
        raise BadRequest(f"'streams': expected 1, to wait for streams too, or 0, not {streams!r}")
    if epoch is not None and not re.fullmatch("[0-9]{1,19}", epoch):
        raise BadRequest(f"'if_epoch': expected a number, not {epoch!r}")
    if wait is None:
        return None
    return DrainWanted(_seconds_or_none(timeout, "timeout"), streams == "1", None if epoch is None else int(epoch))


def _colour(text: str) -> Colour:
    try:
        return Colour.named(text)
    except ValueError as error:
        raise BadRequest(f"'to': {error}") from None


def _text(value: str, key: str = "reason") -> str:
    """JSON can name half of a character (\\ud800); neither the state file nor an answer could hold it."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRequest(f"{key!r}: character {error.start} is half of a surrogate pair") from None
    return value


def _epoch(request: web.Request, of_body: int | None) -> int | None:
    """If-Match names the status that the order was decided on. Only its epoch counts: who is live, not how busy."""
    given = ",".join(request.headers.getall("If-Match", ()))
    if not given or given.strip() == "*":
        return of_body
    found = re.fullmatch(r'\s*"e(\d{1,19})-\d+"\s*', given)
    if found is None:
        raise BadRequest(f"If-Match is {given!r}, expected one ETag of GET /status, like '\"e7-12\"'")
    epoch = int(found[1])
    if of_body not in (None, epoch):
        raise BadRequest(f"If-Match says epoch {epoch}, 'if_epoch' says {of_body}")
    return epoch


def _key(request: web.Request) -> str:
    keys = request.headers.getall("Idempotency-Key", ())
    if len(keys) > 1 or not all(re.fullmatch(r"[!-~]{1,255}", key) for key in keys):
        raise BadRequest("the Idempotency-Key is expected once, as 1 to 255 visible ASCII characters")
    return keys[0] if keys else ""


def _order(
    request: web.Request,
    kind: Literal["switch", "rollback"],
    to: Colour | None,
    body: RollbackBody,
    by: str,
    defaults: Defaults,
) -> SwitchOrder:
    return SwitchOrder(
        kind=kind,
        to=to,
        if_epoch=_epoch(request, body.if_epoch),
        key=_key(request),
        reason=_text(body.reason),
        by=by,
        mode=body.mode or defaults.mode,
        fence_timeout_s=_seconds_or_none(body.fence_timeout, "fence_timeout"),
        fence_policy=body.fence_policy,
        streams=body.streams,
        wait=body.wait or defaults.wait,
        timeout_s=_seconds_or_none(body.timeout, "timeout"),
        force=body.force,
        dry_run=body.dry_run,
    )


def _seconds_or_none(value: float | str | None, key: str) -> float | None:
    if value is None:
        return None
    seconds = value
    if isinstance(value, str):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)", value)
        if match is None:
            raise BadRequest(f"{key!r}: {value!r} is not a duration; expected something like '30s'")
        seconds = float(match[1]) * _UNITS_S[match[2]]
    if not 0 <= float(seconds) <= MAX_TIMEOUT_S:
        raise BadRequest(f"{key!r} must be between 0 and 24 hours")
    return float(seconds)


async def _document(request: web.Request) -> dict[str, Any]:
    """The JSON object in the body; an absent body is an empty object."""
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            raw = await request.read()
    except TimeoutError:
        raise HttpError(HTTPStatus.REQUEST_TIMEOUT, f"the body did not arrive within {BODY_TIMEOUT_S:g}s") from None
    if not raw:
        return {}
    if request.content_type != "application/json":
        raise HttpError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"the body is {request.headers.get('Content-Type', 'of no declared type')!r}",
            hint="send Content-Type: application/json",
        )
    return parse_object(raw)


def parse_object(raw: bytes) -> dict[str, Any]:
    try:
        document = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise BadRequest(f"the body is not UTF-8: byte {error.start} is {raw[error.start]:#04x}") from None
    except json.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    except (RecursionError, ValueError):
        raise BadRequest("the body is not JSON that can be read: nested too deeply, or a number too long") from None
    if not isinstance(document, dict):
        raise BadRequest('the body must be a JSON object, like {"to": "green"}')
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for key, value in pairs:
        if key in document:
            raise BadRequest(f"the key {key!r} is given twice")
        document[key] = value
    return document


def _no_constant(text: str) -> Any:
    raise BadRequest(f"{text} is not a JSON number")


def _typed(document: dict[str, Any], kind: type[B]) -> B:
    fields = kind.__struct_fields__
    for key in document:
        if key not in fields:
            close = difflib.get_close_matches(key, fields, n=1)
            meant = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(sorted(fields))}"
            raise BadRequest(f"the key {key!r} is unknown", hint=meant)
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise BadRequest(_readable(str(error))) from None


def _readable(text: str) -> str:
    """msgspec says ``Expected `int`, got `str` - at `$.if_epoch` ``; the key belongs in front."""
    sentence, _, place = text.partition(" - at `$.")
    sentence = sentence[:1].lower() + sentence[1:].replace("`", "'")
    return f"{place.rstrip('`')!r}: {sentence}" if place else sentence


# For the orders of other modules.
document, typed, seconds, plain_text = _document, _typed, _seconds_or_none, _text
