"""``--network container:NAME``: a machine in the network namespace of another one, and so in its
user namespace: capabilities over a network count in the user namespace that owns it. It has the
other one's ids, host name and generated files; file systems, processes and limits are its own.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import msgspec

from cove.engine import files
from cove.engine.descriptors import Descriptors
from cove.engine.home import Home
from cove.engine.live import Live
from cove.engine.machines.stopping import has_ended, running
from cove.engine.ranges import RANGE_SIZE, range_base
from cove.errors import Conflict, CoveError, HostError, NotFound, Unsupported, UsageError
from cove.linux.pidfd import wait_exit
from cove.planner.container import NETNS, USERNS
from cove.spec.machine import MachineSpec
from cove.spec.network import OF_MACHINE, machine_of
from cove.store.records import MachineRecord

BEGUN = 60.0
"""Seconds that the other one may take to start."""

NS_GET_USERNS = 0xB701
"""ioctl(2): the user namespace that owns a namespace; linux/nsfs.h."""


def resolved(home: Home, spec: MachineSpec) -> MachineSpec:
    """With the other machine's id in place of its name: it may get another one."""
    name = machine_of(spec.network)
    if not name:
        return spec
    with _typed(spec, name):
        other = home.store.find_machine(name)
        _check(other)
    return msgspec.structs.replace(spec, network=f"{OF_MACHINE}{other.id}")


def _check(other: MachineRecord) -> None:
    if other.spec.isolation == "vm":
        raise Unsupported(
            f"cannot join the network of {other.name}: it is a virtual machine, and its network "
            "its own kernel's",
            hint="put both on one: --network bridge",
        )
    if other.spec.network == "host":
        raise UsageError(
            f"cannot join the network of {other.name}: it is on the host's own",
            hint="--network host",
        )


@contextmanager
def _typed(spec: MachineSpec, name: str) -> Iterator[None]:
    """Whatever is wrong with the other one, it is what was typed for this one."""
    try:
        yield
    except CoveError as error:
        error.origin = error.origin or f"--network {OF_MACHINE}{name}"
        if isinstance(error, NotFound):
            error.message = f"cannot join the network of {name}: no such machine"
            error.exit_code = 125
        raise


def other_of(home: Home, spec: MachineSpec) -> MachineRecord | None:
    """The machine whose network it shares; None: none, or it is gone."""
    with suppress(NotFound, Conflict):
        if name := machine_of(spec.network):
            return home.store.find_machine(name)
    return None


def hostname(home: Home, record: MachineRecord) -> str:
    other = other_of(home, record.spec)
    if other is None or other.key == record.key:
        return files.hostname_of(record.spec, record.id)
    return hostname(home, other)


def where(home: Home, record: MachineRecord) -> files.Where:
    """What its generated files tell of."""
    other = other_of(home, record.spec)
    return files.address_of(record) if other is None else where(home, other)


# ---- a start ----


def _other(home: Home, spec: MachineSpec, key: int) -> tuple[MachineRecord, Live]:
    name = machine_of(spec.network)
    with _typed(spec, name[:12]):
        other = home.store.find_machine(name)
        if other.key == key:
            raise UsageError(f"cannot join the network of {other.name}: it is the same machine")
        _check(other)
        live = running(home, other)
        if live is None or not live.started:
            raise Conflict(
                f"cannot join the network of {other.name}: it does not run",
                hint=f"cove start {other.name}",
            )
        return other, live


def _wait_begun(home: Home, other: MachineRecord | None) -> None:
    """One that somebody else is starting runs a moment later, or has failed."""
    live = home.lives.get(other.key) if other is not None else None
    if live is not None and not live.started:
        home.events.wait_until(lambda: live.started or has_ended(home, live), timeout=BEGUN)


def share_range(home: Home, spec: MachineSpec, key: int) -> int:
    """Its ids are the other one's, and nobody else's until both have ended."""
    _wait_begun(home, other_of(home, spec))
    with home.lock:
        other, live = _other(home, spec, key)
        if live.id_range < 0:
            raise UsageError(
                f"cannot join the network of {other.name}: it has no user namespace of its "
                "own, which is joined with it",
                origin=f"--network {OF_MACHINE}{other.name}",
                hint="--userns=host, which gives as much away",
            )
        home.store.free_range(key)
        if not home.store.share_range(live.id_range, key, of=other.key):
            raise Conflict(f"cannot join the network of {other.name}: it has just ended")
        return live.id_range


def open_namespaces(home: Home, record: MachineRecord, ready: Descriptors) -> None:
    """The other one's namespaces, and its generated files, for the plan."""
    other, live = _other(home, record.spec, record.key)
    what = f"cannot join the network of {other.name}"
    try:
        net = ready.mine(NETNS, _open(live, "net"))
        if record.id_range >= 0:
            _check_ids(live, net, ready.mine(USERNS, _open(live, "user")), record.id_range, what)
        directory = home.store.layout.machine(other.key)
        for register in files.TARGETS.values():
            ready.mine(register, os.open(f"{directory}/{register}", os.O_PATH | os.O_CLOEXEC))
    except OSError as error:
        raise Conflict(f"{what}: it has just ended") from error
    if live.pidfd < 0 or wait_exit(live.pidfd, 0):  # the number may be somebody else's by now
        raise Conflict(f"{what}: it has just ended")


def _open(live: Live, kind: str) -> int:
    return os.open(f"/proc/{live.pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)


def _check_ids(live: Live, net: int, user: int, index: int, what: str) -> None:
    """A program that may make namespaces can have left those that it was given: ids of another
    namespace would be no range of cove's.
    """
    with open(f"/proc/{live.pid}/uid_map", encoding="ascii") as file:
        ids = file.read().split()
    owner = fcntl.ioctl(net, NS_GET_USERNS)
    try:
        mine = os.path.sameopenfile(owner, user)
    finally:
        os.close(owner)
    if not mine or ids != ["0", str(range_base(index)), str(RANGE_SIZE)]:
        raise HostError(f"{what}: its first process has left the namespaces that it was given")
