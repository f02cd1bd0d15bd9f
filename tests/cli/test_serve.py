"""`check`, and `run` up to the point where the supervisor takes over."""

from __future__ import annotations

import pytest

from bgproxy import supervisor
from bgproxy.cli.serve import announce
from bgproxy.demo import stage
from bgproxy.errors import EXIT_CONFIG, EXIT_OK

GOOD = """
version = 1
[pools.blue]
upstreams = ["127.0.0.1:9001"]
[pools.green]
upstreams = ["127.0.0.1:9002"]
"""


@pytest.mark.parametrize("command", ["check", "check-config"])
async def test_a_good_file_is_ok(run, tmp_path, command):
    file = tmp_path / "bgproxy.toml"
    file.write_text(GOOD)
    done = await run(command, str(file))
    assert (done.exit_code, done.err) == (EXIT_OK, "")
    assert done.out.endswith(f"OK: {file}\n")


async def test_every_problem_of_a_file_is_listed_with_its_place(run, tmp_path):
    file = tmp_path / "bgproxy.toml"
    file.write_text(GOOD + '[health]\nintervall = "1s"\ntimeout = 5\n')
    done = await run("check", str(file))
    assert done.exit_code == EXIT_CONFIG
    assert f"{file}:8" in done.out
    assert "did you mean 'interval'" in done.out
    assert f"{file}:9" in done.out
    assert "Traceback" not in done.out + done.err


async def test_a_missing_file_is_exit_3(run, tmp_path):
    done = await run("check", str(tmp_path / "gone.toml"))
    assert done.exit_code == EXIT_CONFIG
    assert "gone.toml" in done.out


async def test_run_with_nothing_says_what_to_do(run):
    done = await run("run")
    assert (done.exit_code, done.out) == (EXIT_CONFIG, "")
    for remedy in ("bgproxy demo", "--blue", "-c FILE"):
        assert remedy in done.err


async def test_run_names_the_flag_that_is_wrong(run):
    done = await run("run", "--blue", "127.0.0.1", "--green", "127.0.0.1:9002")
    assert done.exit_code == EXIT_CONFIG
    assert "--blue" in done.err


async def test_run_hands_the_flags_to_the_supervisor_and_returns_its_exit_code(run, tmp_path, monkeypatch):
    told = {}

    def supervise(config, *, ready, reread):
        told["config"], told["reread"] = config, reread
        ready({"listen": ["127.0.0.1:41001"], "admin": "", "socket": "/s/admin.sock", "pid": 1})
        return 7

    monkeypatch.setattr(supervisor, "run", supervise)
    flags = "--blue 127.0.0.1:1 --blue 127.0.0.1:2 --green 127.0.0.1:3 --listen 127.0.0.1:0 --admin 127.0.0.1:0"
    more = ("--workers", "3", "--health-path", "/up", "--state-dir", str(tmp_path / "state"))
    done = await run("run", *flags.split(), *more)
    assert (done.exit_code, done.out) == (7, "listening on 127.0.0.1:41001\nadmin API on /s/admin.sock\n")
    config = told["config"]
    assert [str(upstream.address) for upstream in config.pools.blue.upstreams] == ["127.0.0.1:1", "127.0.0.1:2"]
    assert (config.server.workers, config.health.path, config.state.dir) == (3, "/up", tmp_path / "state")
    assert told["reread"] is None, "there is no file to read again"

    file = tmp_path / "bgproxy.toml"
    file.write_text(GOOD)
    await run("run", "-c", str(file), "--workers", "3", "--state-dir", str(tmp_path / "state"))
    file.write_text(GOOD.replace("9001", "9003"))
    again = told["reread"]()
    assert str(again.pools.blue.upstreams[0].address) == "127.0.0.1:9003"
    assert again.server.workers == 3, "with the same flags"


async def test_demo_passes_its_options_on(run, tmp_path, monkeypatch):
    told = {}
    monkeypatch.setattr(stage, "run", lambda **options: told.update(options) or 0)
    monkeypatch.setenv("BGPROXY_ADMIN", "unix:/a.sock")
    assert (await run("demo", "--listen", "127.0.0.1:0", "--workers", "2")).exit_code == EXIT_OK
    expected = {"listen": "127.0.0.1:0", "admin": None, "workers": "2", "state_dir": None}
    assert told == expected | {"found_by_default": "unix:/a.sock"}


def test_a_greeting_that_nobody_reads_does_not_end_the_proxy(monkeypatch):
    def nobody(_text: str) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("bgproxy.cli.serve.click.echo", nobody)
    announce({"listen": ["127.0.0.1:1"], "admin": "", "socket": "", "pid": 1})


def test_run_announces_the_addresses_it_really_has(capsys):
    announce({"listen": ["127.0.0.1:41001", "unix:/a"], "admin": "127.0.0.1:41002", "socket": "", "pid": 1})
    assert capsys.readouterr().out == (
        "listening on 127.0.0.1:41001\nlistening on unix:/a\nadmin API on 127.0.0.1:41002\n"
    )
