"""The ops of a plan: one frozen class per row of ``init/ops.def``, with its name and signature.

An op is what will be asked of the kernel and why; it decides nothing and runs nothing. A register
is a name for a file descriptor; ``-`` stands for none. The docstring of an op is its line of
documentation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import ClassVar, TypeVar

from cove.errors import UsageError
from cove.plan.flags import (
    AtFlags,
    Capability,
    CloneFlags,
    MountAttr,
    MountFlags,
    OpenTreeFlags,
    PrctlOption,
    Resolve,
    Rlimit,
    SeccompFlags,
)

NONE = "-"
"""The register that is not there."""

KEEP = 0xFFFFFFFF
"""As uid or gid: chown(2) leaves it as it is."""

_NO_ATTRIBUTES = MountAttr(0)
_NO_PROPAGATION = MountFlags(0)
_ANY_PATH = Resolve(0)


@dataclass(frozen=True, slots=True)
class Op:
    """What every op has. ``why``: the part of the spec, or the default, that put it there."""

    NAME: ClassVar[str] = ""
    SIDES: ClassVar[str] = ""
    SIGNATURE: ClassVar[str] = ""
    FIELDS: ClassVar[tuple[tuple[str, str, bool], ...]] = ()
    """Field name, letter of the signature, repeated."""

    why: str = field(default="", kw_only=True, compare=False)
    _wire: bytes = field(default=b"", init=False, repr=False, compare=False)

    def words(self) -> list[str]:
        """The op's words as they travel; numbers are decimal, modes octal, bytes and masks
        hexadecimal.
        """
        words: list[str] = []
        for name, letter, repeated in self.FIELDS:
            value = getattr(self, name)
            if repeated:
                words += value
            elif letter in "sfF":
                words.append(value)
            elif letter == "u":
                words.append(int.__repr__(value))
            elif letter == "o":
                words.append(f"{value:o}")
            else:
                words.append(value.hex() if isinstance(value, bytes) else f"{int(value):x}")
        return words

    def wire(self) -> bytes:
        """``name\\0argc\\0arg\\0...``; kept, because most ops of a plan serve every machine."""
        if not self._wire:
            words = self.words()
            text = "\0".join(words)
            if text.count("\0") >= (len(words) or 1):
                raise UsageError(f"cannot plan {self.NAME}: a NUL byte", origin=self.why)
            text = f"{self.NAME}\0{len(words)}\0{text}\0" if words else f"{self.NAME}\x000\0"
            object.__setattr__(self, "_wire", text.encode("utf-8", "surrogateescape"))
        return self._wire


OpClass = TypeVar("OpClass", bound=type[Op])

OPS: dict[str, type[Op]] = {}
"""Every op by name, in the order of ``init/ops.def``."""


def row(name: str, sides: str, signature: str) -> Callable[[OpClass], OpClass]:
    """Bind a class to its row of ``init/ops.def``."""

    def bind(cls: OpClass) -> OpClass:
        names = [f.name for f in fields(cls) if f.name not in ("why", "_wire")]
        letters = signature.rstrip("*")
        cls.NAME, cls.SIDES, cls.SIGNATURE = name, sides, signature
        cls.FIELDS = tuple(
            (n, c, i == len(letters) - 1 and signature.endswith("*"))
            for i, (n, c) in enumerate(zip(names, letters, strict=True))
        )
        OPS[name] = cls
        return cls

    return bind


@row("unshare", "b", "u")
@dataclass(frozen=True, slots=True)
class Unshare(Op):
    """unshare(2): leave the named namespaces for new ones"""

    flags: CloneFlags


@row("clone3", "h", "uf")
@dataclass(frozen=True, slots=True)
class Clone3(Op):
    """clone3(2): begin the machine part as a child in new namespaces (and in a cgroup v2 group, by
    fd)
    """

    flags: CloneFlags
    cgroup: str = NONE


@row("clone3_in", "h", "uff")
@dataclass(frozen=True, slots=True)
class Clone3In(Op):
    """setns(2), clone3(2): the same in a user namespace that is there, by fd"""

    flags: CloneFlags
    cgroup: str
    userns: str


@row("id_map", "h", "ss")
@dataclass(frozen=True, slots=True)
class IdMap(Op):
    """write(2) the child's uid_map and gid_map; fills register userns"""

    uid_map: str
    gid_map: str


@row("clone_userns", "h", "Fss")
@dataclass(frozen=True, slots=True)
class CloneUserns(Op):
    """clone3(2), write(2) its uid_map and gid_map: a user namespace without inhabitants, for ids of
    mounts
    """

    userns: str
    uid_map: str
    gid_map: str


@row("oom_score_adj", "h", "s")
@dataclass(frozen=True, slots=True)
class OomScoreAdj(Op):
    """write(2) the child's oom_score_adj"""

    value: str


@row("device_list", "h", "fx")
@dataclass(frozen=True, slots=True)
class DeviceList(Op):
    """bpf(2): a program decides which devices the group's processes open and make"""

    cgroup: str
    program: bytes


