"""The verbs of guest kernels."""

from __future__ import annotations

import msgspec

from cove.vm.record import Kernel


class KernelList(msgspec.Struct, frozen=True):
    pass


class HostKernel(msgspec.Struct, frozen=True):
    """A kernel installed on this host, which ``kernel.add`` can take."""

    version: str
    file: str
    size: int
    created: float


class KernelsListed(msgspec.Struct, frozen=True):
    """Newest first."""

    kernels: tuple[Kernel, ...]
    host: tuple[HostKernel, ...] = ()
    """Those that were not taken yet."""


class KernelAdd(msgspec.Struct, frozen=True):
    """Absolute paths of this host."""

    file: str
    """vmlinuz, vmlinux or Image; or the version of one that is installed."""
    modules: str = ""
    """A ``/lib/modules/VERSION``; empty: the one of its version, if it is here."""
    config: str = ""
    name: str = ""
    """Empty: its version."""
    typed: str = ""
    """``file`` as it was typed."""


class KernelFetch(msgspec.Struct, frozen=True):
    platform: str = ""
    """``linux/arm64``; empty: this host's."""
    package: str = ""
    """Empty: Debian's cloud kernel."""
    env: tuple[str, ...] = ()
    """``http_proxy=…`` and the like, of the caller."""


class KernelBuild(msgspec.Struct, frozen=True):
    jobs: int = 0
    """0: as many as there are CPUs."""
    env: tuple[str, ...] = ()


class KernelRemove(msgspec.Struct, frozen=True):
    kernel: str


class KernelRemoved(msgspec.Struct, frozen=True):
    name: str
