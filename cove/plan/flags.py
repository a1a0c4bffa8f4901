"""The kernel's flag words that ops carry, under the kernel's own names.

Values are the kernel's (Linux 6.1 uapi headers), the same on every architecture cove knows.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag


class CloneFlags(IntFlag):
    """Namespaces, for clone3(2), unshare(2) and setns(2)."""

    CLONE_NEWNS = 0x00020000
    CLONE_NEWCGROUP = 0x02000000
    CLONE_NEWUTS = 0x04000000
    CLONE_NEWIPC = 0x08000000
    CLONE_NEWUSER = 0x10000000
    CLONE_NEWPID = 0x20000000
    CLONE_NEWNET = 0x40000000


class MountAttr(IntFlag):
    """mount_setattr(2) and fsmount(2)."""

    MOUNT_ATTR_RDONLY = 0x1
    MOUNT_ATTR_NOSUID = 0x2
    MOUNT_ATTR_NODEV = 0x4
    MOUNT_ATTR_NOEXEC = 0x8
    MOUNT_ATTR_NOATIME = 0x10
    MOUNT_ATTR_STRICTATIME = 0x20
    MOUNT_ATTR_NODIRATIME = 0x80
    MOUNT_ATTR_IDMAP = 0x00100000
    MOUNT_ATTR_NOSYMFOLLOW = 0x00200000


class OpenTreeFlags(IntFlag):
    """open_tree(2); close-on-exec is the executor's own business."""

    OPEN_TREE_CLONE = 0x1
    AT_SYMLINK_NOFOLLOW = 0x100
    AT_EMPTY_PATH = 0x1000
    AT_RECURSIVE = 0x8000


class AtFlags(IntFlag):
    """The flags word of mount_setattr(2)."""

    AT_SYMLINK_NOFOLLOW = 0x100
    AT_EMPTY_PATH = 0x1000
    AT_RECURSIVE = 0x8000


class Resolve(IntFlag):
    """openat2(2): how the target of move_mount is looked up below a root."""

    RESOLVE_NO_XDEV = 0x01
    RESOLVE_NO_MAGICLINKS = 0x02
    RESOLVE_NO_SYMLINKS = 0x04
    RESOLVE_BENEATH = 0x08
    RESOLVE_IN_ROOT = 0x10


class MountFlags(IntFlag):
    """mount(2), and the propagation word of mount_setattr(2)."""

    MS_RDONLY = 0x1
    MS_NOSUID = 0x2
    MS_NODEV = 0x4
    MS_NOEXEC = 0x8
    MS_SYNCHRONOUS = 0x10
    MS_REMOUNT = 0x20
    MS_NOATIME = 0x400
    MS_NODIRATIME = 0x800
    MS_BIND = 0x1000
    MS_REC = 0x4000
    MS_UNBINDABLE = 0x20000
    MS_PRIVATE = 0x40000
    MS_SLAVE = 0x80000
    MS_SHARED = 0x100000
    MS_RELATIME = 0x200000
    MS_STRICTATIME = 0x1000000


class SeccompFlags(IntFlag):
    """seccomp(2) SECCOMP_SET_MODE_FILTER."""

    SECCOMP_FILTER_FLAG_TSYNC = 0x1
    SECCOMP_FILTER_FLAG_LOG = 0x2
    SECCOMP_FILTER_FLAG_SPEC_ALLOW = 0x4


class PrctlOption(IntEnum):
    """prctl(2)."""

    PR_SET_PDEATHSIG = 1
    PR_SET_DUMPABLE = 4
    PR_SET_KEEPCAPS = 8
    PR_SET_CHILD_SUBREAPER = 36
    PR_SET_NO_NEW_PRIVS = 38
    PR_SET_THP_DISABLE = 41


class Rlimit(IntEnum):
    """setrlimit(2): resources by number (x86-64 and arm64 agree)."""

    RLIMIT_CPU = 0
    RLIMIT_FSIZE = 1
    RLIMIT_DATA = 2
    RLIMIT_STACK = 3
    RLIMIT_CORE = 4
    RLIMIT_RSS = 5
    RLIMIT_NPROC = 6
    RLIMIT_NOFILE = 7
    RLIMIT_MEMLOCK = 8
    RLIMIT_AS = 9
    RLIMIT_LOCKS = 10
    RLIMIT_SIGPENDING = 11
    RLIMIT_MSGQUEUE = 12
    RLIMIT_NICE = 13
    RLIMIT_RTPRIO = 14
    RLIMIT_RTTIME = 15


class Capability(IntFlag):
    """capabilities(7), as masks: bit n is capability number n."""

    CAP_CHOWN = 1 << 0
    CAP_DAC_OVERRIDE = 1 << 1
    CAP_DAC_READ_SEARCH = 1 << 2
    CAP_FOWNER = 1 << 3
    CAP_FSETID = 1 << 4
    CAP_KILL = 1 << 5
    CAP_SETGID = 1 << 6
    CAP_SETUID = 1 << 7
    CAP_SETPCAP = 1 << 8
    CAP_LINUX_IMMUTABLE = 1 << 9
    CAP_NET_BIND_SERVICE = 1 << 10
    CAP_NET_BROADCAST = 1 << 11
    CAP_NET_ADMIN = 1 << 12
    CAP_NET_RAW = 1 << 13
    CAP_IPC_LOCK = 1 << 14
    CAP_IPC_OWNER = 1 << 15
    CAP_SYS_MODULE = 1 << 16
    CAP_SYS_RAWIO = 1 << 17
    CAP_SYS_CHROOT = 1 << 18
    CAP_SYS_PTRACE = 1 << 19
    CAP_SYS_PACCT = 1 << 20
    CAP_SYS_ADMIN = 1 << 21
    CAP_SYS_BOOT = 1 << 22
    CAP_SYS_NICE = 1 << 23
    CAP_SYS_RESOURCE = 1 << 24
    CAP_SYS_TIME = 1 << 25
    CAP_SYS_TTY_CONFIG = 1 << 26
    CAP_MKNOD = 1 << 27
    CAP_LEASE = 1 << 28
    CAP_AUDIT_WRITE = 1 << 29
    CAP_AUDIT_CONTROL = 1 << 30
    CAP_SETFCAP = 1 << 31
    CAP_MAC_OVERRIDE = 1 << 32
    CAP_MAC_ADMIN = 1 << 33
    CAP_SYSLOG = 1 << 34
    CAP_WAKE_ALARM = 1 << 35
    CAP_BLOCK_SUSPEND = 1 << 36
    CAP_AUDIT_READ = 1 << 37
    CAP_PERFMON = 1 << 38
    CAP_BPF = 1 << 39
    CAP_CHECKPOINT_RESTORE = 1 << 40
