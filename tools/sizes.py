"""Prints the sizes of files and functions and fails when one is over its budget.

Raising a budget is a commit of its own.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent

FILE_LINES = 600
FUNCTION_LINES = 60
C_ROLES = {
    "launcher and ops": (2300, ("plan.c", "launch.c", "ops_", "pid1.c")),
    "messages and roles": (315, ("io.c", "main.c")),
    "monitor": (1320, ("monitor", "forker.c", "restart.c")),
    "log": (125, ("log.c",)),
    "unpacker, with its recipes": (1270, ("unpack",)),
    "repacker": (190, ("repack.c",)),
    "walls of unpacker, archiver, copier, repacker": (75, ("walls",)),
    "archiver": (1450, ("archive",)),
    "copier of layers": (400, ("copy",)),
    "guest and jail": (1735, ("agent", "channel", "mux", "pump", "jail", "guest")),
    "cards of a guest": (345, ("cards",)),
    "relay": (850, ("relay",)),
    "front": (700, ("front", "request.c", "terminal.c")),
}
DATA = {"cove/planner/seccomp/numbers.py"}
"""Tables made by a tool; they have no length budget."""


class Size(NamedTuple):
    lines: int
    where: str


def python_functions(path: Path) -> list[Size]:
    tree = ast.parse(path.read_text())
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            name = f"{path.relative_to(ROOT)}:{node.name}"
            found.append(Size(node.end_lineno - node.lineno + 1, name))
    return found


def c_functions(path: Path) -> list[Size]:
    """Functions in kernel layout: a name at the line's start, a brace alone, a closing brace."""
    found, name, start = [], "", 0
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if match := re.match(r"[a-z_].*?\b(\w+)\(", line):
            name = match[1]
        elif line == "{":
            start = number
        elif line == "}" and start:
            found.append(Size(number - start, f"{path.relative_to(ROOT)}:{name}"))
            start = 0
    return found


def over_budget() -> list[str]:
    """One line for each budget that is exceeded."""
    problems = []
    python = [p for d in ("cove", "tools") for p in (ROOT / d).rglob("*.py")]
    sources = [*python, *(ROOT / "tests").rglob("*.py"), *(ROOT / "init").glob("*.[ch]")]
    for path in sources:
        lines = len(path.read_text().splitlines())
        name = str(path.relative_to(ROOT))
        if lines > FILE_LINES and name not in DATA:
            problems.append(f"{name}: {lines} lines, the budget is {FILE_LINES}")
    functions = [f for p in python for f in python_functions(p)]
    functions += [f for p in (ROOT / "init").glob("*.c") for f in c_functions(p)]
    problems += [
        f"{f.where}: {f.lines} lines, the budget is {FUNCTION_LINES}"
        for f in functions
        if f.lines > FUNCTION_LINES
    ]
    for role, (budget, prefixes) in C_ROLES.items():
        lines = role_lines(prefixes)
        if lines > budget:
            problems.append(f"init, {role}: {lines} lines, the budget is {budget}")
    return problems


def role_lines(prefixes: tuple[str, ...]) -> int:
    files = [p for p in (ROOT / "init").glob("*.c") if p.name.startswith(prefixes)]
    return sum(len(p.read_text().splitlines()) for p in files)


def main() -> int:
    python = list((ROOT / "cove").rglob("*.py"))
    lengths = sorted(f.lines for p in python for f in python_functions(p))
    if lengths:
        p90 = lengths[len(lengths) * 9 // 10]
        print(f"python: {len(python)} files, {len(lengths)} functions, p90 {p90} lines")
    for role, (budget, prefixes) in C_ROLES.items():
        print(f"init, {role}: {role_lines(prefixes)} of {budget} lines")
    problems = over_budget()
    for problem in problems:
        print(f"over budget: {problem}", file=sys.stderr)
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
