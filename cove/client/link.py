"""One session of a program, from outside: its output as it comes, its input, its end.

Whoever holds the link holds the machine: when it is closed, the monitor ends what was started
(``bound``). Nothing of the caller's but one socket is needed.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from cove.client.session import (
    EXIT,
    INPUT,
    INPUT_EOF,
    OUTPUT,
    QUEUE_MAX,
    SESSION,
    SIGNAL,
    Channel,
    LostPeer,
    Message,
)
from cove.client.steps import Ready, Steps
from cove.client.transport import error_from_json
from cove.errors import NOT_JSON, CoveError, HostError
from cove.store.records import Cause

ANSWER, ERROR = 67, 68
INPUT_CHUNK = 32 << 10

# Made at import, by one thread: msgspec crashes when two make one type's decoder at once.
_cause_of = msgspec.json.Decoder(Cause).decode


class Link:
    def __init__(
        self,
        sock: socket.socket,
        result_of: Callable[[bytes], Any],
        received: bytes = b"",
    ) -> None:
        self._sock, self._result_of = sock, result_of
        self._channel = Channel(sock, received=received)
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self.output: deque[tuple[int, bytes]] = deque()
        """What has come and was not taken: stream (1 or 2) and bytes."""
        self.started = False
        self.result: Any = None
        """Of the verb, when it was to be told."""
        self.failure: CoveError | None = None
        """What kept the program from running."""
        self.refused = 0
        """The front's socket is not for us: a negative value of an EXIT."""
        self.gone = False
        """Nothing more will come."""
        self.code: int | None = None
        self.cause = Cause("exit")
        for message in self._channel.buffered():
            self._obey(message)

    @property
    def over(self) -> bool:
        return self.code is not None or self.failure is not None or self.refused != 0

    def fileno(self) -> int:
        return self._sock.fileno()

    # ---- what the peer says ----

    def hear(self, timeout: float | None = None, *, sending: bool = False) -> Steps[bool]:
        """Wait for something to come (or, ``sending``, to leave), and take it in; False: nothing
        came in time."""
        fd = self._sock.fileno()
        if fd < 0:
            raise HostError("cannot hear from the machine: the session is closed")
        wants = select.POLLIN | (select.POLLOUT if sending and self._channel.waiting else 0)
        ready = yield Ready({fd: wants}, timeout)
        self.take()
        return bool(ready)

    def take(self) -> None:
        """What has come, without waiting."""
        if self._channel.waiting:
            self._flush()
        try:
            for message in self._channel.receive():
                self._obey(message)
        except LostPeer:
            self.gone = True
            if not self.over:
                raise HostError("cannot follow the program: lost the machine's monitor") from None

    def _obey(self, message: Message) -> None:
        if message.kind == OUTPUT:
            if message.payload:
                self.output.append((message.value, message.payload))
        elif message.kind == SESSION:
            self.started = True
        elif message.kind == ANSWER:
            self.result = self._result_of(message.payload)
        elif message.kind == ERROR:
            self.failure = error_from_json(_decoded(message.payload))
        elif message.kind == EXIT and message.value < 0 and not self.started:
            self.refused = message.value
        elif message.kind == EXIT:
            self._ended(message)

    def _ended(self, message: Message) -> None:
        """Behind the words for people is the cause, or the error of a start, as data."""
        text, _, data = message.payload.partition(b"\0")
        code = message.value & 255
        document = _decoded(data)
        if "error" in document:
            self.failure = error_from_json(document)
        elif not self.started and "cause" not in document:
            said = text.decode("utf-8", "replace").strip().removeprefix("cove: ")
            self.failure = CoveError(said or "cannot start the machine", exit_code=code)
        else:
            self.cause = _cause_of(msgspec.json.encode(document.get("cause", {"kind": "exit"})))
            self.code = code

    # ---- to the program ----

    @property
    def busy(self) -> bool:
        """The program takes its input slowly: enough is on its way."""
        return self._channel.waiting >= QUEUE_MAX

    @property
    def sending(self) -> bool:
        return bool(self._channel.waiting)

    def put(self, data: bytes) -> None:
        """Input on its way; ``hear`` or ``drained`` brings it there."""
        for at in range(0, len(data), INPUT_CHUNK):
            self._channel.queue(INPUT, 0, data[at : at + INPUT_CHUNK])
        self._flush()

    def put_end(self) -> None:
        self._channel.queue(INPUT_EOF)
        self._flush()

    def drained(self) -> Steps[None]:
        """Until the program's side has all input, or ends."""
        while self.sending and not self.over:
            yield Ready({self._sock.fileno(): select.POLLOUT})
            self._flush()

    def signal(self, number: int) -> None:
        self._channel.queue(SIGNAL, number)
        self._flush()

    def _flush(self) -> None:
        with self._lock:
            self._channel.flush()

    # ---- the end ----

    def close(self) -> None:
        """End the session, and with it what it holds. A fork's copy ends nothing."""
        if self._sock.fileno() < 0:
            return
        if os.getpid() == self._owner:
            try:
                # Copies of the descriptor in children must not keep the machine.
                self._sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self._sock.close()


def _decoded(data: bytes) -> dict[str, Any]:
    try:
        document = msgspec.json.decode(data) if data else {}
    except NOT_JSON:
        return {}
    return document if isinstance(document, dict) else {}
