"""One model: the scenarios of containers hold for virtual machines too, or say why they cannot.

A **scenario** is a test below ``FOLDERS`` that has a machine made for it (it uses ``cove`` or
``fresh_cove``) and is not marked ``no_machine``. Each is run for both kinds, unless it is marked
``container_only("why")``. How many are shared is told at the end of a run, and a whole run with
fewer than ``SHARE`` percent fails. ``docs/scenarios.md`` lists the reasons.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.driver import ROOT, Cove, busybox_tar, new_cove, wait_until

FOLDERS = ("attack", "kernel")
KINDS = ("container", "vm")
SHARE = 85

container_only = pytest.mark.container_only
"""``container_only("why")``: what no virtual machine can be asked for."""
no_machine = pytest.mark.no_machine
"""No program of a user is run in a machine."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "isolation" not in metafunc.fixturenames or _folder(metafunc.definition) not in FOLDERS:
        return
    alone = any(map(metafunc.definition.get_closest_marker, ("container_only", "no_machine")))
    kinds = KINDS[:1] if alone else KINDS
    metafunc.parametrize("isolation", kinds, indirect=True, scope="session")


@pytest.fixture(scope="session")
def isolation(request: pytest.FixtureRequest) -> str:
    """Of the machines that ``cove`` makes."""
    kind: str = getattr(request, "param", KINDS[0])
    return kind


def _folder(item: pytest.Item | pytest.Function) -> str:
    return item.path.relative_to(ROOT / "tests").parts[0]


# ---- the count ----


class Count:
    """Of scenarios, by the name of their test function."""

    def __init__(self) -> None:
        self.kinds: dict[str, set[str]] = {}
        self.whole = False

    def add(self, item: pytest.Item) -> None:
        params = getattr(item, "callspec", None)
        if params is None or item.get_closest_marker("no_machine"):
            return
        kind = params.params.get("isolation")
        if kind in KINDS and _folder(item) in FOLDERS:
            self.kinds.setdefault(item.nodeid.partition("[")[0], set()).add(kind)

    def shared(self) -> int:
        return sum(len(kinds) == len(KINDS) for kinds in self.kinds.values())

    def percent(self) -> int:
        return 100 * self.shared() // len(self.kinds)


count = Count()


def pytest_collection_finish(session: pytest.Session) -> None:
    """The whole: every test below a folder was asked for, and none by its name."""
    for item in session.items:
        count.add(item)
    asked = {Path(os.path.abspath(argument)) for argument in session.config.args}
    folders = [ROOT / "tests" / name for name in FOLDERS]
    chosen = session.config.option.keyword or session.config.option.markexpr
    count.whole = not chosen and all(asked & {folder, *folder.parents} for folder in folders)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if count.kinds:
        terminalreporter.line(
            f"{count.shared()} of {len(count.kinds)} scenarios shared, {count.percent()} %"
        )


def pytest_sessionfinish(session: pytest.Session) -> None:
    if count.whole and count.kinds and count.percent() < SHARE:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


# ---- what virtual machines need, made once for all state directories ----


def give_guests(cove: Cove) -> None:
    """A guest kernel, and a template of it: what starts from there needs no boot."""
    seed = _seed()
    for name in ("kernels", "templates"):
        shutil.rmtree(cove.root / name, ignore_errors=True)
        shutil.copytree(seed / name, cove.root / name, copy_function=_link)
    _link(seed / "kvm.json", cove.root / "kvm.json")


def _link(source: str | Path, target: str | Path) -> None:
    os.link(source, target)


@functools.lru_cache(maxsize=1)
def _seed() -> Path:
    from tests.vm.conftest import CACHE, one_kernel

    stored = one_kernel()
    cove = new_cove()
    cove("ps")
    source = Path(stored.kernels.layout.kernels) / stored.kernel.name
    shutil.copytree(source, cove.root / "kernels" / stored.kernel.name)
    if (CACHE / "kvm.json").exists():
        shutil.copy(CACHE / "kvm.json", cove.root / "kvm.json")
    tar = busybox_tar(cove.root / "bb.tar")
    cove("image", "import", "-q", str(tar), "bb")
    cove("run", "--rm", "--isolation", "vm", "bb", "true")
    wait_until(lambda: cove("template", "ls", "-q").out != "", "a template")
    cove("daemon", "stop")
    return cove.root


def drop_seed() -> Iterator[None]:
    yield
    if _seed.cache_info().currsize:
        shutil.rmtree(_seed())


guests_at_end = pytest.fixture(scope="session", autouse=True)(drop_seed)
