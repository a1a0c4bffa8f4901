"""The guest kernels of a state directory: ``kernels/<name>/`` each, whole or not there at all.

A kernel is made in ``tmp/`` and renamed into place; its ``meta.json`` is the record. Where a file
comes from (the host, a package, a build) is the caller's.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import itertools
import os
import re
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec

from cove.errors import (
    NOT_JSON,
    BadArchive,
    Conflict,
    CoveError,
    HostError,
    NotFound,
    UsageError,
    printable,
)
from cove.linux import syscalls
from cove.planner.virtual.qemu import WATCHED
from cove.roots.remove import remove_tree
from cove.spec.suggest import did_you_mean
from cove.store.layout import Layout
from cove.store.lock import ROOM
from cove.vm import extract
from cove.vm.initrd import initrd, initrd_key
from cove.vm.modules import DRIVERS, Driver, Module, Modules
from cove.vm.record import FORMAT, Kernel, Step

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.+-]{0,99}")
OPTION = re.compile(r"^CONFIG_(\w+)=(.*)$", re.MULTILINE)
CONFIG_MAX = 1 << 20
META_MAX = 1 << 20

BOOT, LIB = "/boot", "/lib/modules"

_number = itertools.count(1)

# Made at import, by one thread: msgspec crashes when two make one type's decoder at once.
_decode_kernel = msgspec.json.Decoder(Kernel).decode
_decode_said = msgspec.json.Decoder(dict[str, str]).decode

_making_initrd = threading.Lock()
"""Two first starts want the same file."""


Progress = Callable[[object], None]


@dataclass(frozen=True, slots=True)
class Source:
    """What a kernel is made of."""

    file: str
    """vmlinuz, vmlinux or Image."""
    kind: str
    origin: str
    modules: str = ""
    """A ``/lib/modules/<version>``; empty: all drivers are built in."""
    config: str = ""
    """Its configuration; empty: inside the kernel, or not known."""
    name: str = ""
    """Empty: its version."""
    key: str = ""


class Kernels:
    """All of one state directory."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def all(self) -> tuple[Kernel, ...]:
        """Newest first. What is damaged or of a newer cove is left out."""
        found = []
        for name in os.listdir(self.layout.kernels):
            with contextlib.suppress(CoveError):
                found.append(self.find(name))
        return tuple(sorted(found, key=lambda kernel: (-kernel.created, kernel.name)))

    def find(self, name: str) -> Kernel:
        """By name. NotFound says what there is."""
        if not NAME.fullmatch(name):
            raise _no_kernel(name, ())
        try:
            with open(f"{self.layout.kernel(name)}/meta.json", "rb") as file:
                kernel = _decode_kernel(file.read(META_MAX))
        except (FileNotFoundError, NotADirectoryError):
            names = tuple(n for n in os.listdir(self.layout.kernels) if NAME.fullmatch(n))
            raise _no_kernel(name, names) from None
        except (OSError, *NOT_JSON) as error:
            raise HostError(
                f"cannot use kernel {name}: its record is damaged",
                host=printable(str(error)),
                hint=f"cove kernel rm {name}, and get it again",
            ) from error
        if kernel.format > FORMAT:
            raise HostError(f"cannot use kernel {name}: it was written by a newer cove")
        return kernel

    def add(self, source: Source, *, progress: Progress, replace: bool = False) -> Kernel:
        """Make a kernel of ``source``. A name that is taken is a conflict, or with ``replace``
        means the new one from then on.
        """
        with _told(source.file), self._scratch() as work:
            progress(Step("unpacking the kernel"))
            found = _extract(source.file, f"{work}/kernel")
            name = source.name or found.version
            if not NAME.fullmatch(name):
                raise UsageError(
                    f'cannot add {source.file}: "{printable(name)}" is no name for a kernel',
                    hint="choose one: --name NAME",
                )
            if not replace and os.path.lexists(self.layout.kernel(name)):
                raise Conflict(
                    f"cannot add {source.file}: there is a kernel {name}",
                    hint=f"another name: --name NAME, or cove kernel rm {name}",
                )
            progress(Step("collecting its drivers"))
            kernel = _complete(work, source, found, name)
            _place(work, self.layout.kernel(name))
        return kernel

    def remove(self, name: str) -> None:
        """Gone at once and whole; a damaged one too."""
        if not NAME.fullmatch(name):
            raise _no_kernel(name, ())
        doomed = self._doomed()
        try:
            os.rename(self.layout.kernel(name), doomed)
        except FileNotFoundError:
            self.find(name)  # says what there is
            raise
        remove_tree(doomed)

    # ---- for a boot ----

    def open_kernel(self, kernel: Kernel) -> int:
        """A descriptor of the kernel proper."""
        return _open_public(f"{self.layout.kernel(kernel.name)}/kernel")

    def modules(self, kernel: Kernel, names: tuple[str, ...]) -> tuple[Module, ...]:
        directory = f"{self.layout.kernel(kernel.name)}/modules"
        return tuple(Module(name, _read(f"{directory}/{name}.ko")) for name in names)

    def open_initrd(self, kernel: Kernel, init: bytes) -> int:
        """A descriptor of the initrd with ``init``; made when it is first asked for."""
        modules = self.modules(kernel, kernel.modules), self.modules(kernel, kernel.later)
        directory = f"{self.layout.kernel(kernel.name)}/initrd"
        path = f"{directory}/{initrd_key(init, *modules)}"
        with contextlib.suppress(FileNotFoundError):
            return _open_public(path)
        with _making_initrd:
            with contextlib.suppress(FileNotFoundError):
                return _open_public(path)
            new = self._doomed()
            _write(new, initrd(init, *modules))
            for old in os.listdir(directory):  # of another agent: nobody asks for it any more
                os.unlink(f"{directory}/{old}")
            os.rename(new, path)
            return _open_public(path)

    def _doomed(self) -> str:
        return f"{self.layout.tmp}/kernel-{os.getpid()}-{next(_number)}"

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[str]:
        """A directory that is gone afterwards, unless it was renamed."""
        work = self._doomed()
        os.mkdir(work, 0o700)
        try:
            yield work
        finally:
            if os.path.lexists(work):
                remove_tree(work)


