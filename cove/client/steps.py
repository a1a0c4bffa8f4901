"""Conversations as generators: what is to be waited for is yielded, so that one text serves callers
that block (``finish`` and ``each`` here) and callers of asyncio (``aio_steps``).
"""

from __future__ import annotations

import math
import select
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class Ready(NamedTuple):
    """Wait for descriptors (fd to events of poll(2)); resumed with the events there are, by fd."""

    fds: dict[int, int]
    timeout: float | None = None
    """Seconds; then resumed with nothing."""


class Work(NamedTuple):
    """Do something that blocks and is no waiting for descriptors; resumed with its result."""

    do: Callable[[], Any]


class Item(NamedTuple):
    """What ``each`` gives to its caller."""

    value: Any


Pause = Ready | Work | Item
Steps = Generator[Pause, Any, T]


def wait(want: Ready) -> dict[int, int]:
    poll = select.poll()
    for fd, events in want.fds.items():
        poll.register(fd, events)
    return dict(poll.poll(None if want.timeout is None else math.ceil(want.timeout * 1000)))


def _answer(want: Pause) -> Any:
    if isinstance(want, Ready):
        return wait(want)
    return want.do() if isinstance(want, Work) else None


def each(steps: Steps[object]) -> Iterator[Any]:
    """The items of a conversation, as they come; leaving early ends it."""
    try:
        want = next(steps)
        while True:
            if isinstance(want, Item):
                yield want.value
            try:
                answer = _answer(want)
            except Exception as error:
                want = steps.throw(error)
            else:
                want = steps.send(answer)
    except StopIteration:
        return
    finally:
        steps.close()


def finish(steps: Steps[T]) -> T:
    """The result of a conversation."""
    try:
        want = next(steps)
        while True:
            try:
                answer = _answer(want)
            except Exception as error:
                want = steps.throw(error)
            else:
                want = steps.send(answer)
    except StopIteration as done:
        result: T = done.value
        return result
    finally:
        steps.close()
