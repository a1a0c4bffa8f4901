"""The words of ``restart pause unpause rename update port`` and of prune: flags, help, refusals."""

from __future__ import annotations

import os
import select
import time

import pytest

from tests.driver import Cove

FLAGS = {
    "restart": ("-t, --timeout", "-s, --signal"),
    "stop": ("-t, --timeout", "-s, --signal"),
    "kill": ("-s, --signal",),
    "update": ("-m, --memory", "--memory-swap", "--memory-reservation", "--cpus", "--cpuset-cpus",
               "-c, --cpu-shares", "--cpu-period", "--cpu-quota", "--cpuset-mems", "--pids-limit",
               "--restart"),
    "container prune": ("--filter", "-f, --force"),
    "rm": ("-f, --force", "-v, --volumes"),
}  # fmt: skip


@pytest.mark.parametrize("command", FLAGS)
def test_help_names_dockers_flags(cove: Cove, command: str) -> None:
    text = cove(*command.split(), "--help").out
    assert text.startswith(f"Usage: cove {command} [OPTIONS]")
    for flag in FLAGS[command]:
        assert flag in text, flag


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("pause",), "cannot run cove pause: MACHINE is missing"),
        (("rename", "one"), "cannot run cove rename: NAME is missing"),
        (("rename", "a", "b", "c"), 'cannot read "c": cove rename takes no more words'),
        (("port", "a", "80", "81"), 'cannot use the word "81": cove port shows one port'),
        (("restart", "-t", "soon", "a"), "soon"),
        (("restart", "-s", "NOSUCH", "a"), "no such signal"),
        (("update", "--memory", "much", "a"), "much"),
        (("update", "--cpu-rt-runtime", "1", "a"), "cannot use --cpu-rt-runtime"),
        (("start", "--checkpoint", "c", "a"), "cannot use --checkpoint: cove keeps no checkpoints"),
        (("prune",), "cove has no such command"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistake_is_125_before_anything_is_done(
    cove: Cove, words: tuple[str, ...], message: str
) -> None:
    done = cove(*words, code=125)
    assert message in done.err and not done.out


@pytest.mark.parametrize(("answer", "removed"), [(b"y\n", True), (b"n\n", False)])
def test_prune_asks_on_a_terminal(fresh_cove: Cove, answer: bytes, removed: bool) -> None:
    """The answer is read by a process of the caller's own, never by the daemon."""
    fresh_cove("create", "--name", "asked", "bb", "true")
    master, slave = os.openpty()
    ends = {"stdin": slave, "stdout": slave, "stderr": slave}
    with fresh_cove.spawn("container", "prune", start_new_session=True, **ends) as front:
        os.close(slave)
        read_until(master, b"[y/N] ")
        os.write(master, answer)
        said = read_until(master, b"reclaimed space" if removed else answer.strip())
        assert (b"Deleted Containers:" in said) == removed
        assert front.wait(180) == 0
        os.close(master)
    assert bool(fresh_cove("ps", "-aq").out) != removed


def read_until(fd: int, text: bytes) -> bytes:
    seen, late = b"", time.monotonic() + 60
    while text not in seen and time.monotonic() < late:
        if select.select([fd], [], [], 1)[0]:
            seen += os.read(fd, 4096)
    assert text in seen, seen
    return seen
