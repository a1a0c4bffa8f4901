"""Turns the report of an op that failed into an error for people: what was typed that put the op
there, what the kernel's number means in that place, and one thing to do about it.

The kernel has few numbers for many reasons, and some mislead: ENOSPC of mount(2) is no full disk.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import NamedTuple

from cove.errors import Bug, CoveError, HostError, NotFound, OpError, UsageError, printable
from cove.executor.messages import Report
from cove.plan import ops
from cove.plan.ops import Op, Plan

NOT_FOUND, NOT_EXECUTABLE = 127, 126


class Said(NamedTuple):
    """What an explanation of one op has to say."""

    message: str
    hint: str = ""
    host: str | None = None
    """None: the op itself."""
    exit_code: int = 0
    kind: type[CoveError] = OpError


GUEST_SIDE = 2
"""Of a report: it is about the plan that ran in the guest."""


def explain(plan: Plan, report: Report) -> CoveError:
    """The error a report of ``plan`` means."""
    if report.side & GUEST_SIDE and plan.guest is not None:
        return _of_guest(plan.guest, report)
    part = (plan.host, plan.machine)[report.side & 1]
    side = ("host", "machine")[report.side & 1]
    if report.op == len(part) and report.errno == errno.ECHILD:
        return _gone(plan)
    if not 0 <= report.op < len(part):
        return Bug(
            f"bug: the launcher reported op {report.op} of the {side} part, which has {len(part)}",
            host=_reason(report.errno),
        )
    op = part[report.op]
    sent = isinstance(op, ops.Send) and report.errno == errno.EPIPE
    if sent or report.errno == errno.ECHILD:
        return _gone(plan)
    if report.errno in (errno.EBADMSG, errno.ENOSYS) and report.detail == "plan":
        return Bug(f"bug: the launcher refused the plan at op {report.op} ({op.NAME})")
    user = _user_of(part, report.op)
    said = _prepared(op, user, report) if user else _EXPLAIN.get(op.NAME, _plain)(op, report)
    return said.kind(
        said.message,
        origin="" if op.why.startswith("default:") else op.why,
        host=_where(op, report) if said.host is None else said.host,
        hint=said.hint or _general_hint(report.errno),
        exit_code=said.exit_code,
    )


def _of_guest(guest: Plan, report: Report) -> CoveError:
    """By its own word, which may be a lie."""
    last = len((guest.host, guest.machine)[report.side & 1])
    if report.op > last or (report.op == last and report.errno != errno.ECHILD):
        return HostError("cannot start in the guest: what it said of it makes no sense")
    detail = printable(report.detail)
    return explain(guest, report._replace(side=report.side & 1, detail=detail))


def _gone(plan: Plan) -> CoveError:
    """The process ended before its program: somebody killed it."""
    if any(isinstance(op, ops.Setns) for op in plan.host):
        return NotFound("cannot enter the machine: it has ended", exit_code=125)
    return HostError("cannot start the program: its process was killed before it began")


def _user_of(part: tuple[Op, ...], index: int) -> Op | None:
    """The op that uses what the one at ``index`` makes: a mount point, a working directory."""
    made = part[index]
    if isinstance(made, (ops.Mkdirat, ops.Mknodat)):
        for op in part[index + 1 :]:
            if isinstance(op, (ops.Chdir, ops.MoveMount)) and op.path == made.path:
                return op
    return None


def _prepared(op: Op, user: Op, report: Report) -> Said:
    """What was typed failed before its own op: it is told in that op's words."""
    if isinstance(user, ops.Chdir):
        return _chdir(user, report)
    assert isinstance(user, ops.MoveMount)
    reason = _BELOW.get(report.errno) or _reason(report.errno)
    return Said(f"cannot mount {_source(user)} on {user.path}: {reason}")


def _where(op: Op, report: Report) -> str:
    """The op itself, for those who read plans."""
    side = ("host", "machine")[report.side & 1]
    name = errno.errorcode.get(report.errno, str(report.errno))
    return f"op {report.op} ({op.NAME}) of the {side} part: {name}"


def _reason(number: int) -> str:
    return os.strerror(number).lower() if number else "it ended without a word"


def _general_hint(number: int) -> str:
    if number == errno.ENOMEM:
        return "the memory limit is too small to start in, or the host is out of memory"
    return ""


def _plain(op: Op, report: Report) -> Said:
    detail = f" {report.detail}" if report.detail else ""
    return Said(f"cannot {op.NAME}{detail}: {_reason(report.errno)}")


# ---- the program ----


