"""Ops of files below a root that may be hostile."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.native.plans import BASE, Launcher, Op, sh


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The root of a machine whose owner has laid traps."""
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "outside").mkdir()
    (root / "up").symlink_to("../../../../..")
    (root / "abs").symlink_to("/var")
    (root / "out").symlink_to(tmp_path / "outside")
    (root / "magic").symlink_to("/proc/self/fd/0")
    (root / "file").write_text("kept")
    (root / "dangling").symlink_to("nowhere/at/all")
    return root


def make(launcher: Launcher, root: Path, *ops: Op) -> tuple[str, int, str, int, str] | None:
    done = launcher.run([("open_tree", "root", "-", root, 0), *ops], [])
    return done.report if done.code else None


def test_mkdirat(launcher: Launcher, root: Path) -> None:
    assert make(launcher, root, ("mkdirat", "root", "/a/b/c", "1770", BASE, 7)) is None
    found = [
        (p.stat().st_mode & 0o7777, p.stat().st_uid, p.stat().st_gid)
        for p in (root / "a", root / "a/b/c")
    ]
    assert found == [(0o755, BASE, 7), (0o1770, BASE, 7)]
    assert make(launcher, root, ("mkdirat", "root", "a/b/c/", "700", 0, 0)) is None
    assert (root / "a/b/c").stat().st_mode & 0o7777 == 0o1770, "an existing directory is kept"
    assert make(launcher, root, ("mkdirat", "root", "/", "700", 0, 0)) is None
    keep = 0xFFFFFFFF
    slashes: Op = ("mkdirat", "root", "//a//d/.//e//", "700", keep, keep)
    assert make(launcher, root, ("setfsuid", 8, 9), slashes, ("setfsuid", 0, 0)) is None
    assert ((root / "a/d/e").stat().st_uid, (root / "a/d/e").stat().st_gid) == (8, 9)
    assert (root / "a/d/e").is_dir()


def test_links_stay_inside(launcher: Launcher, root: Path, tmp_path: Path) -> None:
    escape = f"cove-escape-{os.getpid()}"
    assert make(launcher, root, ("mkdirat", "root", f"up/{escape}/x", "755", 0, 0)) is None
    assert (root / escape / "x").is_dir()
    assert not Path("/", escape).exists()
    assert make(launcher, root, ("mkdirat", "root", "magic/x", "755", 0, 0)) is None
    assert (root / "proc/self/fd/0/x").is_dir(), "a path like any other where no procfs is"
    assert list((tmp_path / "outside").iterdir()) == []
    assert make(launcher, root, ("mkdirat", "root", "abs/x/y", "755", 0, 0)) is None
    assert (root / "var/x/y").is_dir()


def test_links_to_nowhere(launcher: Launcher, root: Path, tmp_path: Path) -> None:
    """What they point to is made, inside, as the image's own programs would."""
    (root / "etc").mkdir()
    (root / "etc/resolv.conf").symlink_to("../run/systemd/stub.conf")
    (root / "etc/loop").symlink_to("loop2")
    (root / "etc/loop2").symlink_to("loop")
    (root / "etc/chain").symlink_to("/dangling/x")
    file: Op = ("mknodat", "root", "/etc/resolv.conf", "100644", 0, 0, 1, 2)
    assert make(launcher, root, file) is None
    made = (root / "run/systemd/stub.conf").stat()
    assert (made.st_mode, made.st_uid, made.st_gid) == (0o100644, 1, 2)
    assert make(launcher, root, ("mkdirat", "root", "etc/chain/y", "755", 0, 0)) is None
    assert (root / "nowhere/at/all/x/y").is_dir()
    assert make(launcher, root, ("mkdirat", "root", "out/x", "755", 0, 0)) is None
    assert Path(f"{root}{tmp_path}/outside/x").is_dir()
    assert list((tmp_path / "outside").iterdir()) == []
    report = make(launcher, root, ("mkdirat", "root", "etc/loop/x", "755", 0, 0))
    assert report == ("host", 1, "mkdirat", errno.ELOOP, "etc/loop/x")


