"""``RUN --mount``: what a step is given beside its root, and here-documents that are scripts.

Files of a context or a stage are copied for the time of the step: what is written there goes with
it. A cache is a volume that only builds know.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field

from cove.build.dockerfile.mounts import Mount as Wish
from cove.build.files.select import Place, Placed, digest_of, select
from cove.build.graph.data import SCRATCH, RunStep, StepMount
from cove.build.source import misfit
from cove.engine.builds import caches
from cove.engine.builds.agents import served
from cove.engine.builds.gathering import Sources, tree_pack
from cove.engine.builds.packs import Pack, check_room, nameless, write_tar
from cove.engine.builds.trees import Tree
from cove.engine.home import Home
from cove.image import pipeline
from cove.image.pipeline import NO_LIMITS
from cove.linux.in_memory import directory_in_memory
from cove.linux.probe import IDMAP_SINCE
from cove.linux.pump import write_all
from cove.oci.archive import Span
from cove.spec.machine import Mount

SOCKET = "SSH_AUTH_SOCK="


@dataclass(frozen=True, slots=True)
class Mounted:
    mounts: tuple[Mount, ...] = ()
    whispers: tuple[str, ...] = ()
    """Variables that nothing may keep."""


@dataclass(slots=True)
class _Making:
    sources: Sources
    secrets: dict[str, bytes]
    step: RunStep
    directory: str
    stack: contextlib.ExitStack
    caches: dict[str, str]
    """Volumes by id, which the step has for itself or with others."""
    agents: dict[str, int]
    """Of the caller, by their ids: descriptors of their sockets."""
    memory: str = ""
    """A directory on no disk, once there is one."""
    whispers: list[str] = field(default_factory=list)
    number: int = 0

    @property
    def home(self) -> Home:
        return self.sources.home

    def fresh(self) -> str:
        """A place for one mount's files."""
        self.number += 1
        return f"{self.directory}/{self.number}"

    def secret(self) -> str:
        """A place for one secret."""
        if not self.memory:
            made = directory_in_memory(self.home.store.layout.in_memory, "cannot keep a secret")
            self.memory = self.stack.enter_context(made)
        self.number += 1
        return f"{self.memory}/{self.number}"


@contextlib.contextmanager
def mounted(
    sources: Sources, step: RunStep, secrets: dict[str, bytes], agents: dict[str, int]
) -> Iterator[Mounted]:
    if not step.mounts and not step.files:
        yield Mounted()
        return
    home = sources.home
    with contextlib.ExitStack() as stack:
        held = stack.enter_context(caches.taken(home, _caches(step), sources.gone))
        directory = tempfile.mkdtemp(prefix="step-", dir=home.store.layout.tmp)
        stack.callback(home.remover.remove, directory)
        making_one = _Making(sources, secrets, step, directory, stack, held, agents)
        mounts = [one for mount in step.mounts if (one := _mount(making_one, mount)) is not None]
        for script in step.files:
            data = script.content.encode("utf-8", "surrogateescape")
            path = _file(making_one.fresh(), data, script.mode, 0, 0)
            mounts.append(_shown(directory, path, script.path, "the script"))
        yield Mounted(tuple(mounts), tuple(making_one.whispers))


def digest(sources: Sources, step: RunStep) -> list[str]:
    """What the cache has to know of the files that a step is shown."""
    found = []
    for mount in step.mounts:
        if mount.mount.type != "bind" or mount.origin is None:
            continue
        tree = sources.trees.get(str(mount.origin))
        if (pack := sources.pack_of(mount.origin)) is not None:
            found.append(digest_of(_placed(pack, mount)))
        elif tree is not None:
            found.append(tree.key)
    return found


def _placed(pack: Pack, mount: StepMount) -> list[Placed]:
    return select(pack.files, mount.mount.source.strip("/"), _PLACE, None)


_PLACE = Place("top", folder=False, exists=False)


def _mount(one: _Making, mount: StepMount) -> Mount | None:
    match mount.mount.type:
        case "tmpfs":
            return Mount("tmpfs", mount.target, size=mount.mount.size, origin=_said(mount))
        case "secret":
            return _secret(one, mount)
        case "ssh":
            return _agent(one, mount)
        case "cache":
            return _cache(one, mount)
        case _:
            return _bind(one, mount)


def _said(mount: StepMount) -> str:
    return f"--mount=type={mount.mount.type},target={mount.target}"


# ---- files ----


