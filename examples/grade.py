"""Grade a folder of submissions: each runs in a machine of its own, and gets a verdict.

    python examples/grade.py [FOLDER]

The folder has what was handed in as .py files, their input in input.txt and what they have to print
in expected.txt. Run it as the user who runs cove's daemon (root).
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cove

LIMITS: cove.Options = {
    "memory": "128m",  # all its processes together
    "pids": 16,
    "timeout": 2,  # seconds
    "cpus": 1,
    "read_only": True,
    "user": 65534,
}
ENDED_BY = {
    "timeout": "TIMEOUT",
    "oom": "MEMORY",
    "pids": "FORKBOMB",
    "output": "OUTPUT",
    "storage": "STORAGE",
}


def run(program: Path) -> cove.Result:
    """Its folder is shown to nobody: the machine sees this one file, and its input on stdin."""
    shown: cove.Options = {"volumes": {str(program): "/submission.py:ro"}, **LIMITS}
    argv = ["python3", "/submission.py"]
    with open(program.parent / "input.txt", "rb") as file:
        return cove.run("host", argv, stdin=file, max_output="1m", **shown)


def verdict(result: cove.Result, expected: bytes) -> str:
    """One word. What ended the program is known from the kernel, not guessed from its exit code."""
    if result.reason.kind in ENDED_BY:
        return ENDED_BY[result.reason.kind]
    if not result.ok:
        return "CRASH"
    return "OK" if result.stdout.split() == expected.split() else "WRONG"


def explanation(result: cove.Result) -> str:
    last = result.error_text.strip().splitlines()[-1:]
    return result.reason.text or " ".join(last)


def grade(program: Path, expected: bytes) -> str:
    result = run(program)
    word = verdict(result, expected)
    return f"{program.stem:12} {word:9} {result.duration:6.2f} s  {explanation(result)}".rstrip()


def main(folder: Path) -> int:
    expected = (folder / "expected.txt").read_bytes()
    programs = sorted(folder.glob("*.py"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for line in pool.map(partial(grade, expected=expected), programs):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    here = Path(__file__).resolve().parent / "submissions"
    sys.exit(main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else here))
