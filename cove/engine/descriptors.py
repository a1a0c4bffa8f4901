"""Descriptors on their way to a monitor."""

from __future__ import annotations

import os


class Descriptors(dict[str, int]):
    """Descriptors that go to a monitor, by name; ``mine`` are closed here at the end of the
    ``with``.
    """

    def __init__(self) -> None:
        super().__init__()
        self._mine: list[int] = []

    def mine(self, name: str, fd: int) -> int:
        self._mine.append(fd)
        self[name] = fd
        return fd

    def __enter__(self) -> Descriptors:
        return self

    def __exit__(self, *error: object) -> None:
        for fd in self._mine:
            os.close(fd)
