"""``cove image bootstrap``: mmdebstrap or debootstrap in a machine of the image ``host``; its
output is imported.

What it installs is other people's programs run as root: they run inside the machine, with the few
capabilities that unpacking and chroot need. The network is the host's, as there is no other yet.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from typing import TypeVar

from cove.engine.calls import Session
from cove.engine.home import Home
from cove.engine.machines import life, stopping, waiting
from cove.engine.machines.start import Foreground
from cove.errors import BadArchive, CoveError, UsageError
from cove.image.aptspeak import Listener, failure
from cove.image.distributions import Wish, command, sources_for, tool_for
from cove.image.host import HOST, PATH
from cove.image.importing import import_rootfs
from cove.image.layers import Progress
from cove.linux.ready import readable
from cove.spec.machine import MachineSpec, Security
from cove.store.records import ImageRecord, MachineRecord

CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "SETFCAP", "SETGID", "SETUID", "SYS_ADMIN",
    "SYS_CHROOT",
)  # fmt: skip
"""SYS_ADMIN, over the machine's own mounts only: the maintainer scripts need /proc and /dev."""

CHANGES = ('CMD ["bash"]', f"ENV PATH={PATH}")
LOG_MAX = 1 << 20
"""Of the machine's log, through which the whole tar passes."""
LOOK = 0.2
"""Seconds between two looks whether the caller is still there."""

Result = TypeVar("Result")


def bootstrap(
    home: Home,
    wish: Wish,
    name: str,
    env: tuple[str, ...],
    *,
    progress: Progress,
    gone: Callable[[], bool],
) -> ImageRecord:
    """The new image, called ``name``. Once ``gone`` says that nobody wants it the machine ends."""
    tool = tool_for(wish)
    listener = Listener(str(wish))
    with contextlib.ExitStack() as stack:
        out, error = _Pipe(stack), _Pipe(stack)
        machine = _start(home, _spec(wish, env, tool), stack, out.write, error.write)
        out.close_write()
        error.close_write()
        ended = _in_thread(stack, lambda: waiting.wait(home, machine, "not-running"))
        heard = _in_thread(
            stack,
            lambda: _listen(error.read, listener, progress, gone, lambda: _end(home, machine)),
        )
        stack.callback(_end, home, machine)
        # Before all waiting: a monitor whose output nobody takes does not end.
        stack.callback(out.close_read)

        def check() -> None:
            code, cause = ended()
            heard()
            if code != 0:
                raise failure(wish, listener.lines, code, cause.text, tool)

        try:
            return import_rootfs(
                home.store,
                out.read,
                name,
                changes=CHANGES,
                message=f"cove image bootstrap {wish}",
                platform=str(wish.platform or ""),
                progress=progress,
                origin=str(wish),
                check=check,
            )
        except (BadArchive, UsageError):  # cut off, or empty
            check()
            raise


def _spec(wish: Wish, env: tuple[str, ...], tool: str) -> MachineSpec:
    return MachineSpec(
        HOST,
        command(wish, sources_for(wish), tool),
        env=("LC_ALL=C.UTF-8", *env),
        labels={"cove.bootstrap": str(wish)},
        network="host",
        remove=True,
        security=Security(cap_drop=("ALL",), cap_add=CAPABILITIES),
        log_max=LOG_MAX,
        emulate=(wish.platform.architecture,) if wish.platform else (),
    )


def _start(
    home: Home, spec: MachineSpec, stack: contextlib.ExitStack, out: int, error: int
) -> MachineRecord:
    """The monitor writes into the pipes. Our end of its session is held to the end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    stack.enter_context(ours)
    with theirs:
        session = Session(theirs.fileno(), (-1, out, error), 0, 0, 0)
        foreground = Foreground(session, ("stdout", "stderr"), sig_proxy=False)
        return life.run(home, spec, foreground)


def _in_thread(stack: contextlib.ExitStack, work: Callable[[], Result]) -> Callable[[], Result]:
    """Begun now; what is returned waits for it. The stack's end waits too."""
    results: list[Result] = []
    thread = threading.Thread(target=lambda: results.append(work()), name="bootstrap", daemon=True)
    thread.start()
    stack.callback(thread.join)

    def result() -> Result:
        thread.join()
        return results[0]

    return result


class _Pipe:
    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.read, self.write = os.pipe2(os.O_CLOEXEC)
        stack.callback(self.close_read)
        stack.callback(self.close_write)

    def close_read(self) -> None:
        if self.read >= 0:
            os.close(self.read)
            self.read = -1

    def close_write(self) -> None:
        if self.write >= 0:
            os.close(self.write)
            self.write = -1


def _end(home: Home, machine: MachineRecord) -> None:
    with contextlib.suppress(CoveError):
        stopping.kill(home, machine, "KILL")


def _listen(
    fd: int,
    listener: Listener,
    progress: Progress,
    gone: Callable[[], bool],
    end: Callable[[], None],
) -> None:
    """Read what the tool says to its end; end the machine when the caller has left."""
    rest, left = b"", False
    while True:
        if not left and gone():
            left = True
            end()
        if not readable(fd, LOOK):
            continue
        data = os.read(fd, 1 << 16)
        *lines, rest = (rest + data).replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            step = listener.hear(line.decode("utf-8", "replace")) if line.strip() else None
            if step is not None and not left:
                with contextlib.suppress(CoveError):
                    progress(step)
        if not data:
            return
