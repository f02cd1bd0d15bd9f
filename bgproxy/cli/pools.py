"""The commands about pools and the configuration of a running bgproxy: pool show, set, drain, enable; reload."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import quote

import click

from bgproxy.cli import words
from bgproxy.cli.client import UsageProblem
from bgproxy.cli.operate import DRAIN_TIMEOUT_S, PLAIN_TIMEOUT_S, client_options, session

F = TypeVar("F", bound=Callable[..., Any])

COLOUR = click.Choice(["blue", "green"])
_CLIENT = ("admin", "token_file", "output")
# Options that several of these commands have.
_reason = click.option("--reason", default="", help="Why, for the record.")
_if_epoch = click.option("--if-epoch", type=click.IntRange(min=0), metavar="N", help="Only if this epoch is live.")


def _timeout(what: str) -> Callable[[F], F]:
    return click.option("--timeout", metavar="DURATION", help=f'{what}, like "30s".')


@click.group()
def pool() -> None:
    """Show pools, give them other upstreams, drain and enable upstreams one by one."""


@pool.command()
@click.argument("colour", type=COLOUR, required=False)
@client_options
@click.pass_context
def show(context: click.Context, /, colour: str | None, **client: Any) -> int:
    """Show both pools or one: upstreams, where they come from, who takes traffic."""
    here = session(context, **client)
    if colour is not None:
        return here.show(here.client.get(f"/pools/{colour}"), lambda document: words.pools([document]))
    return here.show(here.client.get("/pools"), lambda document: words.pools(document["pools"].values()))


@pool.command("set")
@click.argument("colour", type=COLOUR)
@click.argument("upstreams", nargs=-1, required=True, metavar="ADDRESS[=WEIGHT]...")
@click.option("--release", help="What this version is called. Default: as it was.")
@click.option("--allow-live", is_flag=True, help="Even where COLOUR is live.")
@_timeout("How long to wait for the first verdicts on new upstreams")
@_reason
@_if_epoch
@client_options
@click.pass_context
def set_(context: click.Context, /, colour: str, upstreams: tuple[str, ...], **options: Any) -> int:
    """Give the pool COLOUR these upstreams and no others. New ones are checked before they take traffic."""
    body, client = _split(options)
    return _change(
        context, "PUT", f"/pools/{colour}/upstreams", {"upstreams": list(map(_upstream, upstreams))} | body, client
    )


@pool.command()
@click.argument("upstream", metavar="COLOUR/ID")
@click.option("--wait", type=click.Choice(["drained"]), help="Return when nothing is in flight there any more.")
@click.option("--force", is_flag=True, help="Even if nobody else can take its traffic.")
@_timeout("How long to wait for that")
@_reason
@_if_epoch
@client_options
@click.pass_context
def drain(context: click.Context, /, upstream: str, wait: str | None, **options: Any) -> int:
    """Send no further request to one upstream; those in flight finish."""
    body, client = _split(options)
    return _change(context, "POST", _path(upstream, "drain"), body | ({"wait": True} if wait else {}), client)


@pool.command()
@click.argument("upstream", metavar="COLOUR/ID")
@click.option("--wait", type=click.Choice(["up"]), help="Return when it takes traffic again.")
@_timeout("How long to wait for that")
@_reason
@_if_epoch
@client_options
@click.pass_context
def enable(context: click.Context, /, upstream: str, wait: str | None, **options: Any) -> int:
    """Send requests to a drained upstream again, once its checks call it up."""
    body, client = _split(options)
    return _change(context, "POST", _path(upstream, "enable"), body | ({"wait": True} if wait else {}), client)


@click.command()
@client_options
@click.pass_context
def reload(context: click.Context, /, **client: Any) -> int:
    """Read the configuration file again: all of it is applied, or nothing."""
    here = session(context, **client)
    return here.show(here.client.post("/reload", {}, timeout_s=PLAIN_TIMEOUT_S), words.reload_report)


def _split(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What goes into the body, and what is for the client."""
    body = {key: value for key, value in options.items() if key not in _CLIENT and value not in (None, False, "")}
    return body, {key: options[key] for key in _CLIENT}


def _change(context: click.Context, method: str, path: str, body: dict[str, Any], client: dict[str, Any]) -> int:
    here = session(context, **client)
    answer = here.client.change(method, path, body, timeout_s=DRAIN_TIMEOUT_S)
    return here.show(answer, words.pool_report)


def _upstream(text: str) -> str | dict[str, Any]:
    address, equals, weight = text.partition("=")
    if not equals:
        return text
    if not weight.isdecimal():
        raise UsageProblem(f"{text!r}: {weight!r} is not a weight; expected ADDRESS=WEIGHT, like 10.0.0.1:8000=2")
    return {"address": address, "weight": int(weight)}


def _path(text: str, verb: str) -> str:
    colour, slash, id = text.partition("/")
    if not slash or colour not in ("blue", "green") or not id:
        raise UsageProblem(f"{text!r} names no upstream; expected COLOUR/ID, like blue/10.0.0.1:8000")
    return f"/pools/{colour}/upstreams/{quote(id, safe='')}/{verb}"
