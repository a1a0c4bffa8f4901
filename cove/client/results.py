"""What the Python API gives back, as frozen data. Times are seconds, sizes bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cove.store.records import Cause


@dataclass(frozen=True, slots=True)
class Result:
    """How a program ended, and what it wrote: every byte as it was written."""

    stdout: bytes
    stderr: bytes
    """Empty for a program with a terminal, which has one stream."""
    exit_code: int
    """128 and the signal's number where a signal ended it."""
    duration: float
    """Seconds from the call to the end of the program, by the caller's clock."""
    reason: Cause
    """Why it ended; ``kind`` is one word, ``exit`` where the program ended by itself."""

    @property
    def ok(self) -> bool:
        """Exit code 0."""
        return self.exit_code == 0

    @property
    def text(self) -> str:
        """stdout as text: UTF-8, and U+FFFD for what is not."""
        return self.stdout.decode("utf-8", "replace")

    @property
    def error_text(self) -> str:
        """stderr as text, in the same way."""
        return self.stderr.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of output, as it came; not cut at lines."""

    stream: Literal["stdout", "stderr"]
    data: bytes
