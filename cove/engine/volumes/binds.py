"""What a machine gets of the host's files: binds and volumes, opened once, by descriptor."""

from __future__ import annotations

import os
import stat

from cove.engine.descriptors import Descriptors
from cove.engine.home import SCRATCH, Home
from cove.engine.volumes import limited
from cove.engine.volumes.opening import find_mounted, open_mount
from cove.errors import HostError
from cove.linux.disk import file_system
from cove.linux.mounts import Source, clone_mount, idmap_of, open_source
from cove.planner import BindSource
from cove.spec.machine import MachineSpec, Mount
from cove.spec.volume import is_limited
from cove.store.records import VolumeRecord


def check_binds(spec: MachineSpec) -> None:
    """Before there is a machine, what a start would refuse: it opens the sources anew."""
    for mount in spec.mounts:
        if mount.type == "bind" and not mount.create_source:
            os.close(_open_bind(mount).fd)


def open_binds(home: Home, fds: Descriptors, spec: MachineSpec) -> tuple[BindSource, ...]:
    """Binds and volumes as detached mounts: what is put in their place from here on is not
    mounted.
    """
    found = []
    for index, mount in enumerate(spec.mounts):
        if mount.type == "tmpfs":
            continue
        if mount.type == "image":
            base = home.base(mount.source) if mount.source else home.base_of(SCRATCH)
            layers = home.base_above(base, mount.above).layers if mount.above else base.layers
            found.append(BindSource(f"bind{index}", idmap="none", layers=layers))
            continue
        name = f"bind{index}"
        held = home.store.volume(mount.source) if mount.type == "volume" else None
        if held is not None and is_limited(held.options):
            is_dir = _open_limited(home, fds, name, mount, find_mounted(home, mount))
            found.append(BindSource(name, is_dir))
            continue
        source = _open_source(home, mount)
        try:
            idmap = idmap_of(f"/proc/self/fd/{source.fd}", home.facts.kernel)
            if mount.idmap != "none":
                _check_idmap(mount, idmap, f"/proc/self/fd/{source.fd}")
            what = f"cannot mount {mount.source} on {mount.target}"
            if home.facts.root:
                clone = clone_mount(
                    source.fd, recursive=mount.recursive, what=what, origin=mount.origin
                )
                fds.mine(name, clone)
        finally:
            os.close(source.fd)
        found.append(BindSource(name, source.is_dir, idmap))
    return tuple(found)


def _open_limited(
    home: Home, fds: Descriptors, name: str, mount: Mount, held: VolumeRecord
) -> bool:
    """Whether it is a directory."""
    fd = limited.mount(home, held, part=mount.subpath, origin=mount.origin)
    fds.mine(name, fd)
    return stat.S_ISDIR(os.fstat(fd).st_mode)


def _check_idmap(mount: Mount, able: str, path: str) -> None:
    """Where others' ids are to be nobody's, none may be seen as they are."""
    what = f"cannot mount {mount.source} on {mount.target} with idmap={mount.idmap}"
    if able == "none":
        raise HostError(
            f"{what}: its file system, {file_system(path)}, takes no idmapped mount",
            origin=mount.origin,
            hint="ext4, xfs and btrfs do; tmpfs does from Linux 6.3 on",
        )
    if able == "top" and mount.recursive:
        raise HostError(
            f"{what}: a file system that is mounted below it takes no idmapped mount",
            origin=mount.origin,
            hint="mount it alone: --mount type=bind,…,bind-recursive=disabled",
        )


def _open_source(home: Home, mount: Mount) -> Source:
    if mount.type == "volume":
        return open_mount(home, mount)
    return _open_bind(mount)


def _open_bind(mount: Mount) -> Source:
    return open_source(
        mount.source, mount.target, origin=mount.origin, create=mount.create_source,
        within=mount.within,
    )  # fmt: skip
