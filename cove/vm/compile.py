"""``cove kernel build``: the fast guest kernel, of the distribution's own source.

From nothing (allnoconfig) and the lines of ``fast-<arch>.config``; everything a machine needs is
built in, so that it starts in a third of the time.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from functools import partial

from cove.errors import HostError, Unsupported, printable
from cove.image.host import PATH
from cove.vm.debian import Apt, Gone, Package, run
from cove.vm.kernels import OPTION, Kernels, Progress, Source
from cove.vm.record import Kernel, Step

NAME = "fast"
PACKAGE = "linux-source-6.1"
LINES = 1509
"""That make says; what it is measured against."""
ROOM = 3 << 30
"""Bytes that source and objects take."""
NICE = "15"

TOOLS = {
    "make": "make", "gcc": "gcc", "ld": "binutils", "bc": "bc", "bison": "bison", "flex": "flex",
    "xz": "xz-utils", "tar": "tar", "perl": "perl", "nice": "coreutils",
}  # fmt: skip
HEADERS = {"libelf.h": "libelf-dev"}
"""For objtool, which checks every object."""

KERNEL_ARCH = {"x86_64": "x86_64"}
NOT_SET = re.compile(r"^# CONFIG_(\w+) is not set$", re.MULTILINE)
STAMP = ("KBUILD_BUILD_TIMESTAMP=Thu Jan  1 00:00:00 UTC 1970", "KBUILD_BUILD_USER=cove",
         "KBUILD_BUILD_HOST=cove")  # fmt: skip
"""The same source gives the same kernel."""


def build(
    kernels: Kernels,
    *,
    jobs: int,
    env: tuple[str, ...],
    progress: Progress,
    gone: Gone,
    scratch: str,
) -> tuple[Kernel, bool]:
    """The kernel called ``fast``, and whether it had to be made."""
    arch = os.uname().machine
    fragment = configuration(arch)
    missing = missing_packages()
    if missing:
        raise Unsupported(
            f"cannot build the fast kernel: {', '.join(missing)} not installed",
            hint=f"apt-get install {' '.join(missing)}",
        )
    space = shutil.disk_usage(scratch)
    if space.free < ROOM:
        raise HostError(
            f"cannot build the fast kernel: it takes {ROOM >> 30} GiB while it is built",
            host=f"{space.free >> 20} MiB are free for {scratch}",
        )
    apt = Apt(scratch, arch=arch, env=env, progress=progress, gone=gone)
    package = apt.find(PACKAGE)
    key = build_key(package, fragment)
    for kernel in kernels.all():
        if kernel.key == key:
            return kernel, False
    package, root = apt.unpack(package, partial(apt.find, PACKAGE))
    key = build_key(package, fragment)
    progress(Step("unpacking the source"))
    os.mkdir(f"{scratch}/source")
    archive = f"{root}/usr/src/{PACKAGE}.tar.xz"
    argv = ["tar", "-C", f"{scratch}/source", "--strip-components=1", "-xf", archive]
    _must("unpack the source", argv, scratch, gone=gone)
    shutil.rmtree(root)
    _configure(scratch, arch, fragment, gone)
    _make(scratch, arch, jobs, progress, gone)
    made = f"{scratch}/objects"
    source = Source(
        f"{made}/vmlinux", "built", str(package), config=f"{made}/.config", name=NAME, key=key
    )
    return kernels.add(source, progress=progress, replace=True), True


def configuration(arch: str) -> str:
    """Our lines for a CPU."""
    path = os.path.join(os.path.dirname(__file__), f"fast-{arch}.config")
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        raise Unsupported(
            f"cannot build the fast kernel for {arch}: cove has no configuration for it",
            hint="cove kernel fetch gets the distribution's own",
        ) from None


def build_key(package: Package, fragment: str) -> str:
    return hashlib.sha256(f"{package}\0{fragment}".encode()).hexdigest()


def missing_packages() -> tuple[str, ...]:
    """Debian's names for what is not here."""
    missing = [p for tool, p in TOOLS.items() if shutil.which(tool, path=PATH) is None]
    triplet = f"{os.uname().machine}-linux-gnu"
    for header, package in HEADERS.items():
        places = (f"/usr/include/{header}", f"/usr/include/{triplet}/{header}")
        if not any(os.path.exists(place) for place in places):
            missing.append(package)
    return tuple(sorted(missing))


def lost_lines(fragment: str, config: str) -> tuple[str, ...]:
    """What was asked for and is not so: a dependency that is not there, or a name that is gone."""
    have = dict(OPTION.findall(config))
    lost = [
        f"CONFIG_{name}={value}"
        for name, value in OPTION.findall(fragment)
        if have.get(name) != value
    ]
    return (*lost, *(f"CONFIG_{name}=n" for name in NOT_SET.findall(fragment) if name in have))


def _configure(scratch: str, arch: str, fragment: str, gone: Gone) -> None:
    wanted = f"{scratch}/wanted.config"
    with open(wanted, "w", encoding="utf-8") as file:
        file.write(fragment)
    os.mkdir(f"{scratch}/objects")
    argv = [*_make_words(scratch, arch), f"KCONFIG_ALLCONFIG={wanted}", "allnoconfig"]
    _must("configure the kernel", argv, scratch, gone=gone)
    with open(f"{scratch}/objects/.config", encoding="utf-8") as file:
        lost = lost_lines(fragment, file.read())
    if lost:
        raise HostError(
            f"cannot configure the kernel: {PACKAGE} does not keep {', '.join(lost)}",
            hint="please report it, with the version of the package",
        )


def _make(scratch: str, arch: str, jobs: int, progress: Progress, gone: Gone) -> None:
    count = 0

    def hear(line: str) -> None:
        nonlocal count
        count += 1
        progress(Step("compiling", min(count, LINES), LINES, "steps"))

    argv = ["nice", "-n", NICE, *_make_words(scratch, arch), f"-j{jobs}", "vmlinux"]
    _must("build the kernel", argv, scratch, hear=hear, gone=gone)


def _make_words(scratch: str, arch: str) -> list[str]:
    return [
        "make", "-C", f"{scratch}/source", f"O={scratch}/objects", f"ARCH={KERNEL_ARCH[arch]}",
        *STAMP,
    ]  # fmt: skip


def _must(what: str, argv: list[str], cwd: str, *, gone: Gone, hear: object = None) -> None:
    heard = hear if callable(hear) else lambda line: None
    code, said = run(argv, cwd=cwd, hear=heard, gone=gone)
    if code:
        lines = [line for line in said.splitlines() if "rror" in line] or said.splitlines()[-1:]
        reason = printable(lines[0]) if lines else f"exit code {code}"
        raise HostError(f"cannot {what}: {reason}", host=f"{argv[0]} ended with code {code}")
