"""QEMU's control socket, from the daemon's side. What comes over it is doubted: an emulator that
was taken over by its guest sits at the other end.
"""

from __future__ import annotations

import array
import json
import os
import re
import select
import socket
import time
from collections.abc import Callable
from typing import Any, Self

from cove.errors import NOT_JSON, HostError

LINE_MAX = 1 << 20
STATE_SET = 21
"""Number of a set of descriptors that nothing else uses."""
PATIENCE = 10.0
"""Seconds that QEMU may take for an answer: on a loaded host it is busy translating."""
_NO_NETWORK = re.compile(r"^.*: warning: hub \d+ is not connected to host network$", re.MULTILINE)
SHARED = {"capability": "x-ignore-shared", "state": True}
SILENT = {"announce_rounds": 0}
"""Who goes on elsewhere tells five times, and has its guest tell, where its cards are now. A clone
has not moved, and has other work at that time.
"""


class Control:
    """One connection; QEMU has one at a time, and others wait."""

    def __init__(self, sock: socket.socket, *, patience: float = PATIENCE) -> None:
        self._sock, self._rest = sock, b""
        self._patience = patience

    @classmethod
    def connect(cls, run_fd: int, key: int, *, patience: float = PATIENCE) -> Self:
        """To the emulator of machine ``key``, which may not have started yet."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(f"/proc/self/fd/{run_fd}/{key}.qmp")
        except OSError as error:
            sock.close()
            raise HostError("cannot reach QEMU: its socket is gone") from error
        return cls(sock, patience=patience)

    def close(self) -> None:
        self._sock.close()

    def fileno(self) -> int:
        return self._sock.fileno()

    def greet(self, *, beside: tuple[int, Callable[[], None]] | None = None) -> None:
        """Until QEMU can be talked to. ``beside``: a descriptor to watch meanwhile, and what is
        called, and may raise, when it can be read.
        """
        self._line(beside)
        self("qmp_capabilities")

    def __call__(self, command: str, *, fd: int = -1, **arguments: Any) -> Any:
        self.send(command, fd=fd, **arguments)
        return self.answer(command)

    def send(self, command: str, *, fd: int = -1, **arguments: Any) -> None:
        """Without waiting: ``answer`` must be called once for each, in order. ``fd`` goes beside
        the message; an argument of that name is ``fd_``.
        """
        words = {name.rstrip("_").replace("_", "-"): value for name, value in arguments.items()}
        data = json.dumps({"execute": command, "arguments": words}).encode() + b"\n"
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))] if fd >= 0 else []
        try:
            self._sock.sendmsg([data], rights, socket.MSG_NOSIGNAL)
        except OSError as error:
            raise HostError("cannot control QEMU: it has ended") from error

    def answer(self, command: str) -> Any:
        """In time, whatever else is told meanwhile."""
        late = time.monotonic() + self._patience
        while True:
            line = self._line(late=late)
            if "return" in line:
                return line["return"]
            if "error" in line:
                said = line["error"].get("desc", "") if isinstance(line["error"], dict) else ""
                raise HostError(f"cannot control QEMU: {command}: {str(said)[:200]}")

    def alive(self) -> bool:
        """Whether QEMU is there; what it tells unasked is thrown away."""
        while True:
            try:
                data = self._sock.recv(1 << 16, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not data:
                return False
            self._rest = (self._rest + data).rpartition(b"\n")[2]
            if len(self._rest) > LINE_MAX:
                return False

    def _line(
        self, beside: tuple[int, Callable[[], None]] | None = None, *, late: float = 0.0
    ) -> dict[str, Any]:
        late = late or time.monotonic() + self._patience
        while b"\n" not in self._rest:
            if len(self._rest) > LINE_MAX:
                raise HostError("cannot control QEMU: it says too much")
            self._wait(late, beside)
            data = self._sock.recv(1 << 16)
            if not data:
                raise HostError("cannot control QEMU: it has ended")
            self._rest += data
        if time.monotonic() > late:  # it may talk without end, and of nothing that was asked
            raise HostError(f"cannot control QEMU: no answer in {self._patience:.0f} seconds")
        text, _, self._rest = self._rest.partition(b"\n")
        try:
            line = json.loads(text)
        except NOT_JSON as error:
            raise HostError("cannot control QEMU: it does not speak QMP") from error
        if not isinstance(line, dict):
            raise HostError("cannot control QEMU: it does not speak QMP")
        return line

    def _wait(self, late: float, beside: tuple[int, Callable[[], None]] | None) -> None:
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        if beside is not None:
            poll.register(beside[0], select.POLLIN)
        while True:
            left = late - time.monotonic()
            ready = {fd for fd, _ in poll.poll(left * 1000)} if left > 0 else set()
            if self._sock.fileno() in ready:
                return
            if beside is not None and beside[0] in ready:
                beside[1]()
                continue
            raise HostError(f"cannot control QEMU: no answer in {self._patience:.0f} seconds")


# ---- what cove has it do ----


def save(control: Control, state: int) -> None:
    """The whole guest but its memory, which is a shared file, into descriptor ``state``. The guest
    stands still from then on.
    """
    control("migrate-set-capabilities", capabilities=[SHARED])
    control("getfd", fd=state, fdname="state")
    control("migrate", uri="fd:state")
    late = time.monotonic() + PATIENCE
    while (status := control("query-migrate").get("status")) != "completed":
        if status in ("failed", "cancelled") or time.monotonic() > late:
            raise HostError(f"cannot save a guest: its migration is {str(status)[:20]}")
        time.sleep(0.002)


def resume(control: Control, state: int) -> None:
    """A QEMU that waits (``-incoming defer``) goes on where the saved one stood."""
    control.send("migrate-set-capabilities", capabilities=[SHARED])
    _go_on_from(control, state)
    control.answer("migrate-set-capabilities")
    _answers(control)


def stop(control: Control, state: int) -> None:
    """The guest stands still; what its devices are is written to descriptor ``state``, which is
    open for writing alone. Its memory, and what it has written to its disks, can be read elsewhere.
    """
    control("stop")
    control("add-fd", fd=state, fdset_id=STATE_SET)
    try:
        # For Xen, which keeps the memory itself; x-ignore-shared leaves out no private memory.
        control("xen-save-devices-state", filename=f"/dev/fdset/{STATE_SET}", live=False)
    finally:
        control("remove-fd", fdset_id=STATE_SET)


def go_on(control: Control) -> None:
    control("cont")


def ram_address(control: Control, base: int) -> int:
    """Where in QEMU's own memory the guest's begins. ``base``: where it does in the guest."""
    said = control("human-monitor-command", command_line=f"gpa2hva {base:#x}")
    found = re.search(r" is 0x([0-9a-f]{1,16})\s*$", str(said))
    if found is None:
        raise HostError("cannot control QEMU: it does not say where its guest's memory is")
    return int(found[1], 16)


def version(control: Control) -> tuple[int, int]:
    said = control("query-version")
    number = said.get("qemu") if isinstance(said, dict) else None
    major, minor = (number.get(part) for part in ("major", "minor")) if number else (0, 0)
    return (major, minor) if isinstance(major, int) and isinstance(minor, int) else (0, 0)


def resume_devices(control: Control, state: int) -> None:
    """A QEMU that waits, on the memory of a guest that ``stop`` was said to, goes on."""
    _go_on_from(control, state)
    _answers(control)


def _go_on_from(control: Control, state: int) -> None:
    control.send("migrate-set-parameters", **SILENT)
    control.send("getfd", fd=state, fdname="state")
    control.send("migrate-incoming", uri="fd:state")
    control.send("cont")


def _answers(control: Control) -> None:
    """To what ``_go_on_from`` has sent."""
    for command in ("migrate-set-parameters", "getfd", "migrate-incoming", "cont"):
        control.answer(command)


def put_disks(control: Control, root: int, scratch: int) -> None:
    """Other files behind ``disk0`` and ``disk1`` of a guest that has let go of its disks."""
    nodes = []
    for index, (fd, read_only) in enumerate(((root, True), (scratch, False))):
        fdset = 11 + index
        more: dict[str, Any] = {"read_only": read_only}
        if not read_only:
            more |= {"discard": "unmap", "cache": {"no-flush": True}}
        control.send("add-fd", fd=fd, fdset_id=fdset)
        file = f"file{index}"
        name = f"/dev/fdset/{fdset}"
        control.send("blockdev-add", driver="file", node_name=file, filename=name, **more)
        node = {"driver": "raw", "node-name": f"disk{index}", "file": file}
        nodes.append(node | {key.replace("_", "-"): value for key, value in more.items()})
    control.send("blockdev-reopen", options=nodes)
    # The files of before are nobody's now.
    control.send("remove-fd", fdset_id=1)
    control.send("remove-fd", fdset_id=3)
    sent = ("add-fd", "blockdev-add", "add-fd", "blockdev-add", "blockdev-reopen", "remove-fd",
            "remove-fd")  # fmt: skip
    for command in sent:
        control.answer(command)


def complaint(said: bytes) -> str:
    """Of what QEMU said on its standard error: not that a card has no network."""
    return _NO_NETWORK.sub("", said.decode("utf-8", "replace")).strip()


def reopened(fd: int) -> int:
    """The same file at its beginning, with an offset of its own."""
    return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
