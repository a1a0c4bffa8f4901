"""Where things are mounted in the root of a build's step that runs in a guest: the lowest layer of
that root, so that no mount of a step is in what it wrote. It shows what the lowest layer of a
container's step shows, and nothing else: what a step looks at it may keep.
"""

from __future__ import annotations

from collections.abc import Iterator

from cove.plan.ops import NONE, Mkdirat, Mknodat, Op
from cove.planner.virtual.volumes import Volumes
from cove.planner.why import default
from cove.spec.machine import MachineSpec

POINTS_LAYER = 2
"""Beside the image's, which is the guest's only layer otherwise."""

_S_IFREG = 0o100000
_DIRECTORIES = (("dev", 0o755), ("etc", 0o755), ("proc", 0o555), ("sys", 0o555))
_FILES = ("etc/hosts", "etc/hostname", "etc/resolv.conf")


def step_points(spec: MachineSpec, volumes: Volumes, store: str) -> Iterator[Op]:
    """Once the disks are mounted, before the root is."""
    at, why = f"{store}/roots/l{POINTS_LAYER}", default("a root may lack it")
    for name, mode in _DIRECTORIES:
        yield Mkdirat(NONE, f"{at}/{name}", mode, 0, 0, why=why)
    for name in _FILES:
        yield _file(f"{at}/{name}", why)
    files = {shown.index for shown in volumes.shown if not shown.is_dir}
    for index, mount in enumerate(spec.mounts):
        path = f"{at}/{mount.target.strip('/')}"
        if index in files:
            yield _file(path, mount.origin)
        else:
            yield Mkdirat(NONE, path, 0o755, 0, 0, why=mount.origin)


def _file(path: str, why: str) -> Op:
    """With the directories on its way."""
    return Mknodat(NONE, path, _S_IFREG | 0o644, 0, 0, 0, 0, why=why)
