"""``/containers``: their life, and looking at them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Self

from cove.daemon.docker import bodies, shapes, spec, wording
from cove.daemon.docker.ask import Answer, Ask, Stream, no_such, to_json
from cove.daemon.docker.attach import attach_late
from cove.daemon.docker.pending import Waiting
from cove.daemon.docker.told import Told
from cove.engine import calls
from cove.engine.events import Cancel
from cove.engine.machines.waiting import Waiter
from cove.engine.networks.linking import names_of
from cove.errors import (
    Conflict,
    CoveError,
    NameTaken,
    NoSuchImage,
    NoSuchNetwork,
    NoSuchSource,
    NotFound,
    Unsupported,
    UsageError,
)
from cove.shown import filters
from cove.spec.assemble import assemble_limits
from cove.spec.network import machine_of
from cove.spec.typed import read_values
from cove.store.records import MachineRecord

CALL = calls.Call()
DONE = Answer(status=204)
NOT_MODIFIED = Answer(status=304)
CPUS = len(os.sched_getaffinity(0))
OF_DEFAULT = {"default": "container", "": "container"}
CONDITIONS = ("not-running", "next-exit", "removed")
ACTIVE = ("running", "paused", "restarting")
TOLD = Told()
PRUNE_KEYS = ("until", "label", "label!")


def create(ask: Ask) -> Answer:
    asked = ask.read(bodies.CONTAINER)
    name = ask.text("name").removeprefix("/")
    if name:
        wording.check_name(name)
    wording.check_container(asked, CPUS)
    _check_joined(ask, asked)
    wanted = spec.machine_from_docker(asked, name, ask.text("platform"))
    try:
        made = ask.engine.create(calls.Create(wanted), CALL)
    except NoSuchImage as error:
        raise NotFound(f"No such image: {filters.plain_reference(asked.image)}") from error
    except NotFound as error:
        raise _no_image(error) from error
    except NameTaken as error:
        raise Conflict(wording.taken(name, ask.engine.found(name).id)) from error
    return Answer({"Id": made.id, "Warnings": [*made.warnings, *spec.discarded(asked)]}, 201)


def _check_joined(ask: Ask, asked: bodies.Container) -> None:
    """A missing one is no missing image, for which Docker's command takes any 404."""
    other = machine_of(asked.host_config.network_mode) if asked.host_config else ""
    if other:
        try:
            ask.machine_called(other)
        except NotFound as error:
            raise UsageError(error.message) from error


def _no_image(error: NotFound) -> UsageError:
    """Docker's command takes any 404 for an image that is to be pulled, and "no such file" for a
    program that is not there.
    """
    if isinstance(error, NoSuchSource | NoSuchNetwork):
        return UsageError(wording.in_docker_words(error))
    head, colon, reason = error.message.rpartition(": ")
    message = f"{head}{colon}it does not exist" if reason.startswith("no such file") else ""
    return UsageError(
        message or error.message, origin=error.origin, host=error.host, hint=error.hint
    )


def listed(ask: Ask) -> Answer:
    wanted = ask.gathered(filters.MACHINE_KEYS)
    if "isolation" in wanted:  # Docker's word for a container
        wanted["isolation"] = tuple(OF_DEFAULT.get(one, one) for one in wanted["isolation"])
    if "ancestor" in wanted:
        names = {filters.plain_reference(name) for name in wanted["ancestor"]}
        images = ask.engine.image_list(calls.ImageList(), CALL).images
        wanted["ancestor"] += tuple(i.record.id for i in images if names & set(i.tags))
    for name in (*wanted.get("before", ()), *wanted.get("since", ())):
        _check_there(ask, name)
    limit = ask.number("limit") or 0
    everything = ask.on("all") or limit > 0 or bool({"status", "exited"} & set(wanted))
    relative = bool({"before", "since"} & set(wanted))
    sized = ask.on("size")
    seen = ask.engine.list(calls.List(all=everything or relative, sizes=sized), CALL)
    machines = filters.keep_machines(seen.machines, wanted)
    if relative and not everything:
        machines = [r for r in machines if r.state in ACTIVE]
    machines = machines[:limit] if limit > 0 else machines
    now, called = time.time(), names_of(seen.machines)
    return Answer(
        [
            shapes.listed_to_docker(r, seen.sizes.get(r.id), now) | {"Names": called(r)}
            for r in machines
        ]
    )


