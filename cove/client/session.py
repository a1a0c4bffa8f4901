"""The front's part of a session, in Python: a terminal relayed to a machine over one socket.

For those who are not the C front: ``cove-python`` over HTTP, and the Python API. It speaks the
messages of ``init/cove.h`` on a SEQPACKET socket or, framed by their header, on a stream. It obeys
and prints; it decides nothing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import socket
import struct
import termios
import threading
import tty
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Protocol

HEAD = struct.Struct("<IiII")
SIZE = struct.Struct("<HH")

INPUT, INPUT_EOF, DETACH, SIGNAL, RESIZE = 33, 34, 35, 48, 49
SESSION, OUTPUT, EXIT = 64, 65, 66
RELAY_STDIN, RAW_TERMINAL, FORWARD_SIGNALS = 1, 2, 4

MESSAGE_MAX = 192 << 10
CHUNK = 32 << 10
OUT_CHUNK = 4096
"""What a pipe that polls writable takes without blocking."""
QUEUE_MAX = 4
"""Messages to a peer that does not read: then stdin is left alone."""

LOST = "cove: lost the machine's monitor\n"
FORWARDED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
)


class Caller(Protocol):
    """Whose session it is; ``cove.cli.terminal.Terminal`` is one."""

    fds: tuple[int, int, int]
    terminals: int
    cancelled: threading.Event


class LostPeer(Exception):
    """The other end went without saying the exit code."""


@dataclass(frozen=True, slots=True)
class Message:
    kind: int
    value: int
    payload: bytes


class Channel:
    """Messages both ways over a socket of our own, never blocking."""

    def __init__(self, sock: socket.socket, *, received: bytes = b"") -> None:
        """``received``: bytes of the stream that were read with the answer to the upgrade."""
        sock.setblocking(False)
        self._sock = sock
        self._packets = sock.type == socket.SOCK_SEQPACKET
        self._in = bytearray(received)
        self._out: deque[bytes] = deque()

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def waiting(self) -> int:
        return len(self._out)

    def queue(self, kind: int, value: int = 0, payload: bytes = b"") -> None:
        self._out.append(HEAD.pack(kind, value, len(payload), 0) + payload)

    def flush(self) -> None:
        """Send what the peer takes. That it is gone is noticed by reading, after its last words."""
        try:
            while self._out:
                sent = self._sock.send(self._out[0])
                if sent == len(self._out[0]) or self._packets:
                    self._out.popleft()
                else:
                    self._out[0] = self._out[0][sent:]
        except BlockingIOError:
            return
        except (BrokenPipeError, ConnectionResetError):
            self._out.clear()

    def receive(self) -> Iterator[Message]:
        """Whole messages that are there; raises LostPeer at the end of file."""
        data: bytes | None = b""
        for _ in range(2):
            try:
                data = self._sock.recv(MESSAGE_MAX + HEAD.size)
            except BlockingIOError:
                data = None
            except ConnectionResetError:
                # Once, from a peer that closed with something of ours unread; what it had said
                # comes after.
                continue
            break
        self._in += data or b""
        yield from self.buffered()
        if data == b"":
            raise LostPeer

    def buffered(self) -> Iterator[Message]:
        while len(self._in) >= HEAD.size:
            kind, value, length, _ = HEAD.unpack_from(self._in)
            if length > MESSAGE_MAX:
                raise LostPeer
            if len(self._in) < HEAD.size + length:
                return
            payload = bytes(self._in[HEAD.size : HEAD.size + length])
            del self._in[: HEAD.size + length]
            yield Message(kind, value, payload)


class DetachKeys:
    """Finds the detach sequence in what is typed, however it is cut into reads."""

    def __init__(self, sequence: bytes) -> None:
        self._sequence = sequence
        self.held = b""

    def feed(self, typed: bytes) -> tuple[bytes, bool]:
        """What may go on to the machine, and whether the sequence is complete."""
        passed = bytearray()
        for byte in typed:
            self.held += bytes((byte,))
            while self.held and not self._sequence.startswith(self.held):
                passed.append(self.held[0])
                self.held = self.held[1:]
            if self.held and self.held == self._sequence:
                self.held = b""
                return bytes(passed), True
        return bytes(passed), False


class Session:
    """One foreground: stdin, stdout and stderr of the caller, and a peer that says what to do."""

    def __init__(self, channel: Channel, caller: Caller) -> None:
        self._channel = channel
        self._caller = caller
        self._stdin, self._stdout, self._stderr = caller.fds
        self._flags = 0
        self._keys = DetachKeys(b"")
        self._detached = False
        self._saved: list[object] | None = None
        self._out: deque[tuple[int, memoryview]] = deque()
        self._code: int | None = None
        self._said = b""

    def run(self) -> int:
        """Relay until the peer says the exit code, and give it."""
        with ExitStack() as stack:
            stack.callback(self._restore)
            wake = stack.enter_context(self._signals())
            try:
                for message in self._channel.buffered():
                    self._obey(message)
                while self._code is None or self._out:
                    self._step(wake)
            except LostPeer:
                self._code = 0 if self._detached else 125
                self._said = b"" if self._detached else LOST.encode()
            except BrokenPipeError:
                return 128 + signal.SIGPIPE
        self._drain()
        if self._said:
            os.write(self._stderr, self._said)
        return self._code or 0

    # ---- one turn ----

    def _step(self, wake: int) -> None:
        poll = select.poll()
        poll.register(wake, select.POLLIN)
        wants = 0 if self._out else select.POLLIN
        if self._channel.waiting:
            wants |= select.POLLOUT
        if wants:
            poll.register(self._channel.fileno(), wants)
        if self._out:
            poll.register(self._out[0][0], select.POLLOUT)
        if self._reads_stdin():
            poll.register(self._stdin, select.POLLIN)
        ready = dict(poll.poll(250))
        if self._caller.cancelled.is_set():
            self._out.clear()
            self._code = 128 + signal.SIGINT
            return
        if wake in ready:
            for number in os.read(wake, 512):
                self._on_signal(number)
        if self._out and self._out[0][0] in ready:
            self._write()
        elif self._reads_stdin() and self._stdin in ready:
            self._read_stdin()
        self._channel.flush()
        if ready.get(self._channel.fileno(), 0) & ~select.POLLOUT and not self._out:
            for message in self._channel.receive():
                self._obey(message)

    def _reads_stdin(self) -> bool:
        wanted = self._flags & RELAY_STDIN and not self._detached and self._stdin >= 0
        return bool(wanted) and self._channel.waiting < QUEUE_MAX and self._code is None

    def _obey(self, message: Message) -> None:
        if message.kind == OUTPUT:
            fd = self._stderr if message.value == 2 else self._stdout
            if fd >= 0 and message.payload:
                self._out.append((fd, memoryview(message.payload)))
        elif message.kind == SESSION:
            self._flags = message.value
            self._keys = DetachKeys(message.payload)
            if self._flags & RAW_TERMINAL:
                self._make_raw()
        elif message.kind == EXIT:
            # Behind a NUL the same is said once more, as data.
            self._code, self._said = message.value & 255, message.payload.partition(b"\0")[0]

    def _write(self) -> None:
        fd, left = self._out[0]
        try:
            left = left[os.write(fd, left[:OUT_CHUNK]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            raise
        except OSError as error:
            if error.errno != errno.EIO:  # a terminal that hung up takes nothing more
                raise
            left = left[:0]
        if left:
            self._out[0] = (fd, left)
        else:
            self._out.popleft()

    def _drain(self) -> None:
        """What came before a lost peer still belongs to the caller."""
        while self._out:
            try:
                self._write()
            except OSError:
                return

    def _read_stdin(self) -> None:
        try:
            typed = os.read(self._stdin, CHUNK)
        except BlockingIOError:
            return
        except OSError:
            typed = b""
        passed, detach = self._keys.feed(typed)
        if not typed:
            passed = self._keys.held
        if passed:
            self._channel.queue(INPUT, 0, passed)
        if detach:
            self._detached = True
            self._channel.queue(DETACH)
        elif not typed:
            self._flags &= ~RELAY_STDIN
            self._channel.queue(INPUT_EOF)

    # ---- terminal and signals ----

    @property
    def _on_terminal(self) -> bool:
        return bool(self._caller.terminals & 1)

    def _make_raw(self) -> None:
        """The kernel stops a background process here, as a shell expects."""
        if not self._on_terminal:
            return
        if self._saved is None:
            self._saved = termios.tcgetattr(self._stdin)
        tty.setraw(self._stdin, termios.TCSANOW)

    def _restore(self) -> None:
        saved, self._saved = self._saved, None
        if saved is None:
            return
        try:
            if os.tcgetpgrp(self._stdin) == os.getpgrp():
                termios.tcsetattr(self._stdin, termios.TCSANOW, saved)  # type: ignore[arg-type]
        except OSError:
            return  # it hung up

    def _resize(self) -> None:
        for fd in self._caller.fds:
            try:
                blank = b"\0" * 8
                rows, columns = SIZE.unpack_from(fcntl.ioctl(fd, termios.TIOCGWINSZ, blank))
            except OSError:
                continue
            self._channel.queue(RESIZE, 0, SIZE.pack(rows, columns))
            return

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGWINCH:
            self._resize()
        elif number == signal.SIGTSTP:
            self._restore()
            os.kill(os.getpid(), signal.SIGSTOP)
        elif number == signal.SIGCONT:
            if self._flags & RAW_TERMINAL:
                self._make_raw()
            self._resize()
        elif self._flags & FORWARD_SIGNALS:
            self._channel.queue(SIGNAL, number)
        else:
            self._restore()
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    @contextmanager
    def _signals(self) -> Iterator[int]:
        """A pipe that says which signals came. Outside the main thread there are none to be had."""
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}
        main = threading.current_thread() is threading.main_thread()
        wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False) if main else -1
        try:
            wanted = (*FORWARDED, signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT) if main else ()
            for number in wanted:
                if signal.getsignal(number) != signal.SIG_IGN:
                    before[number] = signal.signal(number, lambda *_: None)
            yield reader
        finally:
            for caught, action in before.items():
                signal.signal(caught, action)
            if main:
                signal.set_wakeup_fd(wakeup)
            os.close(reader)
            os.close(writer)


def relay(sock: socket.socket, caller: Caller, received: bytes = b"") -> int:
    """Be the front of the session on ``sock``, of which ``received`` is read already."""
    return Session(Channel(sock, received=received), caller).run()
