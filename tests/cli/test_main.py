"""The frame of the command line: exit codes, no traceback, a quick start."""

from __future__ import annotations

import os
import subprocess
import sys

import click
import pytest

from bgproxy import __version__
from bgproxy.cli import main as cli_main
from bgproxy.cli.main import main
from bgproxy.errors import BgproxyError

COMMANDS = "run demo status switch rollback preflight check check-config version"


def test_every_command_explains_itself(capsys):
    assert main(["--help"]) == 0
    overview = capsys.readouterr().out
    for command in COMMANDS.split():
        assert f"  {command} " in overview
        assert main([command, "--help"]) == 0
        assert "Usage: bgproxy" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["version"], ["--version"]])
def test_the_version(capsys, arguments):
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"bgproxy {__version__}\n"


@pytest.mark.parametrize("arguments", [["nonsense"], ["--nonsense"], ["status", "extra"]])
def test_wrong_usage_is_exit_2(capsys, arguments):
    assert main(arguments) == 2
    assert "Error: " in capsys.readouterr().err


def raising(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def version() -> None:
        raise error

    monkeypatch.setitem(cli_main.cli.commands, "version", version)


def test_an_expected_error_is_a_sentence_and_a_hint(capsys, monkeypatch):
    raising(BgproxyError("it is broken", hint="mend it"), monkeypatch)
    assert main(["version"]) == 1
    assert capsys.readouterr().err == "error: it is broken\nhint: mend it\n"


def test_a_fault_of_ours_shows_no_traceback(capsys, monkeypatch):
    monkeypatch.delenv("BGPROXY_DEBUG", raising=False)
    raising(ZeroDivisionError("oops"), monkeypatch)
    assert main(["version"]) == 1
    err = capsys.readouterr().err
    assert "a fault in bgproxy: ZeroDivisionError: oops" in err
    assert "Traceback" not in err


def test_a_fault_can_be_looked_into(monkeypatch):
    monkeypatch.setenv("BGPROXY_DEBUG", "1")
    raising(ZeroDivisionError("oops"), monkeypatch)
    with pytest.raises(ZeroDivisionError):
        main(["version"])


def test_ctrl_c_is_quiet(capsys, monkeypatch):
    raising(KeyboardInterrupt(), monkeypatch)
    assert main(["version"]) == 130
    captured = capsys.readouterr()
    assert (captured.out, captured.err.strip()) == ("", "")


def python(code: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"BGPROXY_ADMIN": "unix:/nowhere/admin.sock"}
    return subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, env=environment, timeout=60
    )


@pytest.mark.parametrize("command", ["status", "switch green", "rollback", "preflight", "version"])
def test_client_commands_import_neither_aiohttp_nor_uvloop(command):
    code = f"""
import sys
from bgproxy.cli.main import main
main({command.split()!r})
heavy = {{"aiohttp", "uvloop", "asyncio", "structlog", "bgproxy.config"}} & set(sys.modules)
sys.exit(f"imported: {{heavy}}" if heavy else 0)
"""
    done = python(code)
    assert (done.returncode, "imported" in done.stderr) == (0, False), done.stderr


def test_a_reader_that_leaves_is_no_error_message():
    code = "import sys; from bgproxy.cli.main import main; sys.exit(main(['--help']))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 1


def test_python_dash_m_is_the_same_program():
    done = subprocess.run(
        [sys.executable, "-m", "bgproxy", "version"], check=False, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, f"bgproxy {__version__}\n")