def _check_there(ask: Ask, name: str) -> None:
    try:
        ask.machine_called(name)
    except NotFound as error:
        raise NotFound(f"no such container {name}") from error


def inspect(ask: Ask) -> Answer:
    machine = ask.machine()
    return _inspected(ask, ask.engine.inspect(calls.Inspect(machine.id, ask.on("size")), CALL))


def inspect_at_once(ask: Ask) -> Answer | None:
    """None: sizes are counted, the machine ends just now, or somebody writes."""
    if ask.on("size"):
        return None
    try:
        seen = ask.engine.glance(ask.name)
    except NotFound:
        raise no_such(ask.name) from None
    return _inspected(ask, seen) if seen is not None else None


def _inspected(ask: Ask, seen: calls.Inspected) -> Answer:
    return Answer(TOLD.inspected(seen, ask.execs.of(seen.record.id), ask.version))


# ---- life ----


def start(ask: Ask) -> Answer:
    """Who attached before is there from the first byte on."""
    if ask.text("checkpoint"):
        raise Unsupported("cannot start from a checkpoint: cove has none; it has snapshots")
    machine, keys = ask.machine(), ask.text("detachKeys")
    if machine.state == "paused":
        raise Conflict("cannot start a paused container, try unpause instead")
    if ask.engine.is_running(machine.id):
        return NOT_MODIFIED
    waiting = sorted(ask.pending.take(machine.id), key=_deaf)
    try:
        if waiting:
            first = waiting[0]
            params = calls.Start(
                machine.id, first.streams, False, first.detach_keys or keys, begun=True
            )
            ask.engine.start(params, calls.Call(session=first.session))
        else:
            ask.engine.start(calls.Start(machine.id), CALL)
        for other in waiting[1:]:
            attach_late(ask.engine, machine.id, other)
    except CoveError:
        _give_up(ask, machine)
        raise
    finally:
        for each in waiting:
            each.give_up()
    return DONE


def _deaf(waiting: Waiting) -> tuple[bool, bool]:
    """Clients there are with a connection for each stream: that of the output goes first, which the
    others may miss the beginning of.
    """
    return "stdout" not in waiting.streams, "stderr" not in waiting.streams


def _give_up(ask: Ask, machine: MachineRecord) -> None:
    """One that is removed at its end is removed, too, if it cannot begin: ``docker run --rm`` waits
    for that.
    """
    with suppress(NotFound):
        if machine.spec.remove and not ask.engine.is_running(machine.id):
            ask.engine.remove(calls.Remove(machine.id, volumes=True), CALL)


def stop(ask: Ask) -> Answer:
    machine = ask.machine()
    if machine.state != "restarting" and not ask.engine.is_running(machine.id):
        return NOT_MODIFIED
    ask.engine.stop(calls.Stop(machine.id, ask.number("t"), ask.text("signal")), CALL)
    return DONE


def restart(ask: Ask) -> Answer:
    ask.engine.restart(calls.Restart(ask.machine().id, ask.number("t"), ask.text("signal")), CALL)
    return DONE


def kill(ask: Ask) -> Answer:
    try:
        machine = ask.machine()
    except NotFound as error:
        raise NotFound(f"Cannot kill container: {ask.name}: {error.message}") from None
    name = ask.text("signal") or "KILL"
    wording.check_signal(name)
    if not ask.engine.is_running(machine.id):
        why = wording.not_running(machine).message
        raise Conflict(f"Cannot kill container: {ask.name}: {why}")
    ask.engine.kill(calls.Kill(machine.id, name), CALL)
    return DONE


def pause(ask: Ask) -> Answer:
    machine = ask.machine()
    if not ask.engine.is_running(machine.id):
        raise wording.not_running(machine)
    if machine.state == "paused":
        raise wording.paused_already(machine)
    ask.engine.pause(calls.Pause(machine.id), CALL)
    return DONE


