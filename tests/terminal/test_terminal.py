"""Foreground sessions as people have them: a shell in a terminal emulator, a real engine, keys."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.driver import Cove, front_path
from tests.terminal.tmux import PROMPT, Tmux, tmux


@pytest.fixture
def screen(cove: Cove) -> Iterator[Tmux]:
    if not shutil.which("tmux"):
        pytest.skip("needs tmux: not installed")
    with tmux(cove.env | {"COVE": str(front_path())}) as terminal:
        yield terminal


@pytest.fixture
def fresh_screen(fresh_cove: Cove) -> Iterator[Tmux]:
    if not shutil.which("tmux"):
        pytest.skip("needs tmux: not installed")
    with tmux(fresh_cove.env | {"COVE": str(front_path())}) as terminal:
        yield terminal


def enter(screen: Tmux, command: str, prompt: str = "inside# ") -> None:
    """Run a shell in a machine and wait until it asks."""
    screen.type(f"$COVE {command} sh")
    screen.wait_for("/ # ")
    screen.type(f"PS1='{prompt}'")
    screen.wait_for(f"^{prompt}$", literal=False)


def leave(screen: Tmux, code: int) -> None:
    """Back in the outer shell, whose terminal is in order again."""
    screen.wait_for(re.escape(PROMPT.strip()) + r"\s*\Z", literal=False)
    screen.clear()
    screen.type("echo code=$?; stty -a")
    seen = screen.wait_for(rf"\bcode={code}\b", literal=False)
    seen = screen.wait_for(r"\becho\b.*\bechoe\b", literal=False)
    assert " -icanon" not in seen
    assert " -echo " not in seen
    assert " -opost" not in seen


def test_run_interactive_and_exit_code(screen: Tmux) -> None:
    enter(screen, "run --rm -it bb")
    screen.type("tty; exit 42")
    screen.wait_for("/dev/pts/0")
    screen.wait_for(PROMPT)
    leave(screen, 42)


def test_size_and_resize(screen: Tmux) -> None:
    enter(screen, "run --rm -it bb")
    screen.type("stty size")
    screen.wait_for("24 80")
    screen.resize(40, 100)
    screen.type("until stty size | grep 100; do :; done")
    screen.wait_for("40 100")
    screen.type("exit")
    leave(screen, 0)


def test_control_c_goes_to_the_program_inside(screen: Tmux) -> None:
    enter(screen, "run --rm -it bb")
    screen.type("echo go; sleep 1000")
    screen.wait_for("^go", literal=False)
    screen.keys("C-c")
    screen.wait_for(r"inside# $", literal=False)
    screen.type("exit")
    leave(screen, 130)


def test_control_c_without_a_terminal_inside(screen: Tmux) -> None:
    screen.type("$COVE run --rm bb sh -c 'echo up; trap \"exit 9\" INT; while :; do sleep 1; done'")
    screen.wait_for("^up", literal=False)
    screen.keys("C-c")
    leave(screen, 9)


def test_control_c_that_process_1_ignores_is_explained(cove: Cove, screen: Tmux) -> None:
    screen.type("$COVE run --rm --name stubborn bb sh -c 'echo up; exec sleep 1000'")
    screen.wait_for("^up", literal=False)
    note = "cove: the machine goes on after 3 SIGINT"
    for _ in range(50):  # signals of the same moment are one
        if note in screen.screen():
            break
        screen.keys("C-c")
    screen.wait_for(note)
    cove("kill", "stubborn")
    leave(screen, 137)
    screen.type("$COVE run --rm --init bb sh -c 'echo up; exec sleep 1000'")
    screen.wait_for("^up", literal=False)
    screen.keys("C-c")
    leave(screen, 130)


def test_control_d_ends_the_shell(screen: Tmux) -> None:
    enter(screen, "run --rm -it bb")
    screen.keys("C-d")
    leave(screen, 0)


def test_control_d_ends_input_without_a_terminal_inside(screen: Tmux) -> None:
    screen.type("$COVE run --rm -i bb sh -c 'echo up; cat; echo end'")
    screen.wait_for("^up", literal=False)
    screen.type("a line")
    screen.wait_for(r"^a line\na line$", literal=False)
    screen.keys("C-d")
    screen.wait_for("^end$", literal=False)
    leave(screen, 0)


def test_detach_and_attach_again(cove: Cove, screen: Tmux) -> None:
    enter(screen, "run -it --name held bb")
    screen.type("word=kept")
    screen.keys("C-p", "C-q")
    screen.wait_for(rf"^{PROMPT.strip()}\s*\Z", literal=False)
    leave(screen, 0)
    assert cove.inspect("held")["State"]["Running"]
    screen.type("$COVE attach held")
    screen.wait_for("attach held")
    screen.keys("Enter")
    screen.wait_for("^inside# $", literal=False)
    screen.type("echo it is $word; exit 5")
    screen.wait_for("it is kept")
    leave(screen, 5)
    cove("rm", "held")


def test_detach_keys_of_ones_own(cove: Cove, screen: Tmux) -> None:
    enter(screen, "run -it --detach-keys ctrl-a,x --name held2 bb")
    screen.keys("C-a", "x")
    leave(screen, 0)
    cove("rm", "-f", "held2")


def test_suspend_and_foreground(screen: Tmux) -> None:
    screen.type("$COVE run --rm -i bb sh -c 'echo up; cat'")
    screen.wait_for("^up", literal=False)
    screen.keys("C-z")
    screen.wait_for("Stopped")
    screen.clear()
    screen.type("fg")
    screen.wait_for("echo up; cat")  # the shell says what goes on: from here on the keys are its
    screen.type("hello")
    screen.wait_for(r"^hello\nhello$", literal=False)
    screen.keys("C-d")
    leave(screen, 0)


def test_background_interactive_waits_for_fg(screen: Tmux) -> None:
    screen.type("$COVE run --rm -it bb sh &")
    screen.wait_for(PROMPT)
    screen.type("while jobs >/tmp/jobs.$$; ! grep -q Stopped /tmp/jobs.$$; do :; done; echo is so")
    screen.wait_for("^is so", literal=False)
    screen.type("rm /tmp/jobs.$$; fg")
    screen.wait_for("/ # ")
    screen.type("exit 3")
    leave(screen, 3)


def test_exec_interactive(cove: Cove, screen: Tmux) -> None:
    cove("run", "-d", "--name", "host-of-exec", "bb", "sleep", "1000")
    enter(screen, "exec -it host-of-exec")
    screen.type("stty size; exit 6")
    screen.wait_for("24 80")
    leave(screen, 6)
    cove("rm", "-f", "host-of-exec")


def test_session_outlives_the_daemon(fresh_cove: Cove, fresh_screen: Tmux) -> None:
    """kill -9 of the daemon in mid-session: input, output and the exit code go on."""
    screen = fresh_screen
    enter(screen, "run -it --name survivor bb")
    fresh_cove.kill_daemon()
    screen.type("echo still $((40 + 2))")
    screen.wait_for("still 42")
    screen.type("exit 7")
    leave(screen, 7)
    assert fresh_cove.inspect("survivor")["State"]["ExitCode"] == 7


HTTP = "COVE_HOST=unix://$COVE_ROOT/run/api.sock $COVE"


def test_over_http(cove: Cove, screen: Tmux) -> None:
    """cove-python is its own front: raw mode, size, detach keys and exit code all the same."""
    screen.type(f"{HTTP} run -it --name far bb sh")
    screen.wait_for("/ # ")
    screen.resize(30, 90)
    screen.type("PS1='inside# '; until stty size | grep 90; do :; done")
    screen.wait_for("30 90")
    screen.keys("C-p", "C-q")
    leave(screen, 0)
    screen.type(f"{HTTP} attach far")
    screen.wait_for("attach far")
    screen.keys("Enter")
    screen.wait_for("^inside# $", literal=False)
    screen.type("echo go; sleep 1000")
    screen.wait_for("^go", literal=False)
    screen.keys("C-c")
    screen.wait_for(r"inside# $", literal=False)
    screen.type("exit 8")
    leave(screen, 8)
    cove("rm", "far")


def test_suspend_over_http(screen: Tmux) -> None:
    screen.type(f"{HTTP} run --rm -i bb sh -c 'echo up; cat'")
    screen.wait_for("^up", literal=False)
    screen.keys("C-z")
    screen.wait_for("Stopped")
    screen.clear()
    screen.type("fg")
    screen.wait_for("echo up; cat")  # the shell says what goes on: from here on the keys are its
    screen.type("hello")
    screen.wait_for(r"^hello\nhello$", literal=False)
    screen.keys("C-d")
    leave(screen, 0)


def test_signal_ends_the_front_and_restores_the_terminal(cove: Cove, screen: Tmux) -> None:
    # No shell: it asks the terminal where the cursor is, whose answer may come after the front.
    cove("run", "-dit", "--name", "signalled", "bb", "cat")
    screen.type("$COVE attach --sig-proxy=false signalled")
    screen.wait_for("sig-proxy=false")
    screen.type("hello")
    screen.wait_for(r"^hello\nhello$", literal=False)
    os.kill(foreground(screen), signal.SIGTERM)
    screen.wait_for("Terminated")
    leave(screen, 143)
    assert cove.inspect("signalled")["State"]["Running"]
    cove("rm", "-f", "signalled")


def foreground(screen: Tmux) -> int:
    """The foreground process group of the shell's terminal, as proc(5) tells it."""
    pane = screen.tmux("display-message", "-p", "#{pane_pid}").strip()
    return int(Path(f"/proc/{pane}/stat").read_text().rsplit(")", 1)[1].split()[5])


def test_closed_window_leaves_the_machine(cove: Cove, screen: Tmux) -> None:
    enter(screen, "run -it --name left bb")
    screen.tmux("respawn-window", "-k", "/bin/dash", "-i")
    screen.wait_for(PROMPT)
    assert cove.inspect("left")["State"]["Running"]
    screen.type("$COVE attach left")
    screen.wait_for("attach left")
    screen.keys("Enter")
    screen.wait_for("^inside# $", literal=False)
    screen.type("exit 2")
    leave(screen, 2)
    cove("rm", "left")
