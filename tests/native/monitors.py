"""Drives the forker and its monitors as a daemon and a front would, with an encoder of its own."""

from __future__ import annotations

import array
import os
import signal
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.driver import wait_until
from tests.native.plans import PDEATHSIG, SIGKILL, Op, encode, sh

START, ATTACH, QUERY, REASON, RELEASE, BYE = 1, 2, 3, 4, 5, 6
STARTED, FAILED, EXITED, GONE, BARRIER, STATE = 16, 17, 18, 19, 20, 21
INPUT, INPUT_EOF, DETACH, SIGNAL, RESIZE = 33, 34, 35, 48, 49
SESSION, OUTPUT, EXIT, FORK = 64, 65, 66, 80

TTY, STDIN, LOG, SESSION_FDS, EXEC, KEEP_STDIN, SIG_PROXY, STDIN_ONCE = (1 << i for i in range(8))
AHEAD, WHICH_SHIFT = 256, 9
RELAY_STDIN, RAW, FORWARD_SIGNALS, RELAY_STDOUT, RELAY_STDERR = (1 << i for i in range(5))

HEAD = struct.Struct("<IiII")
START_HEAD = struct.Struct("<IIIIHHQIIIII")
ATTACH_HEAD = struct.Struct("<IIHHII")
RECORD = struct.Struct("<IIIIQQ")
REPORT = struct.Struct("<IIi108s")
LOG_HEAD = struct.Struct("<QIBB2x")
PATIENCE = 180.0

FORK_ONLY: list[Op] = [("clone3", 0, "-")]


@dataclass(frozen=True)
class Message:
    kind: int
    value: int
    payload: bytes
    fds: tuple[int, ...]


@dataclass(frozen=True)
class Exit:
    code: int
    signal: int
    core: int
    started: int
    finished: int

    @classmethod
    def parse(cls, data: bytes) -> Exit:
        magic, code, number, core, started, finished = RECORD.unpack(data)
        assert magic == int.from_bytes(b"cove", "little")
        return cls(code, number, core, started, finished)


def gone(pid: int) -> bool:
    try:
        return "Z" in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True


