"""A machine that swaps its files while they are copied, and archives of its making.

CVE-2018-15664: Docker resolved a path of the container, which then changed it, as the host's root.
CVE-2019-14271: the helper loaded a library of the container. CVE-2021-41089 and others: names and
links of what is copied led out. Here every path of a machine is opened inside the machine, by a
process that is nobody outside.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attack.swapping import SWAPPER, Canary
from tests.driver import Cove

ROUNDS = {"container": 40, "vm": 10}


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Canary]:
    """A directory of the host with the name that links of the machine lead to."""
    with Canary.make() as made:
        yield made


@pytest.fixture
def swapping(cove: Cove, canary: Canary) -> Iterator[str]:
    name = "swapping"
    script = SWAPPER.replace("@TARGET@", str(canary.path))
    cove("run", "-d", "--name", name, "bb", "sh", "-c", script)
    cove("exec", name, "sh", "-c", "until test -e /ready; do sleep 0.01; done")
    yield name
    cove("rm", "-f", name)


def test_nothing_of_the_host_comes_out(
    cove: Cove, swapping: str, canary: Canary, tmp_path: Path
) -> None:
    """/swap/dir is now a directory, now a link to a directory that only the host has."""
    got = 0
    for number in range(ROUNDS[cove.isolation]):
        for source in ("/swap/dir/secret", "/swap/dir/.", "/swap", "/swap/dir/sub/secret"):
            out = tmp_path / f"{number}{source.replace('/', '_')}"
            out.mkdir()
            words = ("-L",) if number % 2 else ()
            done = cove("cp", *words, f"{swapping}:{source}", str(out), code=None)
            assert done.returncode in (0, 1, 125), done.err
            got += done.returncode == 0
    for place, _, names in os.walk(tmp_path):
        for name in names:
            path = Path(place, name)
            if not path.is_symlink():
                assert canary.secret not in path.read_bytes(), path
    assert got, "no copy ever came through: the race was not one"


def test_nothing_of_the_host_is_written(
    cove: Cove, swapping: str, canary: Canary, tmp_path: Path
) -> None:
    (tmp_path / "tree/sub").mkdir(parents=True)
    for name in ("planted", "sub/planted", "secret"):
        (tmp_path / "tree" / name).write_text("planted")
    landed = 0
    for _ in range(ROUNDS[cove.isolation]):
        for source, target in (
            ("tree/.", "/swap/dir"),
            ("tree/planted", "/swap/dir/planted"),
            ("tree/planted", "/swap/dir/sub/"),
            ("tree", "/swap"),
        ):
            done = cove("cp", f"{tmp_path}/{source}", f"{swapping}:{target}", code=None)
            landed += done.returncode == 0
            canary.check()
    assert landed, "no copy ever came through: the race was not one"


def test_the_machine_sees_nobody(cove: Cove, swapping: str, tmp_path: Path) -> None:
    """What copies is in no process list of the machine, and none of its signals reach it."""
    (tmp_path / "big").write_bytes(bytes((64 if cove.isolation == "container" else 8) << 20))
    watch = "while :; do for p in /proc/[0-9]*; do cat $p/cmdline; echo; done; kill -9 -1; done"
    watcher = cove.spawn("exec", swapping, "sh", "-c", watch, stderr=subprocess.DEVNULL)
    seen: list[bytes] = []

    def read() -> None:
        assert watcher.stdout is not None
        seen.append(watcher.stdout.read())

    reader = threading.Thread(target=read)
    reader.start()
    cove("cp", str(tmp_path / "big"), f"{swapping}:/big", code=None)
    cove("cp", f"{swapping}:/big", str(tmp_path / "back"), code=None)
    cove("rm", "-f", swapping)
    watcher.wait(180)
    reader.join()
    assert watcher.stdout is not None
    watcher.stdout.close()
    for word in (b"archive", b"run-plan", b"memfd"):
        assert word not in seen[0]


def test_a_library_of_the_machine_is_never_loaded(cove: Cove, canary: Canary) -> None:
    """CVE-2019-14271: nothing that a machine has in /lib or /etc is read to copy its files."""
    script = f"""
    mkdir -p /lib /lib64 /usr/lib /etc
    for n in libnss_files.so.2 libnss_compat.so.2 libc.so.6; do
        printf '#!/bin/sh\\ntouch {canary.path}/owned' >/lib/$n; chmod 755 /lib/$n
        ln -f /lib/$n /usr/lib/$n
    done
    echo /lib/libnss_files.so.2 >/etc/ld.so.preload
    echo 'passwd: files' >/etc/nsswitch.conf
    touch /ready; exec sleep 1000
    """
    cove("run", "-d", "--name", "library", "bb", "sh", "-c", script)
    try:
        cove("exec", "library", "sh", "-c", "until test -e /ready; do sleep 0.01; done")
        cove("cp", "library:/lib", "-")
        cove("cp", "/etc/hostname", "library:/tmp")
        canary.check()
    finally:
        cove("rm", "-f", "library")


def test_links_found_at_the_destination_are_not_followed_out(
    cove: Cove, canary: Canary, tmp_path: Path
) -> None:
    """The tree goes below the destination: a link in it to elsewhere ends the copy, by name."""
    script = "mkdir -p /t/away; echo planted >/t/away/planted; touch /ready; exec sleep 1000"
    cove("run", "-d", "--name", "outward", "bb", "sh", "-c", script)
    try:
        cove("exec", "outward", "sh", "-c", "until test -e /ready; do sleep 0.01; done")
        (tmp_path / "t").mkdir()
        (tmp_path / "t/away").symlink_to(canary.path)
        done = cove("cp", "outward:/t", str(tmp_path), code=None)
        assert done.returncode and "no directory" in done.err
        canary.check()
        (tmp_path / "t/away").unlink()
        (tmp_path / "t/away").mkdir()
        cove("cp", "outward:/t", str(tmp_path))
        assert (tmp_path / "t/away/planted").read_text() == "planted\n"
    finally:
        cove("rm", "-f", "outward")


def test_a_tree_without_end(cove: Cove, tmp_path: Path) -> None:
    """Names of more than PATH_MAX are refused; a deep tree below that is copied, and removed."""
    half = "d/" * 1500
    below = f"mkdir -p /{half}; touch /{half}end"
    for depth, script, code in (
        (1500, below, 0),
        (3000, f"{below}; cd /{half}; mkdir -p {half}; touch {half}end", None),
    ):
        cove("create", "--name", "deep", "bb", "sh", "-c", script)
        try:
            cove("start", "-a", "deep")
            done = cove("cp", "deep:/d", str(tmp_path / str(depth)), code=code)
            assert code == 0 or "4095 bytes" in done.err
        finally:
            cove("rm", "-f", "deep")
    subprocess.run(["rm", "-rf", *tmp_path.iterdir()], check=True)


def test_a_fifo_and_a_growing_file_do_not_hold_a_copy(cove: Cove, tmp_path: Path) -> None:
    script = """
    mkdir /t; mkfifo /t/fifo; : >/t/swap; touch /ready
    (while :; do rm -f /t/swap; mkfifo /t/swap; rm -f /t/swap; echo x >/t/swap; done) &
    while :; do echo more >>/t/log; done
    """
    cove("run", "-d", "--name", "fifos", "bb", "sh", "-c", script)
    try:
        cove("exec", "fifos", "sh", "-c", "until test -s /t/log; do sleep 0.01; done")
        for number in range(20):
            cove("cp", "fifos:/t", str(tmp_path / str(number)))
    finally:
        cove("rm", "-f", "fifos")
