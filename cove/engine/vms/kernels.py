"""The verbs on guest kernels: thin calls into ``cove.vm``; its heavy parts are loaded when used."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from cove.engine.calls import Call, Progress
from cove.engine.calls.kernels import (
    HostKernel,
    KernelAdd,
    KernelBuild,
    KernelFetch,
    KernelRemove,
    KernelRemoved,
    KernelsListed,
)
from cove.engine.home import Home
from cove.engine.images.images import LOOK, as_steps
from cove.errors import Unsupported, UsageError
from cove.oci.manifest import parse_platform
from cove.planner.cpus import architectures
from cove.planner.virtual.qemu import MACHINES
from cove.roots.remove import remove_tree
from cove.vm.record import Kernel, Step

if TYPE_CHECKING:
    from cove.vm.kernels import Kernels, Source

GUESTS = {architectures(cpu)[0]: cpu for cpu in MACHINES}
"""CPUs that there are guests for, by the architecture of their images."""

_one_at_a_time = threading.Lock()
"""Held by a fetch or build: the second of two finds what the first has made."""


def _kernels(home: Home) -> Kernels:
    from cove.vm.kernels import Kernels

    return Kernels(home.store.layout)


def kernel_list(home: Home) -> KernelsListed:
    from cove.vm.kernels import found_on_host

    kernels = _kernels(home).all()
    taken = {kernel.origin for kernel in kernels}
    found = []
    for version, file in found_on_host().items():
        with contextlib.suppress(OSError):
            seen = os.stat(file)
            if file not in taken:
                found.append(HostKernel(version, file, seen.st_size, seen.st_mtime))
    return KernelsListed(kernels, tuple(found))


def kernel_remove(home: Home, params: KernelRemove) -> KernelRemoved:
    _kernels(home).remove(params.kernel)
    return KernelRemoved(params.kernel)


def kernel_add(home: Home, params: KernelAdd, call: Call) -> Iterator[Progress]:
    source = _source(params)

    def work(report: Callable[[object], None]) -> Iterator[Progress]:
        yield _done(_kernels(home).add(source, progress=report), fresh=True)

    return as_steps(home, call, work, threading.Event())


def kernel_fetch(home: Home, params: KernelFetch, call: Call) -> Iterator[Progress]:
    from cove.vm.debian import fetch

    arch = home.facts.arch
    if params.platform:
        wanted = parse_platform(params.platform)
        if wanted.os != "linux" or wanted.architecture not in GUESTS:
            known = " and ".join(f"linux/{name}" for name in GUESTS)
            raise Unsupported(
                f"cannot fetch a kernel for {params.platform}: only {known}",
                origin=f"--platform {params.platform}",
            )
        arch = GUESTS[wanted.architecture]

    def make(scratch: str, report: Callable[[object], None], gone: Callable[[], bool]) -> Made:
        return fetch(
            _kernels(home), arch, package=params.package, env=params.env,
            progress=report, gone=gone, scratch=scratch,
        )  # fmt: skip

    return _make(home, call, make)


def kernel_build(home: Home, params: KernelBuild, call: Call) -> Iterator[Progress]:
    from cove.vm.compile import build

    if not 0 <= params.jobs <= 1024:
        raise UsageError(f"cannot build with {params.jobs} jobs", origin=f"--jobs {params.jobs}")

    def make(scratch: str, report: Callable[[object], None], gone: Callable[[], bool]) -> Made:
        return build(
            _kernels(home), jobs=params.jobs or home.facts.cpus, env=params.env,
            progress=report, gone=gone, scratch=scratch,
        )  # fmt: skip

    return _make(home, call, make)


Made = tuple[Kernel, bool]
Make = Callable[[str, Callable[[object], None], Callable[[], bool]], Made]


def _make(home: Home, call: Call, make: Make) -> Iterator[Progress]:
    """``make`` in a scratch directory that is gone afterwards; one at a time."""
    stopped = threading.Event()

    def gone() -> bool:
        return stopped.is_set() or (call.cancelled is not None and call.cancelled.is_set())

    def work(report: Callable[[object], None]) -> Iterator[Progress]:
        while not _one_at_a_time.acquire(timeout=LOOK):
            report(Step("waiting for another one"))
        try:
            scratch = f"{home.store.layout.tmp}/work-{os.getpid()}-{home.store.new_key()}"
            os.mkdir(scratch, 0o700)
            try:
                kernel, fresh = make(scratch, report, gone)
            finally:
                remove_tree(scratch)
        finally:
            _one_at_a_time.release()
        yield _done(kernel, fresh=fresh)

    return as_steps(home, call, work, stopped)


def _source(params: KernelAdd) -> Source:
    """What was typed: a file, or the version of a kernel that is installed."""
    from cove.vm.kernels import Source, found_on_host, host_source

    file, modules, config = params.file, params.modules, params.config
    if not os.path.exists(file):
        installed = found_on_host()
        if params.typed not in installed:
            raise UsageError(
                f"cannot add {params.typed or file}: no such file",
                hint="installed here: " + ", ".join(installed) if installed else "",
            )
        file = installed[params.typed]
    version = os.path.basename(file).removeprefix("vmlinuz-")
    beside = host_source(version, file)
    known = version != os.path.basename(file)
    return Source(
        file,
        "host" if file == found_on_host().get(version) else "file",
        file,
        modules or (beside.modules if known else ""),
        config or (beside.config if known else ""),
        params.name,
    )


def _done(kernel: Kernel, *, fresh: bool) -> Progress:
    return Progress("done", tags=(kernel.name,), digest=kernel.digest, fresh=fresh)
