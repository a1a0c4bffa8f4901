"""What a machine gets of the host's files: binds and volumes, opened once, by descriptor."""

from __future__ import annotations

import os

from cove.engine.descriptors import Descriptors
from cove.engine.home import Home
from cove.engine.volumes.opening import open_mount
from cove.errors import HostError
from cove.linux.disk import file_system
from cove.linux.mounts import Source, clone_mount, idmap_of, open_source
from cove.planner import BindSource
from cove.spec.machine import MachineSpec, Mount


def check_binds(spec: MachineSpec) -> None:
    """Before there is a machine, what a start would refuse: it opens the sources anew."""
    for mount in spec.mounts:
        if mount.type == "bind" and not mount.create_source:
            os.close(open_source(mount.source, mount.target, origin=mount.origin).fd)


def open_binds(home: Home, fds: Descriptors, spec: MachineSpec) -> tuple[BindSource, ...]:
    """Binds and volumes as detached mounts: what is put in their place from here on is not
    mounted.
    """
    found = []
    for index, mount in enumerate(spec.mounts):
        if mount.type == "tmpfs":
            continue
        if mount.type == "image":
            layers = home.base(mount.source).layers
            found.append(BindSource(f"bind{index}", idmap="none", layers=layers))
            continue
        name = f"bind{index}"
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
    return open_source(mount.source, mount.target, origin=mount.origin, create=mount.create_source)
