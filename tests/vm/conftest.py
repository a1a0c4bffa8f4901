"""Guest kernels for the tests, kept between runs in ``.cache/vm``: a state directory of its own."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from cove.errors import CoveError
from cove.linux.probe import probe_facts
from cove.linux.virtual import probe_virtual
from cove.plan.facts import Facts
from cove.store.layout import Layout
from cove.store.lock import open_layout
from cove.vm.debian import fetch
from cove.vm.kernels import Kernels
from cove.vm.record import Kernel
from tests.conftest import need, open_cove
from tests.driver import ROOT, Cove

CACHE = ROOT / ".cache/vm"
HOW = f"COVE_ROOT={CACHE} cove kernel build"


@dataclass(frozen=True)
class Stored:
    """A kernel, and the directory it is in."""

    kernels: Kernels
    kernel: Kernel


@contextmanager
def _cache() -> Iterator[Layout]:
    """One session at a time makes it and fetches; the others find what it has fetched."""
    CACHE.parent.mkdir(exist_ok=True)
    with CACHE.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield open_layout(CACHE)


def stock_kernel(arch: str = os.uname().machine) -> Stored:
    """Debian's cloud kernel for a CPU; skips where it is not here and cannot be fetched."""
    with _cache() as layout:
        kernels = Kernels(layout)
        for kernel in kernels.all():
            if kernel.source == "debian" and kernel.arch == arch:
                return Stored(kernels, kernel)
        scratch = Path(layout.tmp) / "fetch"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        try:
            kernel, _ = fetch(
                kernels,
                arch,
                package="",
                env=(),
                progress=lambda step: None,
                gone=lambda: False,
                scratch=str(scratch),
            )
        except CoveError as error:
            pytest.skip(f"needs a guest kernel: {error.message}")
        finally:
            shutil.rmtree(scratch)
        return Stored(kernels, kernel)


def fast_kernel() -> Stored:
    with _cache() as layout:
        kernels = Kernels(layout)
        return Stored(kernels, kernels.find("fast"))


def fast_is_built() -> bool:
    return (CACHE / "kernels/fast").is_dir()


@pytest.fixture(scope="session", params=["stock", "fast"] if fast_is_built() else ["stock"])
def stored(request: pytest.FixtureRequest) -> Stored:
    """Every test of a guest runs with both kernels, where the fast one was built (``HOW``)."""
    need("qemu-system-x86_64")
    return stock_kernel() if request.param == "stock" else fast_kernel()


def one_kernel() -> Stored:
    """For what does not depend on the kernel: the fast one, if it was built."""
    return fast_kernel() if fast_is_built() else stock_kernel()


@pytest.fixture(scope="session")
def one_stored() -> Stored:
    need("qemu-system-x86_64")
    return one_kernel()


@pytest.fixture(scope="session")
def emulating() -> Facts:
    """This host, without KVM."""
    return msgspec.structs.replace(probe_virtual(probe_facts("/"), os.uname().machine), kvm=False)


@pytest.fixture(scope="session")
def guest_init(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The PID 1 of a test guest."""
    program = tmp_path_factory.mktemp("guest") / "init"
    source = ROOT / "tests/probe/guest.c"
    subprocess.run(
        ["gcc", "-static", "-O1", "-Wall", "-Wextra", "-Werror", "-o", program, source], check=True
    )
    return program.read_bytes()


@pytest.fixture(scope="session")
def root_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image: erofs, compressed by lz4, with one file."""
    need("mkfs.erofs")
    directory = tmp_path_factory.mktemp("root")
    (directory / "tree").mkdir()
    (directory / "tree/hello").write_text("world\n")
    subprocess.run(
        ["mkfs.erofs", "-zlz4", directory / "root.erofs", directory / "tree"],
        check=True,
        capture_output=True,
    )
    return directory / "root.erofs"


# ---- machines ----


@pytest.fixture(scope="session")
def cove(bb_tar: Path, one_stored: Stored) -> Iterator[Cove]:
    """One daemon for this folder, with a guest kernel."""
    need("mkfs.erofs")
    with open_cove(bb_tar) as driver:
        name = one_stored.kernel.name
        source = Path(one_stored.kernels.layout.kernels) / name
        shutil.copytree(source, driver.root / "kernels" / name)
        yield driver


@pytest.fixture(params=["container", "vm"], scope="module")
def isolation(request: pytest.FixtureRequest) -> str:
    """The same scenario for both."""
    kind: str = request.param
    return kind
