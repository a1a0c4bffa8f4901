"""One probe of a health check: an exec session without a record. The front's end of it is this
daemon's, so it ends with its timeout, its machine, or the daemon.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from functools import partial

from cove.engine.calls import Session
from cove.engine.home import Home, close_quietly
from cove.engine.machines.exec import Extra, exec_in
from cove.engine.machines.start import Foreground
from cove.engine.reactor import complain
from cove.errors import CoveError
from cove.linux.timers import Timer
from cove.spec.health import OUTPUT, Answer, Check
from cove.spec.machine import ExecSpec
from cove.store.records import MachineRecord

PIECE = 64 << 10


def probe(home: Home, record: MachineRecord, check: Check, told: Callable[[Answer], None]) -> None:
    """Begin one. ``told`` hears the answer, once, on the reactor's thread."""
    one = Probe(home, check.timeout, told)
    try:
        one.begin(record, check.argv)
    except Exception as error:
        if not isinstance(error, CoveError):
            complain("a health check")
        text = error.message if isinstance(error, CoveError) else str(error)
        home.reactor.post(partial(one.answer, -1, text))


class Probe:
    def __init__(self, home: Home, timeout: float, told: Callable[[Answer], None]) -> None:
        self._home, self._timeout, self._told = home, timeout, told
        self._began = time.time()
        self._output = bytearray()
        self._reader = -1
        self._front: socket.socket | None = None
        self._timer: Timer | None = None
        self._answered = False

    def begin(self, record: MachineRecord, argv: tuple[str, ...]) -> None:
        reactor = self._home.reactor
        self._reader, writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._reader, False)
        try:
            self._front, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                session = Session(theirs.fileno(), (-1, writer, writer), 0, 0, 0)
                streams = ("stdout", "stderr")
                foreground = Foreground(session, streams, sig_proxy=False, bound=True)
                reactor.watch(self._reader, self, self._ready)
                self._timer = reactor.after(self._timeout, self._late)
                exec_in(self._home, record, ExecSpec(argv), foreground, ended=self._ended)
        finally:
            os.close(writer)

    def answer(self, code: int, text: str) -> None:
        """On the reactor's thread, as all that follows. Whatever still runs of it is ended."""
        if self._answered:
            return
        self._answered = True
        if self._timer is not None:
            self._timer.cancel()
        self._close_reader()
        if self._front is not None:
            self._front.close()
        self._told(Answer(self._began, time.time(), code, text))

    def _ended(self, extra: Extra) -> None:
        while self._reader >= 0 and self._read():
            pass
        if extra.failure is not None:
            self.answer(-1, extra.failure.message)
        elif extra.exit_code is None:
            self.answer(-1, "its monitor ended")
        else:
            self.answer(extra.exit_code, self._text())

    def _late(self) -> None:
        said = self._text()
        text = f"Health check exceeded timeout ({self._timeout:g}s)"
        self.answer(-1, f"{text}: {said}" if said else text)

    def _text(self) -> str:
        text = bytes(self._output[:OUTPUT]).decode("utf-8", "replace")
        return text + "..." if len(self._output) > OUTPUT else text

    def _ready(self, events: int) -> None:
        self._read()

    def _read(self) -> bool:
        """What it says, of which the beginning is kept; whether there may be more."""
        try:
            data = os.read(self._reader, PIECE)
        except BlockingIOError:
            return False
        self._output += data[: OUTPUT + 1 - len(self._output)]
        if not data:
            self._close_reader()
        return bool(data)

    def _close_reader(self) -> None:
        if self._reader >= 0:
            self._home.reactor.forget(self._reader, self)
            close_quietly(self._reader)
            self._reader = -1
