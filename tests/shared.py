"""One model: what a container does for its user a virtual machine does too, by the same tests.

A **scenario** is a test function below ``FOLDERS`` that drives machines by the command line: it
uses ``cove`` or ``fresh_cove``. It runs once for each of ``KINDS``, because ``Cove`` asks for that
isolation wherever a machine is made, unless it is marked

    @container_only("why no virtual machine can be asked for it")

What uses ``cove`` and is no scenario says so too, for a function or with ``pytestmark`` for a file:

    @no_scenario("why: it makes no machine, or looks into the works of one kind")

Both reasons are literal, for ``tools/scenarios.py`` reads them into docs/scenarios.md. The count is
told at the end of every pytest; tests/unit/test_scenarios.py holds that enough of them are shared.
"""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.driver import ROOT, Cove, busybox_tar, new_cove, wait_until

FOLDERS = ("attack", "kernel", "networks")
KINDS = tuple(os.environ.get("COVE_TEST_KINDS", "container,vm").split(","))
"""``COVE_TEST_KINDS=container``: for a host on which no virtual machine can be had."""

DAILY = ("test_causes", "test_idmap", "test_run")
"""Files whose scenarios run for virtual machines in every run; ``COVE_TEST_VMS=all``: all of them.
Each guest takes a second of a CPU where there is no KVM.
"""
ALL = os.environ.get("COVE_TEST_VMS") == "all"

SHARED = os.environ.get("COVE_TEST_SHARED", "")
"""A directory of the whole run, which ``tools/suite.py`` makes and removes."""

container_only = pytest.mark.container_only
no_scenario = pytest.mark.no_scenario


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    function = metafunc.definition
    if "isolation" not in metafunc.fixturenames or _folder(function) not in FOLDERS:
        return
    one = any(map(function.get_closest_marker, ("container_only", "no_scenario")))
    later = not ALL and function.path.stem not in DAILY
    kinds = ("container",) if one or later else KINDS
    metafunc.parametrize("isolation", kinds, indirect=True, scope="session")


@pytest.fixture(scope="session")
def isolation(request: pytest.FixtureRequest) -> str:
    """Of the machines that ``cove`` makes."""
    kind: str = getattr(request, "param", "container")
    return kind


def _folder(item: pytest.Item) -> str:
    return item.path.relative_to(ROOT / "tests").parts[0]


# ---- the count ----


class Count:
    """Of scenarios, by the name of their test function."""

    def __init__(self) -> None:
        self.kinds: dict[str, set[str]] = {}
        self.apart: set[str] = set()
        self.others: set[str] = set()

    def add(self, item: pytest.Item) -> None:
        name = item.nodeid.partition("[")[0]
        params = getattr(item, "callspec", None)
        kind = params.params.get("isolation") if params is not None else None
        if item.get_closest_marker("no_scenario"):
            self.others.add(name)
        elif kind is not None:
            self.kinds.setdefault(name, set()).add(kind)
            if item.get_closest_marker("container_only"):
                self.apart.add(name)

    def __str__(self) -> str:
        whole, apart = len(self.kinds), len(self.apart)
        here = sum(len(kinds) == 2 for kinds in self.kinds.values())
        return (
            f"{whole - apart} of {whole} scenarios are shared by containers and virtual machines, "
            f"{100 * (whole - apart) // whole} %, and {here} run for both here "
            f"({apart} for containers only, {len(self.others)} tests are no scenarios: "
            f"docs/scenarios.md{'' if ALL else '; COVE_TEST_VMS=all runs all that are shared'})"
        )


count = Count()


def pytest_collection_finish(session: pytest.Session) -> None:
    for item in session.items:
        count.add(item)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if count.kinds and KINDS == ("container", "vm"):
        terminalreporter.line(str(count))


# ---- what virtual machines need, made once for all state directories ----


def give_guests(cove: Cove) -> None:
    """A guest kernel, and a template of it: what starts from there needs no boot."""
    seed = _seed()
    for name in ("kernels", "templates"):
        shutil.copytree(seed / name, cove.root / name, copy_function=_link, dirs_exist_ok=True)
    (cove.root / "kvm.json").write_bytes((seed / "kvm.json").read_bytes())
    (cove.root / "kvm.json").chmod(0o600)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy(source, target)


def give_trial(cove: Cove) -> None:
    """What the trial boot under KVM said: it takes ten seconds, and is kept with the kernels."""
    from tests.vm.conftest import CACHE

    kept = CACHE / "kvm.json"
    if not kept.exists():
        _seed()
    shutil.copy(kept, cove.root / "kvm.json")


def fetch_kernel() -> None:
    """Have a guest kernel here: from a network namespace of its own there is no way to one."""
    from tests.vm.conftest import one_kernel

    one_kernel()


def seed_guests() -> None:
    """What ``give_guests`` gives, made now."""
    _seed()


@functools.lru_cache(maxsize=1)
def _seed() -> Path:
    """For this pytest, or where ``SHARED`` is for all of a run: the first makes it."""
    if not SHARED:
        return _made_seed()
    seed = Path(SHARED, "guests")
    with Path(SHARED, "guests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not seed.exists():
            shutil.move(_made_seed(), seed)
    return seed


def _made_seed() -> Path:
    from tests.vm.conftest import CACHE, one_kernel

    stored = one_kernel()
    cove = new_cove()
    cove("ps")  # its directories are nobody else's to read
    source = Path(stored.kernels.layout.kernels) / stored.kernel.name
    shutil.copytree(source, cove.root / "kernels" / stored.kernel.name)
    kept = CACHE / "kvm.json"
    if kept.exists():
        shutil.copy(kept, cove.root / "kvm.json")
    tar = busybox_tar(cove.root / "bb.tar")
    cove("image", "import", "-q", str(tar), "bb")
    tar.unlink()
    cove("run", "--rm", "--vm", "bb", "true")
    wait_until(lambda: cove("template", "ls", "-q").out != "", "a template")
    cove.stop_daemon()
    whole = kept.with_suffix(f".{os.getpid()}")  # others may read it at this moment
    shutil.copy(cove.root / "kvm.json", whole)
    whole.rename(kept)
    return cove.root


@pytest.fixture(scope="session", autouse=True)
def guests_at_end() -> Iterator[None]:
    yield
    if _seed.cache_info().currsize and not SHARED:
        shutil.rmtree(_seed())
        _seed.cache_clear()
