"""Programs of a CPU that is not this host's: Debian's static busybox for it, from this host's
package sources, and an image of it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from functools import partial
from pathlib import Path

import pytest

from cove.errors import CoveError
from cove.linux.interpreters import find_interpreter
from cove.planner.cpus import architectures
from cove.vm.debian import Apt
from tests.driver import ROOT, busybox_tar
from tools.build_init import BuildError, _find_compiler

OTHER = "x86_64" if os.uname().machine == "aarch64" else "aarch64"
"""As ``uname -m``."""
PLATFORM = f"linux/{architectures(OTHER)[0]}"


@pytest.fixture(scope="session")
def other_busybox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kept from then on."""
    kept = ROOT / f".cache/busybox-{architectures(OTHER)[0]}"
    if kept.exists():
        return kept
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
    scratch = tmp_path_factory.mktemp("apt")
    environment = tuple(f"{k}={v}" for k, v in os.environ.items() if k.endswith("_proxy"))
    try:
        apt = Apt(str(scratch), arch=OTHER, env=environment, progress=lambda step: None,
                  gone=threading.Event().is_set)  # fmt: skip
        find = partial(apt.find, "busybox-static")
        _, root = apt.unpack(find(), find)
    except CoveError as error:
        pytest.skip(f"needs package sources: {error.message}")
    kept.parent.mkdir(exist_ok=True)
    whole = kept.with_name(f"{kept.name}.{os.getpid()}")  # others may look for it at this moment
    shutil.copyfile(f"{root}/bin/busybox", whole)
    whole.chmod(0o755)
    whole.rename(kept)
    return kept


@pytest.fixture(scope="session")
def other_probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``probe`` for the other CPU, by the compiler that makes the agent of its guests."""
    directory = tmp_path_factory.mktemp("other-probe")
    try:
        compiler = _find_compiler([], arch=OTHER, sanitize=False, directory=directory)
    except BuildError as error:
        pytest.skip(f"needs a compiler: {error}")
    program = directory / "probe"
    subprocess.run([*compiler, "-O1", "-o", program, ROOT / "tests/probe/probe.c"], check=True)
    return program


@pytest.fixture(scope="session")
def other_tar(tmp_path_factory: pytest.TempPathFactory, other_busybox: Path) -> Path:
    """As ``bb_tar``, of programs for the other CPU."""
    qemu = find_interpreter(OTHER)
    if not qemu:
        pytest.skip("needs qemu-user-static")
    target = tmp_path_factory.mktemp("other") / "other.tar"
    return busybox_tar(target, busybox=other_busybox, runs=(qemu,))