def _execve(op: Op, report: Report) -> Said:
    assert isinstance(op, ops.Execve)
    program = op.argv[0] if op.argv else ""
    if report.errno == errno.ENOENT and "/" not in program:
        return Said(
            f'cannot run "{program}": no such file or directory in the machine\'s PATH',
            exit_code=NOT_FOUND,
            host=_path_of(op),
            kind=NotFound,
        )
    if report.errno == errno.ENOENT:
        return Said(
            f'cannot run "{program}": no such file or directory',
            hint="if it is there, its interpreter (its first line, or its dynamic loader) is not",
            host="",
            exit_code=NOT_FOUND,
            kind=NotFound,
        )
    hints = {
        errno.EACCES: "it is no executable file, or lies on a file system mounted noexec",
        errno.ENOEXEC: "it was built for another CPU, or is a script without a #! line",
        errno.EPERM: "its file capabilities ask for one the machine may not have: --cap-add",
        errno.E2BIG: "arguments and environment together are too long",
        errno.ENOTDIR: "a part of its path is no directory",
        errno.ELOOP: "too many symbolic links",
    }
    words = {errno.ENOEXEC: "exec format error", errno.E2BIG: "argument list too long"}
    return Said(
        f'cannot run "{program}": {words.get(report.errno) or _reason(report.errno)}',
        hint=hints.get(report.errno, ""),
        host="",
        exit_code=NOT_EXECUTABLE,
        kind=UsageError,
    )


def _path_of(op: ops.Execve) -> str:
    for word in op.env:
        if word.startswith("PATH="):
            return word
    return "PATH is not set"


def _setuser(op: Op, report: Report) -> Said:
    assert isinstance(op, ops.Setuser)
    user = op.user.partition(":")[0]
    if report.errno in (errno.ENOENT, errno.ESRCH):
        # The detail is the whole word when the user is missing, and the group's name otherwise.
        is_group = report.detail not in ("", op.user)
        name = report.detail if is_group else user
        kind, file = ("group", "group") if is_group else ("user", "passwd")
        return Said(
            f'cannot run as {kind} "{name}": no such {kind} in the machine\'s /etc/{file}',
            hint=f"use a number, or a {kind} the image knows",
            host="",
            kind=NotFound,
            exit_code=125,
        )
    reasons = {
        errno.ELOOP: "its /etc/passwd or /etc/group is a symbolic link",
        errno.EFBIG: "its /etc/passwd or /etc/group is larger than 1 MiB",
        errno.EINVAL: "the id is not below 65536, or no number",
        errno.ERANGE: "the id is not below 65536",
    }
    reason = reasons.get(report.errno) or _reason(report.errno)
    return Said(f'cannot run as user "{op.user}": {reason}')


def _chdir(op: Op, report: Report) -> Said:
    assert isinstance(op, ops.Chdir)
    what = f'cannot use working directory "{op.path}"'
    return Said(f"{what}: {_reason(report.errno)}", exit_code=NOT_EXECUTABLE)


# ---- mounts ----


def _move_mount(op: Op, report: Report) -> Said:
    assert isinstance(op, ops.MoveMount)
    target = "/" + (report.detail or op.path).lstrip("/")
    what = f"cannot mount {_source(op)} on {target}"
    if report.errno in (errno.ELOOP, errno.EXDEV):
        return Said(
            f"cannot mount on {target}: the image has a symbolic link in its place",
            hint="images whose /proc, /sys, /dev or mount targets are links out are not trusted",
        )
    if report.errno == errno.ENOENT:
        return Said(f"{what}: no such file or directory in the machine")
    if report.errno == errno.ENOTDIR or (report.errno == errno.EINVAL and op.root != ops.NONE):
        return Said(
            f"{what}: one is a directory and the other is not",
            hint="mount a file on a file, a directory on a directory",
        )
    if report.errno == errno.ENOSPC:
        return _too_many_mounts(what)
    return Said(f"{what}: {_reason(report.errno)}")


def _source(op: ops.MoveMount) -> str:
    """The path that was typed, as far as ``why`` tells it, or the register."""
    why = op.why
    for key in ("source=", "src="):
        if key in why:
            return why.split(key, 1)[1].split(",")[0]
    if why.startswith(("-v ", "--volume ")):
        return why.split(" ", 1)[1].split(":")[0]
    return op.mount


def _too_many_mounts(what: str) -> Said:
    return Said(f"{what}: too many mounts", host="fs.mount-max", kind=HostError)


