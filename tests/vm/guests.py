"""A guest under test: QEMU started with the planner's own command line, its channels held here."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from cove.plan.facts import Facts
from cove.planner.virtual.qemu import Disk, Guest, Nic, argv, plan_qemu, program
from cove.planner.virtual.qemu import Kernel as Boot
from tests.vm.conftest import Stored

SECONDS = 300.0
"""Before a test is given up; a guest is ready in two."""


NO_NETWORK = b"qemu-system-x86_64: warning: hub 0 is not connected to host network\n"
"""Of a card whose network is plugged in later."""


class Running:
    """``with Running(…) as guest:``; QEMU is gone afterwards."""

    def __init__(
        self,
        stored: Stored,
        init: bytes,
        facts: Facts,
        root: Path,
        *,
        scratch: Path | None = None,
        cpus: int = 1,
        nic: bool = False,
        memory_fd: int = -1,
        shared: bool = False,
        clone: bool = False,
    ) -> None:
        self._stack = ExitStack()
        self._passed: list[int] = []
        kernel = stored.kernel
        boot = Boot(
            self._hold(stored.kernels.open_kernel(kernel)),
            self._hold(stored.kernels.open_initrd(kernel, init)),
            kernel.hz,
            frozenset(kernel.options),
        )
        disks = [Disk("root", self._hold(os.open(root, os.O_RDONLY)), read_only=True)]
        if scratch is not None:
            disks.append(Disk("scratch", self._hold(os.open(scratch, os.O_RDWR)), read_only=False))
        self.agent, agent = self._pair()
        self.console, console = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._stack.callback(os.close, self.console)
        self.qmp, qmp = self._pair()
        self.plan = Guest(
            kernel.arch, 256 << 20, cpus, agent, self._hold(console), qmp, boot, tuple(disks),
            acpi=boot.needs_acpi, memory_fd=memory_fd, shared=shared,
            nics=(Nic("02:00:00:00:00:01"),) if nic else (),
        )  # fmt: skip
        if clone:
            self.plan = dataclasses.replace(self.plan, kernel=None)
        if memory_fd >= 0:
            self._passed.append(memory_fd)
        self._line = (program(self.plan), *argv(plan_qemu(self.plan, facts)))
        self.heard: dict[str, bytes] = {"agent": b"", "console": b""}

    def _hold(self, fd: int) -> int:
        self._stack.callback(os.close, fd)
        self._passed.append(fd)
        return fd

    def _pair(self) -> tuple[socket.socket, int]:
        ours, theirs = socket.socketpair()
        self._stack.enter_context(ours)
        self._stack.enter_context(theirs)
        self._passed.append(theirs.fileno())
        return ours, theirs.fileno()

    def __enter__(self) -> Self:
        self.started = time.monotonic()
        self.qemu = subprocess.Popen(
            self._line, pass_fds=self._passed, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.qemu.kill()
        self.qemu.wait()
        if self.qemu.stderr is not None:
            self.qemu.stderr.close()
        self._stack.close()

    def wait(self, true: Callable[[], bool], what: str) -> float:
        """Until it is so, reading what the guest says; seconds since QEMU was started."""
        late = self.started + SECONDS
        pidfd = os.pidfd_open(self.qemu.pid)
        try:
            while not true():
                names = {self.agent.fileno(): "agent", self.console: "console"}
                ready, _, _ = select.select([*names, pidfd], [], [], late - time.monotonic())
                assert ready, f"waited in vain: {what}\n{self.told()}"
                for fd in ready:
                    if fd in names:
                        self.heard[names[fd]] += os.read(fd, 1 << 16)
                if ready == [pidfd] and not true():
                    raise AssertionError(f"QEMU ended: {what}\n{self.told()}")
        finally:
            os.close(pidfd)
        return time.monotonic() - self.started

    def wait_ready(self) -> float:
        return self.wait(lambda: self.heard["agent"].endswith(b"\nready\n"), "the guest is ready")

    def wait_end(self) -> int:
        """QEMU's exit code."""
        _, complaint = self.qemu.communicate(timeout=SECONDS)
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.console, 1 << 16):
                self.heard["console"] += data
        assert complaint in (b"", NO_NETWORK), complaint
        return self.qemu.returncode

    def lines(self) -> dict[str, str]:
        """What the guest said on the agent's port: word and rest of each line."""
        text = self.heard["agent"].decode()
        return dict(line.partition(" ")[::2] for line in text.splitlines())

    def told(self) -> str:
        """For a message: everything that was heard."""
        if self.qemu.poll() is None:
            self.qemu.kill()
        _, complaint = self.qemu.communicate()
        parts = {**self.heard, "qemu": complaint or b""}
        return "\n".join(f"--- {name}\n{data.decode(errors='replace')}" for name, data in
                         parts.items())  # fmt: skip
