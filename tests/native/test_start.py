"""``cove-python`` when no daemon runs: it starts one, waits for its word, and becomes the front."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

DAEMON = """#!{python}
import os, socket, sys
words = dict(zip(sys.argv[4::2], sys.argv[5::2]))
assert sys.argv[1:4] == ["-P", "-m", "cove.daemon"], sys.argv
ready = int(words["--ready-fd"])
with open("{seen}", "a") as seen:
    print(os.getpid(), os.getsid(0), sorted(map(int, os.listdir("/proc/self/fd")))[:6],
          os.readlink("/proc/self/fd/0"), os.readlink("/proc/self/fd/" + words["--lock-fd"]),
          sorted(k for k in os.environ if k != "LC_CTYPE"), file=seen)
{body}
"""

LISTENS = """
listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
listener.bind(words["--root"] + "/run/front.sock")
listener.listen()
os.write(ready, b"\\0")
os.close(ready)
while listener.accept()[0].recv(4) != b"end":
    pass
"""

FRONT = """#!/bin/sh
echo "front: $0 $* guard=$COVE_NO_START why=$COVE_WHY"
"""


@dataclass
class Start:
    """A ``cove-python`` whose daemon is a script."""

    directory: Path

    @property
    def root(self) -> Path:
        return self.directory / "root"

    @property
    def seen(self) -> list[str]:
        path = self.directory / "seen"
        return path.read_text().splitlines() if path.exists() else []

    def daemon(self, body: str) -> None:
        script = self.directory / "daemon"
        script.write_text(
            DAEMON.format(python=sys.executable, seen=self.directory / "seen", body=body)
        )
        script.chmod(0o755)

    def run(
        self, *words: str, env: dict[str, str] | None = None, uid: int = 0, **options: object
    ) -> Running:
        program = (
            f"import sys, os, cove.errors, cove.cli.start as start; os.setuid({uid}); "
            f"sys.executable = {str(self.directory / 'daemon')!r}; sys.exit(start.main())"
        )
        return Running(
            subprocess.Popen(
                [sys.executable, "-c", program, *words],
                env={
                    "PATH": os.environ["PATH"],
                    "PYTHONPATH": str(ROOT),
                    "COVE_ROOT": str(self.root),
                    "COVE_FRONT": str(self.directory / "front"),
                    "COVE_WHY": "absent",
                    "SECRET": "not for the daemon",
                }
                | (env or {}),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                **options,  # type: ignore[call-overload]
            )
        )


@dataclass
class Running:
    process: subprocess.Popen[str]

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=120)
        return self.process.returncode, out, err


@contextmanager
def ending(start: Start) -> Iterator[None]:
    """The daemon ends with the test."""
    try:
        yield
    finally:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(str(start.root / "run/front.sock"))
            sock.send(b"end")


@pytest.fixture
def start(tmp_path: Path) -> Start:
    if os.geteuid() != 0:
        pytest.skip("needs root: uid is not 0")
    front = tmp_path / "front"
    front.write_text(FRONT)
    front.chmod(0o755)
    return Start(tmp_path)


def test_daemon_is_started_and_the_front_called_again(start: Start) -> None:
    start.daemon(LISTENS)
    extra = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(extra, True)
    code, out, err = start.run("ps", "-a", "", pass_fds=(extra,)).end()
    os.close(extra)
    with ending(start):
        assert (code, err) == (0, "")
        assert out == f"front: {start.directory}/front ps -a  guard=1 why=\n"
        pid, session, *rest = start.seen[0].split(" ")
        assert pid == session
        kept = "['COVE_ROOT', 'PATH', 'PYTHONPATH']"
        # 5: the file it writes this to; 6: the directory it reads.
        assert " ".join(rest) == f"[0, 1, 2, 3, 4, 5] /dev/null {start.root}/lock {kept}"
        with (start.root / "lock").open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_many_first_commands_start_one_daemon(start: Start) -> None:
    start.daemon(LISTENS)
    commands = [start.run("ps") for _ in range(6)]
    ended = [command.end() for command in commands]
    with ending(start):
        assert [(code, err) for code, _, err in ended] == [(0, "")] * 6
        assert len(start.seen) == 1


def test_what_the_daemon_says_is_shown(start: Start) -> None:
    start.daemon(
        'os.write(ready, b"cove: cannot start: no disk\\n  hint: buy one\\n"); sys.exit(125)'
    )
    assert start.run("ps").end() == (125, "", "cove: cannot start: no disk\n  hint: buy one\n")
    with (start.root / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_silent_death_shows_the_log(start: Start) -> None:
    (start.root / "run").mkdir(parents=True)
    (start.root / "run/daemon.log").write_text("of an earlier day\n")
    start.daemon('print("segmentation fault"); sys.exit(3)')
    code, _, err = start.run("ps").end()
    assert code == 125
    assert err == (
        "cove: cannot start the daemon: it ended with exit code 3\n"
        f"  hint: see {start.root}/run/daemon.log\n"
        "  segmentation fault\n"
    )


def test_daemon_that_holds_the_lock_and_is_mute(start: Start) -> None:
    (start.root / "run").mkdir(parents=True)
    with (start.root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        program = (
            "import cove.client.spawn as p, cove.cli.start as s; p.WAIT_SECONDS = 0; exit(s.main())"
        )
        ran = subprocess.run(
            [sys.executable, "-c", program, "ps"],
            env={"PYTHONPATH": str(ROOT), "COVE_ROOT": str(start.root), "COVE_WHY": "absent"},
            capture_output=True,
            text=True,
        )
    assert ran.returncode == 125
    assert ran.stderr == (
        "cove: cannot reach the daemon: it runs and does not answer\n"
        f"  host: {start.root}/lock is held\n"
        f"  hint: its last words are in {start.root}/run/daemon.log\n"
    )


def test_second_failure_is_not_tried_again(start: Start) -> None:
    code, _, err = start.run("ps", env={"COVE_NO_START": "1"}).end()
    assert code == 125
    assert err.startswith(
        "cove: cannot reach the daemon: it was started and is gone again\n  hint: "
    )


def test_daemon_of_another_version(start: Start) -> None:
    """Sent away again and again: not one that makes way for a newer one."""
    sent_away = {"COVE_WHY": "version", "COVE_ATTEMPTS": f"3:{time.time()}"}
    assert start.run("ps", env=sent_away).end() == (
        125,
        "",
        "cove: cannot hand the command to the daemon: it is of another version of cove\n"
        "  hint: cove daemon stop: machines go on, and the next command starts the new one\n",
    )


def test_not_root(start: Start) -> None:
    code, _, err = start.run("ps", uid=65534).end()
    assert code == 125
    assert err == (
        "cove: cannot start the daemon: not root\n  host: uid 65534\n  hint: run it with sudo\n"
    )


def test_socket_of_another_user(start: Start) -> None:
    code, _, err = start.run("ps", uid=65534, env={"COVE_WHY": "denied"}).end()
    assert code == 125
    assert err == (
        f"cove: cannot reach the daemon: permission denied for {start.root}/run/front.sock\n"
        "  host: uid 65534\n  hint: run it with sudo\n"
    )


@pytest.mark.parametrize("place", ["read-only", "a file"])
def test_state_directory_that_cannot_be(start: Start, place: str) -> None:
    start.root.mkdir()
    if place == "a file":
        root = start.root / "file/below"
        (start.root / "file").touch()
        code, _, err = start.run("ps", env={"COVE_ROOT": str(root)}).end()
        reason = "not a directory"
    else:
        program = "import sys, cove.cli.start as s; sys.exit(s.main())"
        mount = f'mount -t tmpfs -o ro none {start.root} && exec "$@"'
        ran = subprocess.run(
            ["unshare", "-m", "sh", "-c", mount, "sh", sys.executable, "-c", program, "ps"],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "COVE_ROOT": str(start.root)},
            capture_output=True,
            text=True,
        )
        root, code, err = start.root / "run", ran.returncode, ran.stderr
        reason = "read-only file system"
    assert code == 125
    assert err == (
        f"cove: cannot start the daemon: {root}: {reason}\n"
        "  hint: use another state directory: cove --root DIR, or COVE_ROOT\n"
    )


def test_only_the_cheapest_modules_come_before_the_daemon(start: Start) -> None:
    start.daemon(LISTENS)
    program = f"""
import os, sys
sys.path.append({str(ROOT)!r})
before = set(sys.modules)
import cove.cli.start as start
sys.executable = {str(start.directory / "daemon")!r}
start.start_daemon({str(start.root)!r})
print(*sorted(set(sys.modules) - before))
"""
    ran = subprocess.run(
        [sys.executable, "-S", "-E", "-c", program], capture_output=True, text=True, check=True
    )
    with ending(start):
        loaded = set(ran.stdout.split())
        cheap = {"__future__", "_socket", "_signal", "fcntl", "time"}
        assert loaded - cheap == {
            "cove",
            "cove.cli",
            "cove.cli.start",
            "cove.client",
            "cove.client.spawn",
        }