def _bind(one: _Making, mount: StepMount) -> Mount:
    sources, origin = one.sources, mount.origin
    assert origin is not None
    with contextlib.ExitStack() as stack:
        pack = sources.pack_of(origin)
        if pack is not None:
            placed = _placed(pack, mount)
        else:
            tree = sources.trees.get(str(origin), Tree())
            path = mount.mount.source.strip("/")
            what = f"mount /{path} of {origin}"
            opened = tree_pack(sources.home, tree, path, what, sources.gone)
            pack = stack.enter_context(opened)
            placed = select(pack.files, "", _PLACE, None) if pack is not None else []
        if pack is None or not placed:
            raise misfit(one.step.place, f'"{mount.mount.source or "/"}" is not in {origin}')
        path = _unpacked(one, pack, placed)
    return Mount(
        "bind", mount.target, source=path, within=one.directory, read_only=mount.mount.readonly,
        origin=_said(mount),
    )  # fmt: skip


def _unpacked(one: _Making, pack: Pack, placed: list[Placed]) -> str:
    """The files in a directory of their own, by the unpacker, which follows nothing."""
    target = one.fresh()
    check_room(one.directory, placed)
    os.mkdir(target, 0o700)
    with nameless(one.home.store) as tar:
        write_tar(tar, pack.fd, placed, one.sources.clock_ns, one.sources.gone)
        size = os.lseek(tar, 0, os.SEEK_CUR)
        pipeline.unpack(Span(tar, 0, size), target, what="files to mount", limits=NO_LIMITS)
    return f"{target}/fs/{_PLACE.path}"


def _file(path: str, data: bytes, mode: int, uid: int, gid: int) -> str:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        write_all(fd, data)
        os.fchown(fd, uid, gid)
        os.fchmod(fd, mode)
    finally:
        os.close(fd)
    return path


def _shown(within: str, path: str, target: str, origin: str) -> Mount:
    return Mount("bind", target, source=path, within=within, read_only=True, origin=origin)


def _secret(one: _Making, mount: StepMount) -> Mount | None:
    wish = mount.mount
    data = one.secrets.get(wish.id)
    if data is None:
        if wish.required:
            raise misfit(
                one.step.place, f'the secret "{wish.id}" is not given',
                hint=f"--secret id={wish.id},src=FILE",
            )  # fmt: skip
        return None
    if wish.env is not None:
        one.whispers.append(f"{wish.env or wish.id}={data.decode('utf-8', 'surrogateescape')}")
    if not mount.target:
        return None
    mode = 0o400 if wish.mode is None else wish.mode
    if one.home.facts.kernel < IDMAP_SINCE["tmpfs"]:
        mode |= mode >> 6  # there it belongs to nobody inside, and nobody else sees it
    path = _file(one.secret(), data, mode, wish.uid or 0, wish.gid or 0)
    return _shown(one.memory, path, mount.target, _said(mount))


def _agent(one: _Making, mount: StepMount) -> Mount | None:
    """The first one is where programs look for it."""
    wish = mount.mount
    agent = one.agents.get(wish.id)
    if agent is None:
        if wish.required:
            raise misfit(
                one.step.place, f'the agent "{wish.id}" is not given',
                hint="--ssh default" if wish.id == "default" else f"--ssh {wish.id}=SOCKET",
            )  # fmt: skip
        return None
    mode = 0o600 if wish.mode is None else wish.mode
    door = served(agent, one.fresh(), mode, wish.uid or 0, wish.gid or 0)
    path = one.stack.enter_context(door)
    if not any(word.startswith(SOCKET) for word in one.whispers):
        one.whispers.append(f"{SOCKET}{mount.target}")
    return _shown(one.directory, path, mount.target, _said(mount))


def _cache(one: _Making, mount: StepMount) -> Mount:
    name = one.caches[mount.mount.id]
    caches.made(one.home, name, mount.mount)
    return Mount(
        "volume", mount.target, source=name, read_only=mount.mount.readonly, copy=False,
        origin=_said(mount),
    )  # fmt: skip


def _caches(step: RunStep) -> list[Wish]:
    found = [mount for mount in step.mounts if mount.mount.type == "cache"]
    if any(mount.origin is not None and mount.origin.kind != SCRATCH for mount in found):
        raise misfit(step.place, "from= of a cache mount is not supported yet")
    if any(mount.mount.source.strip("/") not in ("", ".") for mount in found):
        # A folder of what other builds write at the same time (CVE-2024-23651).
        raise misfit(step.place, "source= of a cache mount is not supported",
                     hint="a cache of its own: another id=")  # fmt: skip
    return [mount.mount for mount in found]