def unpause(ask: Ask) -> Answer:
    machine = ask.machine()
    if machine.state != "paused":
        raise wording.not_paused(machine)
    ask.engine.unpause(calls.Unpause(machine.id), CALL)
    return DONE


def rename(ask: Ask) -> Answer:
    machine, name = ask.machine(), ask.text("name").removeprefix("/")
    before = "Error when allocating new name: "
    if not name:
        raise UsageError("Neither old nor new names may be empty")
    if name == machine.name:
        raise UsageError("Renaming a container with the same name as its current name")
    wording.check_name(f"/{name}", before)
    try:
        ask.engine.rename(calls.Rename(machine.id, name), CALL)
    except NameTaken as error:
        holder = ask.engine.found(name).id
        raise Conflict(before + wording.taken(name, holder)) from error
    return DONE


def resize(ask: Ask) -> Answer:
    rows, columns = ask.number("h"), ask.number("w")
    if rows is None or columns is None:
        raise UsageError("cannot resize: h and w are numbers")
    ask.engine.resize(ask.machine().id, rows, columns)
    return Answer()


def wait(ask: Ask) -> Stream:
    """The client hears at once that it is waited for, and only then starts the machine."""
    condition = ask.text("condition") or "not-running"
    if condition not in CONDITIONS:
        raise UsageError(f'invalid condition: "{condition}"')
    return Stream(Ends(ask.engine.waiter(ask.machine().id, condition), ask.cancel), early=True)


class Ends:
    """One piece: how it ended. It listens from the beginning, so a generator would not do: one that
    was never begun has nothing to close.
    """

    def __init__(self, waiter: Waiter, cancel: Cancel) -> None:
        self._waiter, self._cancel = waiter, cancel
        self._told = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        if self._told:
            raise StopIteration
        self._told = True
        with self._waiter:
            code, _ = self._waiter.wait(self._cancel)
        return to_json({"StatusCode": code})

    def close(self) -> None:
        self._waiter.close()


def remove(ask: Ask) -> Answer:
    if ask.on("link"):
        name, _, alias = ask.name.rpartition("/")
        if not name:
            raise UsageError(f"cannot remove a link: {alias} is not MACHINE/ALIAS")
        ask.engine.remove(calls.Remove(ask.machine_called(name).id, link=alias), CALL)
        return DONE
    params = calls.Remove(ask.machine().id, force=ask.on("force"), volumes=ask.on("v"))
    try:
        ask.engine.remove(params, CALL)
    except Conflict as error:
        machine = ask.machine()
        if machine.state not in ACTIVE:
            raise
        raise wording.in_the_way(machine) from error
    return DONE


def prune_fields(wanted: Mapping[str, tuple[str, ...]], now: float) -> dict[str, Any]:
    until = wanted.get("until", ())
    if len(until) > 1:
        raise UsageError("cannot use more than one until filter")
    return {
        "until": wording.moment(until[0], now) if until else 0.0,
        "labels": wanted.get("label", ()),
        "without": wanted.get("label!", ()),
    }


def prune(ask: Ask) -> Answer:
    fields = prune_fields(ask.gathered(PRUNE_KEYS), time.time())
    gone = ask.engine.prune(calls.Prune(**fields), CALL)
    return Answer({"ContainersDeleted": list(gone.ids) or None, "SpaceReclaimed": gone.reclaimed})


def update(ask: Ask) -> Answer:
    machine, asked = ask.machine(), ask.read(bodies.UPDATE)
    wording.check_resources(asked, CPUS)
    spec.refuse(asked)
    spec.refuse_to_change(asked)
    values = read_values.__wrapped__(spec.typed(spec.resource_words(asked)))
    limits = assemble_limits(values)
    changed = calls.Update(
        machine.id,
        memory=limits.memory,
        memory_swap=limits.memory_swap,
        memory_reservation=limits.memory_reservation,
        cpus=limits.cpus,
        cpu_shares=limits.cpu_shares,
        cpuset_cpus=limits.cpuset_cpus,
        cpuset_mems=limits.cpuset_mems,
        blkio_weight=limits.blkio_weight,
        pids=asked.pids_limit,
        restart=values.get("restart"),
    )
    ask.engine.update(changed, CALL)
    return Answer({"Warnings": None})
