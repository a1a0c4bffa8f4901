"""The directories of writable layers, by the records that name them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator

from cove.engine.calls import Call
from cove.engine.home import Home
from cove.roots import copy_uppers, prepare_root, usage
from cove.store.records import MachineRecord
from cove.store.snapshots import pin


def prepare(home: Home, record: MachineRecord, views: int, *, anew: bool = False) -> None:
    """Make what the machine's overlay needs. ``anew``: it has never run, and what is there was made
    before anybody knew what it would stand on.
    """
    above = record.strata[-1] if record.strata else 0
    prepare_root(home.root, record.upper, views=views, above=above, anew=anew)


def prune(home: Home) -> None:
    """Remove the layers that nobody stands on any more."""
    for key in home.store.drop_strata():
        home.strata_sizes.pop(key, None)
        home.remover.remove(home.store.layout.upper(key))


def strata_sizes(home: Home, keys: Collection[int]) -> dict[int, int]:
    """Bytes on disk of layers that never change: each is measured once."""
    for key in keys:
        if key not in home.strata_sizes:
            home.strata_sizes[key] = usage(home.root, key)
    return {key: home.strata_sizes[key] for key in keys}


@contextlib.contextmanager
def copied(
    home: Home, sources: tuple[int, ...], views: int, call: Call, what: str, *, hollow: bool = False
) -> Iterator[int]:
    """A layer, ``roots/u<key>``, that is a copy of others; gone again if the block fails. Pinned
    inside, because no record names it yet.
    """
    layout, key = home.store.layout, home.store.new_key()
    staging = f"{layout.tmp}/stratum-{key}"
    with home.store.pinned(pin(key)):
        try:
            places = [layout.upper(source) for source in sources]
            copy_uppers(
                places, staging, what=what, views=views, hollow=hollow, cancelled=call.cancelled
            )
            for name in os.listdir(staging):
                if "." in name:  # the copier's own
                    home.remover.remove(f"{staging}/{name}")
            os.rename(staging, layout.upper(key))
            yield key
        except BaseException:
            home.remover.remove(staging)
            home.remover.remove(layout.upper(key))
            raise


@contextlib.contextmanager
def one_upper(
    home: Home,
    sources: tuple[int, ...],
    views: int,
    call: Call,
    what: str,
    *,
    hollow: bool = True,
) -> Iterator[int]:
    """The key of one layer that has what all of them have, to be read: names and attributes, and
    unless ``hollow`` the content.
    """
    if len(sources) == 1:
        yield sources[0]
        return
    with copied(home, sources, views, call, what, hollow=hollow) as key:
        try:
            yield key
        finally:
            home.remover.remove(home.store.layout.upper(key))
