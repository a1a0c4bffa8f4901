"""Ops of mounts, each for real in a throw-away mount namespace, and as it fails."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from tests.native.plans import (
    AT_RECURSIVE,
    IDMAP,
    NEWNET,
    NEWNS,
    NEWPID,
    NO_SYMLINKS,
    NODEV,
    NOEXEC,
    NOSUID,
    RDONLY,
    TREE_CLONE,
    Launcher,
    Op,
    sh,
)

FIRST = 4  # ops that Launcher.container puts before its machine ops
TMPFS: Op = ("fsmount", "t", "tmpfs", NOSUID | NODEV, "mode=755", "size=64k")
ROOT: list[Op] = [TMPFS, ("move_mount", "t", "-", "/mnt", 0)]


def test_fsmount_and_move_mount(launcher: Launcher) -> None:
    done = launcher.container([*ROOT, sh("grep ' /mnt tmpfs' /proc/mounts; stat -c %a /mnt")])
    line, mode = done.out.splitlines()
    assert line.startswith("none /mnt tmpfs rw,nosuid,nodev,relatime,size=64k,mode=755")
    assert mode == "755"
    assert "none /mnt tmpfs" not in Path("/proc/mounts").read_text()


def test_fsmount_refusals(launcher: Launcher) -> None:
    done = launcher.container([("fsmount", "t", "nosuchfs", 0), sh("true")])
    assert done.report == ("machine", FIRST, "fsmount", errno.ENODEV, "nosuchfs")
    done = launcher.container([("fsmount", "t", "tmpfs", 0, "mode=755", "colour=red"), sh("true")])
    assert done.report == ("machine", FIRST, "fsmount", errno.EINVAL, "colour=red")


def test_mount(launcher: Launcher) -> None:
    mount = ("mount", "none", "/mnt", "tmpfs", NODEV, "size=64k")
    assert launcher.container([mount, sh("grep -c ' /mnt tmpfs' /proc/mounts")]).out == "1\n"
    done = launcher.container([("mount", "", "/no/where", "tmpfs", 0, ""), sh("true")])
    assert done.report == ("machine", FIRST, "mount", errno.ENOENT, "/no/where")


def test_open_tree_and_mount_setattr(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("seen\n")
    os.chmod(tmp_path, 0o755)
    host: list[Op] = [
        ("open_tree", "source", "-", tmp_path, 0),  # as the daemon's register: no mount of its own
        ("open_tree", "tree", "source", "", TREE_CLONE | AT_RECURSIVE),
        ("unshare", NEWNS),
        ("mount_setattr", "-", "/", AT_RECURSIVE, 0, 0, 1 << 18, "-"),
        ("mount_setattr", "tree", "", 0, RDONLY | NOEXEC, 0, 0, "-"),
        ("move_mount", "tree", "-", "/mnt", 0),
        ("clone3", 0, "-"),
    ]
    done = launcher.run(host, [sh("cat /mnt/file; touch /mnt/file || grep ' /mnt ' /proc/mounts")])
    assert done.out.startswith("seen\n")
    assert "ro,noexec" in done.out
    assert "Read-only file system" in done.err


def test_open_tree_and_mount_setattr_refusals(launcher: Launcher) -> None:
    done = launcher.run([("open_tree", "t", "-", "/no/where", 0)], [])
    assert done.report == ("host", 0, "open_tree", errno.ENOENT, "/no/where")
    done = launcher.run([("mount_setattr", "-", "/no/where", 0, RDONLY, 0, 0, "-")], [])
    assert done.report == ("host", 0, "mount_setattr", errno.ENOENT, "/no/where")
    # The host's own tmpfs is not the machine's to idmap.
    attributes = ("mount_setattr", "t", "", 0, IDMAP, 0, 0, "stdin")
    assert launcher.container([TMPFS, attributes, sh("true")]).report[3] == errno.EINVAL


def test_targets_are_resolved_below_the_root(launcher: Launcher) -> None:
    """A link of the machine's to /etc leads to its own /etc, and /proc's magic links nowhere."""
    plan: list[Op] = [
        *ROOT,
        ("symlinkat", "/etc", "t", "link", 0, 0),
        ("symlinkat", "../../../etc", "t", "up", 0, 0),
        ("mkdirat", "t", "etc/conf", "755", 0, 0),
        ("fsmount", "a", "tmpfs", NOSUID),
        ("move_mount", "a", "t", "/link/conf", 0),
        ("fsmount", "b", "tmpfs", NOSUID),
        ("move_mount", "b", "t", "../../up", 0),
        sh("grep -o ' /mnt/etc.* tmpfs' /proc/mounts; grep -c ' /etc ' /proc/mounts"),
    ]
    done = launcher.container(plan)
    assert done.out.splitlines() == [" /mnt/etc/conf tmpfs", " /mnt/etc tmpfs", "0"], done


def test_targets_that_are_refused(launcher: Launcher) -> None:
    link: list[Op] = [*ROOT, ("symlinkat", "/", "t", "proc", 0, 0), ("fsmount", "p", "tmpfs", 0)]
    done = launcher.container([*link, ("move_mount", "p", "t", "/proc", NO_SYMLINKS), sh("true")])
    assert done.report == ("machine", FIRST + 4, "move_mount", errno.ELOOP, "/proc")
    magic = ("move_mount", "p", "-", "/proc/self/fd/0/etc", 0)
    done = launcher.container([*link, magic, sh("true")])
    assert done.report[2:4] == ("move_mount", errno.ELOOP)
    done = launcher.container([*link, ("move_mount", "p", "t", "/none", 0), sh("true")])
    assert done.report == ("machine", FIRST + 4, "move_mount", errno.ENOENT, "/none")


SECURE = NOSUID | NODEV | NOEXEC
KERNEL_FS: list[Op] = [
    *ROOT,
    ("mkdirat", "t", "proc", "755", 0, 0),
    ("mkdirat", "t", "sys", "755", 0, 0),
    ("mkdirat", "t", "empty", "755", 0, 0),
    ("fsmount", "p", "proc", SECURE),
    ("move_mount", "p", "t", "proc", 0),
    ("open_tree", "null", "-", "/dev/null", 0),
    ("fsmount", "empty", "tmpfs", SECURE | RDONLY, "mode=555"),
]


def test_mask(launcher: Launcher) -> None:
    paths = ("/proc/tty", "/proc/fs", "/proc/uptime", "/proc/no-such-path")
    plan: list[Op] = [
        *KERNEL_FS,
        ("mask", "t", "null", "empty", *paths),
        sh("ls /mnt/proc/tty /mnt/proc/fs; wc -c </mnt/proc/uptime; echo x >/mnt/proc/tty/x"),
    ]
    done = launcher.container(plan, flags=NEWPID)
    assert done.out.splitlines() == ["/mnt/proc/fs:", "", "/mnt/proc/tty:", "0"], done
    assert "Read-only file system" in done.err


def test_readonly(launcher: Launcher) -> None:
    net = "/mnt/proc/sys/net/ipv4/ip_forward"
    plan: list[Op] = [
        ("unshare", NEWNET),
        *KERNEL_FS,
        ("sysctl", "p", "net/ipv4/ip_forward", "1"),
        ("readonly", "t", "/proc/sys", "/proc/no-such-path"),
        sh(f"cat {net}; echo 0 >{net}; cat {net}"),
    ]
    done = launcher.container(plan, flags=NEWPID)
    assert done.out.split() == ["1", "1"]
    assert "Read-only file system" in done.err


def test_only_procfs_and_sysfs_are_masked(launcher: Launcher) -> None:
    """An image that has a link or a directory of its own there cannot choose what is covered."""
    mine: list[Op] = [*ROOT, ("mkdirat", "t", "proc/acpi", "755", 0, 0)]
    null: list[Op] = [("open_tree", "null", "-", "/dev/null", 0), ("fsmount", "empty", "tmpfs", 1)]
    done = launcher.container(
        [*mine, *null, ("mask", "t", "null", "empty", "/proc/acpi"), sh("true")]
    )
    assert done.report == ("machine", FIRST + 5, "mask", errno.EXDEV, "/proc/acpi")
    done = launcher.container([*mine, ("readonly", "t", "/proc/acpi"), sh("true")])
    assert done.report == ("machine", FIRST + 3, "readonly", errno.EXDEV, "/proc/acpi")
    wrong: list[Op] = [("open_tree", "null", "-", "/dev/zero", 0), null[1]]
    done = launcher.container([*mine, *wrong, ("mask", "t", "null", "empty", "/proc"), sh("true")])
    assert done.report == ("machine", FIRST + 5, "mask", errno.ENODEV, "null")


def test_sysctl_refusals(launcher: Launcher) -> None:
    refused = {
        ("net/ipv4/no_such", "1"): errno.ENOENT,
        ("net/ipv4/ping_group_range", "nonsense"): errno.EINVAL,
        ("../../../mnt/t", "1"): errno.ENOENT,
    }
    for (key, value), error in refused.items():
        plan = [("unshare", NEWNET), *KERNEL_FS, ("sysctl", "p", key, value), sh("true")]
        done = launcher.container(plan, flags=NEWPID)
        assert done.report == ("machine", FIRST + 10, "sysctl", error, key)
    done = launcher.container([*ROOT, ("sysctl", "t", "x", "1"), sh("true")])
    assert done.report[3] == errno.ENOENT


def test_pivot_root(launcher: Launcher) -> None:
    done = launcher.container(
        [TMPFS, ("move_mount", "t", "-", "/", 0), ("pivot_root", "t"), sh("")]
    )
    # Nothing of the host is left, not even busybox.
    assert done.report[2:4] == ("execve", errno.ENOENT)
    done = launcher.container([TMPFS, ("pivot_root", "t"), sh("true")])
    assert done.report == ("machine", FIRST + 1, "pivot_root", errno.EINVAL, "")
