"""What is built, shipped and called by its name from outside: the wheel, the image, make targets, the CI script."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import bgproxy

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
RANGES = [
    *PROJECT["dependencies"],
    *(requirement for extra in PROJECT["optional-dependencies"].values() for requirement in extra),
]


# --- the package -----------------------------------------------------------------------------------------------------


def test_the_version_has_one_source():
    assert PROJECT["dynamic"] == ["version"]
    assert PYPROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "bgproxy.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc|\.dev)\d+)?", bgproxy.__version__)


def test_the_changelog_has_an_entry_for_the_version():
    assert f"## [{bgproxy.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_only_the_package_is_shipped():
    assert PYPROJECT["tool"]["setuptools"]["packages"]["find"] == {"include": ["bgproxy*"]}


def test_every_directory_with_modules_is_a_package_that_setuptools_finds():
    directories = {path.parent for path in (ROOT / "bgproxy").rglob("*.py")}
    assert [str(path.relative_to(ROOT)) for path in sorted(directories) if not (path / "__init__.py").exists()] == []


def test_the_extras_are_there():
    assert {"test", "lint"} <= set(PROJECT["optional-dependencies"])


@pytest.mark.parametrize("requirement", RANGES)
def test_every_requirement_has_a_lower_and_an_upper_bound(requirement):
    assert re.fullmatch(r"[a-z0-9-]+>=[0-9.]+,<[0-9.]+(; .+)?", requirement)


def test_the_command_is_installed_under_its_name():
    assert PROJECT["scripts"] == {"bgproxy": "bgproxy.__main__:main"}


def test_the_files_that_the_metadata_names_exist():
    assert [name for name in [PROJECT["readme"], *PROJECT["license-files"]] if not (ROOT / name).is_file()] == []


def test_the_licence_text_is_the_one_declared():
    assert PROJECT["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")


# --- the image -------------------------------------------------------------------------------------------------------


def instructions(name: str = "Dockerfile") -> list[tuple[str, str]]:
    """(instruction, arguments) in order; continued lines joined, comments left out."""
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.lstrip().startswith("#")]
    logical = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in logical if line.strip()]


def last(instruction: str) -> str:
    return [arguments for name, arguments in instructions() if name == instruction][-1]


def final_stage() -> list[tuple[str, str]]:
    found = instructions()
    start = max(index for index, (name, _) in enumerate(found) if name == "FROM")
    return found[start:]


def test_the_image_is_built_in_two_slim_stages():
    stages = [arguments for name, arguments in instructions() if name == "FROM"]
    assert len(stages) == 2
    assert all(stage.split()[0].endswith("-slim") for stage in stages)


def test_the_final_stage_takes_only_the_finished_environment():
    copies = [arguments for name, arguments in final_stage() if name in {"COPY", "ADD"}]
    assert copies == ["--from=build /opt/bgproxy /opt/bgproxy"]


def test_the_image_does_not_run_as_root():
    user = last("USER")
    assert user.split(":")[0].isdigit()  # a number, so that an orchestrator can check it without the image's passwd
    assert int(user.split(":")[0]) > 0
    names = [name for name, _ in final_stage()]
    assert names.index("USER") < names.index("ENTRYPOINT")


def test_the_image_starts_and_checks_the_proxy_without_a_shell():
    assert last("ENTRYPOINT") == '["bgproxy"]'
    assert last("CMD") == '["run", "-c", "/etc/bgproxy/bgproxy.toml"]'
    assert last("HEALTHCHECK").endswith('CMD ["bgproxy", "status"]')


def test_the_state_is_on_a_volume_that_the_proxy_finds():
    assert f"STATE_DIRECTORY={last('VOLUME')}" in last("ENV")


def test_what_the_image_is_built_from_is_not_ignored():
    kept = {
        line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }
    copied = [
        arguments.split()[:-1] for name, arguments in instructions() if name == "COPY" and "--from" not in arguments
    ]
    assert {source for sources in copied for source in sources} == kept


# --- make and CI -----------------------------------------------------------------------------------------------------


TARGETS = ["setup", "fmt", "lint", "types", "test", "cov", "ci", "bench", "bench-memory", "demo"]
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def commands_of(target: str) -> list[str]:
    """What make would run, with the blanks folded."""
    done = subprocess.run(["make", "-n", target], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return [" ".join(line.split()) for line in done.stdout.replace("\\\n", " ").splitlines()]


@needs_make
@pytest.mark.parametrize("target", TARGETS)
def test_make_knows_the_target(target):
    assert commands_of(target)


@needs_make
@pytest.mark.parametrize("target", ["setup", "lint", "types", "cov"])
def test_ci_runs_the_same_commands_as_make(target):
    script = (ROOT / ".ci" / "run").read_text().replace("\\\n", " ")
    lines = [" ".join(line.split()) for line in script.splitlines()]
    assert [command for command in commands_of(target) if command not in lines] == []


def test_ci_runs_the_test_command_of_the_readme_word_for_word():
    commands = [line.strip() for line in (ROOT / "README.md").read_text().splitlines() if "-m pytest -q" in line]
    assert commands
    script = [line.strip() for line in (ROOT / ".ci" / "run").read_text().splitlines()]
    assert commands[0] in script


def test_ci_is_an_executable_script_that_bash_can_read():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", str(script)], capture_output=True, check=False).stderr == b""
    assert "set -euo pipefail" in script.read_text()


@pytest.mark.parametrize("script", ["compare.py", "memory.py"])
def test_a_benchmark_explains_its_options(script):
    command = [sys.executable, str(ROOT / "benchmarks" / script), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--peers" in done.stdout


def test_a_benchmark_refuses_an_unknown_peer():
    command = [sys.executable, str(ROOT / "benchmarks" / "compare.py"), "--peers", "nginx,ngnix"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "ngnix unknown; expected some of nginx, haproxy, bgproxy" in done.stderr
