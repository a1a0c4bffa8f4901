"""An older daemon makes way for a newer one: machines, sessions, followers and commands go on."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.driver import ROOT, SPAWNED, Cove, front_path, wait_until


class Installed(Cove):
    """The same state directory, by the front of another installation."""

    def __init__(self, root: Path, front: Path, isolation: str) -> None:
        super().__init__(root, isolation)
        self.front = front

    def spawn(self, *words: str, **options: object) -> subprocess.Popen[bytes]:
        options = {"stdin": subprocess.DEVNULL, "stdout": -1, "stderr": -1} | options
        words = self.of_kind(*words)
        process: subprocess.Popen[bytes] = subprocess.Popen(
            [str(self.front), *words], env=self.env, **options
        )  # type: ignore[call-overload]
        SPAWNED.add(process)
        return process

    def run(self, *words: str) -> str:
        process = self.spawn(*words)
        out, err = process.communicate(timeout=180)
        assert process.returncode == 0, err.decode()
        return str(out.decode())


def install(directory: Path, version: str, built: int) -> Path:
    """A copy of this tree as a program of its own, of another version; its front."""
    for part in ("cove", "init", "tools"):
        shutil.copytree(ROOT / part, directory / part, ignore=shutil.ignore_patterns("__pycache__"))
    names = directory / "cove/__init__.py"
    text = names.read_text()
    before = text.partition('__version__ = "')[2].partition('"')[0]
    names.write_text(text.replace(f'"{before}"', f'"{version}"', 1))
    program = directory / "cove/_native/cove-init"
    subprocess.run(
        [sys.executable, "tools/build_init.py", str(program)],
        cwd=directory, env=os.environ | {"SOURCE_DATE_EPOCH": str(built)}, check=True,
    )  # fmt: skip
    (directory / "bin").mkdir()
    shutil.copy(program, directory / "bin/cove")
    script = directory / "bin/cove-python"
    script.write_text(
        f'#!/bin/sh\nPYTHONPATH={directory} exec {sys.executable} -P -m cove.cli.start "$@"\n'
    )
    script.chmod(0o755)
    return directory / "bin/cove"


@pytest.fixture(scope="module")
def newer_front(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("newer"), "99.1.0", 1_000_000_000)


@pytest.fixture
def newer(fresh_cove: Cove, newer_front: Path) -> Installed:
    return Installed(fresh_cove.root, newer_front, fresh_cove.isolation)


def version_of(cove: Cove) -> str:
    return (cove.root / "run/daemon.version").read_text().split()[0]


COUNT = "i=0; while :; do printf 'line %d' $i; echo ' of a log'; i=$((i+1)); sleep 0.002; done"


def test_everything_goes_on(fresh_cove: Cove, newer: Installed) -> None:
    cove = fresh_cove
    cove("run", "-d", "--name", "counts", "bb", "sh", "-c", COUNT)
    pid = cove.inspect("counts")["State"]["Pid"]
    session = cove.spawn("run", "-i", "--rm", "--name", "talks", "bb", "cat", stdin=-1)
    extra = cove.spawn("exec", "-i", "counts", "cat", stdin=-1)
    follower = cove.spawn("logs", "-f", "counts", bufsize=0)
    stamped = cove.spawn("logs", "-f", "-t", "counts", bufsize=0)
    late = cove.spawn("logs", "-f", "-n", "0", "counts", bufsize=0)
    for process in (session, extra):
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b"before\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"before\n"
    for process in (follower, stamped, late):
        assert process.stdout is not None
        line = process.stdout.readline()
        if process is late and line == b" of a log\n":  # it began within a line
            line = process.stdout.readline()
        assert b"line" in line
    old = cove.daemon_pid()
    left = os.pidfd_open(old)
    assert version_of(cove) != "99.1.0"

    assert set(newer.run("ps", "--format", "{{.Names}}").split()) == {"counts", "talks"}
    assert newer.daemon_pid() != old
    assert select.select([left], [], [], 180)[0]
    os.close(left)
    assert version_of(cove) == "99.1.0"
    assert newer.run("version", "--format", "{{.Server.Version}}") == "99.1.0\n"
    assert newer.run("inspect", "-f", "{{.State.Pid}}", "counts") == f"{pid}\n"

    # The older front is served, and does not bring its own daemon back.
    assert cove("exec", "counts", "echo", "hi").out == "hi\n"
    assert version_of(cove) == "99.1.0"
    for process, word in ((session, b"after\n"), (extra, b"too\n")):
        out, err = process.communicate(word, timeout=180)
        assert (out, err, process.returncode) == (word, b"", 0)

    cove("stop", "-t", "0", "counts")
    whole = cove("logs", "counts").out.encode()
    for process, first in ((follower, 1), (stamped, 1), (late, None)):
        out, err = process.communicate(timeout=180)
        assert (err, process.returncode) == (b"", 0)
        lines = out.splitlines()
        if process is stamped:
            lines = [line.partition(b" ")[2] for line in lines]
        numbers = [int(line.split()[1]) for line in lines]
        start = numbers[0] if first is None else first
        assert numbers == list(range(start, start + len(numbers)))
        assert whole.splitlines()[-1] == lines[-1]


def test_none_of_the_older_build_is_started_between_two(fresh_cove: Cove, newer: Installed) -> None:
    """Whom a leaving daemon sends away waits for who asked it to leave."""
    fresh_cove.stop_daemon()
    run = os.path.realpath(fresh_cove.root / "run")
    turn = os.open(run, os.O_RDONLY)
    fcntl.flock(turn, fcntl.LOCK_EX)
    sent_away = fresh_cove.spawn("ps", "-q")
    wait_until(lambda: run in open_paths(sent_away.pid), "a front that waits for its turn")
    reader, writer = os.pipe()
    words = [sys.executable, "-P", "-m", "cove.daemon", "--root", str(fresh_cove.root)]
    daemon = subprocess.Popen(
        [*words, "--ready-fd", str(writer)],
        env=fresh_cove.env | {"PYTHONPATH": str(newer.front.parents[1])},
        pass_fds=(writer,),
    )
    os.close(writer)
    with open(reader, "rb") as ready:
        assert ready.read() == b"\0"
    os.close(turn)
    assert sent_away.communicate(timeout=180) == (b"", b"")
    assert newer.daemon_pid() == daemon.pid and version_of(newer) == "99.1.0"
    newer.run("daemon", "stop")
    assert daemon.wait(180) == 0


def open_paths(pid: int) -> set[str]:
    found = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


def test_a_command_in_flight_ends_where_it_began(fresh_cove: Cove, newer: Installed) -> None:
    cove = fresh_cove
    cove("run", "-d", "--name", "stubborn", "bb", "sh", "-c", "trap '' TERM; sleep 1000")
    old = cove.daemon_pid()
    stop = cove.spawn("stop", "-t", "2", "stubborn")
    events = cove.spawn("wait", "stubborn")
    wait_until(lambda: "TERM" in str(cove.inspect("stubborn")) or stop.poll() is None)
    assert newer.run("ps", "-aq").strip()
    assert newer.daemon_pid() != old
    assert stop.communicate(timeout=180) == (b"stubborn\n", b"") and stop.returncode == 0
    assert events.communicate(timeout=180) == (b"137\n", b"")


def test_many_newer_fronts_at_once(fresh_cove: Cove, newer: Installed) -> None:
    old = fresh_cove.daemon_pid()
    many = 12 if fresh_cove.isolation == "container" else 2
    fronts = [newer.spawn("run", "--rm", "bb", "echo", str(i)) for i in range(many)]
    fronts += [fresh_cove.spawn("run", "--rm", "bb", "echo", str(i)) for i in range(many)]
    for i, front in enumerate(fronts):
        out, err = front.communicate(timeout=180)
        assert (out, err, front.returncode) == (f"{i % many}\n".encode(), b"", 0)
    assert fresh_cove.daemon_pid() != old and version_of(fresh_cove) == "99.1.0"


def test_the_same_version_built_later(fresh_cove: Cove, newer: Installed, tmp_path: Path) -> None:
    newer.run("ps")
    first = newer.daemon_pid()
    newer.run("ps")
    assert newer.daemon_pid() == first
    front = install(tmp_path / "later", "99.1.0", 1_000_000_001)
    later = Installed(fresh_cove.root, front, fresh_cove.isolation)
    later.run("ps")
    assert later.daemon_pid() != first
    second = later.daemon_pid()
    newer.run("ps")
    assert later.daemon_pid() == second


def test_python_without_a_front(fresh_cove: Cove, newer: Installed) -> None:
    """The same over HTTP: ``cove-python`` finds an older daemon."""
    old = fresh_cove.daemon_pid()
    script = newer.front.parent / "cove-python"
    python = Installed(fresh_cove.root, script, fresh_cove.isolation)
    assert "99.1.0" in python.run("version")
    assert fresh_cove.daemon_pid() != old
    assert front_path().exists()
