"""Writable roots: made afresh for each start, measured and removed without following a link."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cove.errors import HostError
from cove.linux.disk import deleted_usage, file_system, free_space, tree_usage
from cove.roots import Remover, StorageWatch, prepare_root, remove_root, usage
from cove.roots.remove import SMALL, remove_tree
from tests.conftest import need_root
from tests.leaks import leaks


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "roots").mkdir()
    (tmp_path / "tmp").mkdir()
    with leaks(tmp_path):
        yield tmp_path


def test_made_and_removed(state: Path) -> None:
    prepare_root(str(state), 7, views=2)
    root = state / "roots/u7"
    assert sorted(os.listdir(root)) == ["fs", "v0", "v1", "w0", "w1", "work"]
    assert (root / "fs").stat().st_mode & 0o777 == 0o755
    remove_root(str(state), 7)
    remove_root(str(state), 7)
    assert not root.exists()


def test_a_second_start_keeps_what_was_written_and_nothing_else(state: Path) -> None:
    prepare_root(str(state), 7, views=1)
    root = state / "roots/u7"
    (root / "fs/file").write_text("kept")
    (root / "v0/file").write_text("kept")
    (root / "work" / "work" / "incompat/volatile").mkdir(parents=True)
    (root / "w0" / "work" / "incompat/volatile").mkdir(parents=True)
    prepare_root(str(state), 7, views=1)
    assert (root / "fs/file").read_text() == (root / "v0/file").read_text() == "kept"
    assert os.listdir(root / "work") == os.listdir(root / "w0") == []
    remove_root(str(state), 7)


def test_a_directory_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="cannot make the root of machine 7: no such file"):
        prepare_root(str(tmp_path / "none"), 7)


@pytest.mark.parametrize("entries", [3, 3 * SMALL])
def test_removal_follows_no_link(state: Path, entries: int) -> None:
    outside = state / "outside"
    outside.mkdir()
    (outside / "precious").write_text("kept")
    prepare_root(str(state), 7)
    top = state / "roots/u7/fs"
    (top / "link").symlink_to(outside)
    (top / "w").symlink_to(outside)
    os.link(outside / "precious", top / "hard")
    for number in range(entries):
        (top / f"d{number}").mkdir()
        (top / f"d{number}/up").symlink_to("../../../../outside")
    remove_root(str(state), 7)
    assert not (state / "roots/u7").exists()
    assert os.listdir(outside) == ["precious"]
    (outside / "precious").unlink()
    outside.rmdir()


def test_removal_leaves_a_mount_alone(state: Path) -> None:
    need_root()
    prepare_root(str(state), 7)
    point = state / "roots/u7/fs/mnt"
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", point], check=True)
    (point / "precious").write_text("kept")
    try:
        with pytest.raises(OSError):
            remove_root(str(state), 7)
        assert (point / "precious").read_text() == "kept"
    finally:
        subprocess.run(["umount", point], check=True)
    remove_root(str(state), 7)


def test_who_wrote_nothing_uses_nothing(state: Path) -> None:
    assert usage(str(state), 7) == 0
    prepare_root(str(state), 7, views=2)
    (state / "roots/u7" / "work" / "work").mkdir()
    assert usage(str(state), 7) == 0
    for name in ("fs/work", "v1/made"):
        (state / "roots/u7" / name).mkdir()
    assert usage(str(state), 7) == sum(
        (state / "roots/u7" / name).stat().st_blocks * 512 for name in ("fs/work", "v1/made")
    )
    remove_root(str(state), 7)


DEEP = """
import os, sys
os.chdir(sys.argv[1])
for _ in range(3000):
    os.mkdir("directory-with-a-long-name")
    os.chdir("directory-with-a-long-name")