@row("any_device", "h", "f")
@dataclass(frozen=True, slots=True)
class AnyDevice(Op):
    """bpf(2): the group has no such program"""

    cgroup: str


@row("barrier", "h", "us*")
@dataclass(frozen=True, slots=True)
class Barrier(Op):
    """hand the child's namespaces to the daemon (1: and wait until it releases the machine)"""

    wait: int
    names: tuple[str, ...]


@row("send", "b", "f*")
@dataclass(frozen=True, slots=True)
class Send(Op):
    """sendmsg(2): registers for the other part; none: only the word to go on"""

    registers: tuple[str, ...] = ()


@row("recv", "b", "F*")
@dataclass(frozen=True, slots=True)
class Recv(Op):
    """recvmsg(2): wait for the other part's send, and fill registers"""

    registers: tuple[str, ...] = ()


@row("setns", "b", "fu")
@dataclass(frozen=True, slots=True)
class Setns(Op):
    """setns(2): join namespaces of a pidfd or namespace fd"""

    target: str
    flags: CloneFlags


@row("open_tree", "b", "Ffsu")
@dataclass(frozen=True, slots=True)
class OpenTree(Op):
    """open_tree(2): a mount or a detached copy of one"""

    register: str
    dirfd: str
    path: str
    flags: OpenTreeFlags


@row("mount_setattr", "b", "fsuuuuf")
@dataclass(frozen=True, slots=True)
class MountSetattr(Op):
    """mount_setattr(2): dirfd path flags set clear propagation userns"""

    dirfd: str
    path: str
    flags: AtFlags
    attr_set: MountAttr = _NO_ATTRIBUTES
    attr_clr: MountAttr = _NO_ATTRIBUTES
    propagation: MountFlags = _NO_PROPAGATION
    userns: str = NONE


@row("move_mount", "b", "ffsu")
@dataclass(frozen=True, slots=True)
class MoveMount(Op):
    """move_mount(2): attach a mount at a path; with a root register the path is resolved in that
    root
    """

    mount: str
    root: str
    path: str
    resolve: Resolve = _ANY_PATH


@row("umount", "m", "s")
@dataclass(frozen=True, slots=True)
class Umount(Op):
    """umount2(2): what is mounted at a path without links, unless somebody uses it"""

    target: str


@row("fchdir", "b", "f")
@dataclass(frozen=True, slots=True)
class Fchdir(Op):
    """fchdir(2)"""

    register: str


@row("setfsuid", "h", "uu")
@dataclass(frozen=True, slots=True)
class Setfsuid(Op):
    """setfsuid(2), setfsgid(2) with securebits that keep the capabilities"""

    uid: int
    gid: int


@row("mount", "b", "sssus")
@dataclass(frozen=True, slots=True)
class Mount(Op):
    """mount(2): source target type flags data"""

    source: str
    target: str
    type: str
    flags: MountFlags
    data: str


@row("fsmount", "b", "Fsus*")
@dataclass(frozen=True, slots=True)
class Fsmount(Op):
    """fsopen(2), fsconfig(2), fsmount(2): a new detached file system; type, mount attributes,
    options
    """

    register: str
    type: str
    attributes: MountAttr
    options: tuple[str, ...] = ()


@row("mkdirat", "b", "fsouu")
@dataclass(frozen=True, slots=True)
class Mkdirat(Op):
    """mkdirat(2) below a root, parents too; an existing directory is kept; mode uid gid"""

    root: str
    path: str
    mode: int
    uid: int
    gid: int


@row("mknodat", "b", "fsouuuu")
@dataclass(frozen=True, slots=True)
class Mknodat(Op):
    """mknodat(2) below a root, parents too: mode with type, major, minor, uid, gid; an existing
    file is kept
    """

    root: str
    path: str
    mode: int
    major: int
    minor: int
    uid: int
    gid: int


@row("symlinkat", "b", "sfsuu")
@dataclass(frozen=True, slots=True)
class Symlinkat(Op):
    """symlinkat(2): target dirfd name uid gid; an existing name is kept"""

    target: str
    dirfd: str
    name: str
    uid: int
    gid: int


@row("mask", "m", "fffs*")
@dataclass(frozen=True, slots=True)
class Mask(Op):
    """move_mount(2) an empty directory or a null device over paths of procfs and sysfs: root null
    empty
    """

    root: str
    null: str
    empty: str
    paths: tuple[str, ...]


@row("readonly", "m", "fs*")
@dataclass(frozen=True, slots=True)
class Readonly(Op):
    """mount_setattr(2): make paths of procfs and sysfs read-only"""

    root: str
    paths: tuple[str, ...]


@row("pivot_root", "m", "f")
@dataclass(frozen=True, slots=True)
class PivotRoot(Op):
    """pivot_root(2) into a mount, and umount2(2) of what was there"""

    root: str


@row("sethostname", "b", "s")
@dataclass(frozen=True, slots=True)
class Sethostname(Op):
    """sethostname(2)"""

    name: str


