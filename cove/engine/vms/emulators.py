"""Emulators that run in their jail without a machine: templates that are being made, and clones.

Each is started as a machine is, by a monitor with the first part of a machine's plan
(``planner.jail.plan_jail``); what a machine needs besides comes in a second part.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import msgspec

from cove.engine import files
from cove.engine.descriptors import Descriptors
from cove.engine.home import Base, Home
from cove.engine.ranges import range_base
from cove.engine.slots import open_group
from cove.engine.vms.ground import (
    CLONE,
    TEMPLATE,
    Ground,
    card_registers,
    command,
    passed_to,
    resumed_command,
)
from cove.engine.vms.virtual import listen_at
from cove.errors import CoveError, HostError, one_line
from cove.executor.messages import Kind, Start, StartFlag, receive, send_start
from cove.linux.cgroups.tree import Group
from cove.linux.ready import readable
from cove.plan import wire
from cove.plan.facts import Facts
from cove.plan.ops import Plan
from cove.planner import Place
from cove.planner.virtual.jail import JAIL_IMAGE, jail_spec, plan_jail
from cove.spec.machine import MachineSpec
from cove.vm import qmp, templates
from cove.vm.agent import Agent
from cove.vm.moments import Held
from cove.vm.templates import Loaded


def key_of(ground: Ground, memory: int, cpus: int) -> str:
    """Changes with everything in which a clone must be like its template."""
    # The counter's rate is measured anew by each daemon, and never quite the same.
    facts = msgspec.structs.replace(ground.facts, tsc_khz=min(ground.facts.tsc_khz, 1))
    ground = replace(ground, facts=facts)
    parts = (
        templates.FORMAT,
        ground.kernel.digest,
        ground.agent,
        ground.emulator,
        ground.host,
        command(ground, memory, cpus, passed_to(ground, TEMPLATE)),
        command(ground, memory, cpus, passed_to(ground, CLONE)),
        ground.digest,
    )
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:32]


# ---- one that runs ----


@dataclass(frozen=True, slots=True)
class Where:
    """What a machine or a slot has set aside for it. It stays the giver's."""

    key: int
    id_range: int
    group: Group
    fds: Mapping[str, int]
    """``dir``, ``listen`` and the generated files of the jail."""
    cards: tuple[int, ...]
    """The host's ends."""


@dataclass(slots=True, eq=False)
class Emulator:
    """It runs, and there is no machine in it yet."""

    ctl: socket.socket
    """Of its monitor, which ends with it."""
    plan: Plan
    """What that has run."""
    control: qmp.Control
    agent: Agent
    console: int
    hub: int
    template: str = ""

    def close(self) -> None:
        """Our ends of its channels; its monitor is the caller's to end."""
        self.control.close()
        self.agent.close()
        for fd in (self.console, self.hub):
            if fd >= 0:
                os.close(fd)
        self.console = self.hub = -1


def spawn(
    home: Home,
    where: Where,
    jail: MachineSpec,
    line: tuple[str, ...],
    passed: tuple[str, ...],
    given: Mapping[str, int],
    facts: Facts,
    ctl: socket.socket,
) -> Emulator:
    """Start an emulator with ``given`` descriptors, and wait until it can be controlled."""
    around = home.base(jail.image)
    plan = plan_jail(
        jail, around.config, facts, jail_place(home, where, around), emulator=line, passed=passed
    )
    base = range_base(where.id_range)
    with Descriptors() as fds, Descriptors() as ours:
        fds.update(where.fds)
        fds.update(given)
        fds.update(card_registers(where.cards))
        fds["state"] = home.state_fd
        if (cgroup := open_group(where.group)) >= 0:
            fds.mine("cgroup", cgroup)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        fds.mine("messages", os.open("emulator", flags, 0o600, dir_fd=where.fds["dir"]))
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        serial = ours.mine("serial", mine.detach())
        fds.mine("agentq", theirs.detach())
        console, consoleq = os.pipe2(os.O_CLOEXEC)
        ours.mine("console", console)
        fds.mine("consoleq", consoleq)
        fds.mine("qmp", listen_at(home, f"{where.key}.qmp", socket.SOCK_STREAM))
        ours.mine("hub", listen_at(home, f"{where.key}.guest", socket.SOCK_SEQPACKET))
        message = Start(
            StartFlag.AHEAD, base, base, wire.encode(plan.host), wire.encode(plan.machine)
        )
        send_start(ctl, message, fds)
        control = qmp.Control.connect(home.run_fd, where.key)
        try:
            control.greet(beside=(ctl.fileno(), partial(_check_monitor, ctl)))
        except HostError as error:
            control.close()
            error.host = _complaint(where.fds["dir"])
            raise
        except BaseException:
            control.close()
            raise
        while readable(ctl.fileno(), 0):
            _check_monitor(ctl)  # its first word; a later one would be its end
        agent = Agent(socket.socket(fileno=os.dup(serial)))
        return Emulator(ctl, plan, control, agent, os.dup(ours["console"]), os.dup(ours["hub"]))