def found_on_host(boot: str = BOOT) -> dict[str, str]:
    """Version to path of the kernels installed here, newest first."""
    paths = sorted(glob.glob(f"{boot}/vmlinuz-*"), key=_age)
    return {
        os.path.basename(path).removeprefix("vmlinuz-"): path
        for path in paths
        if os.access(path, os.R_OK)
    }


def host_source(version: str, file: str, *, lib: str = LIB) -> Source:
    """A kernel that is installed, with its modules and configuration."""
    modules, config = f"{lib}/{version}", f"{os.path.dirname(file)}/config-{version}"
    return Source(
        file,
        "host",
        file,
        modules if os.path.isdir(modules) else "",
        config if os.path.exists(config) else "",
        version,
    )


def _age(path: str) -> float:
    try:
        return -os.stat(path).st_mtime
    except OSError:
        return 0


@contextlib.contextmanager
def _told(file: str) -> Iterator[None]:
    """Inside: a disk that is full is no bug."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or "i/o error").lower()
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise HostError(
            f"cannot add {file}: {reason}", host=error.filename or "", hint=ROOM if full else ""
        ) from error


def _no_kernel(name: str, known: tuple[str, ...]) -> NotFound:
    return NotFound(
        f"cannot find kernel {name}: no such kernel",
        hint=did_you_mean(name, known) or "cove kernel ls lists them; cove kernel fetch gets one",
    )


# ---- making one ----


def _extract(file: str, out: str) -> extract.Found:
    """In a child process: the file may be anything, and is large."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    with contextlib.ExitStack() as stack:
        try:
            source = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            stack.callback(os.close, source)
        except OSError as error:
            reason = (error.strerror or "i/o error").lower()
            raise UsageError(f"cannot add {file}: {reason}", origin=file) from error
        if not stat.S_ISREG(os.fstat(source).st_mode):
            raise UsageError(f"cannot add {file}: it is no regular file", origin=file)
        target = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, target)
        done = subprocess.run(
            [sys.executable, "-I", "-S", extract.__file__, path],
            stdin=source,
            stdout=target,
            stderr=subprocess.PIPE,
        )
        os.fsync(target)
    try:
        said = _decode_said(done.stderr.splitlines()[-1])
    except (IndexError, *NOT_JSON):
        raise HostError(
            f"cannot add {file}: what unpacks it ended with code {done.returncode}",
            host=printable(done.stderr.decode("utf-8", "replace").strip()[-300:]),
        ) from None
    if "refused" in said:
        raise BadArchive(f"cannot add {file}: it {said['refused']}", origin=file)
    if "failed" in said:
        raise HostError(f"cannot add {file}: {said['failed']}", origin=file)
    return extract.Found(**said)