def test_what_is_in_the_way(launcher: Launcher, root: Path) -> None:
    for path in ("file", "file/below", "file/far/below"):
        report = make(launcher, root, ("mkdirat", "root", path, "755", 0, 0))
        assert report == ("host", 1, "mkdirat", errno.ENOTDIR, path)
    report = make(launcher, root, ("mkdirat", "root", "x" * 300, "755", 0, 0))
    assert report is not None
    assert report[3] == errno.ENAMETOOLONG
    report = make(launcher, root, ("mkdirat", "root", "a/" * 3000, "755", 0, 0))
    assert report is not None
    assert report[3] == errno.ENAMETOOLONG


def test_mknodat(launcher: Launcher, root: Path) -> None:
    ops: list[Op] = [
        ("mknodat", "root", "dev/null", "20666", 1, 3, BASE, BASE),
        ("mknodat", "root", "etc/hosts", "100644", 0, 0, 1, 2),
        ("mknodat", "root", "file", "100600", 0, 0, 1, 2),
    ]
    assert make(launcher, root, *ops) is None
    null, hosts = (root / "dev/null").stat(), (root / "etc/hosts").stat()
    assert (null.st_mode, null.st_rdev, null.st_uid) == (0o20666, os.makedev(1, 3), BASE)
    assert (hosts.st_mode, hosts.st_uid, hosts.st_gid) == (0o100644, 1, 2)
    assert (root / "file").read_text() == "kept"
    report = make(launcher, root, ("mknodat", "root", "file/null", "20666", 1, 3, 0, 0))
    assert report == ("host", 1, "mknodat", errno.ENOTDIR, "file/null")


def test_no_device_is_made_in_a_user_namespace(launcher: Launcher) -> None:
    plan: list[Op] = [("fsmount", "t", "tmpfs", 0), ("mknodat", "t", "n", "20666", 1, 3, 0, 0)]
    done = launcher.container([*plan, sh("true")])
    assert done.report == ("machine", 5, "mknodat", errno.EPERM, "n")


def test_symlinkat(launcher: Launcher, root: Path) -> None:
    ops: list[Op] = [
        ("symlinkat", "pts/ptmx", "root", "dev/ptmx", BASE, BASE),
        ("symlinkat", "other", "root", "file", 0, 0),
    ]
    assert make(launcher, root, *ops) is None
    assert os.readlink(root / "dev/ptmx") == "pts/ptmx"
    assert (root / "dev/ptmx").lstat().st_uid == BASE
    assert (root / "file").read_text() == "kept", "an existing name is kept"
    report = make(launcher, root, ("symlinkat", "x", "root", "file/link", 0, 0))
    assert report == ("host", 1, "symlinkat", errno.ENOTDIR, "file/link")


def test_chdir(launcher: Launcher, root: Path) -> None:
    clone: list[Op] = [("clone3", 0, "-")]
    assert launcher.run(clone, [("chdir", root), sh("pwd")]).out == f"{root}\n"
    for path, error in (("nowhere", errno.ENOENT), ("file", errno.ENOTDIR)):
        done = launcher.run(clone, [("chdir", root / path), sh("true")])
        assert done.report == ("machine", 0, "chdir", error, str(root / path))


def test_chdir_through_a_leaked_descriptor(launcher: Launcher, root: Path) -> None:
    """CVE-2024-21626: a working directory of /proc/self/fd/N would be one of the host's."""
    fd = os.open("/", os.O_PATH)
    (root / "fd").symlink_to(f"/proc/self/fd/{fd}")
    try:
        plan: list[Op] = [("chdir", root / "fd"), sh("pwd")]
        done = launcher.run([("clone3", 0, "-")], plan, fds={"bind0": fd})
        assert done.report[2:4] == ("chdir", errno.ELOOP)
    finally:
        os.close(fd)


def test_umask(launcher: Launcher, root: Path) -> None:
    plan: list[Op] = [("umask", "27"), ("mkdirat", "-", root / "d", "777", 0, 0), sh("umask")]
    assert launcher.run([("clone3", 0, "-")], plan).out == "0027\n"
    assert (root / "d").stat().st_mode & 0o777 == 0o777, "modes of a plan are whole"