def jail_place(home: Home, where: Where, around: Base) -> Place:
    return Place(
        key=where.key,
        root=home.root,
        base=range_base(where.id_range),
        layers=around.layers,
        views=around.views,
        cgroup_files=where.group.tasks,
        cgroup_into=bool(where.group.directory),
        volatile=True,
        files=files.TARGETS,
        hostname="guest",
    )


def _check_monitor(ctl: socket.socket) -> None:
    """It tells of the namespaces; whatever else it says is its end."""
    message = receive(ctl, flags=socket.MSG_DONTWAIT)
    if message is not None:
        message.close()
    if message is None or message.kind != Kind.BARRIER:
        raise HostError("cannot start an emulator: its jail could not be made")


def clone(
    home: Home,
    where: Where,
    ground: Ground,
    loaded: Loaded,
    disks: tuple[int, int],
    ctl: socket.socket,
) -> Emulator:
    """A guest that goes on where the template stood. ``disks``: root and scratch, which it has not
    opened.
    """
    template = loaded.template
    passed = passed_to(ground, CLONE)
    line = command(ground, template.memory, template.cpus, passed)
    jail = jail_spec(MachineSpec(JAIL_IMAGE), memory=template.memory)
    given = {"memory": loaded.memory, "rootdisk": disks[0], "scratch": disks[1]}
    found = spawn(home, where, jail, line, passed, given, ground.facts, ctl)
    state = qmp.reopened(loaded.state)
    try:
        qmp.resume(found.control, state)
    except BaseException:
        found.close()
        raise
    finally:
        os.close(state)
    found.template = template.key
    return found


def resumed(
    home: Home,
    where: Where,
    jail: MachineSpec,
    facts: Facts,
    held: Held,
    disks: tuple[int, int],
    ctl: socket.socket,
) -> Emulator:
    """A guest that goes on where a machine's stood; its processes are frozen. Its cards are at work
    from the beginning, so they are on their networks before.
    """
    assert held.shape is not None
    where = replace(where, cards=where.cards[: held.shape.cards])
    passed = (*CLONE, *card_registers(where.cards))
    line = resumed_command(facts, held.shape, passed)
    given = {"memory": held.memory, "rootdisk": disks[0], "scratch": disks[1]}
    found = spawn(home, where, jail, line, passed, given, facts, ctl)
    state = qmp.reopened(held.state)
    try:
        qmp.resume_devices(found.control, state)
    except BaseException:
        found.close()
        raise
    finally:
        os.close(state)
    return found


def tell(what: str, error: Exception) -> None:
    """To the daemon's log: machines boot, and nobody sees why they take longer."""
    host = f" ({error.host})" if isinstance(error, CoveError) and error.host else ""
    with contextlib.suppress(OSError):
        os.write(2, f"cove: cannot {what}: {error}{host}\n".encode("utf-8", "replace"))


def _complaint(directory: int) -> str:
    """What QEMU said last."""
    with contextlib.suppress(OSError):
        fd = os.open("emulator", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=directory)
        with os.fdopen(fd, "rb") as file:
            return one_line(qmp.complaint(file.read(1 << 12))[-300:])
    return ""
