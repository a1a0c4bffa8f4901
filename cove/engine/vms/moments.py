"""A virtual machine that runs, copied: its processes are frozen, nothing is under way on its
channels, the emulator stands still; then its devices' state, its disk and the pages that it has of
its own are copied. The pages of the template or snapshot that it was cloned of are copied before.

A daemon that is killed meanwhile is followed by one that lets it go on (``let_go``).
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import re
import time

from cove.engine.home import Home
from cove.engine.live import Live
from cove.engine.vms import inside, virtual
from cove.errors import Conflict, HostError, Unsupported
from cove.linux import memory
from cove.planner.virtual.guest import plan_settime
from cove.planner.virtual.qemu import MEBIBYTE, path_of
from cove.roots.scratch import copy_sparse
from cove.store.records import MachineRecord
from cove.vm import moments, qmp, templates
from cove.vm.moments import Held, Shape

RAM_BASE = {"x86_64": 0, "aarch64": 0x4000_0000}
"""Where a guest's memory begins."""
ARCH = re.compile(re.escape(path_of("")) + r"(\w+)")
LINE_MAX = 1 << 16
MEMORY_MAX = 1 << 20
"""Mebibytes: what is read of an emulator is doubted."""


def capture(home: Home, record: MachineRecord, live: Live, disk: int, *, synced: bool) -> Held:
    """``disk``: an empty file for its disk; it is the moment's from then on, or closed. ``synced``:
    all that was written is on it, and not in part in the memory alone.
    """
    held = Held(disk)
    try:
        _check_alone(record)
        with live.changing, contextlib.ExitStack() as stack:
            if home.record(record.key).state == "paused":
                raise Conflict(
                    f"cannot keep the memory of {record.name}: it is paused",
                    hint=f"unpause it first: cove unpause {record.name}",
                )
            pid, arch = _emulator_of(home, live, record)
            control = qmp.Control.connect(home.run_fd, record.key)
            stack.callback(control.close)
            control.greet()
            held.shape = _shape(home, record, pid, arch, control)
            _copy(home, record, pid, control, held, synced=synced)
    except OSError as error:
        held.close()
        reason = (error.strerror or "i/o error").lower()
        raise HostError(f"cannot keep the memory of {record.name}: {reason}") from error
    except BaseException:
        held.close()
        raise
    with contextlib.suppress(HostError):
        inside.run_ops(home, record.key, plan_settime(time.time_ns()).host)
    return held


def _check_alone(record: MachineRecord) -> None:
    """Two guests that go on with one file system in their memory would write over each other."""
    mounts = [mount for mount in record.spec.mounts if mount.type != "tmpfs"]
    if mounts:
        raise Unsupported(
            f"cannot keep the memory of {record.name}: it has {mounts[0].target} open, which is "
            "not in it",
            origin=mounts[0].origin,
            hint="stop it first: its own disk can be kept, without what is in volumes and binds",
        )


def _copy(
    home: Home, record: MachineRecord, pid: int, control: qmp.Control, held: Held, *, synced: bool
) -> None:
    shape = held.shape
    assert shape is not None
    at = qmp.ram_address(control, RAM_BASE[shape.arch])
    held.memory = os.memfd_create("moment", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    held.state = os.memfd_create("state", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    before = memory.mapped_file(pid, at, shape.memory)
    if before >= 0:
        try:
            memory.copy_data(before, held.memory)
        finally:
            os.close(before)
    os.ftruncate(held.memory, shape.memory)
    own = f"{home.store.layout.machine(record.key)}/{virtual.scratch_name(record)}"
    with contextlib.ExitStack() as stack:
        scratch = os.open(own, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        stack.callback(os.close, scratch)
        state = os.open(f"/proc/self/fd/{held.state}", os.O_WRONLY | os.O_CLOEXEC)
        stack.callback(os.close, state)
        view = stack.enter_context(mmap.mmap(held.memory, shape.memory))
        memory.copy_own(pid, at, view)  # so that the host has found room for most of it by then
        if synced:
            inside.sync(home, record.key)  # so that little is left for the time of the pause
        began = time.monotonic()
        with inside.held(home, record.key, synced=synced):
            try:
                qmp.stop(control, state)
                memory.copy_own(pid, at, view)
                copy_sparse(scratch, held.disk)
            finally:
                qmp.go_on(control)
        held.pause = time.monotonic() - began
    os.pwrite(held.state, moments.END_OF_STATE, os.fstat(held.state).st_size)
    templates.seal(held.memory, held.state)


def let_go(home: Home, key: int) -> None:
    """Whatever an earlier daemon had stand still."""
    with contextlib.suppress(HostError):
        control = qmp.Control.connect(home.run_fd, key)
        try:
            control.greet()
            qmp.go_on(control)
        finally:
            control.close()
    inside.thaw(home, key)


def _emulator_of(home: Home, live: Live, record: MachineRecord) -> tuple[int, str]:
    """Process and CPU of the emulator in the machine's jail: the one program that is not cove's."""
    for pid in home.groups.pids(live.group) if live.group is not None else ():
        with contextlib.suppress(OSError):
            found = ARCH.fullmatch(os.readlink(f"/proc/{pid}/exe"))
            if found is not None and found[1] in RAM_BASE:
                return pid, found[1]
    raise HostError(f"cannot keep the memory of {record.name}: its emulator has ended")


def _shape(home: Home, record: MachineRecord, pid: int, arch: str, control: qmp.Control) -> Shape:
    """As it was started, which may be long ago and by another daemon."""
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        words = file.read(LINE_MAX).decode("ascii", "replace").split("\0")
    said = dict(itertools.pairwise(words))
    size = re.fullmatch(r"([0-9]{1,7})M", said.get("-m", ""))
    cpus = re.fullmatch(r"[0-9]{1,3}", said.get("-smp", ""))
    if size is None or cpus is None or not 0 < int(size[1]) <= MEMORY_MAX:
        raise HostError(f"cannot keep the memory of {record.name}: its emulator is another one")
    root = home.disks.open(home, home.base_of_machine(record))
    try:
        digest = moments.root_digest(root)
    finally:
        os.close(root)
    return Shape(
        arch=arch,
        memory=int(size[1]) * MEBIBYTE,
        cpus=int(cpus[0]),
        acpi=",acpi=off" not in said.get("-M", ""),
        accel="kvm" if said.get("-accel") == "kvm" else "tcg",
        emulator=qmp.version(control),
        root=digest,
        cards=sum(word.startswith("virtio-net-device,") for word in words),
    )
