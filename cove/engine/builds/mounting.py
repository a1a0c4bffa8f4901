"""``RUN --mount``: what a step is given beside its root, and here-documents that are scripts.

Files of a context or a stage are copied for the time of the step: what is written there goes with
it. A cache is a volume that only builds know.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import msgspec

from cove.build.files.select import Placed, digest_of, select_whole
from cove.build.graph.data import SCRATCH, STAGE, RunStep, StepMount
from cove.build.source import misfit
from cove.engine.builds import caches
from cove.engine.builds.agents import placed, served
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
from cove.spec.machine import Isolation, Mount

SOCKET = "SSH_AUTH_SOCK="
TOP = "top"
"""What is mounted, in its directory."""


@dataclass(frozen=True, slots=True)
class Mounted:
    mounts: tuple[Mount, ...] = ()
    whispers: tuple[str, ...] = ()
    """Variables that nothing may keep."""
    agents: tuple[tuple[int, int], ...] = ()
    """Of a guest: mounts that are sockets of its own, and the agent behind each."""


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
    isolation: Isolation
    behind: dict[str, int] = field(default_factory=dict)
    """Agents of a guest, by the paths of what its sockets are like."""
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
    sources: Sources,
    step: RunStep,
    secrets: dict[str, bytes],
    agents: dict[str, int],
    *,
    isolation: Isolation,
) -> Iterator[Mounted]:
    if not step.mounts and not step.files:
        yield Mounted()
        return
    home = sources.home
    with contextlib.ExitStack() as stack:
        wanted = [_known_as(sources, step, mount) for mount in step.mounts]
        wishes = [one.mount for one in wanted if one.mount.type == "cache"]
        held = stack.enter_context(caches.taken(home, wishes, sources.gone))
        directory = tempfile.mkdtemp(prefix="step-", dir=home.store.layout.tmp)
        stack.callback(home.remover.remove, directory)
        making_one = _Making(sources, secrets, step, directory, stack, held, agents, isolation)
        mounts = [one for mount in wanted if (one := _mount(making_one, mount)) is not None]
        for script in step.files:
            data = script.content.encode("utf-8", "surrogateescape")
            path = _file(making_one.fresh(), data, script.mode, 0, 0)
            mounts.append(_shown(directory, path, script.path, "the script"))
        behind = tuple((i, making_one.behind[m.source]) for i, m in enumerate(mounts) if m.socket)
        yield Mounted(tuple(mounts), tuple(making_one.whispers), behind)


def digest(sources: Sources, step: RunStep) -> list[str]:
    """What the cache has to know of the files that a step is shown."""
    return [one for mount in step.mounts if (one := _content(sources, mount))]


def _content(sources: Sources, mount: StepMount) -> str:
    """A digest of what a mount begins with; empty: of nothing, or it is not known by that."""
    origin = mount.origin
    if origin is None or (mount.mount.type == "cache" and origin.kind == SCRATCH):
        return ""
    if (pack := sources.pack_of(origin)) is not None:
        return digest_of(_placed(pack, mount))
    tree = sources.trees.get(str(origin))
    return "" if tree is None else tree.key


def _placed(pack: Pack, mount: StepMount) -> list[Placed]:
    return select_whole(pack.files, mount.mount.source, TOP)


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
    path = _copied(one, mount)
    return Mount(
        "bind", mount.target, source=path, within=one.directory, read_only=mount.mount.readonly,
        origin=_said(mount),
    )  # fmt: skip


def _copied(one: _Making, mount: StepMount) -> str:
    """The path of a copy of the files that a mount begins with."""
    with contextlib.ExitStack() as stack:
        pack, placed = _found(one.sources, one.step, mount, stack)
        return _unpacked(one, pack, placed)


def _found(
    sources: Sources, step: RunStep, mount: StepMount, stack: contextlib.ExitStack
) -> tuple[Pack, list[Placed]]:
    """What a mount begins with, looked up inside what it comes of."""
    origin = mount.origin
    assert origin is not None
    pack = sources.pack_of(origin)
    if pack is not None:
        placed = _placed(pack, mount)
    else:
        tree = sources.trees.get(str(origin), Tree())
        path = mount.mount.source.strip("/")
        what = f"mount /{path} of {origin}"
        pack = stack.enter_context(tree_pack(sources.home, tree, path, what, sources.gone))
        placed = select_whole(pack.files, "", TOP) if pack is not None else []
    if pack is None or not placed:
        raise misfit(step.place, f'"{mount.mount.source or "/"}" is not in {origin}')
    return pack, placed


def _unpacked(one: _Making, pack: Pack, placed: list[Placed]) -> str:
    """The files in a directory of their own, by the unpacker, which follows nothing."""
    target = one.fresh()
    check_room(one.directory, placed)
    os.mkdir(target, 0o700)
    with nameless(one.home.store) as tar:
        write_tar(tar, pack.fd, placed, one.sources.clock_ns, one.sources.gone)
        size = os.lseek(tar, 0, os.SEEK_CUR)
        pipeline.unpack(Span(tar, 0, size), target, what="files to mount", limits=NO_LIMITS)
    return f"{target}/fs/{TOP}"


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
    uid, gid = wish.uid or 0, wish.gid or 0
    if not any(word.startswith(SOCKET) for word in one.whispers):
        one.whispers.append(f"{SOCKET}{mount.target}")
    if one.isolation == "vm":
        with socket.socket(socket.AF_UNIX) as like:
            path = placed(like, one.fresh(), mode, uid, gid)
        one.behind[path] = agent
        shown = _shown(one.directory, path, mount.target, _said(mount))
        return msgspec.structs.replace(shown, socket=True)
    path = one.stack.enter_context(served(agent, one.fresh(), mode, uid, gid))
    return _shown(one.directory, path, mount.target, _said(mount))


# ---- caches ----


def _known_as(sources: Sources, step: RunStep, mount: StepMount) -> StepMount:
    """A cache has an id of what it begins with."""
    wish, origin = mount.mount, mount.origin
    if wish.type != "cache" or origin is None:
        return mount
    if origin.kind == SCRATCH and wish.source.strip("/") not in ("", "."):
        # A folder of what other builds write at the same time (CVE-2024-23651).
        raise misfit(
            step.place, "source= of a cache mount is not supported without from=",
            hint="a cache of its own: another id=",
        )  # fmt: skip
    if origin.kind == STAGE:  # made anew it may have the same files, with other times
        with contextlib.ExitStack() as stack:
            content = digest_of(_found(sources, step, mount, stack)[1])
    else:
        content = _content(sources, mount)
    known = caches.begins_with(wish, content)
    return replace(mount, mount=replace(wish, id=known))


def _cache(one: _Making, mount: StepMount) -> Mount:
    wish = mount.mount
    name = one.caches[wish.id]
    caches.made(one.home, name, wish, lambda: _begun(one, mount))
    return Mount(
        "volume", mount.target, source=name, read_only=wish.readonly, copy=False,
        origin=_said(mount),
    )  # fmt: skip


def _begun(one: _Making, mount: StepMount) -> str:
    """A directory with what a new cache begins with, ``_data``."""
    files = ""
    if mount.origin is not None and mount.origin.kind != SCRATCH:
        files = _copied(one, mount)
        if not os.path.isdir(files) or os.path.islink(files):
            what = f'"{mount.mount.source}" of {mount.origin} is no directory'
            raise misfit(one.step.place, what, hint="a cache begins with the files of one")
    ready = one.fresh()
    os.mkdir(ready, 0o700)
    if files:
        os.rename(files, f"{ready}/_data")
    else:
        os.mkdir(f"{ready}/_data")
        os.chmod(f"{ready}/_data", 0o755)
    return ready
