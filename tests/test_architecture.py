"""The layering of docs/architecture.md, read from the source: ranks, purity, no cycles, a test twin for each module."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "bgproxy"
TESTS = ROOT / "tests"

# Which rooms of the house a room may import from. What is missing here is forbidden.
MAY_IMPORT = {
    "core": {"core"},
    "wire": {"core", "wire"},
    "shm": {"core", "shm"},
    "errors": set(),
    "tls": {"core", "tls"},
    "config": {"core", "shm", "errors", "tls", "config"},
    "log": {"core", "errors"},
    "dataplane": {"core", "wire", "shm", "tls", "dataplane"},
    "controlplane": {"core", "shm", "errors", "config", "log", "tls", "controlplane"},
    "worker": {"core", "wire", "shm", "tls", "dataplane"},
    "supervisor": {"core", "shm", "errors", "config", "log", "tls", "controlplane"},
    "demo": {"core", "errors", "config", "log", "supervisor", "demo"},
    "cli": {"core", "errors", "config", "cli"},
    "__main__": {"errors", "cli"},
}
# The command line starts the planes, but only inside the command that needs them: status and switch start without.
MAY_IMPORT_LATE = {"cli": {"supervisor", "demo"}}

PURE_STDLIB = {
    *("__future__", "abc", "base64", "binascii", "bisect", "collections", "collections.abc", "contextlib", "copy"),
    *("dataclasses", "difflib", "enum", "fractions", "functools", "hashlib", "heapq", "html.escape", "http.HTTPStatus"),
    *("ipaddress", "itertools", "json", "math", "operator", "re", "statistics", "string", "struct", "types", "typing"),
    "urllib.parse",
}
OUTSIDE_CODE = {  # rooms that are held to a list; every other room may use what pyproject.toml declares
    "core": PURE_STDLIB | {"msgspec"},
    "wire": PURE_STDLIB | {"msgspec", "httptools"},
    "shm": PURE_STDLIB | {"mmap", "os", "socket", "msgspec"},
}
IMPURE_CALLS = {"open", "print", "input", "exec", "eval", "__import__", "breakpoint"}
CONTROL_PLANE_LIBRARIES = {"aiohttp", "structlog", "click", "cryptography"}
TESTED_FROM_OUTSIDE = {"bgproxy.__main__"}  # the entry point: every end-to-end test goes through it
REPOSITORY_TESTS = {"test_architecture", "test_benchmarks", "test_docs", "test_packaging", "conftest"}


@dataclass(frozen=True)
class Import:
    """One import statement: a name of this project or of outside code, and when it happens."""

    module: str
    name: str  # after `from module import`, else empty
    line: int
    late: bool  # inside a function
    for_types: bool  # under `if TYPE_CHECKING:`, never at run time


class _Imports(ast.NodeVisitor):
    def __init__(self, package: str, modules: set[str]) -> None:
        self.found: list[Import] = []
        self._package = package
        self._modules = modules
        self._functions = 0
        self._type_checking = 0

    def _add(self, module: str, node: ast.stmt, name: str = "") -> None:
        self.found.append(Import(module, name, node.lineno, self._functions > 0, self._type_checking > 0))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name, node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            parents = self._package.split(".")
            above = ".".join(parents[: len(parents) - node.level + 1])
            base = f"{above}.{base}" if base else above
        for alias in node.names:
            submodule = f"{base}.{alias.name}"
            self._add(submodule if submodule in self._modules else base, node, alias.name)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._functions += 1
        self.generic_visit(node)
        self._functions -= 1

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self.visit_FunctionDef(node)

    def visit_If(self, node: ast.If) -> None:
        guarded = ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}
        self._type_checking += guarded
        for statement in node.body:
            self.visit(statement)
        self._type_checking -= guarded
        for statement in node.orelse:
            self.visit(statement)


def module_name(path: Path, root: Path = ROOT) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(source: str, path: Path, modules: set[str]) -> list[Import]:
    name = module_name(path)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    visitor = _Imports(package, modules)
    visitor.visit(ast.parse(source, str(path)))
    return visitor.found


SOURCES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
IMPORTS = {name: imports_of(path.read_text(), path, set(SOURCES)) for name, path in SOURCES.items()}


def room(module: str) -> str:
    """The first name below bgproxy; empty for bgproxy itself, which holds only the version."""
    return module.split(".")[1] if "." in module else ""


def is_ours(module: str) -> bool:
    return module.split(".")[0] == "bgproxy"


def in_room(name: str) -> list[str]:
    return [module for module in SOURCES if room(module) == name]


def where(module: str, line: int) -> str:
    return f"{SOURCES[module].relative_to(ROOT)}:{line}"


def listed(sentences: Iterable[str]) -> str:
    return "\n" + "\n".join(sentences)


# --- ranks -----------------------------------------------------------------------------------------------------------


def test_every_room_has_its_place_in_the_table():
    assert {room(module) for module in SOURCES} - {""} <= set(MAY_IMPORT)


def test_the_package_itself_imports_nothing():
    assert IMPORTS["bgproxy"] == []


def forbidden_imports(module: str, imports: list[Import]) -> list[tuple[int, str]]:
    here = room(module)
    allowed = MAY_IMPORT.get(here, set())
    late = allowed | MAY_IMPORT_LATE.get(here, set())
    return [
        (found.line, found.module)
        for found in imports
        if is_ours(found.module)
        and found.module != "bgproxy"
        and room(found.module) not in (late if found.late or found.for_types else allowed)
    ]


@pytest.mark.parametrize("name", sorted(MAY_IMPORT))
def test_a_room_imports_only_from_the_rooms_below_it(name):
    wrong = [
        f"{where(module, line)} imports {target}"
        for module in in_room(name)
        for line, target in forbidden_imports(module, IMPORTS[module])
    ]
    assert not wrong, listed(wrong)


def test_the_two_planes_never_import_each_other():
    assert "controlplane" not in MAY_IMPORT["dataplane"] | MAY_IMPORT["worker"]
    assert "dataplane" not in MAY_IMPORT["controlplane"] | MAY_IMPORT["supervisor"]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("bgproxy.dataplane.exchange", "import bgproxy.controlplane.orders"),
        ("bgproxy.dataplane.exchange", "from bgproxy.controlplane import orders"),
        ("bgproxy.controlplane.orders", "from ..dataplane import listener"),
        ("bgproxy.controlplane.orders", "def later():\n    from bgproxy import worker"),
        ("bgproxy.core.model", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import bgproxy.shm.segment"),
        ("bgproxy.cli.status", "from bgproxy import supervisor"),
    ],
)
def test_a_forbidden_import_is_found_in_every_form_it_can_take(module, source):
    modules = {*SOURCES, module, "bgproxy.worker", "bgproxy.supervisor", "bgproxy.dataplane.listener"}
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    assert len(forbidden_imports(module, imports_of(source, path, modules))) == 1


# --- purity ----------------------------------------------------------------------------------------------------------


def allowed_outside(found: Import, allowed: set[str]) -> bool:
    return found.module in allowed or f"{found.module}.{found.name}" in allowed


@pytest.mark.parametrize("name", sorted(OUTSIDE_CODE))
def test_the_pure_rooms_import_no_clock_no_socket_and_no_loop(name):
    wrong = [
        f"{where(module, found.line)} imports {found.module}"
        for module in in_room(name)
        for found in IMPORTS[module]
        if not is_ours(found.module) and not allowed_outside(found, OUTSIDE_CODE[name])
    ]
    assert not wrong, listed(wrong)


@pytest.mark.parametrize(
    "source", ["import time", "from os import path", "import http.client", "from http import client"]
)
def test_an_impure_import_is_found(source):
    (found,) = imports_of(source, PACKAGE / "core" / "model.py", set(SOURCES))
    assert not allowed_outside(found, PURE_STDLIB)


@pytest.mark.parametrize("name", ["core", "wire"])
def test_the_pure_rooms_call_nothing_that_reads_or_writes(name):
    wrong = [
        f"{where(module, node.lineno)} calls {node.func.id}"
        for module in in_room(name)
        for node in ast.walk(ast.parse(SOURCES[module].read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS
    ]
    assert not wrong, listed(wrong)


@pytest.mark.parametrize("name", ["core", "wire"])
def test_the_pure_rooms_await_nothing(name):
    asynchronous = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)
    wrong = [
        where(module, node.lineno)
        for module in in_room(name)
        for node in ast.walk(ast.parse(SOURCES[module].read_text()))
        if isinstance(node, asynchronous)
    ]
    assert not wrong, listed(wrong)


# --- cycles and closures ---------------------------------------------------------------------------------------------


def needed_by(module: str) -> set[str]:
    """Modules of this project that `module` needs at run time, early or late."""
    found = {found.module for found in IMPORTS[module] if is_ours(found.module) and not found.for_types}
    return {name for name in found if name in SOURCES} - {module}


def find_cycle(graph: dict[str, set[str]]) -> list[str]:
    """One cycle as a path that ends where it began; empty where there is none."""
    done: set[str] = set()

    def walk(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for following in sorted(graph[node]):
            if cycle := walk(following, [*path, node]):
                return cycle
        done.add(node)
        return []

    return next((cycle for node in sorted(graph) if (cycle := walk(node, []))), [])


def test_no_module_imports_itself_through_others():
    assert find_cycle({module: needed_by(module) for module in SOURCES}) == []


def test_a_cycle_is_found_and_named():
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def closure(module: str) -> set[str]:
    seen: set[str] = set()
    waiting = {module}
    while waiting:
        current = waiting.pop()
        seen.add(current)
        waiting |= needed_by(current) - seen
    return seen


def outside_imports(modules: set[str]) -> set[str]:
    return {found.module.split(".")[0] for module in modules for found in IMPORTS[module] if not is_ours(found.module)}


def test_nothing_a_worker_reaches_imports_a_control_plane_library():
    assert outside_imports(closure("bgproxy.worker")) & CONTROL_PLANE_LIBRARIES == set()


def test_a_started_worker_has_loaded_neither_aiohttp_nor_the_control_plane():
    code = "import json, sys, bgproxy.worker; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(json.loads(done.stdout))
    assert "bgproxy.worker" in loaded
    assert loaded & CONTROL_PLANE_LIBRARIES == set()
    assert {room(module) for module in loaded if is_ours(module)} & {
        "controlplane",
        "cli",
        "config",
        "supervisor",
    } == set()


# --- tests mirror the tree -------------------------------------------------------------------------------------------


def twin(module: str) -> Path:
    """bgproxy.core.gates → tests/core/test_gates.py"""
    *rooms, name = module.split(".")[1:]
    return TESTS.joinpath(*rooms, f"test_{name}.py")


def has_twin(module: str) -> bool:
    """The twin may be several files, one per aspect: test_parser.py, test_parser_limits.py."""
    path = twin(module)
    return path.exists() or any(path.parent.glob(f"{path.stem}_*.py"))


def test_every_module_has_its_test_twin():
    modules = [name for name, path in SOURCES.items() if path.name != "__init__.py"]
    alone = [name for name in modules if name not in TESTED_FROM_OUTSIDE and not has_twin(name)]
    assert not alone, listed(f"{name}: {twin(name).relative_to(ROOT)} is missing" for name in alone)


def test_every_test_file_has_its_module():
    beside_the_tree = {"support", "e2e", "http", "property", "fuzz"}
    twins = {twin(name) for name in SOURCES if name != "bgproxy"}  # a package may be tested as a whole, too
    orphans = []
    for path in sorted(TESTS.rglob("*.py")):
        if path.relative_to(TESTS).parts[0] in beside_the_tree or path.stem in REPOSITORY_TESTS:
            continue
        aspects = {path.with_name(f"{'_'.join(path.stem.split('_')[:n])}.py") for n in range(2, 10)}
        if not aspects & twins:
            orphans.append(str(path.relative_to(ROOT)))
    assert not orphans, listed(orphans)


def test_test_directories_are_not_packages():
    assert list(TESTS.rglob("__init__.py")) == []
