"""The process of a machine: command, environment, user, limits, privileges; and ``exec`` plans.

The last part of every machine plan, from the limits to execve(2), is here, because a second
process of a machine (``exec``) gets exactly the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cove.planner.defaults as defaults
from cove.errors import NoCommand, UsageError
from cove.oci.config import ImageConfig
from cove.plan.facts import Facts
from cove.plan.flags import CloneFlags, PrctlOption, Rlimit, SeccompFlags
from cove.plan.ops import (
    NONE,
    Capbset,
    Capset,
    CgroupAttach,
    Chdir,
    Clone3,
    Execve,
    Fork,
    Keyctl,
    Op,
    Openpty,
    Plan,
    Prctl,
    Recv,
    Seccomp,
    Send,
    Setids,
    Setns,
    Setrlimit,
    Setsid,
    Setuser,
    Stdio,
    Umask,
)
from cove.planner.capabilities import mask_of
from cove.planner.place import Place
from cove.planner.seccomp.filters import ALL_CAPABILITIES, compile_default, compile_missing
from cove.planner.seccomp.profile import compile_profile
from cove.planner.walls import Walls, walls_of
from cove.planner.why import default, option
from cove.spec.machine import ExecSpec, MachineSpec, Ulimit

_SIGKILL = 9


def plan_exec(
    spec: ExecSpec, machine: MachineSpec, image: ImageConfig, facts: Facts, place: Place
) -> Plan:
    """One more process inside a running machine, behind the same walls."""
    if not spec.command:
        raise UsageError("cannot exec: no command given")
    walls = walls_of(machine, facts)
    return Plan(
        host=(
            Setns("target", CloneFlags.CLONE_NEWPID, why="exec: a process of the machine's own"),
            Clone3(
                CloneFlags(0),
                "cgroup" if place.cgroup_into else NONE,
                why="exec: only a child enters a pid namespace",
            ),
            Send(why="default: the child waits until the launcher knows it"),
        ),
        machine=(
            *die_with_monitor(),
            *enter_cgroup(place.cgroup_files),
            Recv(why="default: the child waits until the launcher knows it"),
            Setns("target", _joined(walls), why="exec: the machine's other namespaces"),
            *become_root(walls),
            *own_session(),
            *limits(machine, facts),
            *_exec_workdir(spec, machine, image),
            *terminal(place, tty=spec.tty),
            *_exec_privileges(spec, machine, image, facts, walls),
            Execve(
                spec.command,
                environment(
                    image, (*machine.env, *spec.env), hostname=place.hostname, tty=spec.tty
                ),
                why="exec: the command",
            ),
        ),
    )


def _joined(walls: Walls) -> CloneFlags:
    flags = (walls.namespaces | walls.late_namespaces) & ~CloneFlags.CLONE_NEWPID
    if walls.joined:  # what it was given and not made: they are its own all the same
        flags |= CloneFlags.CLONE_NEWNET
        if walls.userns:
            flags |= CloneFlags.CLONE_NEWUSER
    return CloneFlags(flags)


def _exec_workdir(spec: ExecSpec, machine: MachineSpec, image: ImageConfig) -> tuple[Op, ...]:
    path, why = workdir(machine, image)
    if spec.workdir:
        path, why = spec.workdir, option("workdir", spec.workdir)
    return (Chdir(path, why=why),)


def _exec_privileges(
    spec: ExecSpec, machine: MachineSpec, image: ImageConfig, facts: Facts, walls: Walls
) -> tuple[Op, ...]:
    if not spec.privileged:
        return privileges(machine, image, facts, walls, user=spec.user)
    names = tuple(n for n in ALL_CAPABILITIES[: facts.last_cap + 1])
    why = "exec --privileged: every capability of the machine's user namespace"
    user, user_why = user_of(machine, image)
    if spec.user:
        user, user_why = spec.user, option("user", spec.user)
    return (
        *system_calls(machine, facts, walls),
        Capbset(mask_of(names), why=why),
        Setuser(user, machine.groups, why=user_why),
        Capset(mask_of(names), why=why),
    )


# ---- what both plans share ----


@lru_cache(maxsize=1)
def die_with_monitor() -> tuple[Op, ...]:
    why = default("no process of a machine outlives its monitor")
    return (Prctl(PrctlOption.PR_SET_PDEATHSIG, _SIGKILL, why=why),)


def enter_cgroup(files: tuple[str, ...]) -> tuple[Op, ...]:
    if not files:
        return ()
    why = default("limits hold from the first instruction; on v1 a process moves itself fastest")
    return (CgroupAttach(files, why=why),)


@lru_cache(maxsize=2)
def _root(userns: bool) -> tuple[Op, ...]:
    if userns:
        return (Setids(0, 0, why=default("root of the user namespace, and no one outside")),)
    return ()


def become_root(walls: Walls) -> tuple[Op, ...]:
    return _root(walls.userns)


@lru_cache(maxsize=1)
def own_session() -> tuple[Op, ...]:
    """What a process inherits and a machine must not share."""
    return (
        Keyctl(why=default("keys of the daemon's session are not for machines")),
        Setsid(why=default("signals of a terminal reach this machine only")),
        Umask(defaults.UMASK, why=default(defaults.UMASK_WHY)),
    )


def limits(spec: MachineSpec, facts: Facts) -> tuple[Op, ...]:
    """Resource limits: cove's defaults, lowered to what the host allows, then ``--ulimit``."""
    nofile, core = facts.hard_limits.get("nofile", -1), facts.hard_limits.get("core", -1)
    if not spec.limits.ulimits:
        return _default_limits((("core", core), ("nofile", nofile)))
    asked = {ulimit.name: ulimit for ulimit in spec.limits.ulimits}
    kept = tuple(
        op
        for op in _default_limits((("core", core), ("nofile", nofile)))
        if isinstance(op, Setrlimit) and _name(op.resource) not in asked
    )
    return (*kept, *(_asked_limit(ulimit, facts) for ulimit in asked.values()))


