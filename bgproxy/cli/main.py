"""The command line: one group, every error one sentence and an exit code, never a traceback."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from bgproxy import __version__
from bgproxy.cli import audit, operate, pools, serve, verify
from bgproxy.errors import EXIT_FAILED, EXIT_OK, BgproxyError

if TYPE_CHECKING:
    from collections.abc import Sequence

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells count


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="bgproxy", message="%(prog)s %(version)s")
@operate.client_options
def cli(**_options: Any) -> None:
    """A reverse proxy with a built-in blue-green switch.

    Try it with `bgproxy demo`. Start it with `bgproxy run --blue HOST:PORT --green HOST:PORT`, then
    `bgproxy status`, `bgproxy switch green`, `bgproxy rollback`.
    """


@click.command()
def version() -> None:
    """Print the version."""
    click.echo(f"bgproxy {__version__}")


for command in (serve.run, serve.demo, operate.status, operate.switch, operate.rollback, operate.preflight):
    cli.add_command(command)
for command in (operate.pause, operate.resume, operate.maintenance, operate.upgrade):
    cli.add_command(command)
cli.add_command(serve.check)
cli.add_command(serve.check, "check-config")
cli.add_command(verify.verify_log)
cli.add_command(version)
cli.add_command(pools.pool)
cli.add_command(pools.reload)
cli.add_command(audit.history)
cli.add_command(audit.audit)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        result = cli.main(args=arguments, prog_name="bgproxy", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else EXIT_OK
    except BgproxyError as error:
        _complain(error.detail, error.hint)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has left (`bgproxy status | head`): nothing more can be said to them.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except Exception as error:
        if os.environ.get("BGPROXY_DEBUG"):
            raise
        _complain(
            f"a fault in bgproxy: {type(error).__name__}: {error}",
            "please report it; BGPROXY_DEBUG=1 shows where it happened",
        )
        return EXIT_FAILED


def _complain(detail: str, hint: str) -> None:
    click.echo(f"error: {detail}", err=True)
    if hint:
        click.echo(f"hint: {hint}", err=True)
