"""docs/python.md: its examples run, its reference is fresh, every public name is in it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cove as package
from cove.client import sync
from tests.driver import ROOT, Cove

PAGE = ROOT / "docs/python.md"
EXAMPLES = [
    each
    for each in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    if "cove.networks" not in each  # which runs in a network of its own: tests/networks
]


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_runs(cove: Cove, number: int, tmp_path: Path) -> None:
    example = tmp_path / "example.py"
    example.write_text("import cove\n" + EXAMPLES[number])
    done = subprocess.run(
        [sys.executable, "-W", "error", str(example)],
        env=cove.env,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert cove("ps", "-aq").out == ""


def test_the_reference_is_fresh() -> None:
    program = (
        "import sys; sys.path.insert(0, 'tools'); import python_doc; "
        "sys.stdout.write(python_doc.text())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert PAGE.read_text() == done.stdout, "stale: run make docs"


def test_every_public_name_is_described() -> None:
    text = PAGE.read_text()
    for name in package.__all__:
        assert re.search(rf"\b{re.escape(name)}\b", text) or name == "__version__", name


def test_every_method_says_what_it_does() -> None:
    tree = ast.parse(Path(sync.__file__).read_text())
    for kind in tree.body:
        for node in kind.body if isinstance(kind, ast.ClassDef) else ():
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{kind.name}.{node.name}"
