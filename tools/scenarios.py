"""docs/scenarios.md: which tests of containers are no tests of virtual machines, by the marks in
their sources (tests/shared.py); ``make docs``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "scenarios.md"
FOLDERS = ("kernel", "attack", "networks")
MARKS = ("container_only", "no_scenario")

HEAD = """# Scenarios: one model, two kinds of walls

Written by `make docs` from the marks of the tests.

A *scenario* is a test function of `tests/kernel`, `tests/attack` or `tests/networks` that drives
machines by the command line. With `COVE_TEST_VMS=all` each runs twice, for containers and for
virtual machines, to the same words (`make test-vms`); without it the files that `tests/shared.py`
names (`DAILY`) do, and those of `tests/vm` that take an `isolation`. Every pytest ends
with the count of what it ran, and `tests/unit/test_scenarios.py` fails if less than 85 % are
shared. What is for virtual machines alone (`tests/vm`, `tests/networks/test_virtual.py`) and what
tests parts of cove without its command line (an engine, a store, an op) counts on neither side.
"""
ONLY = """## What cannot apply to a virtual machine

| why | scenarios |
|---|---|
"""
OTHERS = """## What drives cove and is no scenario

| why | tests |
|---|---|
"""


def main() -> None:
    TARGET.write_text(text())


def text() -> str:
    only, others = _table("container_only"), _table("no_scenario")
    return f"{HEAD}\n{ONLY}{only}\n{OTHERS}{others}"


def _table(mark: str) -> str:
    found: dict[str, dict[str, list[str]]] = {}
    for file in files():
        for why, name in marked(file, mark):
            found.setdefault(why, {}).setdefault(f"{file.parent.name}/{file.stem}", []).append(name)
    return "".join(f"| {why} | {_places(found[why])} |\n" for why in sorted(found))


def _places(places: dict[str, list[str]]) -> str:
    def place(file: str, names: list[str]) -> str:
        listed = ", ".join(name.removeprefix("test_").replace("_", " ") for name in names if name)
        return f"`{file}`: {listed}" if listed else f"all of `{file}`"

    return "; ".join(place(file, names) for file, names in places.items())


def files() -> list[Path]:
    return [path for folder in FOLDERS for path in sorted((ROOT / "tests" / folder).glob("test_*"))]


def marked(file: Path, mark: str) -> Iterator[tuple[str, str]]:
    """Reason and function; "": the whole file."""
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield from ((why, node.name) for why in _reasons(node.decorator_list, mark))
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
            value = node.value
            marks = value.elts if isinstance(value, ast.List) else [value]
            yield from ((why, "") for why in _reasons(marks, mark))


def _reasons(marks: list[ast.expr], mark: str) -> Iterator[str]:
    for node in marks:
        if isinstance(node, ast.Call) and ast.unparse(node.func) == mark:
            yield str(ast.literal_eval(node.args[0])).replace("|", "\\|")


if __name__ == "__main__":
    main()
