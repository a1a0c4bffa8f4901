"""A verb over the front's socket: what the Python API sends when it sees the same system as the
daemon. Answers are JSON as over HTTP, without the HTTP; bytes come and go through descriptors.

A session's connection is handed to the monitor, which then has the last word on it.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import stat
import threading
from collections.abc import Sequence
from typing import Any

import msgspec

from cove.client.verbs import VERBS, Verb
from cove.daemon.params import parse_params
from cove.engine.calls import Call, Created, Session
from cove.engine.engine import Engine
from cove.engine.reactor import complain
from cove.errors import CoveError, NotFound, UsageError, error_to_json
from cove.executor.messages import MSG_MAX, Kind, Message, send

WITH_SESSION, TELL_RESULT = 1, 2
"""Bits of a CALL's value: the connection is the caller's session; its result is wanted all the
same."""
WHOLE, PART, ITEM = 0, 1, 2
"""Value of an ANSWER: the last of all, more of the same document follows, one item of a stream."""
PARAMS_MAX = 16 << 20
BODIES = (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFDIR)

encode = msgspec.json.Encoder().encode


class CallerLeft(Exception):
    """What is said to the caller reaches nobody: no error of the verb's own."""


def answer(
    engine: Engine,
    conn: socket.socket,
    message: Message,
    fds: Sequence[int],
    cancelled: threading.Event,
) -> None:
    """Carry a CALL out and say what came of it; never raises. The caller may be gone by then."""
    try:
        try:
            _carry_out(engine, conn, message, fds, cancelled)
        except (CoveError, CallerLeft):
            raise
        except BrokenPipeError as error:  # nobody reads what it was to write
            raise CallerLeft from error
        except Exception as error:
            complain("a call")
            bug = CoveError(f"bug: {type(error).__name__}: {error}; please report")
            raise bug from error
    except CoveError as error:
        with contextlib.suppress(CallerLeft):
            _fail(conn, error)
    except CallerLeft:
        pass


def _carry_out(
    engine: Engine,
    conn: socket.socket,
    message: Message,
    fds: Sequence[int],
    cancelled: threading.Event,
) -> None:
    name, _, data = message.payload.partition(b"\0")
    given = list(fds)
    if not data and given:
        data = _from_memory(given.pop(0))
    verb = VERBS.get(name.decode("utf-8", "replace"))
    if verb is None:
        shown = name.decode("utf-8", "replace")
        raise NotFound(f'cannot carry out "{shown}": the daemon has no such verb')
    params = parse_params(verb, data)
    with_session = bool(verb.session and message.value & WITH_SESSION)
    call = Call(
        session=Session(conn.fileno(), (-1, -1, -1), 0, 0, 0) if with_session else None,
        body=_bytes_of(verb, given) if verb.body else -1,
        sink=_bytes_of(verb, given) if verb.raw else -1,
        cancelled=cancelled,
    )
    method = getattr(engine, verb.method)
    if verb.stream:
        _stream(conn, method(params, call))
        return
    result = method(params, call)
    if isinstance(result, Created) and message.value & TELL_RESULT:
        with contextlib.suppress(NotFound):
            engine.begun(result.id)  # whoever asks next is to find it running
    if not with_session or message.value & TELL_RESULT:
        _say(conn, WHOLE, encode(result))


def _stream(conn: socket.socket, items: Any) -> None:
    try:
        for item in items:
            _say(conn, ITEM, encode(item))
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()
    _say(conn, WHOLE, b"")


def _say(conn: socket.socket, value: int, document: bytes) -> None:
    while len(document) > MSG_MAX:
        _send(conn, Kind.ANSWER, PART, document[:MSG_MAX])
        document = document[MSG_MAX:]
    _send(conn, Kind.ANSWER, value, document)


def _send(conn: socket.socket, kind: Kind, value: int, document: bytes) -> None:
    try:
        send(conn, kind, value=value, payload=document)
    except OSError as error:
        raise CallerLeft from error


def _fail(conn: socket.socket, error: CoveError) -> None:
    document = encode(error_to_json(error))
    if len(document) > MSG_MAX:  # an error that quotes what was too long to begin with
        short = CoveError(error.message[:1000], exit_code=error.exit_code)
        document = encode(error_to_json(short))
    _send(conn, Kind.ERROR, 0, document)


def _from_memory(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    if not 0 < size <= PARAMS_MAX:
        raise UsageError(f"cannot read the parameters: they are {size} bytes long")
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as memory:
        return bytes(memory)


def _bytes_of(verb: Verb, fds: Sequence[int]) -> int:
    if len(fds) != 1 or stat.S_IFMT(os.fstat(fds[0]).st_mode) not in BODIES:
        raise UsageError(f"cannot carry out {verb.name}: it wants one file, pipe or directory")
    return fds[0]
