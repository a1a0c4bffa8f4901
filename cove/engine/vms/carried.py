"""Volumes and binds of a virtual machine, opened for its start: directories are served by a process
beside its emulator, disks are the emulator's own.

A guest with any of them boots: what a template or a clone that waits is made of has none.
"""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

import msgspec

from cove.engine.descriptors import Descriptors
from cove.engine.home import Home
from cove.engine.live import Live
from cove.engine.ranges import range_base
from cove.engine.slots import open_group
from cove.engine.vms.virtual import listen_at
from cove.engine.volumes import disks
from cove.engine.volumes.binds import open_binds
from cove.engine.volumes.opening import find_mounted
from cove.engine.volumes.users import publish_mounts
from cove.errors import HostError, one_line
from cove.linux.mounts import open_source
from cove.linux.program import init_program
from cove.plan import wire
from cove.plan.ops import Plan
from cove.planner import Place
from cove.planner.virtual.file_server import PROGRAMS, plan_server, server_spec
from cove.planner.virtual.volumes import NO_VOLUMES, SHARE, Shown, Socket, VolumeDisk, Volumes
from cove.spec.machine import Mount
from cove.spec.volume import is_disk
from cove.store.records import MachineRecord

COMPLAINT_MAX = 2000


def carry(home: Home, record: MachineRecord, live: Live, fds: Descriptors) -> Volumes:
    """What the guest mounts; ``fds``: the registers of it for the emulator."""
    mounts = {i: mount for i, mount in enumerate(record.spec.mounts) if mount.type != "tmpfs"}
    if not mounts:
        return NO_VOLUMES
    publish_mounts(home, record)
    of_disks = {i: mount for i, mount in mounts.items() if _is_disk(home, mount)}
    shown = {i: _socket(i, mount) for i, mount in mounts.items() if mount.socket}
    shared = {i: m for i, m in mounts.items() if i not in of_disks and i not in shown}
    volumes = tuple(_open_disks(home, record, of_disks, shown, fds))
    if shared:
        shown |= _share(home, record, live, shared, fds)
    return Volumes(tuple(shown[index] for index in mounts), volumes)


def _socket(index: int, mount: Mount) -> Shown:
    """Only whose it is: what is behind it, the step's build knows."""
    source = open_source(mount.source, mount.target, origin=mount.origin, within=mount.within)
    try:
        mode = stat.S_IMODE(os.fstat(source.fd).st_mode)
    finally:
        os.close(source.fd)
    its = Socket(mode, source.uid, source.gid)
    return Shown(index, is_dir=False, why=mount.origin, socket=its)


def _is_disk(home: Home, mount: Mount) -> bool:
    held = home.store.volume(mount.source) if mount.type == "volume" else None
    return held is not None and is_disk(held.options)


def _open_disks(
    home: Home,
    record: MachineRecord,
    mounts: dict[int, Mount],
    shown: dict[int, Shown],
    fds: Descriptors,
) -> Iterator[VolumeDisk]:
    """A volume that is mounted twice is one disk."""
    names = tuple(dict.fromkeys(mount.source for mount in mounts.values()))
    for number, name in enumerate(names):
        its = {i: mount for i, mount in mounts.items() if mount.source == name}
        first = next(iter(its.values()))
        serial, read_only = f"volume{number}", all(mount.read_only for mount in its.values())
        held = find_mounted(home, first)
        fd = disks.open_disk(home, held, read_only=read_only, key=record.key, origin=first.origin)
        fds.mine(serial, fd)
        yield VolumeDisk(serial, read_only, first.origin)
        shown |= {i: Shown(i, serial, why=mount.origin) for i, mount in its.items()}


def _share(
    home: Home, record: MachineRecord, live: Live, mounts: dict[int, Mount], fds: Descriptors
) -> dict[int, Shown]:
    assert live.group is not None
    spec = server_spec(mounts)
    typed = tuple(mounts.values())  # what an error names
    with Descriptors() as given:
        sources = open_binds(home, given, msgspec.structs.replace(record.spec, mounts=typed))
        place = Place(
            key=record.key,
            root=home.root,
            base=range_base(record.id_range),
            cgroup_files=live.group.tasks,
            cgroup_into=bool(live.group.directory),
            binds=sources,
        )
        if (cgroup := open_group(live.group)) >= 0:
            given.mine("cgroup", cgroup)
        plan = plan_server(spec, home.facts, place, program=_program())
        fds.mine(SHARE, _begin(home, plan, given, live))
    return {
        index: Shown(index, "", source.is_dir, mount.origin)
        for (index, mount), source in zip(mounts.items(), sources, strict=True)
    }


def _program() -> str:
    for path in PROGRAMS:
        if os.access(path, os.X_OK):
            return path
    raise HostError(
        "cannot share a directory with a virtual machine: there is no virtiofsd",
        hint="apt-get install virtiofsd; or use a volume that is a disk: "
        "--mount type=volume,source=NAME,target=DIR,block",
    )


def _begin(home: Home, plan: Plan, given: Descriptors, live: Live) -> int:
    """A connection to the server, which serves this one alone and ends with it. It is in the
    machine's group, and ends at the latest when that is cleared; no daemon is needed for that.
    """
    name = f"{live.key}.files"
    listener = listen_at(home, name, socket.SOCK_STREAM)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    parts = []
    try:
        connection.connect(f"/proc/self/fd/{home.run_fd}/{name}")
        for part in (plan.host, plan.machine):
            parts.append(os.memfd_create("cove-plan", os.MFD_CLOEXEC))
            os.write(parts[-1], wire.encode(part))
        argv = [init_program(), "run-plan", *(f"/proc/self/fd/{fd}" for fd in parts)]
        argv += [f"{name}={fd}" for name, fd in given.items()]
        child = subprocess.Popen(
            argv,
            stdin=listener,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(*parts, *given.values()),
            cwd="/",
            env={},
            start_new_session=True,
        )
        follow = partial(_follow, child, live.key)
        threading.Thread(target=follow, name="files", daemon=True).start()
        return connection.detach()
    except OSError as error:
        raise HostError(f"cannot serve a directory: {(error.strerror or '').lower()}") from error
    finally:
        connection.close()
        os.close(listener)
        os.unlink(name, dir_fd=home.run_fd)
        for fd in parts:
            os.close(fd)


def _follow(child: subprocess.Popen[bytes], key: int) -> None:
    """Until it ends. What it says first is for the daemon's log; it may be a guest that talks."""
    assert child.stderr is not None
    said = b""
    while piece := os.read(child.stderr.fileno(), 1 << 12):
        said = (said + piece)[:COMPLAINT_MAX]
    child.wait()
    child.stderr.close()
    if said.strip():
        words = one_line(said.decode("utf-8", "replace").strip())
        with suppress(OSError):
            os.write(2, f"cove: the file server of machine {key}: {words}\n".encode())
