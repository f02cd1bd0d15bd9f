"""The documents tell the truth: commands run, links lead somewhere, and what is named exists."""

from __future__ import annotations

import ast
import json
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from bgproxy import errors
from bgproxy.cli.main import cli
from bgproxy.config import load
from bgproxy.controlplane.admin.app import ROUTES
from bgproxy.controlplane.events import WARNINGS
from bgproxy.core import error_pages
from bgproxy.core.switch import Phase
from bgproxy.wire.request import Refusal
from tests.support.heads import read, request
from tests.support.house import ROOT, clean_environment, eventually

DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "benchmarks" / "README.md",
    *(ROOT / "docs").glob("*.md"),
]
SET_UP = "python3 -m venv .venv && .venv/bin/pip install -q -e . && .venv/bin/bgproxy demo"
TEST = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]' && .venv/bin/python -m pytest -q"
PAGES = [pytest.param(path, id=str(path.relative_to(ROOT))) for path in DOCUMENTS]


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


# --- links ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES)
def test_every_link_leads_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", path.read_text())
    own = [target.partition("#")[0] for target in targets if "://" not in target]
    assert [target for target in own if target and not (path.parent / target).exists()] == []


def test_every_document_can_be_reached_from_the_readme() -> None:
    linked = re.findall(r"\]\((docs/[\w.]+)\)", (ROOT / "README.md").read_text())
    assert {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} == set(linked)


def test_every_test_that_the_readme_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "README.md").read_text()))
    there = {
        name for path in (ROOT / "tests").rglob("*.py") for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    assert named
    assert named <= there


# --- commands ---------------------------------------------------------------------------------------------------------


def documented_commands() -> Iterator[tuple[Path, list[str]]]:
    """Every line in a block that calls bgproxy; of several commands in a line the last."""
    for path in DOCUMENTS:
        for text in (*blocks(path, "sh"), *blocks(path, "console")):
            for line in text.splitlines():
                last = line.removeprefix("$ ").partition(" #")[0].rpartition("&& ")[2]
                words = shlex.split(last)
                if words and words[0].rpartition("/")[2] == "bgproxy":
                    yield path, words[1:]


def test_the_two_set_up_commands_are_as_everybody_knows_them() -> None:
    assert [line for text in blocks(ROOT / "README.md", "sh") for line in text.splitlines()][:2] == [SET_UP, TEST]


@pytest.mark.parametrize(
    ("path", "words"),
    [pytest.param(path, words, id=" ".join((path.stem, *words))) for path, words in documented_commands()],
)
def test_a_documented_command_can_be_parsed_as_it_stands(path: Path, words: list[str]) -> None:
    group = click.Context(cli)
    name, command, rest = cli.resolve_command(group, words)
    assert command is not None
    with command.make_context(name, rest, parent=group) as context:
        assert context.command is command


def options_of(command: click.Command) -> set[str]:
    return {text for each in command.params if isinstance(each, click.Option) for text in each.opts}


def test_every_option_that_is_mentioned_exists() -> None:
    nested = [
        each for group in cli.commands.values() if isinstance(group, click.Group) for each in group.commands.values()
    ]
    known = options_of(cli) | {option for each in (*cli.commands.values(), *nested) for option in options_of(each)}
    elsewhere = {"--time", "--max-ratio", "--import-mode", "--help", "--kill-whom", "--init"}
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        mentioned = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", path.read_text())) - elsewhere
        assert mentioned <= known, path


def test_every_command_is_mentioned_and_every_mentioned_command_exists() -> None:
    mentioned = set(re.findall(r"`bgproxy ([a-z-]+)", page("operations.md")))
    assert mentioned == set(cli.commands)


def test_the_complete_configuration_of_the_readme_is_one(tmp_path: Path) -> None:
    (text,) = blocks(ROOT / "README.md", "toml")
    file = tmp_path / "bgproxy.toml"
    file.write_text(text)
    loaded = load(file, env={"BGPROXY_STATE__DIR": str(tmp_path)})
    assert loaded.min_healthy == (2, 2)
    assert loaded.warnings == ()


# --- the first minute -------------------------------------------------------------------------------------------------


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """A running demo on free ports; what addresses.json says."""
    flags = ("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--workers", "2", "--state-dir", str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, "-m", "bgproxy", "demo", *flags],
        cwd=ROOT,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    addresses = tmp_path / "addresses.json"
    try:
        eventually(lambda: addresses.exists() and addresses.read_bytes().endswith(b"\n"), "the demo")
        yield json.loads(addresses.read_bytes())
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def masked(text: str) -> str:
    """Without durations: they differ from run to run."""
    return re.sub(r"\d+(\.\d+)?(e-\d+)? (µs|ms|s)\b", "T", text)


def test_the_first_switch_goes_as_the_readme_shows_it(demo: dict[str, Any]) -> None:
    (transcript,) = blocks(ROOT / "README.md", "console")
    front = demo["listen"][0]
    said = []
    for line in transcript.splitlines():
        if not line.startswith("$ "):
            continue
        words = shlex.split(line.removeprefix("$ ").replace("127.0.0.1:8080", front))
        command = [sys.executable, "-m", *words] if words[0] == "bgproxy" else [words[0], "-sS", *words[1:]]
        environment = clean_environment({"BGPROXY_ADMIN": f"http://{demo['admin']}", "PYTHONUTF8": "1"})
        done = _run(command, environment)
        said.append(f"{line}\n{done}")
    assert masked("".join(said)) == masked(transcript)


def _run(command: list[str], environment: dict[str, str]) -> str:
    if command[0] == "curl":  # the shown command, without needing the program
        code = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode(), end='')"
        command = [sys.executable, "-c", code, command[-1]]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- architecture.md --------------------------------------------------------------------------------------------------