def _mount(op: Op, report: Report) -> Said:
    assert isinstance(op, ops.Mount)
    what = f"cannot mount {op.type} on {op.target}"
    if op.type != "overlay":
        return Said(f"{what}: {_reason(report.errno)}")
    what = "cannot mount the machine's root"
    reasons = {
        errno.EINVAL: "the kernel does not take these layers",
        errno.ENOENT: "a layer or the writable directory is missing",
        errno.EBUSY: "its writable layer is mounted by another machine",
        errno.ELOOP: "too many layers, or layers on layers",
        errno.ENODEV: "the kernel has no overlay file system",
        errno.EPERM: "the state directory's file system cannot hold a writable layer",
        errno.ESTALE: "the writable layer belongs to other layers",
    }
    if report.errno == errno.ENOSPC:
        return _too_many_mounts(what)
    hints = {
        errno.ENODEV: "modprobe overlay",
        errno.EINVAL: "dmesg says more; the state directory should be on ext4, xfs or btrfs",
        errno.EPERM: "the state directory should be on ext4, xfs or btrfs: --root DIR",
    }
    return Said(
        f"{what}: {reasons.get(report.errno) or _reason(report.errno)}",
        hint=hints.get(report.errno, ""),
        kind=HostError,
    )


def _mount_setattr(op: Op, report: Report) -> Said:
    assert isinstance(op, ops.MountSetattr)
    if op.userns != ops.NONE and report.errno in (errno.EINVAL, errno.EOPNOTSUPP):
        return Said(
            "cannot map the ids of a mount: its file system does not support idmapped mounts",
            hint="use a directory on ext4, xfs or btrfs, or --userns=host",
        )
    where = op.path or op.dirfd
    return Said(f"cannot set mount attributes of {where}: {_reason(report.errno)}")


def _open_tree(op: Op, report: Report) -> Said:
    assert isinstance(op, ops.OpenTree)
    where = op.path or op.dirfd
    if report.errno == errno.EINVAL:
        return Said(
            f"cannot take {where} as a mount: something is mounted below it that may not be shown",
            hint="mount the parts one by one",
        )
    if report.errno == errno.ENOSPC:
        return _too_many_mounts(f"cannot take {where} as a mount")
    return Said(f"cannot take {where} as a mount: {_reason(report.errno)}")


def _fsmount(op: Op, report: Report) -> Said:
    assert isinstance(op, ops.Fsmount)
    what = f"cannot make a {op.type}"
    if report.errno == errno.ENODEV:
        return Said(f"{what}: the kernel has no such file system", kind=HostError)
    if report.errno == errno.EINVAL and report.detail:
        return Said(f"{what}: it does not take the option {report.detail}")
    return Said(f"{what}: {_reason(report.errno)}")


_BELOW = {
    errno.ENOTDIR: "a part of the path is no directory in the image",
    errno.ELOOP: "the image has a symbolic link in its place",
    errno.EXDEV: "a symbolic link in the image leads out of it",
    errno.EEXIST: "the image has something else in its place",
    errno.EROFS: "the file system is read-only",
    errno.EISDIR: "the image has a directory in its place",
}


def _below(op: Op, report: Report) -> Said:
    """mkdirat, mknodat: making what something is to be mounted on."""
    assert isinstance(op, (ops.Mkdirat, ops.Mknodat))
    path = "/" + op.path.lstrip("/")
    return Said(f"cannot make {path}: {_BELOW.get(report.errno) or _reason(report.errno)}")


# ---- namespaces, ids, limits ----


def _namespaces(op: Op, report: Report) -> Said:
    assert isinstance(op, (ops.Clone3, ops.Clone3In, ops.Unshare))
    what = "cannot make the machine's namespaces"
    if report.errno == errno.ENOSPC:
        return Said(
            f"{what}: the host's limit on namespaces is reached",
            host="/proc/sys/user/max_*_namespaces",
            hint="raise the limit, or stop some machines",
            kind=HostError,
        )
    if report.errno == errno.EPERM:
        return Said(
            f"{what}: the host does not allow it",
            hint="cove needs root in the host's own user namespace; see user.max_user_namespaces",
            kind=HostError,
        )
    if report.errno == errno.EAGAIN:
        return Said(
            f"{what}: the host's limit on processes is reached",
            hint="stop some machines, or raise the pids limit of cove's own control group",
            kind=HostError,
        )
    if report.errno == errno.ENOENT or report.errno == errno.ENODEV:
        return Said(f"{what}: its control group is gone", kind=HostError)
    return Said(f"{what}: {_reason(report.errno)}", kind=HostError)


def _cgroup_attach(op: Op, report: Report) -> Said:
    reasons = {
        errno.ENOSPC: "its cpuset has no CPUs or no memory nodes",
        errno.ENOENT: "its control group is gone",
        errno.ENODEV: "its control group is gone",
        errno.EBUSY: "its control group has groups of its own",
    }
    reason = reasons.get(report.errno) or _reason(report.errno)
    return Said(f"cannot put the machine under its limits: {reason}", kind=HostError)