open("file", "w").write("x" * 8192)
"""


def test_a_tree_too_deep_for_a_path(state: Path) -> None:
    prepare_root(str(state), 7)
    subprocess.run([sys.executable, "-c", DEEP, state / "roots/u7/fs"], check=True)
    assert usage(str(state), 7) >= 8192 + 3000 * 4096
    remove_root(str(state), 7)
    assert not (state / "roots/u7").exists()


class TestRemover:
    def test_a_large_tree_is_gone_at_once_and_its_content_soon(self, state: Path) -> None:
        remover = Remover(str(state / "tmp"))
        prepare_root(str(state), 7)
        for number in range(5 * SMALL):
            (state / f"roots/u7/fs/{number}").write_text("x")
        remover.remove(str(state / "roots/u7"))
        assert not (state / "roots/u7").exists()
        remover.close()
        assert os.listdir(state / "tmp") == []

    def test_an_empty_root_needs_no_thread(self, state: Path) -> None:
        remover = Remover(str(state / "tmp"))
        prepare_root(str(state), 7, views=2)
        (state / "roots/u7" / "work" / "work").mkdir(mode=0)
        (state / "roots/u7/w1/work").mkdir(mode=0)
        remover.remove(str(state / "roots/u7"))
        assert not (state / "roots/u7").exists()
        assert remover._thread is None

    def test_what_a_killed_daemon_left_goes(self, state: Path) -> None:
        (state / "tmp/gone-1-1/deep").mkdir(parents=True)
        (state / "tmp/blob-x").write_text("half")
        remover = Remover(str(state / "tmp"))
        remover.sweep()
        remover.close()
        assert os.listdir(state / "tmp") == []

    def test_what_is_missing_is_no_error(self, state: Path) -> None:
        Remover(str(state / "tmp")).remove(str(state / "roots/u9"))

    def test_a_layer_with_a_link_called_work(self, state: Path) -> None:
        (state / "outside/work").mkdir(parents=True)
        (state / "roots/l7").mkdir()
        (state / "roots/l7/w").symlink_to(state / "outside")
        remover = Remover(str(state / "tmp"))
        remover.remove(str(state / "roots/l7"))
        remover.close()
        assert (state / "outside/work").is_dir()


class TestUsage:
    def test_hard_links_count_once_and_links_not_at_all(self, tmp_path: Path) -> None:
        (tmp_path / "tree").mkdir()
        (tmp_path / "file").write_bytes(b"x" * 65536)
        os.link(tmp_path / "file", tmp_path / "tree/one")
        os.link(tmp_path / "file", tmp_path / "tree/two")
        (tmp_path / "tree/link").symlink_to("/usr")
        assert 65536 <= tree_usage(str(tmp_path / "tree")) < 65536 * 2

    def test_holes_cost_nothing(self, tmp_path: Path) -> None:
        with open(tmp_path / "hole", "wb") as file:
            file.truncate(1 << 40)
        assert tree_usage(str(tmp_path)) < 65536

    def test_large_trees_give_the_same_number(self, tmp_path: Path) -> None:
        for number in range(2500):
            (tmp_path / str(number)).write_text("x")
        found = subprocess.run(["du", "-s", "-B1", tmp_path], capture_output=True, check=True)
        assert tree_usage(str(tmp_path)) == int(found.stdout.split()[0])

    def test_missing(self, tmp_path: Path) -> None:
        assert tree_usage(str(tmp_path / "none")) == 0

    def test_a_file_without_a_name_counts(self, tmp_path: Path) -> None:
        with open(tmp_path / "file", "wb") as file:
            file.write(b"x" * (1 << 20))
            file.flush()
            os.fsync(file.fileno())
            os.unlink(tmp_path / "file")
            device = frozenset({os.fstat(file.fileno()).st_dev})
            assert deleted_usage([os.getpid()], device) >= 1 << 20
            assert deleted_usage([os.getpid(), 1 << 22], frozenset()) == 0

    def test_where_we_are(self, tmp_path: Path) -> None:
        assert file_system(str(tmp_path))
        assert 0 < free_space(str(tmp_path)).free <= free_space(str(tmp_path)).total


class TestStorageWatch:
    def test_who_is_over(self, tmp_path: Path) -> None:
        free, now = [1000 << 20], [0.0]
        watch = StorageWatch(str(tmp_path), clock=lambda: now[0], free=lambda _: free[0])
        assert watch.wait_time() is None
        for key in (1, 2):
            (tmp_path / f"u{key}").mkdir()
            watch.watch(key, str(tmp_path / f"u{key}"), limit=1 << 20)
        now[0] = 1.0
        assert watch.check() == []
        (tmp_path / "u2/big").write_bytes(b"x" * (2 << 20))
        assert watch.check() == [], "the file system did not grow: nothing is measured"
        free[0] -= 2 << 20
        over = watch.check()
        assert [(o.key, o.limit) for o in over] == [(2, 1 << 20)]
        assert over[0].used >= 2 << 20
        assert watch.used(2) == over[0].used
        watch.forget(2)
        assert watch.check() == []

    def test_growth_that_others_hide_is_found_later(self, tmp_path: Path) -> None:
        now = [1.0]
        watch = StorageWatch(str(tmp_path), clock=lambda: now[0], free=lambda _: 1 << 30)
        watch.watch(1, str(tmp_path), limit=1 << 20)
        assert watch.check() == []
        (tmp_path / "big").write_bytes(b"x" * (2 << 20))
        now[0] += 61
        assert [over.key for over in watch.check()] == [1]

    def test_what_is_written_beside_the_root_counts(self, tmp_path: Path) -> None:
        now = [1.0]
        watch = StorageWatch(str(tmp_path), clock=lambda: now[0], free=lambda _: 1 << 30)
        for name in ("root", "given", "other"):
            (tmp_path / name).mkdir()
        (tmp_path / "file").touch()
        (tmp_path / "given/link").symlink_to(tmp_path / "other")
        beside = tuple(str(tmp_path / name) for name in ("given", "file", "given/link", "none"))
        watch.watch(1, str(tmp_path / "root"), limit=1 << 20, beside=beside)
        (tmp_path / "other/big").write_bytes(b"x" * (2 << 20))
        assert watch.check() == [], "no link is followed"
        (tmp_path / "given/big").write_bytes(b"x" * (2 << 20))
        now[0] += 61
        assert [over.key for over in watch.check()] == [1]

    def test_the_nearer_the_limit_the_sooner(self, tmp_path: Path) -> None:
        watch = StorageWatch(str(tmp_path), free=lambda _: 1 << 40)
        watch.watch(1, str(tmp_path), limit=1 << 40)
        assert watch.wait_time() == 5.0
        watch.watch(2, str(tmp_path), limit=1 << 10)
        assert watch.wait_time() == 0.25


def test_a_file_in_place_of_a_tree(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    remove_tree(str(tmp_path / "file"))
    assert os.listdir(tmp_path) == []
