"""State directories, daemons and callers that do not fit: told by the front, nothing half made."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cove.linux.probe import IDMAP_SINCE, probe_facts
from tests.conftest import need_root
from tests.driver import ROOT, Cove, Done, front_path, kill_process, new_cove, wait_until
from tests.kernel.disks import small_disk
from tests.kernel.test_recovery import monitor_of
from tests.leaks import check_nothing_left
from tests.shared import no_scenario

ELSEWHERE = "  hint: use another state directory: cove --root DIR, or COVE_ROOT\n"

NO_IDMAP = (
    "cove: cannot run a container: the state directory's file system takes no idmapped mount\n"
    "  host: mount_setattr(2) with MOUNT_ATTR_IDMAP is refused there\n"
    "  hint: keep the state directory on ext4, xfs or btrfs: --root DIR\n"
)


@contextlib.contextmanager
def mounted(place: Path, *words: str) -> Iterator[Cove]:
    """A cove whose state directory is on a file system of its own."""
    need_root()
    place.mkdir()
    subprocess.run(["mount", *words, place], check=True)
    cove = Cove(place / "state")
    try:
        yield cove
    finally:
        with contextlib.suppress(OSError):
            if (place / "state/run/front.sock").exists():
                cove.stop_daemon()
        check_nothing_left(cove.root)
        subprocess.run(["umount", place], check=True)


# ---- where the state directory is ----


def test_a_state_directory_on_tmpfs_works(tmp_path: Path, bb_tar: Path) -> None:
    with mounted(tmp_path / "ram", "-t", "tmpfs", "-o", "size=64m", "none") as cove:
        cove("image", "import", "-q", str(bb_tar), "bb")
        script = "echo kept > /file; cat /file; cat /proc/self/uid_map"
        if probe_facts(cove.root).kernel < IDMAP_SINCE["tmpfs"]:
            assert cove("run", "--rm", "bb", "sh", "-c", script, code=125).err == NO_IDMAP
            # All that needs no id map is there all the same.
            assert cove("run", "--rm", "--userns=host", "bb", "sh", "-c", script).out[:4] == "kept"
            return
        out = cove("run", "--rm", "bb", "sh", "-c", script).out.split()
        assert out[0] == "kept" and out[1] == "0" and out[3] == "65536"
        assert cove("run", "--rm", "host", "cat", "/etc/hostname").out


def test_a_state_directory_on_an_overlay_is_refused_by_name(tmp_path: Path) -> None:
    for name in ("lower", "upper", "work"):
        (tmp_path / name).mkdir()
    options = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    with mounted(tmp_path / "ov", "-t", "overlay", "-o", options, "none") as cove:
        done = cove("run", "--rm", "host", "true", code=None)
        if done.returncode == 0:  # a kernel that idmaps overlays
            return
        assert done.returncode == 125
        assert done.err == NO_IDMAP
        assert cove("image", "ls", "-q").out


def test_a_read_only_state_directory(tmp_path: Path) -> None:
    with mounted(tmp_path / "ro", "-t", "tmpfs", "none") as cove:
        cove("ps")
        cove.stop_daemon()
        check_nothing_left(cove.root)
        wait_until(lambda: remounted(tmp_path / "ro", "ro"), "nobody to write there")
        for root in ("state", "new"):
            done = cove("ps", code=125, env={"COVE_ROOT": str(tmp_path / "ro" / root)})
            assert done.err.startswith(f"cove: cannot start the daemon: {tmp_path}/ro/{root}")
            assert done.err.endswith(f": read-only file system\n{ELSEWHERE}")
        assert remounted(tmp_path / "ro", "rw")
        cove("ps")


def remounted(place: Path, how: str) -> bool:
    words = ["mount", "-o", f"remount,{how}", place]
    return subprocess.run(words, capture_output=True).returncode == 0


def test_a_full_state_directory(tmp_path: Path, bb_tar: Path) -> None:
    """What is there goes on and can be removed; what is new is refused; room mends it."""
    with mounted(tmp_path / "full", *small_disk(tmp_path / "disk", 24)) as cove:
        cove("image", "import", "-q", str(bb_tar), "bb")
        cove("run", "-d", "--name", "old", "bb", "sleep", "1000")
        ballast = tmp_path / "full/ballast"
        with open(ballast, "wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        big = "LARGE=" + "x" * 100_000
        done = Done([], 0, "", "")
        for _ in range(64):  # the log of the store may have room in pages it has
            done = cove("create", "-e", big, "bb", "true", code=None)
            if done.returncode:
                break
        assert done.returncode == 125
        assert done.err.startswith(
            f"cove: cannot use the state directory {cove.root}: no space left on device\n"
        )
        assert "hint: " in done.err
        assert "sleep 1000" in cove("ps").out
        cove("exec", "old", "true")
        cove("rm", "-f", *cove("ps", "-aq").out.split())
        assert cove("ps", "-aq").out == ""
        ballast.unlink()
        assert cove("run", "--rm", "bb", "echo", "room").out == "room\n"


@pytest.mark.parametrize(
    ("root", "said"),
    [
        ("file", "file exists"),
        ("file/below", "not a directory"),
        ("/proc/cove", "no such file or directory"),
    ],
)
def test_a_state_directory_that_cannot_be(tmp_path: Path, root: str, said: str) -> None:
    need_root()
    (tmp_path / "file").write_text("mine")
    place = tmp_path / root
    done = Cove(place)("run", "--rm", "host", "true", code=125)
    assert done.err == f"cove: cannot start the daemon: {place}: {said}\n{ELSEWHERE}"
    assert (tmp_path / "file").read_text() == "mine"


# ---- who calls ----


def as_nobody(root: Path, program: Path, *words: str) -> Done:
    ran = subprocess.run(
        [program, *words],
        env={"COVE_ROOT": str(root), "PATH": "/usr/bin:/bin"},
        user=65534,
        group=65534,
        extra_groups=[],
        capture_output=True,
        text=True,
        timeout=180,
    )
    return Done(ran.args, ran.returncode, ran.stdout, ran.stderr)


@pytest.fixture
def for_all() -> Iterator[Path]:
    """The front, and the program it starts daemons with, where everybody may run them."""
    place = new_cove().root
    place.chmod(0o755)
    shutil.copy(front_path(), place / "cove")
    (place / "cove-python").write_text(
        "#!/bin/sh\necho \"cove-python: $COVE_WHY\" >&2\nexit 9\n"
    )  # fmt: skip
    (place / "cove-python").chmod(0o755)
    yield place / "cove"
    shutil.rmtree(place)


@no_scenario("state directories and callers, whatever machines there are")
def test_a_caller_who_is_not_root(cove: Cove, for_all: Path) -> None:
    done = as_nobody(cove.root, for_all, "ps")
    assert (done.returncode, done.err) == (9, "cove-python: denied\n")
    (for_all.parent / "cove-python").unlink()
    done = as_nobody(cove.root, for_all, "run", "--rm", "bb", "id")
    assert (done.returncode, done.out) == (125, "")
    assert (
        done.err == "cove: cannot reach the daemon: permission denied\n  hint: run it with sudo\n"
    )


START = "import os, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534); sys.argv[0] = 'cove'"


@no_scenario("state directories and callers, whatever machines there are")
@pytest.mark.parametrize(
    ("why", "said"),
    [
        ("absent", "cove: cannot start the daemon: not root\n  host: uid 65534\n"),
        ("denied", "cove: cannot reach the daemon: permission denied for "),
    ],
)
def test_a_first_command_that_is_not_roots(cove: Cove, why: str, said: str) -> None:
    """cove-python as uid 65534, which may not read this checkout once it has let go of root."""
    program = f"import cove.errors, cove.cli.start as start; {START}; sys.exit(start.main())"
    env = cove.env | {"COVE_WHY": why, "PYTHONPATH": str(ROOT)}
    if why == "absent":
        env["COVE_ROOT"] = "/tmp/cove-of-nobody"
    words = [sys.executable, "-c", program, "ps"]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=180)
    assert done.returncode == 125
    assert done.stderr.startswith(said)
    assert done.stderr.endswith("  hint: run it with sudo\n")
    assert not os.path.exists("/tmp/cove-of-nobody")


# ---- which daemon answers ----

HEADER = struct.Struct("<IiII")


@pytest.mark.parametrize("named", [0, 2])
def test_a_daemon_of_another_protocol(named: int) -> None:
    """Older or newer, and never replaced: it refuses with the value that all versions know."""
    need_root()
    driver = new_cove()
    (driver.root / "run").mkdir(mode=0o700)
    path = driver.root / "run/front.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            while True:
                try:
                    conn, _ = listener.accept()
                except OSError:
                    return
                with conn:
                    if conn.recv(1 << 20):
                        conn.send(HEADER.pack(66, -3, 0, named))

        thread = threading.Thread(target=answer)
        thread.start()
        done = driver("run", "--rm", "host", "true", code=125)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert done.err == (
        "cove: cannot hand the command to the daemon: it is of another version of cove\n"
        "  hint: cove daemon stop: machines go on, and the next command starts the new one\n"
    )
    shutil.rmtree(driver.root)


@no_scenario("state directories and callers, whatever machines there are")
def test_two_daemons_on_one_state_directory(cove: Cove) -> None:
    first = cove.daemon_pid()
    words = [sys.executable, "-P", "-m", "cove.daemon", "--root", str(cove.root), "--foreground"]
    env = cove.env | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=180)
    assert done.returncode == 75
    assert done.stderr == (
        f"cove: cannot lock {cove.root}: the daemon with pid {first} has it\n"
        "  hint: stop that daemon, or use another state directory: --root DIR\n"
    )
    assert cove.daemon_pid() == first
    assert cove("run", "--rm", "bb", "echo", "the first").out == "the first\n"


# ---- records of another time ----


def change_records(cove: Cove, old: bytes, new: bytes) -> int:
    """In the records of a daemon that does not run."""
    changed = 0
    with sqlite3.connect(cove.root / "cove.db") as db:
        tables = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type='table'")]
        assert "machine" in tables
        for key, record in db.execute("SELECT key, record FROM machine").fetchall():
            data = record if isinstance(record, bytes) else record.encode()
            if old in data:
                text = data.replace(old, new)
                value = text if isinstance(record, bytes) else text.decode()
                db.execute("UPDATE machine SET record = ? WHERE key = ?", (value, key))
                changed += 1
    db.close()
    return changed


@no_scenario("it edits the records of a daemon that does not run")
def test_records_of_another_boot_are_not_running(fresh_cove: Cove) -> None:
    cove = fresh_cove
    cove("run", "-d", "--name", "kept", "bb", "sleep", "1000")
    cove("run", "-d", "--rm", "--name", "brief", "bb", "sleep", "1000")
    monitors = [monitor_of(cove, name) for name in ("kept", "brief")]
    os.kill(cove.daemon_pid(), signal.SIGSTOP)  # it must not see them go
    daemon = cove.daemon_pid()
    for monitor in monitors:
        kill_process(monitor)
    kill_process(daemon)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    other = "0" * 8 + boot[8:]
    assert change_records(cove, boot.encode(), other.encode()) == 2
    state = cove.inspect("kept")["State"]
    assert (state["Status"], state["Running"], state["Pid"]) == ("exited", False, 0)
    assert state["ExitCode"] == 255
    assert "the host was restarted while it ran" in str(state["Cause"])
    wait_until(lambda: "brief" not in cove("ps", "-a").out, "the ephemeral one to be removed")
    cove("start", "kept")
    assert cove.inspect("kept")["State"]["Running"] is True
    cove("rm", "-f", "kept")


def test_an_end_of_an_earlier_run_is_not_that_of_a_later_one(fresh_cove: Cove) -> None:
    cove = fresh_cove
    cove(
        "create",
        "--name",
        "twice",
        "bb",
        "sh",
        "-c",
        "test -e /ran && exec sleep 1000; >/ran; exit 4",
    )
    cove("start", "-a", "twice", code=4)
    cove("start", "twice")
    monitor, daemon = monitor_of(cove, "twice"), cove.daemon_pid()
    os.kill(daemon, signal.SIGSTOP)
    kill_process(monitor)
    kill_process(daemon)
    assert cove.inspect("twice")["State"]["ExitCode"] == 137
    cove("rm", "twice")


def test_a_clock_that_went_backwards(fresh_cove: Cove) -> None:
    """Machines made an hour from now, as after a correction of the clock."""
    cove = fresh_cove
    cove("run", "--name", "ended", "bb", "sh", "-c", "echo said; exit 3", code=3)
    cove("run", "-d", "--name", "runs", "bb", "sleep", "1000")
    before = cove.inspect("runs")
    cove.stop_daemon()
    with sqlite3.connect(cove.root / "cove.db") as db:
        rows = db.execute("SELECT key, record FROM machine").fetchall()
    db.close()
    with sqlite3.connect(cove.root / "cove.db") as db:
        for key, record in rows:
            value = json.loads(record)
            for name in ("created", "started", "finished"):
                if value.get(name):
                    value[name] += 3600
            text = json.dumps(value)
            stored = text.encode() if isinstance(record, bytes) else text
            db.execute("UPDATE machine SET record = ? WHERE key = ?", (stored, key))
    db.close()
    listed = cove("ps", "-a").out
    assert "Up " in listed and "Exited (3)" in listed
    assert not re.search(r"-\d", listed), listed
    assert cove.inspect("runs")["State"]["Pid"] == before["State"]["Pid"]
    assert cove("logs", "ended").out == "said\n"
    cove("exec", "runs", "true")
    cove("stop", "-t", "0", "runs")
    assert cove.inspect("runs")["State"]["ExitCode"] == 137
    cove("start", "ended", code=None)
    cove("rm", "-f", "ended", "runs")
