"""The messages between daemon, monitors and fronts, as ``init/session.h`` has them: SEQPACKET
datagrams with one header, some with descriptors. Structs are packed and little endian. It moves
bytes; what they mean is the engine's.
"""

from __future__ import annotations

import array
import os
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import NamedTuple

from cove.errors import Bug
from cove.linux.pump import write_all

MSG_MAX = 192 << 10
FDS_MAX = 96
NAME_MAX = 23

HEADER = struct.Struct("<IiII")
START = struct.Struct("<IIIIHHQIIIII")
ATTACH = struct.Struct("<IIHHII")
EXIT_RECORD = struct.Struct("<IIIIQQ")
STATE = struct.Struct("<I")
REPORT = struct.Struct("<IIi108s")
REQUEST = struct.Struct("<IIIIHH")
LOG_RECORD = struct.Struct("<QIBB2x")

START_VERSION = 3
WHICH_SHIFT = 9
"""The flags of a start hold its session's streams from here on."""
EXIT_MAGIC = int.from_bytes(b"cove", "little")
PLAN_NAME = "plan"
"""The descriptor that carries both parts of a plan too large for a datagram."""

F_SEAL_ALL = 0x0001 | 0x0002 | 0x0004 | 0x0008
F_ADD_SEALS = 1033
MSG_CMSG_CLOEXEC = 0x40000000


class Kind(IntEnum):
    START = 1
    ATTACH = 2
    QUERY = 3
    REASON = 4
    RELEASE = 5
    BYE = 6
    STARTED = 16
    FAILED = 17
    EXITED = 18
    GONE = 19
    BARRIER = 20
    STATE = 21
    REQUEST = 32
    INPUT = 33
    INPUT_EOF = 34
    DETACH = 35
    CALL = 36
    SIGNAL = 48
    RESIZE = 49
    SESSION = 64
    OUTPUT = 65
    EXIT = 66
    ANSWER = 67
    ERROR = 68
    FORK = 80
    RELAY_BEGIN = 96
    RELAY_ADD = 97
    RELAY_DROP = 98
    RELAY_TARGET = 99
    RELAY_END = 100
    RELAY_STATE = 101


class StartFlag(IntFlag):
    TTY = 1
    STDIN_OPEN = 2
    LOG = 4
    SESSION = 8
    EXEC = 16
    KEEP_STDIN = 32
    SIG_PROXY = 64
    STDIN_ONCE = 128
    AHEAD = 256
    """The first half of a plan, to be run now; a second message brings the rest."""
    BOUND = 4096
    """What was started ends when its session is lost. Below are three bits of ``WHICH_SHIFT``."""
    STAY = 8192
    """After the machine's end its monitor brings the daemon back, until it is told ``BYE``."""


class Stream(IntFlag):
    """Of an attached session, and of the descriptors that come with it."""

    STDIN = 1
    STDOUT = 2
    STDERR = 4


class Message(NamedTuple):
    kind: int
    value: int
    payload: bytes
    fds: tuple[int, ...]
    """Close-on-exec; the receiver owns them."""
    reserved: int = 0

    def close(self) -> None:
        """Give up descriptors nobody asked for."""
        for fd in self.fds:
            os.close(fd)


@dataclass(frozen=True, slots=True)
class Start:
    """What a monitor needs to start a machine, or one more process in it."""

    flags: StartFlag
    uid: int
    """Host uid that owns the pipes or the terminal."""
    gid: int
    host: bytes
    machine: bytes
    rows: int = 0
    columns: int = 0
    log_max: int = 0
    """Bytes of one file of the log; 0: no end."""
    keys: bytes = b""
    """The detach keys, as the bytes a terminal sends."""
    which: int = 0
    """Of ``Stream``: what its session takes part in."""
    log_files: int = 1
    """0: no log is kept."""


@dataclass(frozen=True, slots=True)
class Attach:
    flags: StartFlag
    which: Stream
    rows: int = 0
    columns: int = 0
    keys: bytes = b""


class ExitRecord(NamedTuple):
    """How a machine ended. Times are Unix nanoseconds."""

    code: int
    signal: int
    core: bool
    started_ns: int
    finished_ns: int


class State(NamedTuple):
    state: int
    """0 starting, 1 running, 2 exited."""
    exit: ExitRecord | None
    protocol: int = 0
    """What this monitor understands; those of the first daemons did not say (0)."""


class Report(NamedTuple):
    """Where a plan stopped."""

    side: int
    """0 host, 1 machine."""
    op: int
    errno: int
    detail: str


class Request(NamedTuple):
    """A command line, as a front passes it."""

    argv: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    umask: int
    terminals: int
    rows: int
    columns: int


SPARE = 4
"""Buffers of 192 KiB that are kept. One for each thread would be 40 MiB once 200 were there."""
_spare: list[bytearray] = []


def send(
    sock: socket.socket,
    kind: Kind,
    *,
    value: int = 0,
    payload: bytes = b"",
    fds: Sequence[int] = (),
    flags: int = 0,
) -> None:
    """One message. The kernel copies the descriptors: the caller still owns its own."""
    _send(sock, kind, value, (payload,), fds, flags)


def receive(sock: socket.socket, *, flags: int = 0) -> Message | None:
    """The next message; None at the end. BlockingIOError when there is none and none is awaited."""
    try:
        buffer = _spare.pop()
    except IndexError:
        buffer = bytearray(HEADER.size + MSG_MAX)
    try:
        return _receive(sock, buffer, flags)
    finally:
        _spare.append(buffer)
        del _spare[SPARE:]


