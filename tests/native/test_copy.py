"""cove-init copy: writable layers as overlayfs wrote them, and several of them as one."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from tests.conftest import need_root

OPAQUE = "trusted.overlay.opaque"


def copy(program: Path, staging: Path, part: str, mode: str, *sources: Path) -> None:
    staging.mkdir(exist_ok=True)
    words = [program, "copy", staging, part, mode, *sources]
    done = subprocess.run(words, capture_output=True, text=True, timeout=180)
    assert (done.returncode, done.stderr) == (0, ""), done


def seen(root: Path) -> dict[str, tuple[object, ...]]:
    """All that a layer says of each name, but for inode numbers and blocks."""
    found: dict[str, tuple[object, ...]] = {}
    for path in (root, *sorted(root.rglob("*"))):
        st = path.lstat()
        content: object = b""
        if stat.S_ISLNK(st.st_mode):
            content = os.readlink(path)
        elif stat.S_ISREG(st.st_mode):
            content = path.read_bytes()
        xattrs = {k: os.getxattr(path, k, follow_symlinks=False)
                  for k in os.listxattr(path, follow_symlinks=False)}  # fmt: skip
        size = 0 if stat.S_ISDIR(st.st_mode) else st.st_size
        links = 0 if stat.S_ISDIR(st.st_mode) else st.st_nlink
        found[str(path.relative_to(root))] = (
            st.st_mode, st.st_uid, st.st_gid, size, st.st_rdev, st.st_mtime_ns, links, xattrs,
            content,
        )  # fmt: skip
    return found


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    need_root()
    root = tmp_path / "upper"
    (root / "d/e").mkdir(parents=True)
    (root / "d/f").write_text("text")
    os.link(root / "d/f", root / "hard")
    os.chown(root / "d/f", 5, 6)
    (root / "hard").chmod(0o4755)
    os.setxattr(root / "d", "user.note", b"1")
    os.setxattr(root / "hard", "security.capability", bytes.fromhex("010000020004") + bytes(14))
    os.setxattr(root / "d", OPAQUE, b"y")
    (root / ".wh.name").write_text("a name like any other")
    (root / "link").symlink_to("/etc/passwd")
    os.chown(root / "link", 7, 8, follow_symlinks=False)
    os.mkfifo(root / "fifo")
    os.mknod(root / "white", stat.S_IFCHR, 0)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(root / "sock"))
    with (root / "sparse").open("wb") as file:
        file.truncate(1 << 30)
        file.seek(1 << 29)
        file.write(b"middle")
    os.utime(root / "d/e", ns=(1, 2))
    os.utime(root / "d", ns=(3, 4))
    root.chmod(0o1700)
    return root


@pytest.mark.parametrize("binary", ["init_binary", "sanitized_binary"])
def test_a_copy_is_exact(
    binary: str, upper: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    (upper / "sparse").unlink()  # to be read whole below
    program, staging = request.getfixturevalue(binary), tmp_path / "s"
    os.setxattr(upper / "d/f", "trusted.overlay.origin", b"elsewhere")
    copy(program, staging, "fs", "whole", upper)
    os.removexattr(upper / "d/f", "trusted.overlay.origin")
    for name in ("links.fs", "gone.fs"):
        subprocess.run(["rm", "-rf", staging / name], check=True)
    assert seen(staging / "fs") == seen(upper)


def test_holes_stay_holes_and_hollow_ones_have_no_content(
    init_binary: Path, upper: Path, tmp_path: Path
) -> None:
    copy(init_binary, tmp_path / "s", "fs", "whole", upper)
    copy(init_binary, tmp_path / "s", "hollow", "hollow", upper)
    whole, hollow = tmp_path / "s/fs/sparse", tmp_path / "s/hollow/sparse"
    assert whole.stat().st_size == hollow.stat().st_size == 1 << 30
    assert whole.stat().st_blocks == (upper / "sparse").stat().st_blocks
    assert hollow.stat().st_blocks == 0
    with whole.open("rb") as file:
        file.seek(1 << 29)
        assert file.read(6) == b"middle"


def test_several_layers_come_to_one(init_binary: Path, tmp_path: Path) -> None:
    need_root()
    low, high = tmp_path / "low", tmp_path / "high"
    for name in ("gone", "both", "hidden", "file"):
        (low / name).mkdir(parents=True)
        (low / name / "old").write_text("old")
    os.setxattr(low / "both", "user.old", b"1")
    os.mknod(low / "white", stat.S_IFCHR, 0)
    high.mkdir()
    os.mknod(high / "gone", stat.S_IFCHR, 0)
    (high / "file").write_text("over a directory")
    for name in ("both", "hidden", "white"):
        (high / name).mkdir()
        (high / name / "new").write_text("new")
    os.setxattr(high / "hidden", OPAQUE, b"y")
    (high / "both").chmod(0o711)
    copy(init_binary, tmp_path / "s", "fs", "whole", low, high)
    root = tmp_path / "s/fs"
    assert {p.name for p in (root / "both").iterdir()} == {"old", "new"}
    assert (root / "both").stat().st_mode & 0o777 == 0o711
    assert "user.old" not in os.listxattr(root / "both")
    assert stat.S_ISCHR((root / "gone").lstat().st_mode)
    assert (root / "file").read_text() == "over a directory"
    for name in ("hidden", "white"):  # what lies below the two stays hidden
        assert [p.name for p in (root / name).iterdir()] == ["new"]
        assert os.getxattr(root / name, OPAQUE) == b"y"


def test_what_another_kernel_wrote_is_refused(init_binary: Path, tmp_path: Path) -> None:
    need_root()
    (tmp_path / "up/d").mkdir(parents=True)
    os.setxattr(tmp_path / "up/d", "trusted.overlay.redirect", b"x")
    (tmp_path / "s").mkdir()
    words = [init_binary, "copy", tmp_path / "s", "fs", "whole", tmp_path / "up"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=180)
    assert done.returncode == 5
    assert "as a redirection" in done.stderr
