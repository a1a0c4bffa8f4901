"""Write the Python API for asyncio from the one that waits, file by file; ``make docs``.

A function that calls ``finish`` becomes a coroutine, an iterator an asynchronous one, ``with`` an
``async with``. Nothing else differs: both are lines over the same conversations.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILES = {"sync": "aio", "networks": "aio_networks", "volumes": "aio_volumes"}
"""Of cove/client."""

HEAD = '''"""The Python API for asyncio, written by ``tools/aio.py`` from ``{}.py``."""
'''
WORDS = (
    (r"\bfinish\(", "await finish("),
    (r"abc import Callable, Iterator, Sequence", "abc import AsyncIterator, Callable, Sequence"),
    (r"-> Iterator\[", "-> AsyncIterator["),
    (r"\b__(enter|exit)__\b", r"__a\1__"),
    (r"\b__iter__\b", "__aiter__"),
    (r"client\.steps import each", "client.aio_steps import each"),
    (
        r"client\.steps import Steps, finish",
        "client.aio_steps import finish\nfrom cove.client.steps import Steps",
    ),
    (r"client\.(networks|volumes) import", r"client.aio_\1 import"),
    (r"client\.sync import", "client.aio import"),
)


def text(name: str = "sync") -> str:
    source = (ROOT / f"cove/client/{name}.py").read_text()
    tree = ast.parse(source)
    lines = source.split("\n")
    begins = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and _waits(node):
            begins.append(node.lineno - 1)
    for number in begins:
        lines[number] = lines[number].replace("def ", "async def ", 1)
    docstring = tree.body[0]
    assert docstring.end_lineno
    body = "\n".join(lines[docstring.end_lineno :])
    for pattern, new in WORDS:
        body = re.sub(pattern, new, body)
    return _formatted(HEAD.format(name) + body, FILES[name])


def _waits(function: ast.FunctionDef) -> bool:
    if function.name in ("__enter__", "__exit__"):
        return True
    return any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "finish"
        for node in ast.walk(function)
    )


def _formatted(source: str, name: str) -> str:
    import subprocess

    ruff = [sys.executable, "-m", "ruff"]
    target = ["--stdin-filename", str(ROOT / f"cove/client/{name}.py"), "-"]
    options = {"capture_output": True, "text": True, "check": True, "cwd": ROOT}
    sort = [*ruff, "check", "--select", "I", "--fix", "-q", *target]
    done = subprocess.run(sort, input=source, **options)  # type: ignore[call-overload]
    done = subprocess.run([*ruff, "format", "-q", *target], input=done.stdout, **options)  # type: ignore[call-overload]
    result: str = done.stdout
    return result


def main() -> int:
    for name, target in FILES.items():
        (ROOT / f"cove/client/{target}.py").write_text(text(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