def _complete(work: str, source: Source, found: extract.Found, name: str) -> Kernel:
    """Modules, configuration and record beside the kernel in ``work``."""
    config = _config(source) or found.config
    modules, later = _drivers(source, config)
    os.mkdir(f"{work}/modules", 0o700)
    os.mkdir(f"{work}/initrd", 0o700)
    for module in (*modules, *later):
        _write(f"{work}/modules/{module.name}.ko", module.data)
    _write(f"{work}/config", config.encode())
    options = dict(OPTION.findall(config))
    hz = options.get("HZ", "")
    kernel = Kernel(
        name,
        found.version or name,
        found.arch,
        source.kind,
        source.origin,
        time.time(),
        os.path.getsize(f"{work}/kernel") + sum(len(module.data) for module in (*modules, *later)),
        _digest(f"{work}/kernel"),
        int(hz) if hz.isdigit() and 0 < int(hz) <= 1000 else 250,
        tuple(sorted(option for option in WATCHED if options.get(option) == "y")),
        tuple(module.name for module in modules),
        tuple(module.name for module in later),
        source.key,
    )
    _write(f"{work}/meta.json", msgspec.json.format(msgspec.json.encode(kernel), indent=2))
    return kernel


def _config(source: Source) -> str:
    if not source.config:
        return ""
    try:
        return _read(source.config, CONFIG_MAX).decode("utf-8", "replace")
    except OSError as error:
        reason = (error.strerror or "i/o error").lower()
        raise UsageError(f"cannot read {source.config}: {reason}", origin=source.config) from error


def _drivers(source: Source, config: str) -> tuple[tuple[Module, ...], tuple[Module, ...]]:
    """The modules that a machine needs from the start, and those that it may need later; an error
    where one of the first is neither a module nor built in.
    """
    options = dict(OPTION.findall(config))
    modules = Modules(source.modules) if source.modules else None
    wanted: dict[bool, list[str]] = {False: [], True: []}
    for driver in DRIVERS:
        built_in = options.get(driver.option) == "y"
        if built_in or (modules is not None and driver.module in modules.builtin):
            continue
        if modules is not None and driver.module in modules:
            wanted[driver.later].append(driver.module)
        elif not driver.later:
            raise _lacks(source, driver, options.get(driver.option, ""), config)
    if modules is None:
        return (), ()
    first = modules.load(tuple(wanted[False]))
    both = modules.load((*wanted[False], *wanted[True]))
    return first, both[len(first) :]


def _lacks(source: Source, driver: Driver, state: str, config: str) -> BadArchive:
    if not config and not source.modules:
        return BadArchive(
            f"cannot add {source.file}: it does not say which drivers it has",
            origin=source.file,
            hint="give its modules (--modules /lib/modules/VERSION) or configuration (--config)",
        )
    where = "a module that is not there" if state == "m" else "neither built in nor a module"
    return BadArchive(
        f"cannot add {source.file}: {driver.module} ({driver.why}) is {where}",
        origin=source.file,
        host=f"CONFIG_{driver.option}={state or 'n'}" if config else "",
        hint="" if source.modules else "give its modules: --modules /lib/modules/VERSION",
    )


def _place(work: str, target: str) -> None:
    """The old kernel or the new one, whole; never none of them."""
    for directory in (f"{work}/modules", work):
        _sync(directory)
    if os.path.lexists(target):
        syscalls.exchange(work, target)
    else:
        os.rename(work, target)
    _sync(os.path.dirname(target))


def _sync(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: str, limit: int = 64 << 20) -> bytes:
    with open(path, "rb") as file:
        return file.read(limit)


def _write(path: str, data: bytes) -> None:
    with open(path, "xb", opener=_private) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _open_public(path: str) -> int:
    """QEMU, which is nobody in its jail, opens it once more by its descriptor."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    os.fchmod(fd, 0o444)
    return fd


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
