"""``stop kill wait rm restart pause unpause rename update`` and ``container prune``: machines that
exist change."""

from __future__ import annotations

import time
from typing import Any, Literal

import msgspec

from cove.cli.ask import ELSEWHERE, confirmed, must_go_elsewhere
from cove.cli.command import Command, Typed
from cove.cli.each import each
from cove.cli.machines.ports import change as change_ports
from cove.cli.machines.run import MACHINES, RUNNING, caller
from cove.cli.terminal import Terminal
from cove.client.api import Client
from cove.engine import calls
from cove.engine.calls.mounts import MountChange
from cove.engine.calls.ports import PortChange
from cove.errors import UsageError
from cove.shown import filters, units
from cove.spec import flags, values
from cove.spec.assemble import assemble_limits, of_whom
from cove.spec.flags import Flag
from cove.spec.mounts import parse_mount
from cove.spec.ports import publishes
from cove.spec.values import clean_path

LIMITS = (
    "memory", "memory-swap", "memory-reservation", "cpus", "cpu-shares", "cpu-period", "cpu-quota",
    "cpuset-cpus", "cpuset-mems", "blkio-weight", "pids-limit", "restart",
)  # fmt: skip
REFUSED = ("cpu-rt-period", "cpu-rt-runtime", "kernel-memory")
PRUNE_KEYS = ("until", "label", "label!")


SIGNAL = Flag("signal", "signal", "Signal to send; empty: the usual one", "s", "SIGNAL",
              lambda text: text and values.check_signal(text))  # fmt: skip
TIMEOUT = Flag("timeout", "timeout", "Seconds until SIGKILL; -1: never", "t", "SECONDS",
               values.parse_int, aliases=("time",))  # fmt: skip


def _how(typed: Typed) -> tuple[int | None, str]:
    """In what time they end, and by which signal."""
    return typed.values.get("timeout"), typed.text("signal")


def stop(typed: Typed, terminal: Terminal, client: Client) -> int:
    how = _how(typed)
    return each(typed.words, terminal, lambda name: (client.stop(calls.Stop(name, *how)), name)[1])


def restart(typed: Typed, terminal: Terminal, client: Client) -> int:
    how = _how(typed)
    return each(
        typed.words, terminal, lambda name: (client.restart(calls.Restart(name, *how)), name)[1]
    )


def kill(typed: Typed, terminal: Terminal, client: Client) -> int:
    signal = typed.text("signal") or "KILL"

    def one(name: str) -> str:
        client.kill(calls.Kill(name, signal))
        return name

    return each(typed.words, terminal, one)


Condition = Literal["not-running", "next-exit", "removed"]


def parse_condition(text: str) -> Condition:
    if text == "next-exit":
        return "next-exit"
    if text == "removed":
        return "removed"
    if text != "not-running":
        raise values.bad("condition", text, "it is not-running, next-exit or removed")
    return "not-running"


CONDITION = Flag("condition", "condition", "Until when: not-running, next-exit or removed", "",
                 "CONDITION", parse_condition, default="not-running")  # fmt: skip


def wait(typed: Typed, terminal: Terminal, client: Client) -> int:
    condition: Condition = typed.values.get("condition", "not-running")

    def one(name: str) -> str:
        ended = client.wait(calls.Wait(name, condition), terminal.cancelled)
        return "" if terminal.cancelled.is_set() else str(ended.exit_code)

    code = each(typed.words, terminal, one)
    return 130 if terminal.cancelled.is_set() else code


def remove(typed: Typed, terminal: Terminal, client: Client) -> int:
    force, volumes = typed.on("force"), typed.on("volumes")

    def one(name: str) -> str:
        if typed.on("link"):
            name, _, alias = name.removeprefix("/").rpartition("/")
            if not name:
                raise UsageError(f"cannot remove the link {alias}: it is not MACHINE/ALIAS")
            client.remove(calls.Remove(name, link=alias))
            return f"{name}/{alias}"
        client.remove(calls.Remove(name, force, volumes), terminal.cancelled)
        return name

    return each(typed.words, terminal, one, lenient=force)


def pause(typed: Typed, terminal: Terminal, client: Client) -> int:
    return each(typed.words, terminal, lambda name: (client.pause(calls.Pause(name)), name)[1])


def unpause(typed: Typed, terminal: Terminal, client: Client) -> int:
    return each(typed.words, terminal, lambda name: (client.unpause(calls.Unpause(name)), name)[1])


def rename(typed: Typed, terminal: Terminal, client: Client) -> int:
    name, new = typed.words
    client.rename(calls.Rename(name, new))
    return 0


# ---- update ----


def _publish(text: str) -> str:
    publishes(text)
    return text


MOUNTS = (
    Flag("mount-add", "mount_add", "Mount it: now in a container that runs, else from the next "
         "start on", "", "type=…,source=…,target=…", parse_mount, repeat=True),
    Flag("mount-rm", "mount_rm", "Take away what is mounted there", "", "TARGET", clean_path,
         repeat=True),
)  # fmt: skip
PORTS = (
    Flag("publish-add", "publish_add", "Publish it: now where the machine runs, as cove port add",
         "", "PUBLISH", _publish, repeat=True),
    Flag("publish-rm", "publish_rm", "Publish it no longer, as cove port rm", "", "PUBLISH",
         _publish, repeat=True),
)  # fmt: skip