@row("setdomainname", "b", "s")
@dataclass(frozen=True, slots=True)
class Setdomainname(Op):
    """setdomainname(2)"""

    name: str


@row("sysctl", "m", "fss")
@dataclass(frozen=True, slots=True)
class Sysctl(Op):
    """write(2) a value below sys/ of a procfs mount"""

    proc: str
    name: str
    value: str


@row("binfmt", "m", "fs")
@dataclass(frozen=True, slots=True)
class Binfmt(Op):
    """write(2) a handler into a binfmt_misc mount: programs of another CPU"""

    mount: str
    handler: str


@row("cgroup_attach", "m", "s*")
@dataclass(frozen=True, slots=True)
class CgroupAttach(Op):
    """write(2) 0 to the tasks or cgroup.procs files: the caller moves itself"""

    files: tuple[str, ...]


@row("ifup", "m", "s")
@dataclass(frozen=True, slots=True)
class Ifup(Op):
    """ioctl(2) SIOCSIFFLAGS: bring an interface up"""

    name: str


@row("setrlimit", "m", "uss")
@dataclass(frozen=True, slots=True)
class Setrlimit(Op):
    """setrlimit(2): resource soft hard; a number or unlimited"""

    resource: Rlimit
    soft: str
    hard: str


@row("umask", "b", "o")
@dataclass(frozen=True, slots=True)
class Umask(Op):
    """umask(2)"""

    mode: int


@row("chdir", "b", "s")
@dataclass(frozen=True, slots=True)
class Chdir(Op):
    """chdir(2)"""

    path: str


@row("setsid", "m", "")
@dataclass(frozen=True, slots=True)
class Setsid(Op):
    """setsid(2)"""


@row("setids", "b", "uu")
@dataclass(frozen=True, slots=True)
class Setids(Op):
    """setgroups(2) to none, setresgid(2), setresuid(2): uid gid"""

    uid: int
    gid: int


@row("openpty", "m", "suu")
@dataclass(frozen=True, slots=True)
class Openpty(Op):
    """a terminal of the machine's devpts as 0, 1, 2; its master goes to the monitor: directory
    rows columns
    """

    directory: str
    rows: int
    columns: int


@row("stdio", "m", "")
@dataclass(frozen=True, slots=True)
class Stdio(Op):
    """dup2(2) the monitor's pipes to 0, 1, 2"""


@row("prctl", "b", "uu")
@dataclass(frozen=True, slots=True)
class Prctl(Op):
    """prctl(2): option argument"""

    option: PrctlOption
    argument: int


@row("keyctl", "m", "")
@dataclass(frozen=True, slots=True)
class Keyctl(Op):
    """keyctl(2): a session keyring of the machine's own"""


@row("capbset", "m", "x")
@dataclass(frozen=True, slots=True)
class Capbset(Op):
    """prctl(2) PR_CAPBSET_DROP of every capability outside the mask"""

    mask: Capability


@row("setuser", "m", "ss*")
@dataclass(frozen=True, slots=True)
class Setuser(Op):
    """user[:group] and more groups, looked up in the machine's own /etc, then setgroups(2),
    setresgid(2), setresuid(2)
    """

    user: str
    groups: tuple[str, ...] = ()


@row("capset", "m", "x")
@dataclass(frozen=True, slots=True)
class Capset(Op):
    """capset(2): permitted and effective for root; none for any other user"""

    mask: Capability


@row("seccomp", "m", "ux")
@dataclass(frozen=True, slots=True)
class Seccomp(Op):
    """seccomp(2) SECCOMP_SET_MODE_FILTER: flags, the filter's instructions"""

    flags: SeccompFlags
    filter: bytes


@row("fork", "m", "")
@dataclass(frozen=True, slots=True)
class Fork(Op):
    """fork(2): the parent stays as PID 1, reaps and forwards signals; the child goes on"""


@row("archive", "m", "ss*")
@dataclass(frozen=True, slots=True)
class Archive(Op):
    """files into a tar on 1, or out of one on 0, by this program itself: it executes nothing, and
    ends with it
    """

    action: str
    arguments: tuple[str, ...]


@row("execve", "m", "us*")
@dataclass(frozen=True, slots=True)
class Execve(Op):
    """execve(2) by the PATH of its own environment: number of arguments, arguments, environment"""

    argv: tuple[str, ...]
    env: tuple[str, ...]

    def words(self) -> list[str]:
        return [str(len(self.argv)), *self.argv, *self.env]


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole plan: what the launcher does on the host, and what the child does in its new
    namespaces.
    """

    host: tuple[Op, ...]
    machine: tuple[Op, ...]
    guest: Plan | None = None
    """Of a virtual machine: what its agent does, once the machine part has brought it up."""

    def after(self, ahead: Plan) -> Plan | None:
        """The rest of a plan that begins with ``ahead``; None: this one begins otherwise."""
        host, machine = len(ahead.host), len(ahead.machine)
        if self.host[:host] != ahead.host or self.machine[:machine] != ahead.machine:
            return None
        return Plan(self.host[host:], self.machine[machine:])