@lru_cache(maxsize=16)
def _default_limits(hard: tuple[tuple[str, int], ...]) -> tuple[Op, ...]:
    allowed = dict(hard)
    ops: list[Op] = []
    for limit in defaults.RLIMITS:
        top = _lower(limit.hard, allowed.get(_name(limit.resource), -1))
        soft = _lower(limit.soft, top)
        ops.append(Setrlimit(limit.resource, _text(soft), _text(top), why=default(limit.why)))
    return tuple(ops)


def _asked_limit(ulimit: Ulimit, facts: Facts) -> Op:
    origin = f"--ulimit {ulimit.name}={ulimit.soft}:{ulimit.hard}"
    resource = Rlimit.__members__.get(f"RLIMIT_{ulimit.name.upper()}")
    if resource is None:
        raise UsageError(f'cannot limit "{ulimit.name}": no such limit', origin=origin)
    allowed = facts.hard_limits.get(ulimit.name, -1)
    if _lower(ulimit.hard, allowed) != ulimit.hard:
        raise UsageError(
            f"cannot set the limit {ulimit.name} to {_text(ulimit.hard)}: "
            f"{allowed} is the most here",
            origin=origin,
            host=f"the daemon's own hard limit of {ulimit.name} is {allowed}",
        )
    return Setrlimit(resource, _text(ulimit.soft), _text(ulimit.hard), why=origin)


def _name(resource: Rlimit) -> str:
    return resource.name.removeprefix("RLIMIT_").lower()


def _lower(one: int, other: int) -> int:
    if one == -1:
        return other
    return one if other == -1 else min(one, other)


def _text(value: int) -> str:
    return "unlimited" if value == -1 else str(value)


def terminal(place: Place, *, tty: bool) -> tuple[Op, ...]:
    """Standard input and output: a new terminal, or pipes."""
    return _terminal(tty, place.rows, place.columns)


@lru_cache(maxsize=64)
def _terminal(tty: bool, rows: int, columns: int) -> tuple[Op, ...]:
    if tty:
        return (Openpty("/dev/pts", rows, columns, why="-t: a terminal of its own"),)
    return (Stdio(why=default("the monitor's pipes; no descriptor of the caller")),)


def privileges(
    spec: MachineSpec, image: ImageConfig, facts: Facts, walls: Walls, *, user: str = ""
) -> tuple[Op, ...]:
    """From root of the namespace to the user and capabilities asked for, in the only safe order.

    A filter needs CAP_SYS_ADMIN or no_new_privs: without the latter it goes first.
    """
    name, why = user_of(spec, image)
    if user:
        name, why = user, option("user", user)
    profile = spec.security.seccomp if walls.filtered else None
    return _privileges(walls, name, why, spec.groups, profile, facts.arch, facts.kernel)