def limit_changes(typed: Typed) -> dict[str, Any]:
    """The limits that were typed, under the names they have in ``calls.Update``."""
    limits = msgspec.structs.asdict(assemble_limits(typed.values))
    if typed.values.get(".cpu_period") and not typed.values.get(".cpu_quota"):
        raise UsageError("cannot use --cpu-period without --cpu-quota", hint="add --cpu-quota")
    changes = {name: limits[name] for name in calls.Update.__struct_fields__ if limits.get(name)}
    if "limits.pids" in typed.values:
        changes["pids"] = limits["pids"]
    if "restart" in typed.values:
        changes["restart"] = typed.values["restart"]
    return changes


def update(typed: Typed, terminal: Terminal, client: Client) -> int:
    if not typed.flags:
        raise UsageError(
            "cannot update: nothing is named that changes",
            hint="cove update --memory 512m MACHINE",
        )
    changes = limit_changes(typed)
    added = tuple(of_whom(mount, caller(terminal)) for mount in typed.values.get("mount_add", ()))
    removed = tuple(typed.values.get("mount_rm", ()))
    opened = tuple(typed.values.get("publish_add", ()))
    closed = tuple(typed.values.get("publish_rm", ()))

    def one(name: str) -> str:
        if changes:
            client.update(calls.Update(name, **changes))
        if added or removed:
            told = client.change_mounts(MountChange(name, added, removed))
            if not told.at_once:
                terminal.error(f"cove: the mounts of {name} change at its next start\n")
        for ports, remove in ((closed, True), (opened, False)):
            if ports:
                change_ports(client, terminal, PortChange(name, ports, remove=remove))
        if not (
            changes or added or removed or opened or closed
        ):  # a 0, which is Docker's word for: as it is
            client.inspect(calls.Inspect(name))
        return name

    return each(typed.words, terminal, one)


# ---- prune ----


def prune(typed: Typed, terminal: Terminal, client: Client) -> int:
    wanted = filters.gather(typed.values.get("filter", ()), PRUNE_KEYS)
    if len(wanted.get("until", ())) > 1:
        raise UsageError("cannot filter by more than one until", hint="name one moment")
    until = [values.parse_time(text, time.time()) for text in wanted.get("until", ())]
    if not typed.on("force"):
        if must_go_elsewhere(terminal):
            return ELSEWHERE
        if not confirmed(terminal, "WARNING! This will remove all stopped containers."):
            return 0
    labels, without = wanted.get("label", ()), wanted.get("label!", ())
    pruned = client.prune(calls.Prune(until[0] if until else 0.0, labels, without))
    if pruned.ids:
        terminal.write("Deleted Containers:\n" + "".join(f"{name}\n" for name in pruned.ids) + "\n")
    terminal.write(f"Total reclaimed space: {units.human_size(pruned.reclaimed)}\n")
    return 0


PRUNE = Command(
    "prune",
    prune,
    help="Remove the machines that do not run",
    flags=(
        Flag("filter", "filter", "Only what matches: until=24h, label=NAME, label!=NAME", "",
             "FILTER", filters.parse_filter, repeat=True),
        Flag("force", "force", "Do not ask", "f"),
    ),
    group=RUNNING,
)  # fmt: skip

COMMANDS: dict[str, Command] = {
    command.name or "": command
    for command in (
        Command(
            "stop",
            stop,
            help="End machines: their stop signal, then SIGKILL",
            flags=(TIMEOUT, SIGNAL),
            words=MACHINES,
            group=RUNNING,
        ),
        Command(
            "kill",
            kill,
            help="Send a signal to machines, SIGKILL unless named",
            flags=(SIGNAL,),
            words=MACHINES,
            group=RUNNING,
        ),
        Command(
            "wait",
            wait,
            help="Wait until machines end; print their exit codes",
            flags=(CONDITION,),
            words=MACHINES,
            group=RUNNING,
        ),
        Command(
            "rm",
            remove,
            help="Remove machines",
            flags=(
                Flag("force", "force", "Kill a running one first", "f"),
                Flag("link", "link", "Remove what a machine calls another one: MACHINE/ALIAS", "l"),
                Flag("volumes", "volumes", "Remove its anonymous volumes too", "v"),
            ),
            words=MACHINES,
            group=RUNNING,
            refused={"link": ("cove has no links between machines", False)},
            refused_short={"l": "link"},
        ),
        Command(
            "restart",
            restart,
            help="Stop machines and start them again; also those that do not run",
            flags=(TIMEOUT, SIGNAL),
            words=MACHINES,
            group=RUNNING,
        ),
        Command(
            "pause",
            pause,
            help="Let all processes of machines stand still",
            words=MACHINES,
            group=RUNNING,
        ),
        Command(
            "unpause",
            unpause,
            help="Let paused machines go on",
            words=MACHINES,
            group=RUNNING,
        ),
        Command(
            "rename",
            rename,
            help="Give a machine another name; its host name stays",
            words="MACHINE NAME",
            group=RUNNING,
        ),
        Command(
            "update",
            update,
            help="Other limits, ports and mounts for machines, at once and from their next start "
            "on",
            flags=(*(flag for flag in flags.MACHINE if flag.name in LIMITS), *PORTS, *MOUNTS),
            words=MACHINES,
            group=RUNNING,
            refused={name: flags.REFUSED[name] for name in REFUSED},
            about="What the kernel refuses changes nothing, as when more memory is in use than "
            "is to be allowed.",
        ),
    )
}
