"""The facts that only virtual machines need: asked for with the first one, as each costs a process.

``kvm`` is not found here: it takes a boot (``cove.vm.accel``).
"""

from __future__ import annotations

import re
import subprocess

import msgspec

from cove.linux.program import init_program
from cove.plan.facts import Facts

SECONDS = 20.0
"""For a program to answer; one on a broken file system may never."""

VERSION = re.compile(r"version ([0-9]+)\.([0-9]+)\.([0-9]+)")

NANOSECONDS = 1_000_000
"""kHz: what QEMU gives a guest as its counter on hosts whose own it does not read."""


def probe_virtual(facts: Facts, cpu: str) -> Facts:
    """``facts``, and what QEMU needs to be told of this host; with the version of the one for
    guests with this CPU, if it is there.
    """
    found = {name: version for name, version in facts.qemu.items() if name != cpu}
    if version := qemu_version(f"qemu-system-{cpu}"):
        found[cpu] = version
    return msgspec.structs.replace(facts, tsc_khz=_tsc(facts.arch), qemu=found)


def qemu_version(program: str) -> tuple[int, ...]:
    """Empty: not installed, or it does not run."""
    match = VERSION.search(_says(program, "-version"))
    return tuple(int(number) for number in match.groups()) if match else ()


def _tsc(arch: str) -> int:
    if arch != "x86_64":
        return NANOSECONDS
    text = _says(init_program(), "tsc").strip()
    return int(text) if text.isdigit() else 0


def _says(*argv: str) -> str:
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else ""
