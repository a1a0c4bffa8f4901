"""One model: each verb means the same on a container and on a virtual machine, to the word."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import select
import subprocess
import tarfile
import termios
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.driver import Cove, front_path, wait_until

LOOP = "trap 'echo caught; exit 3' TERM; echo begun; while :; do sleep 1; done"


class Machine:
    """A machine that runs ``words``; removed at the end."""

    def __init__(
        self, cove: Cove, isolation: str, *words: str, flags: tuple[str, ...] = ()
    ) -> None:
        self.cove, self.isolation = cove, isolation
        kind = ("--isolation", isolation)
        self.id = cove("run", "-d", *kind, *flags, "bb", *words).out.strip()

    def close(self) -> None:
        self.cove("rm", "-f", self.id, code=None)

    def exec(self, *words: str, flags: tuple[str, ...] = (), code: int | None = 0) -> str:
        return self.cove("exec", *flags, self.id, *words, code=code).out

    def wait_log(self, text: str) -> None:
        wait_until(lambda: text in self.cove("logs", self.id).out, f"the log has {text!r}")

    def state(self) -> dict[str, object]:
        found: dict[str, object] = self.cove.inspect(self.id)["State"]
        return found


@contextlib.contextmanager
def machine(
    cove: Cove, isolation: str, *words: str, flags: tuple[str, ...] = ()
) -> Iterator[Machine]:
    made = Machine(cove, isolation, *words, flags=flags)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def up(cove: Cove, isolation: str) -> Iterator[Machine]:
    """One that stays up for the tests that do it no harm."""
    with machine(cove, isolation, "sh", "-c", LOOP, flags=("--memory", "64m")) as made:
        made.wait_log("begun")
        yield made


# ---- exec ----


def test_exec_has_streams_and_an_exit_code(up: Machine) -> None:
    done = up.cove("exec", up.id, "sh", "-c", "echo out; echo err >&2; exit 7", code=7)
    assert (done.out, done.err) == ("out\n", "err\n")


def test_exec_reads_input_to_its_end(up: Machine) -> None:
    assert up.cove("exec", "-i", up.id, "cat", stdin="one\ntwo").out == "one\ntwo"
    assert up.cove("exec", up.id, "cat", stdin="secret").out == ""


def test_exec_outlives_its_input(up: Machine) -> None:
    """What comes for a program that reads no more, or has ended, is thrown away."""
    wait = "exec <&-; echo shut; until test -e /tmp/go; do sleep 0.1; done; echo end; exit 3"
    reader = up.cove.spawn("exec", "-i", up.id, "sh", "-c", wait, stdin=subprocess.PIPE)
    assert reader.stdin is not None and reader.stdout is not None
    assert reader.stdout.readline() == b"shut\n"
    with contextlib.suppress(BrokenPipeError):
        reader.stdin.write(bytes(10_000))
        reader.stdin.flush()
    up.exec("touch", "/tmp/go")
    assert (reader.communicate(timeout=180)[0], reader.returncode) == (b"end\n", 3)
    up.exec("rm", "/tmp/go")


def test_exec_as_a_user_in_a_directory_with_an_environment(up: Machine) -> None:
    flags = ("-u", "ada", "-w", "/home/ada", "-e", "A=b")
    assert up.exec("sh", "-c", "id -un; pwd; echo $A $HOME", flags=flags).split("\n")[:3] == [
        "ada",
        "/home/ada",
        "b /home/ada",
    ]


def test_exec_of_what_is_not_there_is_127(up: Machine) -> None:
    done = up.cove("exec", up.id, "nope", code=127)
    assert 'cannot run "nope": no such file or directory' in done.err


def test_exec_in_the_background(up: Machine) -> None:
    up.exec("touch", "/tmp/made", flags=("-d",))
    wait_until(lambda: up.exec("ls", "/tmp").split().count("made") == 1, "the file is made")


def test_exec_sees_the_machines_processes_and_no_others(up: Machine) -> None:
    shown = up.exec("ps", "-o", "pid,args").splitlines()
    assert any(line.split()[0] == "1" and "while" in line for line in shown)
    assert not any("cove-" in line or "qemu" in line or "kthread" in line for line in shown)


def test_many_at_once(up: Machine) -> None:
    def one(number: int) -> str:
        return up.exec("sh", "-c", f"echo {number}; exit {number}", code=number).strip()

    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(one, range(24))) == [str(number) for number in range(24)]


def test_megabytes_both_ways(up: Machine) -> None:
    data = os.urandom(4 << 20)
    with (
        subprocess.Popen(
            [front_path(), "exec", "-i", up.id, "cat"],
            env=up.cove.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        ) as child
    ):  # fmt: skip
        out, _ = child.communicate(data, timeout=120)
    assert out == data


def test_the_last_words_are_not_lost(up: Machine) -> None:
    for _ in range(5):
        out = up.exec("sh", "-c", "head -c 100000 /dev/zero | tr '\\0' x; exit 5", code=5)
        assert len(out) == 100_000


# ---- terminals ----


class Terminal:
    """``cove`` on a terminal of ours."""

    def __init__(self, cove: Cove, *words: str, rows: int = 30, columns: int = 100) -> None:
        self.ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (rows, columns))
        self.child = subprocess.Popen(
            ["setsid", "--ctty", front_path(), *words],
            env=cove.env, stdin=theirs, stdout=theirs, stderr=theirs,
        )  # fmt: skip
        os.close(theirs)
        self.heard = b""

    def wait(self, text: bytes) -> None:
        late = time.monotonic() + 30
        while text not in self.heard:
            assert select.select([self.ours], [], [], max(0, late - time.monotonic()))[0], (
                self.heard
            )
            self.heard += os.read(self.ours, 4096)

    def type(self, data: bytes) -> None:
        os.write(self.ours, data)

    def end(self) -> int:
        """Its exit code."""
        with contextlib.suppress(OSError):
            while data := os.read(self.ours, 4096):
                self.heard += data
        return self.child.wait(180)

    def close(self) -> None:
        self.child.kill()
        self.child.wait()
        os.close(self.ours)


@contextlib.contextmanager
def terminal(cove: Cove, *words: str) -> Iterator[Terminal]:
    made = Terminal(cove, *words)
    try:
        yield made
    finally:
        made.close()


def test_a_terminal_has_a_size_and_follows_its_changes(cove: Cove, isolation: str) -> None:
    words = ("run", "--rm", "-it", "--isolation", isolation, "bb", "sh")
    with terminal(cove, *words) as seen:
        seen.wait(b"# ")
        seen.type(b"stty size; tty; echo do''ne\r")
        seen.wait(b"done")
        assert b"30 100" in seen.heard and b"/dev/pts/" in seen.heard
        termios.tcsetwinsize(seen.ours, (44, 132))
        seen.type(b"until stty size | grep 44; do :; done; echo fol''lowed\r")
        seen.wait(b"followed")
        assert b"44 132" in seen.heard
        seen.type(b"""sh -c 'echo sle""eping; exec sleep 100'\r""")
        seen.wait(b"sleeping")
        seen.type(b"\x03")
        seen.type(b"echo inter''rupted $?; exit 5\r")
        seen.wait(b"interrupted 130")
        assert seen.end() == 5


def test_exec_on_a_terminal(up: Machine) -> None:
    with terminal(up.cove, "exec", "-it", up.id, "sh") as seen:
        seen.wait(b"# ")
        seen.type(b"stty size; exit 6\r")
        assert seen.end() == 6
        assert b"30 100" in seen.heard


def test_attach_and_detach(cove: Cove, isolation: str) -> None:
    with machine(cove, isolation, "sh", flags=("-it",)) as shell:
        with terminal(cove, "attach", shell.id) as seen:
            seen.type(b"\r")
            seen.wait(b"# ")
            seen.type(b"echo a''ttached\r")
            seen.wait(b"attached")
            seen.type(b"\x10\x11")
            assert seen.end() == 0
        assert shell.state()["Running"] is True
        with terminal(cove, "attach", shell.id) as seen:
            seen.type(b"exit 4\r")
            assert seen.end() == 4


# ---- life ----


def test_stop_lets_it_end_by_itself(cove: Cove, isolation: str) -> None:
    with machine(cove, isolation, "sh", "-c", LOOP) as one:
        one.wait_log("begun")
        cove("stop", one.id)
        assert one.state()["ExitCode"] == 3
        assert cove("logs", one.id).out == "begun\ncaught\n"


def test_stop_ends_who_does_not(cove: Cove, isolation: str) -> None:
    loop = "trap '' TERM; echo begun; while :; do sleep 1; done"
    with machine(cove, isolation, "sh", "-c", loop) as one:
        one.wait_log("begun")
        cove("stop", "-t", "1", one.id)
        state = one.state()
        assert (state["ExitCode"], state["Cause"]) == (137, "killed by SIGKILL (cove stop)")


def test_kill_wait_and_start_again(cove: Cove, isolation: str) -> None:
    """What it wrote is there again."""
    with machine(cove, isolation, "sh", "-c", LOOP) as one:
        one.wait_log("begun")
        one.exec("sh", "-c", "echo kept > /kept")
        waiting = cove.spawn("wait", one.id)
        cove("kill", one.id)
        assert waiting.communicate(timeout=180)[0] == b"137\n"
        assert one.state()["Cause"] == "killed by SIGKILL (cove kill)"
        cove("start", one.id)
        assert one.exec("cat", "/kept") == "kept\n"
        cove("restart", "-t", "5", one.id)
        assert one.exec("cat", "/kept") == "kept\n"


def test_a_restart_of_what_was_run_with_rm(cove: Cove, isolation: str) -> None:
    """What a virtual machine writes then is on no disk."""
    with machine(cove, isolation, "sleep", "1000", flags=("--rm",)) as one:
        done = cove("restart", "-t", "0", one.id, code=int(isolation == "vm"))
        assert ("was run with --rm is on no disk when it ends" in done.err) == (isolation == "vm")
        assert one.state()["Running"] is True


def test_signals_reach_the_program(cove: Cove, isolation: str) -> None:
    loop = "trap 'echo usr1' USR1; echo begun; while :; do sleep 0.1; done"
    with machine(cove, isolation, "sh", "-c", loop) as one:
        one.wait_log("begun")
        cove("kill", "-s", "USR1", one.id)
        one.wait_log("usr1")
        cove("kill", "-s", "STOP", one.id)
        state = ("sh", "-c", "grep State: /proc/1/status")
        wait_until(lambda: "stopped" in one.exec(*state), "it is stopped")
        cove("kill", "-s", "CONT", one.id)
        wait_until(lambda: "stopped" not in one.exec(*state), "it goes on")


def test_rm_f_leaves_nothing(cove: Cove, isolation: str) -> None:
    one = Machine(cove, isolation, "sleep", "1000")
    directory = Path(cove.inspect(one.id)["LogPath"]).parent
    assert directory.is_dir()
    cove("rm", "-f", one.id)
    wait_until(lambda: not directory.exists(), "its directory is gone")
    assert "no machine or image has this name" in cove("inspect", one.id, code=1).err


def test_a_daemon_that_is_killed_is_not_missed(cove: Cove, isolation: str) -> None:
    with machine(cove, isolation, "sh", "-c", LOOP) as one:
        one.wait_log("begun")
        cove.kill_daemon()
        assert one.exec("echo", "there") == "there\n"
        cove("stop", one.id)
        assert one.state()["ExitCode"] == 3
        assert cove("logs", one.id).out == "begun\ncaught\n"


def test_a_time_limit(cove: Cove, isolation: str) -> None:
    flags = ("--rm", "--isolation", isolation, "--timeout", "1")
    done = cove("run", *flags, "bb", "sleep", "1000", code=137)
    early = "" if isolation == "container" else "|1 s were over before its program began"
    assert re.fullmatch(f"cove: timeout: (it ran longer than 1 s{early})\n", done.err), done.err


def test_pause_and_unpause(cove: Cove, isolation: str) -> None:
    with machine(cove, isolation, "sh", "-c", LOOP) as one:
        one.wait_log("begun")
        cove("pause", one.id)
        assert one.state()["Status"] == "paused"
        assert "is paused" in cove("exec", one.id, "true", code=1).err
        assert json.loads(cove("stats", "--no-stream", "--format", "json", one.id).out)
        cove("unpause", one.id)
        assert one.exec("echo", "awake") == "awake\n"
        cove("pause", one.id)
        cove("stop", "-t", "10", one.id)
        assert one.state()["ExitCode"] == 3


def test_logs_keep_both_streams(cove: Cove, isolation: str) -> None:
    with machine(cove, isolation, "sh", "-c", "echo out; echo err >&2") as one:
        cove("wait", one.id)
        done = cove("logs", one.id)
        assert (done.out, done.err) == ("out\n", "err\n")


# ---- looking at it ----


def test_top_shows_the_machines_processes(up: Machine) -> None:
    lines = up.cove("top", up.id).out.splitlines()
    assert lines[0].split() == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    shown = [line.split(None, 7) for line in lines[1:]]
    assert [row[0] for row in shown if row[7].startswith("sh -c trap")] == ["root"]
    assert all(row[7].startswith(("sh -c trap", "sleep 1")) for row in shown), lines


def test_stats_count_the_machine(up: Machine) -> None:
    line = up.cove("stats", "--no-stream", "--format", "json", up.id).out
    found = json.loads(line)
    assert found["MemUsage"].endswith(" / 64MiB"), found
    assert 1 <= int(found["PIDs"]) <= 4
    assert float(found["MemPerc"].rstrip("%")) < 60


def test_inspect_tells_the_walls(up: Machine) -> None:
    walls = up.cove.inspect(up.id)["Walls"]
    assert walls[0].startswith("container:" if up.isolation == "container" else "virtual machine:")
    assert any("seccomp: cove's allow-list" in line for line in walls)
    emulator = up.cove.inspect(up.id)["Emulator"]
    assert bool(emulator) == (up.isolation == "vm")


def test_plan_prints_what_run_would_do(cove: Cove, isolation: str) -> None:
    text = cove("plan", "--isolation", isolation, "bb", "echo", "hi").out
    assert "execve         echo hi env" in text
    assert ("spawn          messages /usr/bin/qemu-system-" in text) == (isolation == "vm")
    data = json.loads(cove("plan", "--json", "--isolation", isolation, "bb", "true").out)
    assert ("guest" in data) == (isolation == "vm")


# ---- files ----


def test_cp_in_and_out(up: Machine, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub/file").write_text("content")
    (tree / "link").symlink_to("sub/file")
    up.cove("cp", str(tree), f"{up.id}:/tmp/copied")
    assert up.exec("cat", "/tmp/copied/link") == "content"
    up.cove("cp", f"{up.id}:/tmp/copied", str(tmp_path / "back"))
    assert (tmp_path / "back/sub/file").read_text() == "content"
    assert os.readlink(tmp_path / "back/link") == "sub/file"
    done = up.cove("cp", f"{up.id}:/nowhere", str(tmp_path), code=1)
    assert "cannot find /nowhere in" in done.err


def test_a_large_file_is_copied_whole(up: Machine, tmp_path: Path) -> None:
    data = os.urandom(3 << 20)
    (tmp_path / "large").write_bytes(data)
    up.cove("cp", str(tmp_path / "large"), f"{up.id}:/tmp/large")
    up.cove("cp", f"{up.id}:/tmp/large", str(tmp_path / "again"))
    assert (tmp_path / "again").read_bytes() == data


def test_diff_export_and_commit(cove: Cove, isolation: str) -> None:
    with machine(cove, isolation, "sh", "-c", LOOP) as one:
        one.wait_log("begun")
        one.exec("sh", "-c", "echo new > /etc/new; rm /etc/group; echo more >> /etc/passwd")
        changes = cove("diff", one.id).out.splitlines()
        assert {"C /etc", "A /etc/new", "D /etc/group", "C /etc/passwd"} <= set(changes)
        assert not any("proc" in line or "/dev/" in line for line in changes)
        ran = subprocess.run(
            [front_path(), "export", one.id], env=cove.env, capture_output=True, timeout=180,
            check=True,
        )  # fmt: skip
        with tarfile.open(fileobj=io.BytesIO(ran.stdout)) as tar:
            names = set(tar.getnames())
        assert "etc/new" in names and "etc/group" not in names
        image = f"made-of-{isolation}"
        cove("commit", one.id, image)
        assert one.exec("echo", "still here") == "still here\n"
        made = cove("run", "--rm", "--isolation", isolation, image, "cat", "/etc/new")
        assert made.out == "new\n"
        cove("image", "rm", image)
