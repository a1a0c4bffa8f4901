"""Write cove/planner/seccomp/numbers.py: numbers by architecture, of the kernel's headers.

Usage: gen_syscalls.py [INCLUDE_DIR], as root of the repository; needs a C preprocessor.
"""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

OUT = Path(__file__).resolve().parents[1] / "cove" / "planner" / "syscalls.py"

# From 424 on a call has one number everywhere; these are newer than the headers of Debian 12.
NEWER = {
    "cachestat": 451, "fchmodat2": 452, "map_shadow_stack": 453, "futex_wake": 454,
    "futex_wait": 455, "futex_requeue": 456, "statmount": 457, "listmount": 458,
    "lsm_get_self_attr": 459, "lsm_set_self_attr": 460, "lsm_list_modules": 461, "mseal": 462,
    "setxattrat": 463, "getxattrat": 464, "listxattrat": 465, "removexattrat": 466,
    "open_tree_attr": 467, "file_getattr": 468, "file_setattr": 469,
}  # fmt: skip
X86_64_NEWER = {"uretprobe": 335}

ARM64_WANTS = (
    "RENAMEAT", "NEW_STAT", "SET_GET_RLIMIT", "TIME32_SYSCALLS", "SYS_CLONE3", "MEMFD_SECRET",
)  # fmt: skip


def macros(*arguments: str) -> dict[str, int]:
    """Name to number of every __NR_ macro after preprocessing."""
    done = subprocess.run(["cc", "-E", "-dM", *arguments], check=True, capture_output=True)
    defined = dict(re.findall(r"^#define (\w+) (.+)$", done.stdout.decode(), re.M))

    def value(text: str) -> int:
        while text in defined:
            text = defined[text]
        return int(text, 0)

    return {
        name.removeprefix("__NR_"): value(text)
        for name, text in defined.items()
        if name.startswith("__NR_") and name not in ("__NR_syscalls", "__NR_arch_specific_syscall")
    }


def tables(include: Path) -> dict[str, dict[str, int]]:
    native = next(include.glob("*-linux-gnu/asm"), include / "asm")
    arm64 = [f"-D__ARCH_WANT_{want}" for want in ARM64_WANTS]
    return {
        "x86_64": macros(str(native / "unistd_64.h")) | NEWER | X86_64_NEWER,
        "i386": macros(str(native / "unistd_32.h")) | NEWER,
        "aarch64": macros("-D__BITS_PER_LONG=64", *arm64, str(include / "asm-generic/unistd.h"))
        | NEWER,
    }


def packed(table: dict[str, int]) -> str:
    """Names in the order of their numbers; ``=N`` where a number is not the next."""
    words, at = [], 0
    for name, number in sorted(table.items(), key=lambda item: item[1]):
        if number != at:
            words.append(f"={number}")
        words.append(name)
        at = number + 1
    return "\n".join(textwrap.wrap(" ".join(words), 96, break_on_hyphens=False))


def main() -> None:
    include = Path(sys.argv[1] if len(sys.argv) > 1 else "/usr/include")
    body = "".join(
        f'    "{arch}": """\n{packed(table)}\n""",\n' for arch, table in tables(include).items()
    )
    OUT.write_text(HEAD.replace("@TABLES@", body))


HEAD = '''"""System call numbers by architecture. Written by tools/gen_syscalls.py; not by hand."""

from __future__ import annotations

from functools import cache
from typing import Final

_PACKED: Final = {
@TABLES@}
"""Names in the order of their numbers; ``=N`` where a number is not the next."""

AUDIT_ARCH: Final = {
    "x86_64": 0xC000003E,
    "i386": 0x40000003,
    "aarch64": 0xC00000B7,
    "arm": 0x40000028,
}
"""linux/audit.h: what a filter and an audit record call an architecture."""


@cache
def numbers(arch: str) -> dict[str, int]:
    """Name to number."""
    table: dict[str, int] = {}
    at = 0
    for word in _PACKED[arch].split():
        if word[0] == "=":
            at = int(word[1:])
        else:
            table[word] = at
            at += 1
    return table


@cache
def _names(audit_arch: int) -> dict[int, str]:
    for arch, value in AUDIT_ARCH.items():
        if value == audit_arch and arch in _PACKED:
            return {number: name for name, number in numbers(arch).items()}
    return {}


def name_of(audit_arch: int, number: int) -> str:
    """The name of a call as an audit record gives it; empty when unknown."""
    return _names(audit_arch).get(number, "")
'''

if __name__ == "__main__":
    main()