@lru_cache(maxsize=256)
def _privileges(
    walls: Walls,
    user: str,
    why: str,
    groups: tuple[str, ...],
    profile: str | None,
    arch: str,
    kernel: tuple[int, int],
) -> tuple[Op, ...]:
    if groups:
        asked = " ".join(f"--group-add {group}" for group in groups)
        why = asked if why.startswith("default:") else f"{why} {asked}"
    filters: tuple[Op, ...] = ()
    if profile is not None:
        filters = _filter(profile, arch, walls.capabilities, kernel)
    capbset = Capbset(walls.mask, why=walls.capabilities_why)
    setuser = Setuser(user, groups, why=why)
    capset = Capset(walls.mask, why=walls.capabilities_why)
    if walls.no_new_privileges:
        return (capbset, setuser, capset, *_NO_NEW_PRIVILEGES, *filters)
    return (capbset, *filters, setuser, capset)


_NO_NEW_PRIVILEGES = (
    Prctl(
        PrctlOption.PR_SET_NO_NEW_PRIVS,
        1,
        why=default(
            "set-user-ID programs give nothing; --security-opt no-new-privileges=false for sudo"
        ),
    ),
)


def system_calls(spec: MachineSpec, facts: Facts, walls: Walls) -> tuple[Op, ...]:
    """The seccomp filter, where there is one."""
    if not walls.filtered:
        return ()
    return _filter(spec.security.seccomp, facts.arch, walls.capabilities, facts.kernel)


@lru_cache(maxsize=64)
def _filter(
    profile: str, arch: str, names: tuple[str, ...], kernel: tuple[int, int]
) -> tuple[Op, ...]:
    caps = frozenset(names)
    logged = SeccompFlags.SECCOMP_FILTER_FLAG_LOG
    if profile != "default":
        program = compile_profile(profile, arch, caps, kernel)
        return (Seccomp(logged, program, why=option("security-opt", "seccomp=FILE")),)
    return (
        Seccomp(
            SeccompFlags(0),
            compile_missing(arch, caps),
            why=default("ENOSYS for calls unknown here, so that programs fall back; not logged"),
        ),
        Seccomp(
            logged,
            compile_default(arch, caps),
            why=default("system calls on an allow-list; EPERM for others, logged and named"),
        ),
    )


def user_of(spec: MachineSpec, image: ImageConfig) -> tuple[str, str]:
    """User as the executor looks it up in the machine's /etc/passwd, and why."""
    if spec.user:
        return spec.user, option("user", spec.user)
    if image.user:
        return image.user, f"image: USER {image.user}"
    return "0", default("root inside, as images expect")


def workdir(spec: MachineSpec, image: ImageConfig) -> tuple[str, str]:
    """Working directory, and why."""
    if spec.workdir:
        return spec.workdir, option("workdir", spec.workdir)
    if image.workdir:
        path = image.workdir if image.workdir.startswith("/") else f"/{image.workdir}"
        return path, f"image: WORKDIR {image.workdir}"
    return "/", default("the machine's root directory")


def argv_of(spec: MachineSpec, image: ImageConfig) -> tuple[str, ...]:
    """Entrypoint and command as in Docker: a new entrypoint drops the image's CMD."""
    if spec.entrypoint is not None:
        argv = (*(word for word in spec.entrypoint if word), *spec.command)
    else:
        argv = (*image.entrypoint, *(spec.command or image.cmd))
    if not argv:
        raise NoCommand(
            f"cannot run {spec.image}: no command given, and the image has none",
            hint=f"name one: cove run {spec.image} COMMAND",
        )
    return argv


def environment(
    image: ImageConfig, asked: Sequence[str], *, hostname: str, tty: bool
) -> tuple[str, ...]:
    """PATH, HOSTNAME and TERM, then the image's variables, then those asked for; later ones win.

    HOME is added by the executor, which alone can look the user up.
    """
    merged = {"PATH": defaults.PATH, "HOSTNAME": hostname}
    if tty:
        merged["TERM"] = "xterm"
    for entry in (*image.env, *asked):
        name, equals, value = entry.partition("=")
        if equals:
            merged[name] = value
        else:
            merged.pop(name, None)
    return tuple(f"{name}={value}" for name, value in merged.items())


def run_command(spec: MachineSpec, image: ImageConfig, place: Place) -> tuple[Op, ...]:
    """The end of a machine's plan: its process, under an init of cove's where asked."""
    env = environment(image, spec.env, hostname=place.hostname, tty=spec.tty)
    ops: list[Op] = []
    if spec.init:
        ops.append(Fork(why="--init: PID 1 reaps and forwards signals"))
    why = "the command" if spec.command else "image: ENTRYPOINT and CMD"
    ops.append(Execve(argv_of(spec, image), env, why=why))
    return tuple(ops)
