"""Packages of Debian by apt's own verified download, into a directory of our own: nothing is
installed, and the host's lists and caches are not written to.

``fetch`` makes a guest kernel of Debian's cloud kernel.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from cove.errors import HostError, NotFound, Unsupported, UsageError, printable
from cove.image.host import PATH
from cove.linux.ready import readable
from cove.vm.kernels import Kernels, Progress, Source
from cove.vm.record import Kernel, Step

PACKAGE = re.compile(r"[a-z0-9][a-z0-9.+-]{1,99}")
STATUS = re.compile(r"(?:dlstatus|pmstatus):[^:]*:([0-9.]+):")
DEBIAN_ARCH = {"x86_64": "amd64", "aarch64": "arm64"}
FAILED = re.compile(r"^W: Failed to fetch (.*)$", re.MULTILINE)
IMAGE = re.compile(r"linux-image-[0-9][a-z0-9.+-]*")
LINES = 4000
"""Of a program's words, how many characters are kept."""

LOOK = 0.2
"""Seconds between two looks whether the caller is still there."""

Gone = Callable[[], bool]


class Stopped(HostError):
    """The caller left."""


def run(
    argv: list[str],
    *,
    cwd: str,
    env: tuple[str, ...] = (),
    hear: Callable[[str], None] = lambda line: None,
    gone: Gone,
    pass_fds: tuple[int, ...] = (),
) -> tuple[int, str]:
    """Run a program to its end, telling each line it says; its exit code, and its last words.
    Once ``gone`` says so it is ended, with all it has started.
    """
    try:
        child = subprocess.Popen(
            argv,
            cwd=cwd,
            env=_environment(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=pass_fds,
            start_new_session=True,
        )
    except OSError as error:
        raise Unsupported(
            f"cannot run {argv[0]}: {(error.strerror or 'i/o error').lower()}"
        ) from error
    last, buffer = "", b""
    with child:
        try:
            assert child.stdout is not None
            fd = child.stdout.fileno()
            while True:
                if gone():
                    raise Stopped("interrupted", exit_code=130)
                if not readable(fd, LOOK):
                    continue
                data = os.read(fd, 1 << 16)
                if not data:
                    break
                *lines, buffer = (buffer + data).split(b"\n")
                for line in lines:
                    text = line.decode("utf-8", "replace")
                    hear(text)
                    last = (last + text + "\n")[-LINES:]
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, 9)
            raise
    return child.returncode, last + buffer.decode("utf-8", "replace")


def _environment(env: tuple[str, ...]) -> dict[str, str]:
    proxies = dict(entry.split("=", 1) for entry in env if "=" in entry)
    return {"PATH": PATH, "LC_ALL": "C.UTF-8", "HOME": "/nonexistent", **proxies}


@dataclass(frozen=True, slots=True)
class Package:
    name: str
    version: str
    depends: str

    def __str__(self) -> str:
        return f"{self.name}={self.version}"