class Peer:
    """One end of a SEQPACKET socket of cove's."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(PATIENCE)

    def send(
        self, kind: int, value: int = 0, payload: bytes = b"", fds: tuple[int, ...] = ()
    ) -> None:
        data = HEAD.pack(kind, value, len(payload), 0) + payload
        if fds:
            socket.send_fds(self.sock, [data], fds)
        else:
            self.sock.send(data)

    def receive(self) -> Message | None:
        """None: the other end has gone."""
        try:
            data, control, _, _ = self.sock.recvmsg(1 << 18, socket.CMSG_SPACE(256))
        except ConnectionResetError:  # it left something of ours unread
            return None
        fds = array.array("i")
        for _, _, body in control:
            fds.frombytes(body[: len(body) - len(body) % fds.itemsize])
        if not data:
            return None
        kind, value, length, _ = HEAD.unpack_from(data)
        assert length == len(data) - HEAD.size
        return Message(kind, value, data[HEAD.size :], tuple(fds))

    def expect(self, kind: int) -> Message:
        got = self.receive()
        assert got is not None, f"end of file; expected message {kind}"
        assert got.kind == kind, got
        return got

    def expect_end(self) -> None:
        assert self.receive() is None

    def until(self, kind: int) -> tuple[bytes, bytes, Message]:
        """All relayed output up to a message of another kind."""
        out = [b"", b"", b""]
        while (got := self.receive()) is not None and got.kind == OUTPUT:
            out[got.value] += got.payload
        assert got is not None, f"end of file; expected message {kind}; output {out}"
        assert got.kind == kind, (got, out)
        return out[1], out[2], got

    def until_output(self, text: bytes, stream: int = 1) -> bytes:
        seen = b""
        while text not in seen:
            got = self.expect(OUTPUT)
            seen += got.payload if got.value == stream else b""
        return seen

    def close(self) -> None:
        self.sock.close()


def pair() -> tuple[Peer, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Peer(ours), theirs


@dataclass
class Machine:
    """One monitor, seen by its daemon."""

    ctl: Peer
    directory: Path
    front: Peer | None = None
    pid: int = 0
    pidfd: int = -1
    monitor: int = 0
    """Its pid: the machine's parent."""
    opened: list[Peer] = field(default_factory=list)

    @property
    def session(self) -> Peer:
        assert self.front is not None
        return self.front

    def started(self) -> Machine:
        got = self.ctl.expect(STARTED)
        self.pid = got.value
        (self.pidfd,) = got.fds
        with suppress(FileNotFoundError, ProcessLookupError):  # when it was quick
            stat = Path(f"/proc/{self.pid}/stat").read_text()
            self.monitor = int(stat.rsplit(")", 1)[1].split()[1])
        return self

    def connect(self) -> Peer:
        peer = Peer(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        self.opened.append(peer)
        peer.sock.connect(str(self.directory / "sock"))
        return peer

    def attach(
        self,
        *,
        which: int = 7,
        flags: int = 0,
        fds: dict[str, int] | None = None,
        size: tuple[int, int] = (0, 0),
        over: Peer | None = None,
    ) -> Peer:
        """One more session, by the daemon's connection or another."""
        front, theirs = pair()
        self.opened.append(front)
        names = [name for name in ("in", "out", "err") if name in (fds or {})]
        mask = sum(1 << ("in", "out", "err").index(name) for name in names)
        head = ATTACH_HEAD.pack(flags, which, *size, 2, mask) + b"\x10\x11"
        with theirs:
            given = (theirs.fileno(), *((fds or {})[name] for name in names))
            (over or self.ctl).send(ATTACH, payload=head, fds=given)
        assert front.expect(SESSION).payload == b"\x10\x11"
        return front

    def exited(self) -> Exit:
        got = self.ctl.expect(EXITED)
        record = Exit.parse(got.payload)
        assert record.code == got.value
        return record

    def finish(self) -> Exit:
        """To the end: the exit, and that everything is gone."""
        record = self.exited()
        self.ctl.expect(GONE)
        self.ctl.expect_end()
        return record

    def log(self, name: str = "log") -> list[tuple[int, bytes]]:
        data, records = (self.directory / name).read_bytes(), []
        while data:
            _, length, stream, end = LOG_HEAD.unpack_from(data)
            text, data = data[LOG_HEAD.size :][:length], data[LOG_HEAD.size + length :]
            assert len(text) == length and end == 4
            assert data[:end] == length.to_bytes(4, "little")
            records.append((stream, text))
            data = data[end:]
        return records

    def logged(self, stream: int) -> bytes:
        return b"".join(text for number, text in self.log() if number == stream)

    def close(self) -> None:
        for peer in (self.ctl, self.front, *self.opened):
            if peer:
                peer.close()
        if self.pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            os.close(self.pidfd)


class Monitors:
    """A forker, and the monitors made by it."""

    def __init__(self, binary: Path, directory: Path, restart: tuple[str, ...] = ()) -> None:
        self.directory = directory
        self.made: list[Machine] = []
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock = Peer(ours)
        with theirs:
            os.set_inheritable(theirs.fileno(), True)
            self.pid = os.posix_spawn(
                binary,
                ["cove-init", "forker", *restart],
                os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), 3)],
            )

    def fork(self) -> Peer:
        ctl, theirs = pair()
        with theirs:
            self.sock.send(FORK, fds=(theirs.fileno(),))
        return ctl

    def start(
        self,
        machine: list[Op] | str,
        *,
        host: list[Op] | None = None,
        flags: int = 0,
        stdio: dict[str, int] | None = None,
        which: int = 7,
        fds: dict[str, int] | None = None,
        log_max: int = 0,
        log_files: int = 1,
        owner: int = 0,
        size: tuple[int, int] = (24, 80),
        keys: bytes = b"",
        by_memfd: bool = False,
        directory: Path | None = None,
        ahead: tuple[list[Op], list[Op]] | None = None,
    ) -> Machine:
        """``stdio`` (even empty): with a session; its in, out and err are the caller's. ``ahead``:
        the first half of both parts, sent alone before the rest.
        """
        if directory is None:
            directory = self.directory / f"m{len(self.made)}"
            directory.mkdir()
        (directory / "sock").unlink(missing_ok=True)
        made = Machine(self.fork(), directory)
        self.made.append(made)
        if ahead is not None:
            self.ahead(made.ctl, *ahead)
        if isinstance(machine, str):
            machine = [("prctl", PDEATHSIG, SIGKILL), ("stdio",), sh(machine)]
        given = dict(fds or {})
        owned: list[socket.socket] = []
        if stdio is not None:
            made.front, theirs = pair()
            owned.append(theirs)
            given |= {"front": theirs.fileno()} | stdio
            flags |= SESSION_FDS | which << WHICH_SHIFT
        directories = [os.open(path, os.O_RDONLY) for path in (directory, self.directory)]
        if not flags & EXEC:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            listener.bind(str(directory / "sock"))
            listener.listen(64)
            owned.append(listener)
            given |= {
                "listen": listener.fileno(),
                "dir": directories[0],
                "state": directories[1],
            }
        part = FORK_ONLY if host is None else host
        self._send(made.ctl, encode(part), encode(machine), given, keys, by_memfd,
                   (flags, owner, owner, *size, log_max), log_files)  # fmt: skip
        for sock in owned:
            sock.close()
        for fd in directories:
            os.close(fd)
        return made

    def ahead(self, ctl: Peer, host: list[Op], machine: list[Op]) -> None:
        self._send(ctl, encode(host), encode(machine), {}, b"", False, (AHEAD, 0, 0, 0, 0, 0))

    def _send(
        self,
        ctl: Peer,
        host: bytes,
        machine: bytes,
        given: dict[str, int],
        keys: bytes,
        by_memfd: bool,
        first: tuple[int, ...],
        log_files: int = 1,
    ) -> None:
        memfd = -1
        if by_memfd:
            memfd = os.memfd_create("plan")
            os.write(memfd, host + machine)
            given |= {"plan": memfd}
        lengths = (len(given), len(host), len(machine), len(keys))
        payload = START_HEAD.pack(3, *first, *lengths, log_files)
        payload += b"".join(name.encode() + b"\0" for name in given) + keys
        ctl.send(
            START,
            payload=payload + (b"" if by_memfd else host + machine),
            fds=tuple(given.values()),
        )
        if memfd >= 0:
            os.close(memfd)

    def close(self) -> None:
        for machine in self.made:
            with suppress(OSError):
                machine.ctl.send(BYE)
            machine.close()
        self.sock.close()
        _, status = os.waitpid(self.pid, 0)
        assert status == 0
        for machine in self.made:
            wait_until(lambda pid=machine.monitor: not pid or gone(pid))  # type: ignore[misc]
