"""What a test must not leave behind. ``leaks(root)`` is a context manager that compares before and
after; the fixture ``no_leaks`` does it for the whole of a test, with the state directory of the
``cove`` or ``fresh_cove`` it uses:

    pytestmark = pytest.mark.usefixtures("no_leaks")

It looks at this process (descriptors, children), and at what belongs to ``root``: mounts, network
links, control groups, processes, entries of the state directory. With COVE_LEAKS=all, for a machine
on which nothing else runs, it looks at everybody's. What the kernel tears down a moment
later is waited for, up to ``PATIENCE`` seconds.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from cove.net.wires import tag_of

PATIENCE = 120.0
NOBODY = "/nonexistent"
MARK = "cv"
"""How the name of every link of ours begins."""
NAMES = ("cove-init", "cove-monitor", "cove-forker")
"""Command lines (first word) of the processes that are ours."""


@dataclass(frozen=True)
class Seen:
    """Everything cove may leave on a host."""

    mounts: frozenset[str]
    cgroups: frozenset[str]
    links: frozenset[str]
    fds: frozenset[str]
    processes: frozenset[str]
    children: frozenset[str]
    store: frozenset[str]

    def more_than(self, before: Seen) -> dict[str, list[str]]:
        found = {}
        for field in fields(self):
            now, then = getattr(self, field.name), getattr(before, field.name)
            # A daemon keeps a few control groups ready, under ever new names: they are counted.
            if now - then and not (field.name == "cgroups" and len(now) <= len(then)):
                found[field.name] = sorted(now - then)
        return found


def look(root: str | os.PathLike[str] | None = None) -> Seen:
    """What is there now of ``root``, and of this process."""
    scope = "" if os.environ.get("COVE_LEAKS") == "all" else os.path.realpath(root or NOBODY)
    return Seen(
        mounts=frozenset(_mounts(scope)),
        cgroups=frozenset(_cgroups(scope)),
        links=frozenset(_links(scope)),
        fds=frozenset(_fds()),
        processes=frozenset(_processes(scope)),
        children=frozenset(_children()),
        store=frozenset(_store(Path(root))) if root is not None else frozenset(),
    )


@contextlib.contextmanager
def leaks(
    root: str | os.PathLike[str] | None = None, *, patience: float = PATIENCE
) -> Iterator[None]:
    """Fail if the block leaves anything behind. A failing block keeps its own error."""
    before = look(root)
    yield
    _check(before, lambda: look(root), patience)


@pytest.fixture
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Of the whole test."""
    root = None
    for name in ("fresh_cove", "cove"):
        if name in request.fixturenames:
            root = request.getfixturevalue(name).root
            break
    with leaks(root):
        yield


def _check(before: Seen, look_again: Callable[[], Seen], patience: float) -> None:
    gc.collect()
    deadline = time.monotonic() + patience
    extra = look_again().more_than(before)
    while extra and time.monotonic() < deadline:
        _wait_for_an_end(extra.get("processes", []), 0.05)
        extra = look_again().more_than(before)
    lines = [f"{kind}: {thing}" for kind, things in extra.items() for thing in things]
    assert not extra, "left behind:\n  " + "\n  ".join(lines)


def _wait_for_an_end(processes: list[str], seconds: float) -> None:
    """Until one of the processes ends, or a moment: what the kernel tears down tells nobody."""
    poll = select.poll()
    opened = []
    for text in processes:
        with contextlib.suppress(OSError, ValueError):
            opened.append(os.pidfd_open(int(text.split()[0])))
            poll.register(opened[-1], select.POLLIN)
    poll.poll(seconds * 1000)
    for fd in opened:
        os.close(fd)


def _links(scope: str) -> Iterator[str]:
    """A link with the mark of another state directory is not this one's: tests run side by side."""
    for _, name in socket.if_nameindex():
        if not scope or not name.startswith(MARK) or name.startswith(tag_of(scope)):
            yield name


def _mounts(scope: str) -> Iterator[str]:
    """Mount points, and the how-manieth at its place, as some are stacked."""
    counts: dict[str, int] = {}
    for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
        if scope not in line:
            continue
        words = line.split()
        text = f"{words[4]} {line.partition(' - ')[2].split()[0]}"
        counts[text] = counts.get(text, 0) + 1
        yield f"{text} #{counts[text]}"


def _cgroups(scope: str) -> Iterator[str]:
    """Groups below our own directories, in every hierarchy."""
    for top in groups_of(scope):
        for directory, _, _ in os.walk(top):
            yield directory


def group_name(root: str | os.PathLike[str]) -> str:
    """Of the group in which a state directory's machines have theirs."""
    return f"cove-{hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:8]}"


def groups_of(root: str | os.PathLike[str]) -> Iterator[Path]:
    """That group in every hierarchy; "": everybody's."""
    for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
        if line.partition(" - ")[2].split()[0] in ("cgroup", "cgroup2"):
            yield from Path(line.split()[4]).glob(group_name(root) if root else "cove-*")


def left_of(root: Path) -> list[str]:
    """What exists of a state directory's machines and daemon, the directory itself excepted."""
    seen = look(root)
    found = {"mount": seen.mounts, "group": seen.cgroups, "process": seen.processes}
    return [f"{kind} {text}" for kind, texts in found.items() for text in sorted(texts)]


def check_nothing_left(root: Path) -> None:
    """Kernel work that ends a moment later is waited for."""
    late = time.monotonic() + PATIENCE
    while (found := left_of(root)) and time.monotonic() < late:
        select.select([], [], [], 0.02)
    assert not found, "left behind:\n  " + "\n  ".join(found)


def _fds() -> Iterator[str]:
    """Open descriptors of this process: number and what it is, without inode numbers of sockets."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{name}")
            if target != f"/proc/{os.getpid()}/fd":
                yield f"{name} {target}"


def _processes(scope: str) -> Iterator[str]:
    """Processes with our names, whoever their parent is: monitors belong to init."""
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
            name = os.path.basename(words[0].decode(errors="replace"))
            line = b" ".join(words).decode(errors="replace").strip()
            if scope in line and (name in NAMES or "-m cove.daemon" in line):
                yield f"{entry} {line[:200]}"


def _children() -> Iterator[str]:
    """Children of this process, zombies too."""
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):
            for pid in Path(f"/proc/self/task/{task}/children").read_text().split():
                comm = Path(f"/proc/{pid}/comm").read_text().strip()
                yield f"{pid} {comm}"


def _store(root: Path) -> Iterator[str]:
    for name in ("tmp", "roots", "machines", "run"):
        with contextlib.suppress(FileNotFoundError):
            yield from (f"{name}/{entry}" for entry in os.listdir(root / name))
