"""Forwarding that the last network left on, for others had networks by then: a file of its own, for
no network is there that could say so. It is true for one boot: the next begins without.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress

import msgspec

from cove.errors import NOT_JSON, HostError
from cove.store.layout import Layout


class Left(msgspec.Struct, frozen=True, omit_defaults=True):
    boot: str
    """The kernel's boot_id then."""
    four: bool = False
    """cove switched it on, of IPv4."""
    six: bool = False
    closed: tuple[str, ...] = ()
    """Bridges and pairs of others that were there before, for which the host did not forward."""
    listening: tuple[str, ...] = ()
    """Interfaces that were told to hear routers although the host forwards IPv6."""


# Made at import, by one thread: msgspec crashes when two make one type's decoder at once.
_decode = msgspec.json.Decoder(Left).decode


def read_left(layout: Layout) -> Left | None:
    try:
        with open(layout.forwarding, "rb") as file:
            return _decode(file.read())
    except FileNotFoundError:
        return None
    except (OSError, *NOT_JSON) as error:
        raise HostError(f"cannot read {layout.forwarding}: {error}", exit_code=1) from error


def write_left(layout: Layout, left: Left) -> None:
    """Whole, or as it was; none of a family: it goes."""
    if not (left.four or left.six):
        with suppress(FileNotFoundError):
            os.unlink(layout.forwarding)
        return
    try:
        fd, path = tempfile.mkstemp(prefix="forwarding-", dir=layout.tmp)
        try:
            with open(fd, "wb") as file:
                file.write(msgspec.json.encode(left))
            os.rename(path, layout.forwarding)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(path)
            raise
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise HostError(f"cannot write {layout.forwarding}: {reason}", exit_code=1) from error
