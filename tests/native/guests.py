"""A guest played by a test: the real hub and stand-in of a virtual machine's jail, and the other
end of their serial port.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import IO, NamedTuple, Self

from tests.native.plans import Launcher

PLAN, RUN, READ, HELLO, TAKEN, CLOSE = 96, 97, 98, 112, 120, 121
STARTED, FAILED, EXITED = 16, 17, 18
INPUT, INPUT_EOF, SIGNAL, RESIZE, OUTPUT = 33, 34, 48, 49, 65
RUN_TTY, RUN_STDIN, RUN_MACHINE, RUN_SYNC = 1, 2, 4, 8
FRAME_MAX, WINDOW, CHANNELS_MAX = 7680, 16, 192
OWN = 1
"""Channel of the machine's own program."""

HEAD = struct.Struct("<IiII")
ORDER = struct.Struct("<IIHH")
END = struct.Struct("<IIIIQQII64s")
REPORT = struct.Struct("<IIi108s")
PATIENCE = 180.0


class Frame(NamedTuple):
    kind: int
    value: int
    data: bytes
    channel: int


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def end_record(code: int = 0, *, signal_number: int = 0) -> bytes:
    return END.pack(0x65766F63, code, signal_number, 0, 1, 2, 0, 0, b"")


class PlayedGuest:
    """``with PlayedGuest(launcher) as guest:``; at the end everything of it is gone."""

    def __init__(
        self,
        launcher: Launcher,
        *,
        plan: bytes = b"host part",
        machine: bytes = b"machine part",
        flags: int = 0,
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        stdout: int | IO[bytes] = subprocess.PIPE,
        stderr: int | IO[bytes] = subprocess.PIPE,
    ) -> None:
        self.serial, theirs = socket.socketpair()
        self.serial.settimeout(PATIENCE)
        self._heard = b""
        # A socket's address is short.
        self._scratch = tempfile.TemporaryDirectory(prefix="cove-h-", dir="/tmp")
        self.directory = Path(self._scratch.name)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(str(self.directory / "hub"))
        listener.listen(CHANNELS_MAX)
        memory = os.memfd_create("plan")
        os.write(memory, ORDER.pack(len(plan), len(machine), 0, 0) + plan + machine)
        console, self.console = os.pipe2(os.O_CLOEXEC)
        log = os.open(self.directory / "console", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        end = os.open(self.directory / "end", os.O_CREAT | os.O_WRONLY)
        fds = {
            "serial": theirs.fileno(),
            "hub": listener.fileno(),
            "guestplan": memory,
            "console": console,
            "consolelog": log,
            "end": end,
        }
        machine_part = [("stdio",), ("guest", *fds, flags)]
        command = launcher.command([("clone3", 0, "-")], machine_part, fds)
        self.program = subprocess.Popen(
            command, stdin=stdin, stdout=stdout, stderr=stderr, pass_fds=tuple(fds.values())
        )
        theirs.close()
        listener.close()
        for fd in (memory, console, log, end):
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.serial.close()
        os.close(self.console)
        if self.program.poll() is None:
            for pid in self.children():
                os.kill(pid, signal.SIGKILL)
            self.program.kill()
        for stream in (self.program.stdout, self.program.stderr, self.program.stdin):
            if stream is not None:
                stream.close()
        self.program.wait(PATIENCE)
        self._scratch.cleanup()

    # ---- processes ----

    def children(self) -> list[int]:
        """The hub."""
        return children_of(self.program.pid)

    def wait(self) -> int:
        return self.program.wait(PATIENCE)

    def read_all(self) -> bytes:
        """Its output until it ends."""
        assert self.program.stdout is not None
        return self.program.stdout.read()

    def told(self) -> str:
        assert self.program.stderr is not None
        return self.program.stderr.read().decode()

    # ---- the serial port ----

    def say(self, kind: int, value: int = 0, data: bytes = b"", channel: int = OWN) -> None:
        self.serial.sendall(HEAD.pack(kind, value, len(data), channel) + data)

    def say_raw(self, data: bytes) -> None:
        self.serial.sendall(data)

    def hear(self) -> Frame:
        while True:
            if len(self._heard) >= HEAD.size:
                kind, value, length, channel = HEAD.unpack_from(self._heard)
                end = HEAD.size + length
                assert length <= FRAME_MAX
                if len(self._heard) >= end:
                    data, self._heard = self._heard[HEAD.size : end], self._heard[end:]
                    return Frame(kind, value, data, channel)
            got = self.serial.recv(1 << 16)
            assert got, "the hub has gone"
            self._heard += got

    def expect(self, kind: int, channel: int = OWN) -> Frame:
        frame = self.hear()
        assert (frame.kind, frame.channel) == (kind, channel), frame
        return frame

    def expect_any(self, kind: int) -> Frame:
        """Of whatever channel."""
        frame = self.hear()
        assert frame.kind == kind, frame
        return frame

    def expect_running(self) -> None:
        """Until the stand-in knows that it stands for something: output comes out."""
        self.say(OUTPUT, 1, b"")
        assert self.expect(TAKEN).value == 1

    def silent(self) -> bool:
        return not self._heard and not select.select([self.serial], [], [], 0.1)[0]

    def silent_now(self) -> bool:
        return not self._heard and not select.select([self.serial], [], [], 0)[0]

    def take_plan(self, channel: int = OWN) -> tuple[bytes, Frame]:
        """As an agent does it; the plan's bytes, and the word to run it."""
        found = b""
        while (frame := self.hear()).kind == PLAN:
            assert frame.channel == channel
            found += frame.data
            self.say(TAKEN, 1, channel=channel)
        assert (frame.kind, frame.channel) == (RUN, channel), frame
        return found, frame

    def start(self) -> None:
        self.take_plan()
        self.say(STARTED, 7)

    def end(self, code: int = 0) -> None:
        self.say(EXITED, code, end_record(code))

    # ---- who asks for more channels ----

    def connect(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        made.connect(str(self.directory / "hub"))
        made.settimeout(PATIENCE)
        return made


def datagram(kind: int, value: int = 0, data: bytes = b"") -> bytes:
    return HEAD.pack(kind, value, len(data), 0) + data
