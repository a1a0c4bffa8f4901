"""A verb over the front's socket is always answered, whatever happens in it."""

from __future__ import annotations

import json
import socket
import threading
from typing import Any

import pytest

from cove.daemon.calls import answer
from cove.engine import calls
from cove.errors import NotFound
from cove.executor.messages import Kind, Message, receive

WORDS = json.dumps({"machine": "a", "name": "b"})
ASKED = Message(Kind.CALL, 0, b"machine.rename\0" + WORDS.encode(), ())


class Verbs:
    """In an engine's place: one verb, that does what it is told."""

    def __init__(self, does: Any) -> None:
        self.rename = lambda params, call: does()


def answered(does: Any, *, left: bool = False) -> Message | None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        if left:
            ours.close()
        answer(Verbs(does), theirs, ASKED, (), threading.Event())  # type: ignore[arg-type]
        if left:
            return None
        theirs.close()
        return receive(ours)


def fails(error: BaseException) -> Any:
    def does() -> None:
        raise error

    return does


def test_a_result() -> None:
    said = answered(lambda: calls.Named("1", "b"))
    assert said is not None and said.kind == Kind.ANSWER
    assert json.loads(said.payload) == {"id": "1", "name": "b"}


def test_an_error_has_its_words() -> None:
    said = answered(fails(NotFound('cannot find machine "a"')))
    assert said is not None and said.kind == Kind.ERROR
    assert b"cannot find machine" in said.payload


@pytest.mark.parametrize("error", [OSError(9, "Bad file descriptor"), ValueError("odd")])
def test_a_mistake_of_ours_is_told_as_one(
    error: Exception, capfd: pytest.CaptureFixture[str]
) -> None:
    """Never by silence, which would look like the daemon's end."""
    said = answered(fails(error))
    assert said is not None and said.kind == Kind.ERROR
    assert f"bug: {type(error).__name__}".encode() in said.payload
    assert "Traceback" in capfd.readouterr().err


@pytest.mark.parametrize("left", [False, True])
def test_a_caller_who_left_is_no_mistake(left: bool, capfd: pytest.CaptureFixture[str]) -> None:
    error = BrokenPipeError() if not left else NotFound("gone")
    assert answered(fails(error), left=left) is None
    assert capfd.readouterr().err == ""
