"""The commands that talk to a running bgproxy: status, switch, rollback, preflight."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlencode

import click

from bgproxy import errors
from bgproxy.cli import words
from bgproxy.cli.client import AdminClient, Answer, UsageProblem, find_admin, read_token

F = TypeVar("F", bound=Callable[..., Any])

PLAIN_TIMEOUT_S = 60.0
DRAIN_TIMEOUT_S = 24 * 3600.0  # the server knows its own bound; that it is alive is asked meanwhile
REFRESH_S = 1.0
_CLEAR = "\x1b[H\x1b[2J"


class Session:
    """What every client command shares: the connection, the output format, how to come back here."""

    def __init__(self, admin: str | None, token_file: str | None, output: str, *, admin_told: bool) -> None:
        token = read_token(token_file)
        self.client = AdminClient(find_admin(admin, os.environ), token)
        self.as_json = output == "json"
        self.undo_suffix = f" --admin {admin}" if admin and admin_told else ""

    def show(self, answer: Answer, lines: Callable[[Any], list[str]]) -> int:
        """Print the answer; the exit code that belongs to it."""
        if self.as_json:
            click.echo(json.dumps(answer.document, indent=2, ensure_ascii=False))
        elif answer.ok:
            click.echo("\n".join(lines(answer.document)))
        else:
            first, *rest = words.problem(answer.document if isinstance(answer.document, dict) else {})
            click.echo("\n".join([f"error: {first}", *rest]), err=True)
        return exit_code_of(answer)


def exit_code_of(answer: Answer) -> int:
    if answer.ok:
        return errors.EXIT_OK
    code = answer.document.get("code") if isinstance(answer.document, dict) else None
    known = {kind.code: kind.exit_code for kind in errors.ControlError.__subclasses__()}
    return known.get(str(code), errors.EXIT_FAILED)


def client_options(command: F) -> F:
    """--admin, --token-file and -o, wherever they are written: before the command or after it."""
    for option in (
        click.option("-o", "--output", type=click.Choice(["text", "json"]), help="How to print. Default: text."),
        click.option("--token-file", metavar="FILE", help="File that holds the token (BGPROXY_TOKEN_FILE)."),
        click.option("--admin", metavar="URL|unix:PATH", help="Where the admin API is (BGPROXY_ADMIN)."),
    ):
        command = option(command)
    return command


def session(context: click.Context, admin: str | None, token_file: str | None, output: str | None) -> Session:
    told = context.find_root().params
    given = admin or told.get("admin")
    return Session(
        given or os.environ.get("BGPROXY_ADMIN"),
        token_file or told.get("token_file") or os.environ.get("BGPROXY_TOKEN_FILE"),
        output or told.get("output") or "text",
        admin_told=bool(given),
    )


def changing_options(command: F) -> F:
    for option in (
        click.option("--dry-run", is_flag=True, help="Say what would happen, change nothing."),
        click.option("--force", is_flag=True, help="Even if gates refuse; prints what was overridden."),
        click.option("--if-epoch", type=click.IntRange(min=0), metavar="N", help="Only if this epoch is live."),
        click.option("--idempotency-key", metavar="KEY", help="Asked again with it, the answer is the same one."),
        click.option("--reason", default="", help="Why, for the record."),
        click.option("--timeout", metavar="DURATION", help='How long to wait for the drain, like "30s".'),
        click.option(
            "--wait",
            type=click.Choice(["acked", "drained"]),
            help="Return when every worker has seen it, or when the old requests are done. Default: [switch] wait.",
        ),
        click.option(
            "--streams",
            type=click.Choice(["configured", "keep", "close-now"]),
            help="What becomes of streams of the old colour: as [switch.streams] says (default), or this.",
        ),
        click.option("--fence-policy", type=click.Choice(["abort", "cut"]), help="What if it is not empty by then."),
        click.option("--fence-timeout", metavar="DURATION", help="How long a fence waits for the old colour."),
        click.option(
            "--mode",
            type=click.Choice(["instant", "fence", "fence-writes"]),
            help="At once, or with no overlap: hold requests (or unsafe ones) until the old colour is empty.",
        ),
    ):
        command = option(command)
    return command


@click.command()
@click.option("--watch", is_flag=True, help="Show it again every second, until Ctrl-C.")
@click.option("--wait", type=click.Choice(["drained"]), help="Wait until the colour that was left is empty.")
@click.option("--timeout", metavar="DURATION", help="How long to wait. Default: [switch] drain_timeout.")
@click.option("--streams", is_flag=True, help="Wait for its streams too.")
@click.option("--if-epoch", type=click.IntRange(min=0), metavar="N", help="Wait only for the drain of this epoch.")
@client_options
@click.pass_context
def status(context: click.Context, /, watch: bool, **options: Any) -> int:
    """Show who is live, how both pools are, and what a switch would say."""
    here = session(context, **{key: options.pop(key) for key in ("admin", "token_file", "output")})
    given = {key: value for key, value in options.items() if value is not None and value is not False}
    asked = {key: 1 if value is True else value for key, value in given.items()}
    if watch and asked:
        raise UsageProblem("--watch never ends and --wait does; use one of them")
    if asked and "wait" not in asked:
        raise UsageProblem("--timeout, --streams and --if-epoch are about a wait; use them with --wait drained")
    if asked:
        query = urlencode(asked)
        return here.show(here.client.get(f"/status?{query}", timeout_s=DRAIN_TIMEOUT_S), words.status)
    while True:
        answer = here.client.get("/status")
        if watch and sys.stdout.isatty():
            click.echo(_CLEAR, nl=False)
        exit_code = here.show(answer, words.status)
        if not watch:
            return exit_code
        time.sleep(REFRESH_S)


@click.command()
@click.argument("colour", type=click.Choice(["blue", "green"]))
@click.option("--expect-release", metavar="RELEASE", help="Only if every upstream of COLOUR is of this release.")
@changing_options
@client_options
@click.pass_context
def switch(context: click.Context, /, colour: str, **options: Any) -> int:
    """Make COLOUR live. It names a colour, it is never a toggle."""
    return _change(context, "/switch", {"to": colour}, options)


@click.command()
@changing_options
@client_options
@click.pass_context
def rollback(context: click.Context, /, **options: Any) -> int:
    """Make the previous colour live again."""
    return _change(context, "/rollback", {}, options)


def gate_options(command: F) -> F:
    for option in (
        click.option("--reason", default="", help="Why, for the record."),
        click.option("--timeout", metavar="DURATION", help='How long to wait for the drain, like "30s".'),
        click.option(
            "--wait",
            type=click.Choice(["acked", "drained"]),
            help="Return when every worker does so (default), or when nothing is in flight any more.",
        ),
    ):
        command = option(command)
    return command


@click.command()
@gate_options
@client_options
@click.pass_context
def pause(context: click.Context, /, **options: Any) -> int:
    """Hold every new request until `bgproxy resume`."""
    return _change_gate(context, "/pause", {}, options)


@click.command()
@gate_options
@client_options
@click.pass_context
def resume(context: click.Context, /, **options: Any) -> int:
    """Serve what a pause has held, and all that comes."""
    return _change_gate(context, "/resume", {}, options)


@click.command()
@click.argument("state", type=click.Choice(["on", "off"]))
@gate_options
@client_options
@click.pass_context
def maintenance(context: click.Context, /, state: str, **options: Any) -> int:
    """Answer every request with 503 until it is turned off."""
    return _change_gate(context, "/maintenance", {"on": state == "on"}, options)


@click.command()
@click.option(
    "--timeout", metavar="DURATION", help="Until the new program is ready. Default: [server.timeouts] upgrade."
)
@client_options
@click.pass_context
def upgrade(context: click.Context, /, timeout: str | None, **client: Any) -> int:
    """Replace the running program by the version that is installed now, without losing a request."""
    here = session(context, **client)
    body = {} if timeout is None else {"timeout": timeout}
    return here.show(here.client.post("/upgrade", body, timeout_s=DRAIN_TIMEOUT_S), words.upgrade)


@click.command()
@click.argument("colour", type=click.Choice(["blue", "green"]), required=False)
@client_options
@click.pass_context
def preflight(context: click.Context, /, colour: str | None, **client: Any) -> int:
    """List every reason why a switch to COLOUR (default: the idle one) would be refused now."""
    here = session(context, **client)
    if colour is None:
        current = here.client.get("/status")
        if not current.ok:
            return here.show(current, words.status)
        colour = str(current.document["idle"])
    answer = here.client.get(f"/preflight?to={colour}")
    exit_code = here.show(answer, words.preflight)
    return errors.EXIT_REFUSED if answer.ok and not answer.document["ok"] else exit_code


def _change(context: click.Context, path: str, body: dict[str, Any], options: dict[str, Any]) -> int:
    client = {key: options.pop(key) for key in ("admin", "token_file", "output")}
    here = session(context, **client)
    if options["timeout"] and options["wait"] == "acked":
        raise UsageProblem("--timeout bounds the wait for the drain; use it with --wait drained")
    key = options.pop("idempotency_key")
    body |= {key: value for key, value in options.items() if not (value is None or value is False or value == "")}
    # The server may be configured to wait for the drain without being asked to.
    timeout_s = PLAIN_TIMEOUT_S if options["wait"] == "acked" else DRAIN_TIMEOUT_S
    answer = here.client.post(path, body, timeout_s=timeout_s, headers={"Idempotency-Key": key} if key else {})
    return here.show(answer, lambda document: words.report(document, here.undo_suffix))


def _change_gate(context: click.Context, path: str, body: dict[str, Any], options: dict[str, Any]) -> int:
    client = {key: options.pop(key) for key in ("admin", "token_file", "output")}
    here = session(context, **client)
    body |= {key: value for key, value in options.items() if value}
    timeout_s = DRAIN_TIMEOUT_S if options["wait"] == "drained" else PLAIN_TIMEOUT_S
    answer = here.client.post(path, body, timeout_s=timeout_s)
    return here.show(answer, lambda document: words.gate(document, here.undo_suffix))
