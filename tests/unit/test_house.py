"""The house: which room may import what, which rooms are pure, and how large things may grow."""

from __future__ import annotations

import ast
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

ROOMS = (
    "errors", "spec", "oci", "plan", "linux", "store", "planner", "image", "roots",
    "executor", "net", "vm", "build", "git", "engine", "client", "shown", "cli",
    "daemon",
)  # fmt: skip
"""Each may import only what stands before it."""

PURE = (
    "errors", "spec", "plan", "planner",
    "build/source", "build/dockerfile", "build/expand", "build/ignore", "build/lint", "build/graph",
    "build/files", "build/result", "build/contexts", "build/keeping", "build/handing",
    "shown",
)  # fmt: skip
"""No files, no kernel, no clock, no environment: facts are arguments."""

IMPURE_MODULES = {
    "os", "socket", "subprocess", "time", "pathlib", "io", "ctypes", "fcntl", "threading",
    "sqlite3", "shutil", "tempfile", "random", "secrets", "signal", "select",
}  # fmt: skip

NEVER = {("os", "fork"), ("os", "forkpty"), ("os", "system"), ("os", "popen")}


def sources(*rooms: str) -> list[Path]:
    found: list[Path] = []
    for room in rooms:
        path = ROOT / "cove" / room
        found += sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    return [p for p in found if p.exists()]


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "cove").parts[0].removesuffix(".py")


@cache
def imported(path: Path) -> list[tuple[int, str]]:
    """(line, absolute module) of each import, lazy ones too; type-checking ones left out."""
    tree = ast.parse(path.read_text())
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            skipped |= {child for statement in node.body for child in ast.walk(statement)}
    found = []
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            module = node.module or ""
            found.append((node.lineno, module))
            for alias in node.names:
                inside = f"{module}.{alias.name}"
                if (ROOT / inside.replace(".", "/")).with_suffix(".py").exists():
                    found.append((node.lineno, inside))
    return found


@pytest.mark.parametrize("path", sources(*ROOMS), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_imports_only_what_stands_above_it(path: Path) -> None:
    here = ROOMS.index(room_of(path))
    for line, module in imported(path):
        parts = module.split(".")
        if parts[0] == "cove" and len(parts) > 1 and parts[1] in ROOMS:
            assert ROOMS.index(parts[1]) <= here, f"{path.name}:{line} imports {module}"


def test_the_api_knows_no_commands() -> None:
    for path in (ROOT / "cove/daemon/docker").rglob("*.py"):
        assert not [m for _, m in imported(path) if f"{m}.".startswith("cove.cli.")], path.name


def test_every_folder_is_a_room() -> None:
    folders = {p.parent for p in (ROOT / "cove").glob("*/*.py")}
    assert {f.name for f in folders} <= set(ROOMS)


def test_modules_import_each_other_in_no_circle() -> None:
    graph: dict[str, set[str]] = {}
    for path in sources(*ROOMS):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        graph[name] = {m for _, m in imported(path) if m.startswith("cove.")}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name in done or name not in graph:
            return
        for target in graph[name]:
            visit(target, (*trail, name))
        done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("path", sources(*PURE), ids=lambda p: str(p.relative_to(ROOT)))
def test_pure_rooms_import_nothing_that_acts(path: Path) -> None:
    for line, module in imported(path):
        assert module.split(".")[0] not in IMPURE_MODULES, f"{path.name}:{line} imports {module}"


@pytest.mark.parametrize("path", sources(*ROOMS), ids=lambda p: str(p.relative_to(ROOT)))
def test_children_are_started_in_one_way(path: Path) -> None:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in NEVER, f"{path.name}:{node.lineno}"
        if isinstance(node, ast.keyword):
            assert node.arg != "preexec_fn", f"{path.name}:{node.value.lineno}"
            shell = node.arg == "shell" and ast.unparse(node.value) == "True"
            assert not shell, f"{path.name}:{node.value.lineno}: shell=True"


@pytest.mark.parametrize("path", sources(*ROOMS), ids=lambda p: str(p.relative_to(ROOT)))
def test_nobody_waits_for_a_descriptor_by_select(path: Path) -> None:
    """It knows no number above 1023, and a daemon has thousands: ``linux/ready.py``."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "select.select":
            waited = [ast.unparse(word) for word in node.args[:3]]
            assert waited == ["[]"] * 3, f"{path.name}:{node.lineno}"


def test_asyncio_lives_in_the_daemon_and_in_one_file_of_the_client() -> None:
    """The Python API's twin for asyncio waits there, and is not imported before it is asked for."""
    twin = ROOT / "cove/client/aio_steps.py"
    for path in sources(*(r for r in ROOMS if r != "daemon")):
        for line, module in imported(path):
            if not path.name.startswith("aio"):
                assert module not in ("cove.client.aio", "cove.client.aio_steps"), f"{path}:{line}"
            if path == twin:
                continue
            assert module.split(".")[0] not in {"asyncio", "aiohttp"}, f"{path}:{line}"


def test_every_file_says_what_it_is_for() -> None:
    for path in sources(*ROOMS):
        text = path.read_text()
        if text.strip():
            assert ast.get_docstring(ast.parse(text)), f"{path} has no module docstring"


def test_nothing_is_over_its_size_budget() -> None:
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import sizes
    finally:
        sys.path.pop(0)
    assert sizes.over_budget() == []