def modules() -> set[str]:
    files = (ROOT / "bgproxy").rglob("*.py")
    return {str(path.relative_to(ROOT)) for path in files if path.name != "__init__.py"}


def test_the_architecture_names_every_module_and_no_other() -> None:
    named = re.findall(r"`(bgproxy/[\w/]+\.py)`", page("architecture.md"))
    assert set(named) == modules()


def defined() -> set[str]:
    """`function`, `Class` and `Class.method` of the whole program."""
    names = set()
    for module in modules():
        for node in ast.parse((ROOT / module).read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                names.add(node.name)
            if isinstance(node, ast.ClassDef):
                names.add(node.name)
                functions = (each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef))
                names |= {f"{node.name}.{each.name}" for each in functions}
    return names


def test_every_step_of_the_drawn_request_and_switch_is_code() -> None:
    text = page("architecture.md")
    steps = re.findall(r"^(\w+/[\w/]+\.py) +(\w+(?:\.\w+)?) ", text, re.MULTILINE)
    assert len(steps) > 20
    for file, name in steps:
        source = (ROOT / "bgproxy" / file).read_text()
        owner, _, method = name.rpartition(".")
        assert re.search(rf"^ *(async )?def {method or name}\b", source, re.MULTILINE), (file, name)
        assert not owner or f"class {owner}" in source, (file, name)
    named = set(re.findall(r"`([A-Z]\w+\.\w+)`", text)) | set(re.findall(r"\b([A-Z][a-z]\w+\.[a-z]\w+)\b", text))
    assert named - defined() == set()


# --- api.md, operations.md, switch.md, http.md ------------------------------------------------------------------------


def test_the_api_lists_every_route() -> None:
    cells = re.findall(r"^\| (`(?:GET|POST|PUT) /[^|]+) \|", page("api.md"), re.MULTILINE)
    listed = {found for cell in cells for found in re.findall(r"`(GET|POST|PUT) (/[\w/{}]+)[?`]", cell)}
    assert listed == {(route.method, route.path.replace(":.+", "")) for route in ROUTES}


