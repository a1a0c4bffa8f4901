"""Write docs/plan.md: what a plan is, every op, and every default of a machine with its reason.

The tables come from cove.plan.ops (held to init/ops.def by a test) and cove.planner; ``render`` is
what tests/unit/test_plan_doc.py compares the document with.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "plan.md"

sys.path.insert(0, str(ROOT))

import cove.plan.vm_ops  # noqa: E402, F401
from cove.plan.ops import OPS, Execve, Op  # noqa: E402
from cove.planner import capabilities, defaults  # noqa: E402
from cove.planner.files import devices, paths  # noqa: E402
from cove.planner.seccomp import rules as syscall_rules  # noqa: E402

SIDES = {"h": "host", "m": "machine", "b": "both", "g": "guest"}

INTRO = """# Plans

`cove plan IMAGE COMMAND` prints what `cove run` would do: a flat list of **ops**, each named after
its system call, in the order in which they run, each with its reason behind `#`: the flag that was
typed, or `default:` and why cove does it unasked. `cove plan --json` prints the same for programs.

A plan has two parts. The **host** part is run by the launcher, outside; its `clone3` begins the
**machine** part, run by a child that is in the new namespaces and becomes the machine's process.
Both run at the same time; `send` and `recv` are where they wait for each other.

Words are text. A **register** is a name for a file descriptor: some come from the daemon (`bind0`,
`view0`, `hosts`, `cgroup`, `target`), the others are filled by ops. `-` is no descriptor, and as an
owner: leave it. The whole plan is read and validated before its first op runs; when one fails, the
error names what was typed for it.

On the wire a part is `cove-plan 1\\0`, then for each op `name\\0count\\0word\\0…`: numbers decimal,
modes octal, masks and filters hexadecimal. `tr '\\0' '\\n'` reads it.

This file is written by `tools/plan_doc.py` from the tables of the program.
"""


def render() -> str:
    return "\n".join(
        [
            INTRO,
            "## Ops\n",
            _table(("op", "side", "words", "what it does"), _ops()),
            "## Defaults\n",
            "Nothing of this has to be asked for.\n",
            "### Capabilities\n",
            "Inside a machine's user namespace a capability reaches only what that owns.\n",
            _table(("capability", "given", "why"), _capabilities()),
            "### Paths that are masked\n",
            _table(("path", "why"), paths.MASKED.items()),
            "### Paths that are read-only\n",
            _table(("path", "why"), paths.READONLY.items()),
            "### Devices\n",
            _table(("node", "why"), ((n[0], n[-1]) for n in (*devices.NODES, devices.TTY))),
            "### Settings and limits\n",
            _table(("what", "value", "why"), _settings()),
            "### System calls that are allowed\n",
            "All others fail with EPERM, and the audit log names them; unknown ones with ENOSYS.\n",
            _table(("system calls", "under the condition", "why"), _allowed()),
            "### System calls that stay closed\n",
            _table(("system call", "why"), _closed()),
        ]
    )


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in r) + " |\n" for r in lines
    )


def _ops() -> Iterable[tuple[str, ...]]:
    for name, cls in OPS.items():
        doc = " ".join((cls.__doc__ or "").split())
        yield f"`{name}`", SIDES[cls.SIDES], _words(cls), doc


def _words(cls: type[Op]) -> str:
    if cls is Execve:
        return "count, arguments…, environment…"
    return ", ".join(f.replace("_", " ") + ("…" if more else "") for f, _, more in cls.FIELDS)


def _capabilities() -> Iterable[tuple[str, ...]]:
    for name, entry in capabilities.CAPABILITIES.items():
        yield name, "yes" if entry.granted else "no", entry.reason


def _settings() -> Iterable[tuple[str, ...]]:
    yield "`--pids-limit`", str(defaults.PIDS), defaults.PIDS_WHY
    yield "`--shm-size`", f"{defaults.SHM >> 20} MiB", defaults.SHM_WHY
    yield "`--storage-opt size`", f"{defaults.STORAGE >> 30} GiB", defaults.STORAGE_WHY
    yield "umask", f"{defaults.UMASK:04o}", defaults.UMASK_WHY
    yield "`PATH`", f"`{defaults.PATH}`", defaults.PATH_WHY
    for limit in defaults.RLIMITS:
        soft, hard = ("unlimited" if n == -1 else str(n) for n in (limit.soft, limit.hard))
        yield limit.resource.name, f"{soft}, at most {hard}", limit.why
    for sysctl in defaults.NETWORK_SYSCTLS:
        yield f"`{sysctl.name}`", sysctl.value, sysctl.why


def _allowed() -> Iterable[tuple[str, ...]]:
    rules = (*syscall_rules.ALLOWED, *syscall_rules.CONDITIONAL, *syscall_rules.BY_CAPABILITY)
    for rule in rules:
        conditions = [f"with {cap}" for cap in rule.caps]
        conditions += [f"without {cap}" for cap in rule.unless_caps]
        for arg in rule.args:
            if arg.op == "low_masked_eq":
                conditions.append(f"argument {arg.index} has no bit of {arg.mask:#x}")
            else:
                conditions.append(f"argument {arg.index} is {arg.value:#x}")
        yield " ".join(rule.names), ", ".join(conditions), rule.reason


def _closed() -> Iterable[tuple[str, ...]]:
    yield from syscall_rules.REFUSED.items()
    yield from ((f"{name} (ENOSYS)", why) for name, why in syscall_rules.MISSING.items())
    for request, why in syscall_rules.TERMINAL_INJECTION.items():
        yield f"ioctl {request:#x}", why
    yield "socket, of other families", "modules bring them in on request; most holes were there"


def main() -> None:
    DOCUMENT.write_text(render())


if __name__ == "__main__":
    main()
