"""Places in a Dockerfile, and errors that point at them. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cove.errors import CoveError, UsageError
from cove.oci.logins import redacted

EXCERPT = 120


@dataclass(frozen=True, slots=True)
class Place:
    """The lines of one instruction, with their text."""

    file: str
    line: int
    end: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"

    @property
    def excerpt(self) -> str:
        """``Dockerfile:7  COPY src/app.py /app/``, shortened where it is long; without logins, of
        which a cut would leave the half."""
        first, more, _ = redacted(self.text).strip().partition("\n")
        short = first[:EXCERPT] + "…" if len(first) > EXCERPT or more else first
        return f"{self}  {short}" if short else str(self)


@contextmanager
def told_of(place: Place) -> Iterator[None]:
    """What cannot be had is told of the line that names it, unless something else that was typed
    decided."""
    try:
        yield
    except CoveError as error:
        if error.exit_code != 130:  # interrupted
            error.origin = error.origin or place.excerpt
        raise


def _clipped(reason: str) -> str:
    """No word of a file makes a message a page long, or shows a login."""
    reason = redacted(reason)
    return reason if len(reason) <= 400 else f"{reason[:300]}…{reason[-80:]}"


def fault(place: Place, reason: str, *, hint: str = "") -> UsageError:
    """What is wrong with the text of an instruction."""
    return UsageError(
        f"cannot read {place.file}: {_clipped(reason)}",
        origin=place.excerpt,
        hint=redacted(hint),
        exit_code=1,
    )


def misfit(place: Place, reason: str, *, hint: str = "") -> UsageError:
    """What is wrong with a Dockerfile that could be read."""
    return UsageError(
        f"cannot build {place.file}: {_clipped(reason)}",
        origin=place.excerpt,
        hint=redacted(hint),
        exit_code=1,
    )