def _receive(sock: socket.socket, buffer: bytearray, flags: int) -> Message | None:
    room = socket.CMSG_SPACE(FDS_MAX * 4)
    while True:
        try:
            size, ancillary, got, _ = sock.recvmsg_into((buffer,), room, flags | MSG_CMSG_CLOEXEC)
            break
        except ConnectionResetError:
            # A peer that closed with something of ours unread gives this first, and only then what
            # it had said: the exit code of a machine, say.
            continue
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    if size == 0:
        return None
    if size < HEADER.size or got & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        return _broken(fds, "it is cut off")
    kind_number, value, length, reserved = HEADER.unpack_from(buffer)
    if length != size - HEADER.size:
        return _broken(fds, f"it says {length} bytes and has {size - HEADER.size}")
    payload = bytes(memoryview(buffer)[HEADER.size : size])
    return Message(kind_number, value, payload, tuple(fds), reserved)


def send_start(sock: socket.socket, start: Start, fds: Mapping[str, int]) -> None:
    """Hand a machine to a monitor, with its descriptors by name."""
    _check_names(fds)
    names, numbers = list(fds), list(fds.values())
    parts = len(start.host) + len(start.machine)
    memory = -1
    try:
        if START.size + (NAME_MAX + 1) * (len(names) + 1) + len(start.keys) + parts > MSG_MAX:
            memory = sealed_memory("plan", (start.host, start.machine))
            names.append(PLAN_NAME)
            numbers.append(memory)
        flags = start.flags | start.which << WHICH_SHIFT
        head = START.pack(
            START_VERSION, flags, start.uid, start.gid, start.rows, start.columns,
            start.log_max, len(names), len(start.host), len(start.machine), len(start.keys),
            start.log_files,
        )  # fmt: skip
        words = "".join([f"{name}\0" for name in names]).encode()
        chunks = [head, words, start.keys]
        if memory < 0:
            chunks += [start.host, start.machine]
        _send(sock, Kind.START, 0, chunks, numbers, 0)
    finally:
        if memory >= 0:
            os.close(memory)


def send_attach(
    sock: socket.socket, attach: Attach, front: int, stdio: Mapping[Stream, int]
) -> None:
    """One more session for a monitor: the front's socket, and those of its stdio it may use."""
    mask = Stream(0)
    fds = [front]
    for stream in Stream:
        if stream in stdio:
            mask |= stream
            fds.append(stdio[stream])
    head = ATTACH.pack(
        attach.flags, attach.which, attach.rows, attach.columns, len(attach.keys), mask
    )
    _send(sock, Kind.ATTACH, 0, (head, attach.keys), fds, 0)


def decode_exit(data: bytes) -> ExitRecord | None:
    """An exit record; None when it was never written whole."""
    if len(data) < EXIT_RECORD.size:
        return None
    magic, code, signal, core, started, finished = EXIT_RECORD.unpack_from(data)
    if magic != EXIT_MAGIC:
        return None
    return ExitRecord(code, signal, bool(core), started, finished)


def decode_state(payload: bytes) -> State:
    if len(payload) < STATE.size:
        raise Bug("a monitor answered with a state that is cut off")
    (state,) = STATE.unpack_from(payload)
    rest = payload[STATE.size + EXIT_RECORD.size :]
    protocol = STATE.unpack_from(rest)[0] if len(rest) >= STATE.size else 0
    return State(state, decode_exit(payload[STATE.size :]), protocol)


def decode_report(payload: bytes) -> Report:
    if len(payload) < REPORT.size:
        raise Bug("a monitor sent a report that is cut off")
    side, op, errno, detail = REPORT.unpack_from(payload)
    text = detail.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
    return Report(side, op, errno, text)


def decode_request(payload: bytes) -> Request:
    """A front's request. Raises ValueError or struct.error when its counts are not true."""
    argc, envc, umask, terminals, rows, columns = REQUEST.unpack_from(payload)
    if not payload.endswith(b"\0"):
        raise ValueError("a request that does not end with a NUL")
    words = payload[REQUEST.size : -1].decode("utf-8", "surrogateescape").split("\0")
    if len(words) != 1 + argc + envc:
        raise ValueError(f"a request of {len(words)} words that announced {1 + argc + envc}")
    return Request(
        tuple(words[1 : 1 + argc]), tuple(words[1 + argc :]), words[0],
        umask & 0o777, terminals & 7, rows, columns,
    )  # fmt: skip


def sealed_memory(name: str, chunks: Sequence[bytes], *, executable: bool = False) -> int:
    """A memfd that nobody can change any more."""
    import fcntl

    fd = _memfd(name, executable=executable)
    try:
        for chunk in chunks:
            write_all(fd, chunk)
        fcntl.fcntl(fd, F_ADD_SEALS, F_SEAL_ALL)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _memfd(name: str, *, executable: bool) -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    if executable:
        try:  # MFD_EXEC, since 6.3: where vm.memfd_noexec is 1, only with it may a memfd be run
            return os.memfd_create(name, flags | 0x10)
        except OSError:
            pass
    return os.memfd_create(name, flags)


def _send(
    sock: socket.socket,
    kind: int,
    value: int,
    chunks: Sequence[bytes],
    fds: Sequence[int],
    flags: int,
) -> None:
    length = sum(map(len, chunks))
    if length > MSG_MAX or len(fds) > FDS_MAX:
        raise Bug(f"a message of {length} bytes and {len(fds)} descriptors")
    head = HEADER.pack(kind, value, length, 0)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg((head, *chunks), rights, flags | socket.MSG_NOSIGNAL)


def _check_names(fds: Mapping[str, int]) -> None:
    for name in fds:
        if not name.isascii() or not 0 < len(name) <= NAME_MAX or "\0" in name:
            raise Bug(f"a descriptor is called {name!r}")


def _broken(fds: array.array[int], why: str) -> Message:
    for fd in fds:
        os.close(fd)
    raise Bug(f"a message of a monitor or front cannot be read: {why}")
