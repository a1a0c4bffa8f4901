"""A real terminal emulator for tests: tmux on its own socket, a shell in it, keys and screen."""

from __future__ import annotations

import os
import re
import select
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 180.0
PROMPT = "shell> "


class Tmux:
    """One window with a plain shell. Every write to it wakes ``wait_for``: nothing sleeps."""

    def __init__(self, directory: Path, env: dict[str, str], rows: int, columns: int) -> None:
        self._socket = str(directory / "socket")
        # Opened for reading and writing: tmux's end may come and go without an end of file.
        os.mkfifo(directory / "output")
        self._output = os.open(directory / "output", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._env = env | {"TERM": "xterm", "PS1": PROMPT, "ENV": "", "LC_ALL": "C.UTF-8"}
        size = ["-x", str(columns), "-y", str(rows)]
        self.tmux("new-session", "-d", *size, "/bin/dash", "-i")
        self.tmux("pipe-pane", f"exec cat >{directory}/output")
        self.wait_for(PROMPT)

    def tmux(self, *words: str) -> str:
        ran = subprocess.run(
            ["tmux", "-u", "-S", self._socket, "-f", "/dev/null", *words],
            env=self._env,
            capture_output=True,
            text=True,
            check=True,
            timeout=PATIENCE,
        )
        return ran.stdout

    def type(self, text: str) -> None:
        """``text`` as it is, and Enter."""
        self.tmux("send-keys", "-l", text)
        self.tmux("send-keys", "Enter")

    def keys(self, *names: str) -> None:
        """Keys by tmux's names: C-c, C-z, Up."""
        self.tmux("send-keys", *names)

    def resize(self, rows: int, columns: int) -> None:
        self.tmux("resize-window", "-x", str(columns), "-y", str(rows))

    def screen(self) -> str:
        """What a person would see, history included; wrapped lines joined."""
        return self.tmux("capture-pane", "-p", "-J", "-S", "-")

    def clear(self) -> None:
        """Forget what is on the screen, so that ``wait_for`` finds only what is new."""
        self.tmux("send-keys", "-R")
        self.tmux("clear-history")

    def wait_for(self, pattern: str, *, literal: bool = True) -> str:
        """The screen as soon as it shows ``pattern``."""
        wanted = re.compile(re.escape(pattern) if literal else pattern, re.MULTILINE)
        end = time.monotonic() + PATIENCE
        while not wanted.search(screen := self.screen()):
            left = end - time.monotonic()
            assert left > 0, f"{pattern!r} did not come; the screen:\n{screen}"
            # The pipe may be ahead of the screen by a moment: look again soon after it spoke.
            if select.select([self._output], [], [], min(left, 0.5))[0]:
                os.read(self._output, 65536)
        return screen

    def close(self) -> None:
        subprocess.run(
            ["tmux", "-S", self._socket, "kill-server"], capture_output=True, timeout=PATIENCE
        )
        os.close(self._output)


@contextmanager
def tmux(env: dict[str, str], rows: int = 24, columns: int = 80) -> Iterator[Tmux]:
    with tempfile.TemporaryDirectory(prefix="cove-x-", dir="/tmp") as directory:
        terminal = Tmux(Path(directory), env, rows, columns)
        try:
            yield terminal
        finally:
            terminal.close()
