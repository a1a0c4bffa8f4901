"""One daemon for this folder, with a state directory of its own; nothing of it may be left at the
end: no process, control group, mount or file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cove.engine import calls
from cove.engine.engine import Engine
from tests.conftest import need, need_root, open_cove
from tests.driver import Cove, Done, new_cove

PATIENCE = 10.0


def left_of(root: Path) -> list[str]:
    """What exists of a state directory's machines and daemon, the directory itself excepted."""
    found = []
    group = f"cove-{hashlib.sha256(os.fsencode(root)).hexdigest()[:8]}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words = line.split()
        if words[4].startswith(f"{root}/"):
            found.append(f"mount {words[4]}")
        if " - cgroup" in line and (Path(words[4]) / group).exists():
            found.append(f"group {words[4]}/{group}")
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            line = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            if f"--root {root} " in line or line.endswith(f"--root {root}"):
                found.append(f"process {entry} {line}")
    return found


def check_nothing_left(root: Path) -> None:
    """Kernel work that ends a moment later is waited for."""
    late = time.monotonic() + PATIENCE
    while (found := left_of(root)) and time.monotonic() < late:
        select.select([], [], [], 0.02)
    assert not found, "left behind:\n  " + "\n  ".join(found)


@contextlib.contextmanager
def closed_cove(bb_tar: Path) -> Iterator[Cove]:
    with open_cove(bb_tar) as driver:
        yield driver
    check_nothing_left(driver.root)


@contextlib.contextmanager
def open_engine(bb_tar: Path) -> Iterator[Engine]:
    """An engine in this process, with image ``bb``; needs root."""
    need_root()
    root = new_cove().root
    restart = (sys.executable, "-P", "-m", "cove.daemon", "--root", str(root))
    environment = {"PATH": os.environ["PATH"]}
    with Engine.open(str(root), restart=restart, environment=environment, lock_fd=None) as made:
        with open(bb_tar, "rb") as file:
            list(made.image_import(calls.ImageImport("bb"), calls.Call(body=file.fileno())))
        yield made
    check_nothing_left(root)
    shutil.rmtree(root)


@pytest.fixture(scope="session")
def cove(bb_tar: Path) -> Iterator[Cove]:
    """Shared by the tests of this folder that do not harm the daemon."""
    with closed_cove(bb_tar) as driver:
        yield driver


@pytest.fixture
def fresh_cove(bb_tar: Path) -> Iterator[Cove]:
    """A test's own, to be killed and crashed."""
    with closed_cove(bb_tar) as driver:
        yield driver


Machine = Callable[..., Done]


def give_kernel(cove: Cove) -> None:
    """The guest kernel of this state directory: the one that tests keep."""
    from tests.vm.conftest import one_kernel

    need("qemu-system-x86_64")
    need("mkfs.erofs")
    kernels = cove.root / "kernels"
    if kernels.exists() and any(kernels.iterdir()):
        return
    stored = one_kernel()
    source = Path(stored.kernels.layout.kernels) / stored.kernel.name
    shutil.copytree(source, kernels / stored.kernel.name)


container_only = pytest.mark.container_only
"""``container_only("why")``: what no virtual machine can be asked for."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A scenario that cannot apply to a virtual machine is none for it; the share is told."""
    kept, dropped = [], []
    for item in items:
        params = getattr(item, "callspec", None)
        vm = params is not None and params.params.get("machine") == "vm"
        (dropped if vm and item.get_closest_marker("container_only") else kept).append(item)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept


@pytest.fixture(params=["container", "vm"])
def machine(request: pytest.FixtureRequest, cove: Cove) -> Machine:
    """``machine("id", flags=("-u", "ada"))``: a command in an ephemeral machine of its own."""
    if request.param == "vm":
        give_kernel(cove)

    def run(*words: str, flags: tuple[str, ...] = (), image: str = "bb", **options: object) -> Done:
        kind = ("--isolation", request.param)
        return cove("run", "--rm", *kind, *flags, image, *words, **options)  # type: ignore[arg-type]

    return run
