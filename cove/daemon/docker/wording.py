"""What is wrong with a request, in the words of Docker's daemon: people search for them, and
programs compare them. What is not here is told in cove's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from cove.daemon.docker.bodies import Container, HostConfig, Resources
from cove.errors import (
    Conflict,
    CoveError,
    NoCommand,
    NoSuchDevice,
    NoSuchNetwork,
    NoSuchSource,
    NotFound,
    PortTaken,
    UsageError,
)
from cove.spec.flags import CREATE
from cove.spec.network import OF_MACHINE
from cove.spec.restart import parse_restart
from cove.spec.values import parse_bool, parse_signal, parse_time
from cove.store.records import MachineRecord

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
MEMORY_MIN = 6 << 20
NOT_FOUND = 127
STATES = ("created", "running", "paused", "restarting", "removing", "exited", "dead")
HEALTHS = ("starting", "healthy", "unhealthy", "none")
IPC_MODES = ("none", "private", "shareable", "host")
KINDS = ("custom", "builtin")
_parse_capability = next(flag.parse for flag in CREATE if flag.name == "cap-add")


def check_name(name: str, before: str = "") -> None:
    if not NAME.fullmatch(name.removeprefix("/")):
        raise UsageError(
            f"{before}Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        )


def check_container(asked: Container, cpus: int) -> None:
    """What the request alone shows; ``cpus``: of this host."""
    host = asked.host_config or HostConfig()
    check_resources(host, cpus)
    if asked.working_dir and not asked.working_dir.startswith("/"):
        raise UsageError(
            f"the working directory '{asked.working_dir}' is invalid, "
            "it needs to be an absolute path"
        )
    if host.auto_remove and host.restart_policy and host.restart_policy.name not in ("", "no"):
        raise UsageError("can't create 'AutoRemove' container with restart policy")
    ipc = host.ipc_mode
    if ipc and ipc not in IPC_MODES and not ipc.startswith(OF_MACHINE):
        raise UsageError(f"Invalid IPC mode: {ipc}")
    if asked.stop_signal:
        check_signal(asked.stop_signal)
    if not -1000 <= (host.oom_score_adj or 0) <= 1000:
        raise UsageError(
            f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]"
        )
    for field, names in (("CapAdd", host.cap_add), ("CapDrop", host.cap_drop)):
        for name in names or ():
            try:
                _parse_capability(name)
            except UsageError as error:
                raise UsageError(f'invalid {field}: unknown capability: "{name}"') from error


def check_resources(asked: Resources, cpus: int) -> None:
    memory, swap, nano = asked.memory or 0, asked.memory_swap or 0, asked.nano_cpus or 0
    if 0 < memory < MEMORY_MIN:
        raise UsageError("Minimum memory limit allowed is 6MB")
    if memory > 0 and 0 < swap < memory:
        raise UsageError("Minimum memoryswap limit should be larger than memory limit, see usage")
    if memory == 0 and swap > 0 and isinstance(asked, HostConfig):
        raise UsageError(
            "You should always set the Memory limit when using Memoryswap limit, see usage"
        )
    if nano < 0 or nano > cpus * 10**9:
        raise UsageError(
            f"Range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
        )
    policy = asked.restart_policy
    if policy is not None and policy.name:
        try:
            parse_restart(policy.name)
        except UsageError as error:
            raise UsageError(f"invalid restart policy '{policy.name}'") from error


def check_signal(text: str) -> None:
    try:
        parse_signal(text)
    except UsageError as error:
        raise UsageError(f"Invalid signal: {text}") from error


# ---- filters ----


def check_filters(wanted: Mapping[str, tuple[str, ...]], known: tuple[str, ...]) -> None:
    for key in wanted:
        if key not in known:
            raise UsageError(f"Invalid filter '{key}'")
    for value in wanted.get("status", ()):
        if value not in STATES:
            raise UsageError(f"Invalid filter 'status={value}'")
    for value in wanted.get("health", ()):
        if value not in HEALTHS:
            raise UsageError(f"Unrecognised filter value for health: {value}")
    for value in wanted.get("type", ()):
        if value not in KINDS:
            raise UsageError(f"invalid filter: 'type'='{value}'")
    for key in ("dangling", "is-task"):
        for value in wanted.get(key, ()):
            try:
                parse_bool(value)
            except UsageError as error:
                raise UsageError(f"Invalid filter '{key}=[{value}]'") from error


def moment(text: str, now: float) -> float:
    """Unix seconds."""
    try:
        return parse_time(text, now)
    except UsageError as error:
        raise UsageError(f'failed to parse value as time or duration: "{text}"') from error


# ---- states and names ----


def not_running(machine: MachineRecord) -> Conflict:
    return Conflict(f"Container {machine.id} is not running")


def not_paused(machine: MachineRecord) -> Conflict:
    return Conflict(f"Container {machine.id} is not paused")


def paused_already(machine: MachineRecord) -> Conflict:
    return Conflict(f"Container {machine.id} is already paused")


def in_the_way(machine: MachineRecord) -> Conflict:
    """Of a removal."""
    how = "Unpause and then stop" if machine.state == "paused" else "Stop"
    return Conflict(
        f"You cannot remove a {machine.state} container {machine.id}. {how} the container before "
        "attempting removal or force remove"
    )


def taken(name: str, holder: str) -> str:
    """``holder``: the id of the one that has the name."""
    return (
        f'Conflict. The container name "/{name}" is already in use by container "{holder}". You '
        "have to remove (or rename) that container to be able to reuse that name."
    )


# ---- what the engine says ----


def in_docker_words(error: CoveError) -> str:
    """An error in one text: what Docker's clients show behind their own words."""
    match error:
        case NoCommand():
            return "No command specified"
        case NoSuchNetwork():
            return f"network {error.network} not found"
        case NoSuchSource():
            return (
                'invalid mount config for type "bind": bind source path does not exist: '
                f"{error.path}"
            )
        case NoSuchDevice():
            return (
                f'error gathering device information while adding custom device "{error.path}": '
                f"{error.reason}"
            )
        case PortTaken():
            return "\n".join((f"{error.message}: port is already allocated", *error.__notes__))
        case NotFound() if error.exit_code == NOT_FOUND and error.host:
            words = f"{error.message}: executable file not found in $PATH"
            return "\n".join((words, *error.__notes__))
    return "\n".join((error.message, *error.__notes__))
