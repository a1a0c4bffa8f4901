"""Foreground sessions as people have them: a shell in a terminal emulator, a real engine, keys."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

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
    screen.clear()
    screen.type("echo code=$?; stty -a")
    seen = screen.wait_for(f"^code={code}$", literal=False)
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
    screen.type("trap 'stty size' WINCH")
    screen.resize(40, 100)
    screen.keys("Enter")
    screen.wait_for("40 100")
    screen.type("exit")
    leave(screen, 0)


def test_control_c_goes_to_the_program_inside(screen: Tmux) -> None:
    enter(screen, "run --rm -it bb")
    screen.type("sleep 1000; echo after=$?")
    screen.wait_for("sleep 1000")
    screen.keys("C-c")
    screen.wait_for(r"inside# $", literal=False)
    screen.type("exit")
    leave(screen, 130)


def test_control_c_without_a_terminal_inside(screen: Tmux) -> None:
    screen.type("$COVE run --rm bb sh -c 'echo up; trap \"exit 9\" INT; while :; do sleep 1; done'")
    screen.wait_for("^up", literal=False)
    screen.keys("C-c")
    leave(screen, 9)


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
    screen.type("fg")
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
