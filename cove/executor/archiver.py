"""Runs a plan that ends in ``archive``: cove's own archiver inside a machine, its tar on a pipe.

It has no monitor: what it does is over when the verb is, and it ends with the daemon.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from cove.errors import BadArchive, Conflict, CoveError, HostError, NotFound, Unsupported, printable
from cove.executor.explain import GUEST_SIDE, explain
from cove.executor.messages import Report
from cove.linux.program import init_program
from cove.linux.pump import write_all
from cove.plan import wire
from cove.plan.ops import Plan

PLAN_FAILED, GUEST_LOST = 125, 137
UNHEARD = (-signal.SIGPIPE, 128 + signal.SIGPIPE)
PIPE = 1 << 20
RESULT_MAX = 64 << 20
"""Of what it says for the daemon's own ears: lists of names that a machine made up."""
COMPLAINT_MAX = 64 << 10
REPORT = re.compile(rb"(guest )?(host|machine) ([0-9]{1,9}) \S+ (-?[0-9]{1,9}) ?(.*)", re.DOTALL)
MISSING, DAMAGED, TRUNCATED, REFUSED, LIMIT, FULL = 2, 3, 4, 5, 6, 7
"""Exit codes, of ``enum verdict`` in ``init/unpack.h``."""
Why = Callable[[Report], CoveError | None]
"""What is known of a report besides; None: nothing."""


class Room(Protocol):
    """How much may be brought in."""

    most: int
    """Bytes of an archive of which no part can have a place any more."""

    def check(self, done: int) -> None:
        """Raises when what came is too much, of which ``done`` bytes have gone in."""

    def full(self) -> CoveError: ...


class Archiver:
    """One that runs. ``stdin`` and ``stdout`` are the ends of its pipes that are ours, or -1."""

    def __init__(
        self, plan: Plan, child: subprocess.Popen[bytes], what: str, why: Why | None
    ) -> None:
        self._plan, self._child, self.what, self._why = plan, child, what, why
        self._lock = threading.Lock()
        self._stdin = child.stdin
        self.room: Room | None = None
        self.stopped = threading.Event()
        self.lost = False
        """Its guest did not tell its end."""

    @property
    def pid(self) -> int:
        """Of its launcher."""
        return self._child.pid

    @property
    def stdin(self) -> int:
        assert self._stdin is not None
        return self._stdin.fileno()

    @property
    def stdout(self) -> int:
        assert self._child.stdout is not None
        return self._child.stdout.fileno()

    def close_stdin(self) -> None:
        if self._stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._stdin.close()

    def stop(self) -> None:
        """End it from any thread; its own thread finds out, and waits for it."""
        self.stopped.set()
        with self._lock:
            if self._child.returncode is None:
                self._child.kill()

    def read_result(self) -> bytes:
        """What it says on standard output, to its end."""
        said = _read(self.stdout, RESULT_MAX)
        if said is None:
            self.stop()
            raise Unsupported(
                f"cannot {self.what}: there is too much to tell: more than {RESULT_MAX >> 20} MiB",
                exit_code=1,
            )
        return said

    def finish(self) -> None:
        """Wait for its end, and raise what went wrong. Its standard error has ended only when every
        process of it has.
        """
        child = self._child
        assert child.stderr is not None
        complaint = _read(child.stderr.fileno(), COMPLAINT_MAX)
        if complaint is None:  # cove's own says a line: it is a guest that talks
            child.kill()
            complaint = b"it complains without end"
        with self._lock:
            code = child.wait()
        if code:
            raise self._error(code, complaint)

    def blame(self) -> None:
        """For who reads its output no more: raises what went wrong in it before that, if anything
        did. One that had more to say would wait for a reader.
        """
        assert self._child.stdout is not None
        self._child.stdout.close()
        try:
            self.finish()
        except CoveError as error:
            unheard = error.message.endswith(os.strerror(errno.EPIPE))
            if not unheard and self._child.returncode not in UNHEARD:
                raise

    def _error(self, code: int, complaint: bytes) -> CoveError:
        if self.stopped.is_set():
            return Conflict(f"cannot {self.what}: the machine was started or removed meanwhile")
        match = REPORT.match(complaint)
        if code == PLAN_FAILED and match is not None:
            detail = match[5].rstrip(b"\n").decode("utf-8", "surrogateescape")
            side = int(match[2] == b"machine") + (GUEST_SIDE if match[1] else 0)
            report = Report(side, int(match[3]), int(match[4]), detail)
            known = self._why(report) if self._why is not None else None
            return known or explain(self._plan, report)
        if code == GUEST_LOST and self._plan.guest is not None:
            self.lost = True
            return Conflict(f"cannot {self.what}: the guest has ended, or broke the rules")
        text = complaint.decode("utf-8", "backslashreplace").strip().removeprefix("unpack: ")
        reason = printable(text) or f"its process ended with {code}"
        kind = _KINDS.get(code, HostError)
        return kind(f"cannot {self.what}: {reason}", exit_code=1)


def _read(fd: int, most: int) -> bytes | None:
    """To its end; None: that is further than ``most``."""
    data = bytearray()
    while piece := os.read(fd, PIPE):
        data += piece
        if len(data) > most:
            return None
    return bytes(data)


_KINDS: dict[int, type[CoveError]] = {
    MISSING: NotFound,
    DAMAGED: BadArchive,
    TRUNCATED: BadArchive,
    REFUSED: Unsupported,
    LIMIT: BadArchive,
    FULL: HostError,
}


@contextlib.contextmanager
def run_archiver(
    plan: Plan,
    fds: Mapping[str, int],
    *,
    what: str,
    reads: bool = False,
    why: Why | None = None,
) -> Iterator[Archiver]:
    """Run ``plan`` with registers ``fds``; killed, and waited for, if the block ends before it."""
    with contextlib.ExitStack() as stack:
        parts = []
        for part in (plan.host, plan.machine):
            memory = os.memfd_create("cove-plan", os.MFD_CLOEXEC)
            stack.callback(os.close, memory)
            write_all(memory, wire.encode(part))
            parts.append(memory)
        argv = [init_program(), "run-plan", *(f"/proc/self/fd/{fd}" for fd in parts)]
        argv += [f"{name}={fd}" for name, fd in fds.items()]
        try:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE if reads else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                pipesize=PIPE,
                pass_fds=(*parts, *fds.values()),
                cwd="/",
                env={},
            )
        except OSError as error:
            raise HostError(f"cannot {what}: {(error.strerror or '').lower()}") from error
        archiver = Archiver(plan, child, what, why)
        try:
            yield archiver
        finally:
            with contextlib.suppress(OSError):
                archiver.close_stdin()
            if child.returncode is None:
                child.kill()
                child.wait()
            for stream in (child.stdout, child.stderr):
                if stream is not None:
                    stream.close()