def _device_list(op: Op, report: Report) -> Said:
    what = "cannot limit which devices the machine opens"
    if report.errno in (errno.ENOSYS, errno.EINVAL):
        return Said(
            f"{what}: this kernel has no BPF for control groups",
            host="CONFIG_BPF_SYSCALL, CONFIG_CGROUP_BPF",
            hint='without the list: --device-cgroup-rule "a *:* rwm"',
            kind=HostError,
        )
    return Said(f"{what}: {_reason(report.errno)}", kind=HostError)


def _sysctl(op: Op, report: Report) -> Said:
    assert isinstance(op, ops.Sysctl)
    name = op.name.replace("/", ".")
    reasons = {
        errno.ENOENT: "no such sysctl in this kernel",
        errno.EINVAL: f"the kernel does not take the value {op.value}",
        errno.EACCES: "it is not one of the machine's own",
        errno.EPERM: "it is not one of the machine's own",
    }
    reason = reasons.get(report.errno) or _reason(report.errno)
    hint = ""
    if report.errno == errno.ENOENT and name.startswith("net.core."):
        # Linux 6.1 shows net.core only to networks that the host's own user namespace owns.
        hint = "older kernels have net.core only with --userns=host, which gives a wall away"
    return Said(f"cannot set sysctl {name}: {reason}", hint=hint)


def _binfmt(op: Op, report: Report) -> Said:
    assert isinstance(op, ops.Binfmt)
    path = op.handler.split(":")[-2]
    reasons = {
        errno.ENOENT: "it is not in the monitor's view of the host",
        errno.EACCES: "nobody but its owner may run it",
        errno.EINVAL: "the kernel does not take the handler",
    }
    reason = reasons.get(report.errno) or _reason(report.errno)
    return Said(f"cannot run programs of another CPU with {path}: {reason}", kind=HostError)


def _setrlimit(op: Op, report: Report) -> Said:
    assert isinstance(op, ops.Setrlimit)
    name = op.resource.name.removeprefix("RLIMIT_").lower()
    reason = {
        errno.EPERM: "it is above the host's own hard limit",
        errno.EINVAL: "the soft limit is above the hard limit",
    }.get(report.errno) or _reason(report.errno)
    return Said(f"cannot limit {name} to {op.soft}:{op.hard}: {reason}")


def _hostname(op: Op, report: Report) -> Said:
    assert isinstance(op, (ops.Sethostname, ops.Setdomainname))
    reason = "longer than 64 bytes" if report.errno == errno.EINVAL else _reason(report.errno)
    return Said(f'cannot name the machine "{op.name}": {reason}')


def _seccomp(op: Op, report: Report) -> Said:
    if report.errno == errno.EINVAL:
        return Said(
            "cannot filter system calls: the kernel does not take the filter",
            hint="it has no seccomp, or the profile is too long: --security-opt seccomp=unconfined",
        )
    return Said(f"cannot filter system calls: {_reason(report.errno)}")


def _openpty(op: Op, report: Report) -> Said:
    if report.errno == errno.ENOSPC:
        return Said(
            "cannot make a terminal: the host's limit on terminals is reached",
            host="/proc/sys/kernel/pty/max",
            kind=HostError,
        )
    return Said(f"cannot make a terminal: {_reason(report.errno)}")


def _setns(op: Op, report: Report) -> Said:
    if report.errno in (errno.ESRCH, errno.EINVAL):
        return Said("cannot enter the machine: it has ended", kind=NotFound, exit_code=125)
    return Said(f"cannot enter the machine: {_reason(report.errno)}")


def _card_six(op: Op, report: Report) -> Said:
    if report.errno != errno.EAFNOSUPPORT:
        return _plain(op, report)
    return Said(
        "cannot give the machine its IPv6 address: the guest's kernel has no IPv6",
        hint="a kernel with CONFIG_IPV6: cove kernel add",
    )


_EXPLAIN: dict[str, Callable[[Op, Report], Said]] = {
    "execve": _execve,
    "setuser": _setuser,
    "chdir": _chdir,
    "move_mount": _move_mount,
    "mount": _mount,
    "mount_setattr": _mount_setattr,
    "open_tree": _open_tree,
    "fsmount": _fsmount,
    "mkdirat": _below,
    "mknodat": _below,
    "clone3": _namespaces,
    "clone3_in": _namespaces,
    "unshare": _namespaces,
    "binfmt": _binfmt,
    "cgroup_attach": _cgroup_attach,
    "device_list": _device_list,
    "sysctl": _sysctl,
    "card_six": _card_six,
    "setrlimit": _setrlimit,
    "sethostname": _hostname,
    "setdomainname": _hostname,
    "seccomp": _seccomp,
    "openpty": _openpty,
    "setns": _setns,
}
