"""Build init/ into one static binary, with whichever C compiler this host has.

For the package's build hook, the Makefile and the tests. Must not import cove, and needs only the
standard library. Prints nothing unless it fails.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCES = Path(__file__).resolve().parent.parent / "init"

WARNINGS = [
    "-Wall",
    "-Wextra",
    "-Wshadow",
    "-Wmissing-prototypes",
    "-Wswitch-enum",
    "-Wformat=2",
    "-Werror",
]

# musl has struct dirent64 since 1.2.4 only for those who ask for it.
COMMON = ["-std=gnu17", "-D_GNU_SOURCE=", "-D_LARGEFILE64_SOURCE=", *WARNINGS]

RELEASE = ["-O2", "-fstack-protector-strong", "-s"]

SANITIZE = [
    "-O1",
    "-g",
    "-fno-omit-frame-pointer",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
]

PT_INTERP = 3

MACHINES = {"x86_64": 62, "aarch64": 183}
"""What can be built for, as ``e_machine`` of its ELF files."""

CROSS_PACKAGES = {
    "x86_64": "gcc-x86-64-linux-gnu libc6-dev-amd64-cross",
    "aarch64": "gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
}

TRIAL = """
#include <linux/mount.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(int argc, char **argv) { (void)argv; return argc + SYS_openat2 == MOUNT_ATTR_RDONLY; }
"""


class BuildError(Exception):
    """No compiler works here, or the sources do not compile; the text is for people."""


def _kernel_headers() -> list[str]:
    """musl has no kernel headers of its own: the system's come last, so that libc's stay musl's."""
    directories = ["/usr/include", f"/usr/include/{platform.machine()}-linux-gnu"]
    return [word for directory in directories for word in ("-idirafter", directory)]


def _compilers(arch: str) -> list[list[str]]:
    """Command lines to try, best first: the smallest binaries, then what a host may have."""
    if arch == platform.machine():
        commands = [["musl-gcc", *_kernel_headers()], ["cc"], ["gcc"]]
        if chosen := os.environ.get("CC"):
            commands.insert(0, chosen.split())
    else:
        commands = [[f"{arch}-linux-gnu-gcc"]]
    target = f"{arch}-linux-musl"
    if importlib.util.find_spec("ziglang"):
        commands.append([sys.executable, "-m", "ziglang", "cc", "-target", target])
    commands.append(["zig", "cc", "-target", target])
    linked = [[*command, mode] for command in commands for mode in ("-static-pie", "-static")]
    # A static-pie needs its code position independent; compilers do not all imply that.
    return [[*words, "-fPIE"] if words[-1] == "-static-pie" else words for words in linked]


def _run(command: list[str]) -> str:
    """The compiler's complaint; empty: it succeeded."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return f"{command[0]}: {error.strerror}"
    return "" if done.returncode == 0 else done.stderr or f"exit status {done.returncode}"


def _machine(binary: Path) -> int:
    return int(struct.unpack_from("<H", binary.read_bytes()[:20].ljust(20), 18)[0])


def _has_interpreter(binary: Path) -> bool:
    """The ELF file wants a dynamic linker (musl-gcc makes such a file of -static-pie)."""
    data = binary.read_bytes()
    start, size, count = struct.unpack_from("<Q", data, 32)[0], *struct.unpack_from("<HH", data, 54)
    kinds = [struct.unpack_from("<I", data, start + i * size)[0] for i in range(count)]
    return PT_INTERP in kinds


def _works(
    compiler: list[str], flags: list[str], directory: Path, *, arch: str, static: bool
) -> bool:
    """The compiler makes a program of the kernel's headers that stands alone, and runs here if it
    is for this CPU.
    """
    source, binary = directory / "trial.c", directory / "trial"
    source.write_text(TRIAL)
    if _run([*compiler, *COMMON, *flags, "-o", str(binary), str(source)]):
        return False
    if _machine(binary) != MACHINES.get(arch, _machine(binary)):
        return False
    if arch == platform.machine() and _run([str(binary)]):
        return False
    return not (static and _has_interpreter(binary))


def _find_compiler(flags: list[str], *, arch: str, sanitize: bool, directory: Path) -> list[str]:
    candidates = [["gcc"], ["clang"], ["cc"]] if sanitize else _compilers(arch)
    for compiler in candidates:
        if _works(compiler, flags, directory, arch=arch, static=not sanitize):
            return compiler
    if arch != platform.machine():
        packages = CROSS_PACKAGES.get(arch, f"gcc-{arch}-linux-gnu")
        raise BuildError(
            f"cannot build cove-init for {arch}: no C compiler for that CPU; install one "
            f"(apt-get install {packages}), or the Python package ziglang (pip install ziglang)"
        )
    what = (
        "gcc (apt-get install gcc)"
        if sanitize
        else (
            "musl-gcc (apt-get install musl-tools), gcc with a static libc (apt-get install gcc "
            "libc6-dev linux-libc-dev), or the Python package ziglang (pip install ziglang)"
        )
    )
    raise BuildError(f"cannot build cove-init: no C compiler that works; install {what}")


def stamp(root: Path) -> str:
    """What tells builds apart, and which is newer: the version, and when its sources last changed.
    The same sources make the same program.
    """
    text = (root / "cove/__init__.py").read_text(encoding="utf-8")
    version = text.partition('__version__ = "')[2].partition('"')[0]
    files = [*root.glob("cove/**/*.py"), *root.glob("init/*.[ch]"), *root.glob("init/*.def")]
    changed = os.environ.get("SOURCE_DATE_EPOCH") or max(int(f.stat().st_mtime) for f in files)
    return f"{version} {changed}"


def build(output: Path, *, arch: str = "", mark: str = "", sanitize: bool = False) -> None:
    """Compile every init/*.c into ``output``; the file appears whole or not at all. ``mark`` is the
    stamp, where these sources do not stand beside the package.
    """
    arch = arch or platform.machine()
    mark = mark or stamp(Path(__file__).resolve().parent.parent)
    flags = [*(SANITIZE if sanitize else RELEASE), f'-DCOVE_STAMP="{mark}"']
    output = Path(output).resolve()
    output.parent.mkdir(parents=True, exist_ok=True)
    sources = sorted(str(path) for path in SOURCES.glob("*.c"))
    with tempfile.TemporaryDirectory(dir=output.parent) as name:
        directory = Path(name)
        compiler = _find_compiler(flags, arch=arch, sanitize=sanitize, directory=directory)
        binary = directory / output.name
        complaint = _run([*compiler, *COMMON, *flags, "-o", str(binary), *sources])
        if complaint:
            raise BuildError(f"cannot build cove-init with {compiler[0]}:\n{complaint.rstrip()}")
        binary.replace(output)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--sanitize", action="store_true", help="with ASan and UBSan, dynamic")
    parser.add_argument("--arch", default="", choices=["", *MACHINES], help="another CPU's")
    parser.add_argument("--mark", default="", help="the stamp, instead of version and time")
    words = parser.parse_args(argv)
    try:
        build(words.output, arch=words.arch, mark=words.mark, sanitize=words.sanitize)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
