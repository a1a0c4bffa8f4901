"""The other end of the front's socket: a daemon and monitor that do what a test tells them."""

from __future__ import annotations

import array
import os
import select
import signal
import socket
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

REQUEST, INPUT, INPUT_EOF, DETACH, SIGNAL, RESIZE = 32, 33, 34, 35, 48, 49
SESSION, OUTPUT, EXIT = 64, 65, 66
RELAY_STDIN, RAW, FORWARD_SIGNALS, RELAY_STDOUT, RELAY_STDERR = 1, 2, 4, 8, 16

HEAD = struct.Struct("<IiII")
REQUEST_HEAD = struct.Struct("<IIIIHH")
PATIENCE = 180.0


@dataclass(frozen=True)
class Message:
    kind: int
    value: int
    payload: bytes = b""
    reserved: int = 0
    fds: tuple[int, ...] = ()


@dataclass(frozen=True)
class Request:
    argv: list[str]
    env: dict[str, str]
    cwd: str
    umask: int
    terminals: int
    rows: int
    cols: int
    protocol: int
    fds: tuple[int, ...]


class Connection:
    """One front, seen from the daemon or the monitor."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.fds: list[int] = []

    def receive(self) -> Message | None:
        """The next message; None: the front is gone."""
        data, control, _, _ = self.sock.recvmsg(1 << 18, socket.CMSG_SPACE(64))
        fds = array.array("i")
        for level, kind, body in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(body[: len(body) - len(body) % fds.itemsize])
        self.fds += fds
        if not data:
            return None
        kind, value, length, reserved = HEAD.unpack_from(data)
        assert length == len(data) - HEAD.size
        return Message(kind, value, data[HEAD.size :], reserved, tuple(fds))

    def expect(self, kind: int) -> Message:
        got = self.receive()
        assert got is not None, f"the front left; expected message {kind}"
        assert got.kind == kind, got
        return got

    def expect_input(self, text: bytes) -> None:
        """Exactly ``text``, in however many messages."""
        got = b""
        while len(got) < len(text):
            got += self.expect(INPUT).payload
        assert got == text

    def request(self) -> Request:
        got = self.expect(REQUEST)
        payload = got.payload
        if len(got.fds) == 4:
            assert payload == b""
            payload = os.pread(got.fds[3], 1 << 26, 0)
        argc, envc, umask, terminals, rows, cols = REQUEST_HEAD.unpack_from(payload)
        words = payload[REQUEST_HEAD.size :].decode().split("\0")
        assert len(words) == 1 + argc + envc + 1
        env = dict(word.split("=", 1) for word in words[1 + argc : -1])
        return Request(
            words[1 : 1 + argc], env, words[0], umask, terminals, rows, cols, got.reserved, got.fds
        )

    def send(self, kind: int, value: int = 0, payload: bytes = b"") -> None:
        self.sock.send(HEAD.pack(kind, value, len(payload), 0) + payload)

    def session(self, flags: int, keys: bytes = b"") -> None:
        self.send(SESSION, flags, keys)

    def output(self, payload: bytes, fd: int = 1) -> None:
        self.send(OUTPUT, fd, payload)

    def exit(self, code: int, text: str = "") -> None:
        self.send(EXIT, code, text.encode())

    def close_fds(self) -> None:
        """Those that came with the request: a pipe of which we hold the other end never ends."""
        while self.fds:
            os.close(self.fds.pop())

    def close(self) -> None:
        self.close_fds()
        self.sock.close()


@dataclass
class Daemon:
    """Listens where a front of ``root`` looks."""

    root: Path
    front: Path
    listener: socket.socket
    opened: list[Connection] = field(default_factory=list)
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def env(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "COVE_ROOT": str(self.root), "TERM": "dumb"}

    def accept(self) -> Connection:
        sock, _ = self.listener.accept()
        self.opened.append(Connection(sock))
        return self.opened[-1]

    def talk(self) -> Connection:
        """A front that has sent its request."""
        connection = self.accept()
        connection.request()
        connection.close_fds()
        return connection

    def start(self, *words: str, **options: object) -> subprocess.Popen[bytes]:
        """The front as a child on pipes."""
        settings: dict[str, object] = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "env": self.env,
        }
        front = subprocess.Popen([str(self.front), *words], **(settings | options))  # type: ignore[call-overload]
        self.started.append(front)
        return front  # type: ignore[no-any-return]

    def close(self) -> None:
        for connection in self.opened:
            connection.close()
        for front in self.started:
            front.kill()
            front.wait()
            for pipe in (front.stdin, front.stdout, front.stderr):
                if pipe:
                    with suppress(BrokenPipeError):
                        pipe.close()


@contextmanager
def listening(root: Path, front: Path) -> Iterator[Daemon]:
    (root / "run").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(root / "run/front.sock"))
        listener.listen(64)
        listener.settimeout(PATIENCE)
        daemon = Daemon(root, front, listener)
        try:
            yield daemon
        finally:
            daemon.close()


class Tty:
    """A program on a terminal of its own, whose other end the test holds."""

    def __init__(
        self, argv: list[str], env: dict[str, str], rows: int = 24, cols: int = 80
    ) -> None:
        self.seen = b""
        self.status: int | None = None
        # The slave stays open here: it shows the modes, and keeps the master from being hung up.
        self.master, self.slave = os.openpty()
        self.resize(rows, cols)
        self.pid = os.fork()
        if self.pid == 0:
            os.login_tty(self.slave)
            os.execve(argv[0], argv, env)

    def resize(self, rows: int, cols: int) -> None:
        termios.tcsetwinsize(self.master, (rows, cols))

    def type(self, text: bytes) -> None:
        os.write(self.master, text)

    def is_raw(self) -> bool:
        flags = termios.tcgetattr(self.slave)[3]
        return not flags & (termios.ICANON | termios.ECHO | termios.ISIG)

    def modes(self) -> list[object]:
        return termios.tcgetattr(self.slave)

    def wait_for(self, text: bytes) -> None:
        """Until ``text`` has come; what came up to it is dropped."""
        end = time.monotonic() + PATIENCE
        while text not in self.seen:
            ready, _, _ = select.select([self.master], [], [], max(0, end - time.monotonic()))
            assert ready, f"{text!r} did not come; on the screen: {self.seen[-2000:]!r}"
            self.seen += os.read(self.master, 65536)
        self.seen = self.seen.split(text, 1)[1]

    def wait(self) -> int:
        """The exit code as ``Popen.returncode`` has it."""
        if self.status is None:
            _, status = os.waitpid(self.pid, 0)
            self.status = os.waitstatus_to_exitcode(status)
        return self.status

    def close(self) -> None:
        if self.status is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.wait()
        os.close(self.slave)
        os.close(self.master)


@contextmanager
def terminal(argv: list[str], env: dict[str, str], rows: int = 24, cols: int = 80) -> Iterator[Tty]:
    tty = Tty(argv, env, rows, cols)
    try:
        yield tty
    finally:
        tty.close()
