"""The checkout with its ``.venv`` as a disk: the work tree as it is now, committed or not."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.driver import ROOT
from tests.host61.guest_disk import CACHE

LEFT_OUT = (
    *(".git", ".cache", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache"),
    *("build", "dist", ".venv/bin/ruff"),
    *(f".venv/lib/*/site-packages/{name}" for name in ("mypy", "pip", "ziglang")),
)
SIZE = "2G"


@contextlib.contextmanager
def checkout_disk() -> Iterator[Path]:
    """Made anew for every run: 200 MB in two seconds."""
    if sys.version_info[:2] != (3, 11):
        sys.exit("host61: the guest has Python 3.11, so .venv has to be of Python 3.11 as well")
    with tempfile.TemporaryDirectory(prefix="checkout-", dir=CACHE) as scratch:
        tree, disk = Path(scratch) / "tree", Path(scratch) / "disk"
        tree.mkdir()
        _copy(tree)
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, disk, SIZE], check=True)
        shutil.rmtree(tree)
        yield disk


def _copy(tree: Path) -> None:
    excluded = ["--anchored", *(f"--exclude=./{name}" for name in LEFT_OUT)]
    with subprocess.Popen(
        ["tar", "-C", ROOT, *excluded, "--warning=no-file-changed", "-c", "."],
        stdout=subprocess.PIPE,
    ) as packing:
        subprocess.run(["tar", "-C", tree, "-x"], stdin=packing.stdout, check=True)
    _use_the_guests_python(tree / ".venv")
    _bring_what_is_built(tree / "built")


def _use_the_guests_python(venv: Path) -> None:
    python = venv / "bin/python3"
    python.unlink()
    python.symlink_to("/usr/bin/python3")
    settings = (venv / "pyvenv.cfg").read_text().splitlines()
    kept = [line for line in settings if not line.startswith(("home", "executable"))]
    (venv / "pyvenv.cfg").write_text("\n".join(["home = /usr/bin", *kept]) + "\n")


def _bring_what_is_built(place: Path) -> None:
    """The C program of tests/native, plain and under ASan: the guest would compile for minutes."""
    from tests.native.conftest import built

    place.mkdir()
    shutil.copy2(built("init", sanitize=False), place)
    shutil.copy2(built("sanitized", sanitize=True), place)
