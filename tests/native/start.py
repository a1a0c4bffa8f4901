"""A whole container start, by the order that works on 6.1 and newer alike."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.native.plans import (
    AT_RECURSIVE,
    BASE,
    BUSYBOX,
    ID_MAP,
    IDMAP,
    MS_SLAVE,
    NEWCGROUP,
    NEWIPC,
    NEWNET,
    NEWNS,
    NEWPID,
    NEWUSER,
    NEWUTS,
    NO_NEW_PRIVS,
    NO_SYMLINKS,
    NODEV,
    NOEXEC,
    NOSUID,
    PDEATHSIG,
    PRIVATE,
    RDONLY,
    SIGKILL,
    TREE_CLONE,
    Op,
)

CAPS = sum(1 << cap for cap in (0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 31))
MASKED = (
    *("/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi"),
    *("/sys/firmware", "/sys/devices/virtual/powercap", "/proc/no-such-path"),
)
READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

# Every call is allowed but add_key (EPERM), without a look at the architecture: enough for a test.
ADD_KEY = {"x86_64": 248, "aarch64": 217}[os.uname().machine]
FILTER = b"".join(
    code.to_bytes(2, "little") + bytes((jt, jf)) + k.to_bytes(4, "little")
    for code, jt, jf, k in (
        (0x20, 0, 0, 0),
        (0x15, 0, 1, ADD_KEY),
        (6, 0, 0, 0x00050001),
        (6, 0, 0, 0x7FFF0000),
    )
).hex()

APPLETS = (
    *("cat", "echo", "env", "grep", "hostname", "id", "kill", "ls", "mount", "mknod", "sh"),
    *("sleep", "stat", "stty", "touch", "true", "tty", "wc"),
)
PASSWD = """\
root:x:0:0:root:/root:/bin/sh
bob:x:1000:1001:Bob:/home:/bin/sh
nohome:x:1002:1002
badline
12:x:55:55::/twelve:/bin/sh
"""
GROUP = """\
root:x:0:
wheel:x:10:bob,ann
bobs:x:1001:
audio:x:29:ann,bobby,bob
"""

DEV_OWNER = (f"uid={BASE}", f"gid={BASE}")
DEVPTS = ("newinstance", "ptmxmode=0666", "mode=0620", "gid=5")
NODES = (("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9))


def make_store(directory: Path) -> Path:
    """A store with one layer of busybox, and an upper."""
    store = directory / "roots"
    layer = store / "l1"
    for name in ("bin", "proc", "sys", "dev", "tmp", "etc", "root", "home"):
        (layer / name).mkdir(parents=True)
        (layer / name).chmod(0o755)
    store.chmod(0o700)
    layer.chmod(0o755)
    shutil.copy(BUSYBOX, layer / "bin/busybox")
    for applet in APPLETS:
        (layer / "bin" / applet).symlink_to("busybox")
    (layer / "etc/passwd").write_text(PASSWD)
    (layer / "etc/group").write_text(GROUP)
    (store / "m").mkdir()
    new_upper(store)
    return store


def new_upper(store: Path) -> None:
    shutil.rmtree(store / "u1", ignore_errors=True)
    for name in ("fs", "work"):
        (store / "u1" / name).mkdir(parents=True)
        (store / "u1" / name).chmod(0o755)


def host_part(store: Path, *, volatile: bool = True) -> list[Op]:
    options = "lowerdir=l1,upperdir=u1/fs,workdir=u1/work" + (",volatile" if volatile else "")
    return [
        ("unshare", NEWNS),
        ("mount_setattr", "-", "/", AT_RECURSIVE, 0, 0, MS_SLAVE, "-"),
        ("clone3", NEWUSER | NEWNS | NEWPID | NEWUTS, "-"),
        ID_MAP,
        ("oom_score_adj", "100"),
        ("send",),
        ("open_tree", "store", "-", store, TREE_CLONE),
        ("mount_setattr", "store", "", 0, IDMAP, 0, 0, "userns"),
        ("move_mount", "store", "-", store, 0),
        ("fchdir", "store"),
        ("setfsuid", BASE, BASE),
        ("mount", "overlay", "m", "overlay", NODEV, options),
        ("setfsuid", 0, 0),
        ("open_tree", "root", "-", "m", TREE_CLONE),
        (
            "fsmount",
            "dev",
            "tmpfs",
            NOSUID | NOEXEC,
            "mode=755",
            "size=64k",
            f"uid={BASE}",
            f"gid={BASE}",
        ),
        *(("mknodat", "dev", name, "20666", 1, minor, BASE, BASE) for name, minor in NODES),
        ("mknodat", "dev", "tty", "20666", 5, 0, BASE, BASE),
        *(("mkdirat", "dev", name, "755", BASE, BASE) for name in ("pts", "shm", "mqueue")),
        ("symlinkat", "pts/ptmx", "dev", "ptmx", BASE, BASE),
        ("symlinkat", "/proc/self/fd", "dev", "fd", BASE, BASE),
        ("recv",),
        (
            "barrier",
            0,
            "pid",
            "user",
            "net",
            "mnt",
        ),  # before the last send: the child may end at once
        ("send", "root", "dev"),
    ]


def machine_part(
    *final: Op,
    cgroups: tuple[str, ...] = (),
    stdio: Op = ("stdio",),
    user: Op = ("setuser", ""),
    target: str = "/",
) -> list[Op]:
    secure = NOSUID | NODEV | NOEXEC
    return [
        ("prctl", PDEATHSIG, SIGKILL),
        ("cgroup_attach", *cgroups),
        ("recv",),
        ("setids", 0, 0),
        ("unshare", NEWIPC | NEWNET | NEWCGROUP),
        ("send",),
        PRIVATE,
        ("sethostname", "box"),
        ("setdomainname", "example"),
        ("fsmount", "proc", "proc", secure),
        ("fsmount", "sys", "sysfs", secure | RDONLY),
        (
            "fsmount",
            "pts",
            "devpts",
            NOSUID | NOEXEC,
            "newinstance",
            "ptmxmode=0666",
            "mode=0620",
            "gid=5",
        ),
        ("fsmount", "shm", "tmpfs", secure, "mode=1777", "size=64m"),
        ("fsmount", "mqueue", "mqueue", secure),
        ("fsmount", "empty", "tmpfs", secure | RDONLY, "mode=555"),
        ("sysctl", "proc", "net/ipv4/ping_group_range", "0 65535"),
        ("ifup", "lo"),
        ("recv", "root", "dev"),
        ("move_mount", "root", "-", target, 0),
        ("move_mount", "proc", "root", "/proc", NO_SYMLINKS),
        ("move_mount", "sys", "root", "/sys", NO_SYMLINKS),
        ("move_mount", "dev", "root", "/dev", NO_SYMLINKS),
        ("move_mount", "pts", "root", "/dev/pts", NO_SYMLINKS),
        ("move_mount", "shm", "root", "/dev/shm", NO_SYMLINKS),
        ("move_mount", "mqueue", "root", "/dev/mqueue", NO_SYMLINKS),
        ("open_tree", "null", "dev", "null", 0),
        ("mask", "root", "null", "empty", *MASKED),
        ("readonly", "root", *READONLY),
        ("pivot_root", "root"),
        ("keyctl",),
        ("setrlimit", 7, 256, 512),
        ("umask", "22"),
        ("mkdirat", "-", "/srv/dir", "755", 0, 0),
        ("chdir", "/srv/dir"),
        ("setsid",),
        stdio,
        ("capbset", f"{CAPS:x}"),
        user,
        ("capset", f"{CAPS:x}"),
        ("prctl", NO_NEW_PRIVS, 1),
        ("seccomp", 0, FILTER),
        *final,
    ]
