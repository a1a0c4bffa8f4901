"""One act on each of the names that were typed."""

from __future__ import annotations

import threading
from collections.abc import Callable

from cove.cli.terminal import Terminal
from cove.errors import CoveError, NotFound


def each(
    names: tuple[str, ...],
    terminal: Terminal,
    act: Callable[[str], str],
    *,
    lenient: bool = False,
    at_once: int = 32,
) -> int:
    """Act on so many at once; print what each gave, in order, and tell each error under its name.

    A name given twice is acted on twice, one after the other.
    """
    results: list[str | Exception] = [""] * len(names)

    def one(name: str) -> None:
        for place in (place for place, given in enumerate(names) if given == name):
            try:
                results[place] = act(name)
            except Exception as error:
                results[place] = error

    if len(names) == 1 or at_once == 1:
        for name in dict.fromkeys(names):
            one(name)
    else:
        limit = threading.Semaphore(at_once)
        threads = []
        for name in dict.fromkeys(names):
            thread = threading.Thread(target=_limited, args=(limit, one, name))
            thread.start()
            threads.append(thread)
        for thread in threads:
            thread.join()
    code = 0
    for result in results:
        if isinstance(result, str):
            terminal.write(result + "\n" if result else "")
        elif isinstance(result, CoveError):
            terminal.error(result.render())
            code = code if lenient and isinstance(result, NotFound) else 1
        else:
            raise result
    return 130 if code and terminal.cancelled.is_set() else code


def _limited(limit: threading.Semaphore, one: Callable[[str], None], name: str) -> None:
    with limit:
        one(name)