class Apt:
    """apt, with every file that it writes below ``directory``."""

    def __init__(
        self, directory: str, *, arch: str, env: tuple[str, ...], progress: Progress, gone: Gone
    ) -> None:
        self.directory, self.env, self.progress, self.gone = directory, env, progress, gone
        self.arch = DEBIAN_ARCH[arch]
        foreign = arch != os.uname().machine
        self._options = ["-o", f"Dir::Cache={directory}/cache", "-o", "APT::Sandbox::User=root"]
        self._options += ["-o", "Acquire::Languages=none", "-q"]
        os.makedirs(f"{directory}/cache/archives/partial", 0o700)
        self._fresh = False
        self._missed = ""
        if foreign:
            self._use_own_lists()

    def find(self, name: str) -> Package:
        """The newest of that name; the lists are fetched where the host's do not have it."""
        if not PACKAGE.fullmatch(name):
            raise UsageError(f'cannot fetch "{printable(name)}": it is no name of a package')
        found = self._show(name)
        if found is None and not self._fresh:
            self._use_own_lists()
            found = self._show(name)
        if found is None and self._missed:
            raise HostError(
                f"cannot fetch {name}: a package source does not answer", host=self._missed
            )
        if found is None:
            raise NotFound(
                f"cannot fetch {name}: this host's package sources do not have it",
                host=f"architecture {self.arch}",
                hint="give a kernel of your own: cove kernel add VMLINUZ --modules DIR",
            )
        return found

    def unpack(self, package: Package, find: Callable[[], Package]) -> tuple[Package, str]:
        """Download, and unpack into a directory; both are returned. ``find`` is asked again where
        the host's lists name what the mirror has replaced since: a kernel has a new name then.
        """
        if not self._download(package):
            if not self._fresh:
                self._use_own_lists()
                package = find()
            if not self._download(package):
                raise HostError(f"cannot fetch {package}: apt could not download it")
        target = f"{self.directory}/{package.name}"
        (deb,) = glob.glob(f"{glob.escape(target)}/deb/*.deb")
        self.progress(Step("unpacking", id=package.name))
        argv = ["dpkg-deb", "-x", deb, f"{target}/root"]
        code, said = run(argv, cwd=self.directory, gone=self.gone)
        if code:
            raise HostError(f"cannot unpack {package}: {_complaint(said)}")
        os.unlink(deb)
        return package, f"{target}/root"

    def _use_own_lists(self) -> None:
        """Fetch the lists into our own directory, for the wanted architecture."""
        state = f"{self.directory}/state"
        os.makedirs(f"{state}/lists/partial")
        with open(f"{state}/status", "wb"):
            pass
        self._options += ["-o", f"Dir::State={state}", "-o", f"Dir::State::status={state}/status"]
        self._options += ["-o", f"APT::Architecture={self.arch}"]
        self._options += ["-o", f"APT::Architectures::={self.arch}"]
        self._fresh = True
        code, said = self._run("apt-get", "update", stage="fetching package lists")
        if code:
            raise HostError(f"cannot fetch package lists: {_complaint(said)}")
        # Of a source that does not answer, apt takes the rest, and exits with 0.
        missed = FAILED.search(said)
        self._missed = printable(missed[1]) if missed else ""

    def _show(self, name: str) -> Package | None:
        code, said = self._run("apt-cache", "show", "--no-all-versions", name)
        fields = dict(re.findall(r"^(\w[\w-]*): (.*)$", said, re.MULTILINE))
        if code or "Version" not in fields:
            return None
        return Package(name, fields["Version"], fields.get("Depends", ""))

    def _download(self, package: Package) -> bool:
        target = f"{self.directory}/{package.name}/deb"
        os.makedirs(target, exist_ok=True)
        code, _ = self._run(
            "apt-get", "download", str(package), stage=f"downloading {package.name}", cwd=target
        )
        return code == 0

    def _run(self, program: str, *words: str, stage: str = "", cwd: str = "") -> tuple[int, str]:
        def hear(line: str) -> None:
            if match := STATUS.match(line):
                percent = min(100, int(float(match[1])))
                self.progress(Step(stage, percent, 100, "%"))

        options = [*self._options, *(["-o", "APT::Status-Fd=1"] if stage else [])]
        if stage:
            self.progress(Step(stage))
        argv = [program, *words[:1], *options, *words[1:]]
        return run(argv, cwd=cwd or self.directory, env=self.env, hear=hear, gone=self.gone)


def _complaint(said: str) -> str:
    """apt's own first error, or the last line."""
    lines = [line for line in said.splitlines() if line.strip() and not STATUS.match(line)]
    errors = [line.removeprefix("E: ") for line in lines if line.startswith("E: ")]
    return printable((errors or lines[-1:] or ["no reason was given"])[0])


def fetch(
    kernels: Kernels,
    arch: str,
    *,
    package: str,
    env: tuple[str, ...],
    progress: Progress,
    gone: Gone,
    scratch: str,
) -> tuple[Kernel, bool]:
    """Debian's cloud kernel, or ``package``; and whether it is new here."""
    if arch not in DEBIAN_ARCH:
        raise Unsupported(f"cannot fetch a kernel for {arch}: only x86-64 and arm64 are known")
    check_tools()
    apt = Apt(scratch, arch=arch, env=env, progress=progress, gone=gone)
    find = partial(find_image, apt, package or f"linux-image-cloud-{apt.arch}")
    found = find()
    for kernel in kernels.all():
        if kernel.origin == str(found) and kernel.arch == arch:
            return kernel, False
    found, root = apt.unpack(found, find)
    files = glob.glob(f"{glob.escape(root)}/boot/vmlinu[xz]-*")
    if len(files) != 1:
        raise UsageError(f"cannot fetch {found.name}: there is no kernel in it")
    version = os.path.basename(files[0]).partition("-")[2]
    modules = [d for d in (f"{root}/lib/modules/{version}", f"{root}/usr/lib/modules/{version}")
               if os.path.isdir(d)]  # fmt: skip
    config = f"{root}/boot/config-{version}"
    source = Source(
        files[0],
        "debian",
        str(found),
        modules[0] if modules else "",
        config if os.path.exists(config) else "",
        version,
    )
    return kernels.add(source, progress=progress, replace=True), True


def find_image(apt: Apt, name: str) -> Package:
    """A package of a kernel, also of one which only depends on the newest."""
    found = apt.find(name)
    if IMAGE.fullmatch(found.name):
        return found
    match = IMAGE.search(found.depends)
    if match is None:
        raise UsageError(f"cannot fetch {found.name}: it is no package of a kernel")
    return apt.find(match[0])


def check_tools() -> None:
    for tool, package in (("apt-get", "apt"), ("dpkg-deb", "dpkg")):
        if not any(os.access(f"{place}/{tool}", os.X_OK) for place in PATH.split(":")):
            raise Unsupported(
                f"cannot fetch a kernel: {tool} is not installed",
                hint=f"install {package}, or give a kernel of your own: cove kernel add VMLINUZ",
            )
