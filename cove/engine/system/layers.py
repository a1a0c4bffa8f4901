"""What each layer takes of the disk. A layer never changes, so it is measured once."""

from __future__ import annotations

import os
import threading
from contextlib import suppress

from cove.linux.disk import file_usage, trees_usage
from cove.store.db import Store
from cove.store.records import LayerRecord

_guard = threading.Lock()
_measured: dict[str, tuple[int, str]] = {}
"""Directory of a layer to its bytes and its family: layers whose files are links to each other's
have one plain diff ID.
"""


def layer_sizes(store: Store) -> dict[str, int]:
    """Diff ID to bytes on the disk. Of layers that share files the oldest has them."""
    layers = sorted(store.layers(), key=lambda layer: layer.key)
    recipes = _recipe_sizes(store, layers)
    places = {
        store.layout.layer(layer.key): (layer.diff_id, layer.diff_id.partition("+")[0])
        for layer in layers
    }
    with _guard:
        mine = [path for path in _measured if path.startswith(f"{store.layout.roots}/")]
        changed = {_measured.pop(path)[1] for path in mine if path not in places}
        changed |= {family for path, (_, family) in places.items() if path not in _measured}
        again = [path for path, (_, family) in places.items() if family in changed]
        if again:
            found = trees_usage(again)
            _measured.update((path, (found.get(path, 0), places[path][1])) for path in again)
        return {
            diff_id: _measured[path][0] + recipes[diff_id] for path, (diff_id, _) in places.items()
        }


def _recipe_sizes(store: Store, layers: list[LayerRecord]) -> dict[str, int]:
    """With the archives that layers came as. One file may be that of several layers: of the oldest,
    then.
    """
    sizes: dict[str, int] = {}
    seen: set[int] = set()
    for layer in layers:
        for path in (store.layout.recipe(layer.key), store.layout.packed_layer(layer.key)):
            with suppress(FileNotFoundError):
                number = os.stat(path).st_ino
                size = file_usage(path) if number not in seen else 0
                sizes[layer.diff_id] = sizes.get(layer.diff_id, 0) + size
                seen.add(number)
    return {layer.diff_id: sizes.get(layer.diff_id, 0) for layer in layers}
