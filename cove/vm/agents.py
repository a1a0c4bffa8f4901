"""The agent of a guest: this very program, or the same sources built for the guest's CPU.

One for another CPU is built when somebody first makes such a guest, and kept in the state
directory until this program is another one.
"""

from __future__ import annotations

import os
import platform
import sys
import threading

from cove.errors import Unsupported, printable
from cove.linux.program import build_stamp, init_program, stamp_of
from cove.vm.debian import Gone, run

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TOOL = "tools/build_init.py"
SOURCES = (f"{PACKAGE}/_native/source", os.path.dirname(PACKAGE))
"""Where the sources are: a wheel's own copy, or the tree around an editable install."""

LINES = 400

_one_at_a_time = threading.Lock()
"""The second of two starts finds what the first has built."""


def is_ready(arch: str, *, directory: str) -> bool:
    """Nothing has to be built for a guest of ``arch``."""
    return arch == platform.machine() or stamp_of(f"{directory}/{arch}") == build_stamp()


def agent_program(arch: str, *, directory: str, gone: Gone) -> str:
    """The path of the agent for guests of ``arch``; ``directory`` keeps those of other CPUs."""
    if arch == platform.machine():
        return init_program()
    path, mark = f"{directory}/{arch}", build_stamp()
    if is_ready(arch, directory=directory):
        return path
    tool = next((f"{s}/{TOOL}" for s in SOURCES if os.path.exists(f"{s}/{TOOL}")), "")
    what = f"cannot make guests for {arch}"
    if not tool:
        raise Unsupported(
            f"{what}: this installation has not the sources of their agent",
            hint="install cove from its source, or from a whole wheel",
        )
    os.makedirs(directory, 0o700, exist_ok=True)
    argv = [sys.executable, "-I", tool, path, "--arch", arch, "--mark", mark]
    # Zig keeps what it has made of musl; without a directory of its own it would want a home.
    env = (f"ZIG_GLOBAL_CACHE_DIR={directory}/zig",)
    with _one_at_a_time:
        if stamp_of(path) == mark:
            return path
        code, said = run(argv, cwd=directory, env=env, gone=gone)
    if code:
        lines = [line for line in said.splitlines() if line.strip()] or ["no reason was given"]
        raise Unsupported(f"{what}: {_reason(lines[0])}", hint=_hint(lines[0]))
    return path


def _reason(line: str) -> str:
    """The tool's own first line, which begins as errors of cove do."""
    reason = line.partition("; install ")[0].partition(": ")[2] or line
    return printable(reason[:LINES])


def _hint(line: str) -> str:
    hint = line.partition("; install ")[2]
    return printable(f"install {hint}"[:LINES]) if hint else ""