def test_the_api_lists_every_problem_with_its_status_and_exit_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (\d) \|", page("api.md"), re.MULTILINE)
    listed = {code: (int(status), int(exit_code)) for code, status, exit_code in rows}
    kinds = [kind for kind in errors.ControlError.__subclasses__() if kind.__module__ == "bgproxy.errors"]
    assert {kind.code: (kind.status, kind.exit_code) for kind in kinds}.items() <= listed.items()
    assert set(listed) - {kind.code for kind in kinds} == {"not_ready", "internal"}


def test_operations_lists_every_event_with_its_level() -> None:
    rows = re.findall(r"^\| (`[\w`, ]+`) \| (info|warning) \|", page("operations.md"), re.MULTILINE)
    level = {name: level for names, level in rows for name in re.findall(r"\w+", names)}
    sources = "\n".join((ROOT / module).read_text() for module in modules())
    emitted = set(re.findall(r"emit\(\s*\"(\w+)\"", sources))
    assert set(level) == emitted
    assert {name for name, how in level.items() if how == "warning"} == WARNINGS


def test_operations_lists_every_metric() -> None:
    listed = set(re.findall(r"`bgproxy_(\w+)`", page("operations.md")))
    source = (ROOT / "bgproxy/controlplane/admin/metrics.py").read_text()
    assert listed == set(re.findall(r"yield (?:gauge|counter|histogram)\(\s*\"(\w+)\"", source))


def test_the_picture_of_the_switch_shows_every_phase() -> None:
    (picture,) = blocks(ROOT / "docs" / "switch.md", "")
    assert set(re.findall(r"[A-Z]{3,}", picture)) == {phase.name for phase in Phase}


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (request("GET / HTTP/1.1", "Content-Length: 1", "Transfer-Encoding: chunked"), 400),
        (request("GET / HTTP/1.1", "Transfer-Encoding: gzip, chunked"), 400),
        (request("GET / HTTP/1.1", "Transfer-Encoding: gzip"), 400),
        (request("GET / HTTP/1.1", host=None), 400),
        (request("GET /#a HTTP/1.1"), 400),
        (request("GET / HTTP/2.0"), 505),
        (request("CONNECT a:1 HTTP/1.1"), 501),
        (request("TRACE / HTTP/1.1"), 405),
        (request("BREW / HTTP/1.1"), 501),
        (request("GET / HTTP/1.1", "Expect: patience"), 417),
    ],
)
def test_a_refusal_has_the_status_that_the_http_page_gives_it(head: bytes, status: int) -> None:
    answer = read(head)
    assert isinstance(answer, Refusal)
    assert answer.status == status
    assert f"| {status}" in page("http.md")


def test_the_http_page_lists_every_status_placeholder_and_file_of_an_error_page() -> None:
    text = page("http.md").partition("## Error pages")[2].partition("\n## ")[0]
    (listed,) = re.findall(r"itself answers ([\d, and]+) \|", text)
    assert [int(status) for status in re.findall(r"\d+", listed)] == list(error_pages.STATUSES)
    assert set(re.findall(r"`\{\{(\w+)\}\}`", text)) == set(error_pages.PLACEHOLDERS)
    assert set(re.findall(r"`(\w+\.html)`", text)) <= error_pages.NAMES
    assert f"{error_pages.MAX_FILE // 1024} KiB a file and {error_pages.MAX_ALL // 1024} KiB in all" in text


def test_the_http_page_lists_the_clients_that_the_tests_run() -> None:
    table = page("http.md").partition("## Clients that were run through it")[2].partition("\n## ")[0]
    listed = {row.split()[0].lower() for row in re.findall(r"^\| (?!client)(\w.*?) \|", table, re.MULTILINE)}
    source = (ROOT / "tests/e2e/test_clients.py").read_text()
    assert listed == {"requests", "httpx", "aiohttp", "curl", "node", "undici", "chromium", "h2load", "wrk"}
    assert all(name in source.lower() for name in listed)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    for name in ("requests", "httpx", "aiohttp"):
        (least,) = re.findall(rf"^\| {name} (\d+\.\d+)", table, re.MULTILINE)
        assert [each for each in pinned if each.startswith(f"{name}>={least},")], name
