"""The drivers of ``steps`` for asyncio. The one file outside the daemon that imports it."""

from __future__ import annotations

import asyncio
import select
from collections.abc import AsyncIterator
from typing import Any, TypeVar

from cove.client.steps import Item, Pause, Ready, Steps

T = TypeVar("T")


async def _wait(want: Ready) -> dict[int, int]:
    loop = asyncio.get_running_loop()
    if not want.fds:
        await asyncio.sleep(want.timeout or 0)
        return {}
    found: asyncio.Future[None] = loop.create_future()
    ready: dict[int, int] = {}

    def seen(fd: int, event: int) -> None:
        ready[fd] = ready.get(fd, 0) | event
        if not found.done():
            found.set_result(None)

    for fd, events in want.fds.items():
        try:
            if events & select.POLLIN:
                loop.add_reader(fd, seen, fd, select.POLLIN)
            if events & select.POLLOUT:
                loop.add_writer(fd, seen, fd, select.POLLOUT)
        except PermissionError:  # epoll takes no files and no /dev/null: they never wait
            seen(fd, events)
    try:
        if want.timeout is None:
            await found
        else:
            await asyncio.wait((found,), timeout=want.timeout)
    finally:
        for fd, events in want.fds.items():
            if events & select.POLLIN:
                loop.remove_reader(fd)
            if events & select.POLLOUT:
                loop.remove_writer(fd)
    return ready


async def _answer(want: Pause) -> Any:
    if isinstance(want, Ready):
        return await _wait(want)
    return None if isinstance(want, Item) else await asyncio.to_thread(want.do)


async def each(steps: Steps[object]) -> AsyncIterator[Any]:
    try:
        want = next(steps)
        while True:
            if isinstance(want, Item):
                yield want.value
            try:
                answer = await _answer(want)
            except Exception as error:
                want = steps.throw(error)
            else:
                want = steps.send(answer)
    except StopIteration:
        return
    finally:
        steps.close()


async def finish(steps: Steps[T]) -> T:
    try:
        want = next(steps)
        while True:
            try:
                answer = await _answer(want)
            except Exception as error:
                want = steps.throw(error)
            else:
                want = steps.send(answer)
    except StopIteration as done:
        result: T = done.value
        return result
    finally:
        steps.close()
