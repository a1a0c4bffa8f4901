"""What an unpacked layer looks like, recorded soon after it was unpacked: a layer never changes, so
what looks otherwise later was changed by somebody.

It is a digest of every entry's path, type, mode, owner, size, device, link target and time of
change, not of the bytes in files: those are as the disk keeps them.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable

import msgspec

from cove.engine.events import Subscription
from cove.engine.home import Home
from cove.engine.reactor import complain
from cove.errors import CoveError
from cove.store.records import LayerRecord

UNREADABLE = "-"
"""Of a tree that cannot be walked by paths: one deeper than a path may be long."""
PAUSE_EVERY, PAUSE = 256, 0.001
"""Entries after which whoever starts machines has a turn."""


def tree_of(path: str, pause: Callable[[], None] = lambda: None) -> str:
    """``ENTRIES BYTES DIGEST`` of the tree; OSError where there is none."""
    found, entries, size = hashlib.sha256(), 0, 0
    pending = [""]
    os.stat(path)
    while pending:
        inside = pending.pop()
        try:
            with os.scandir(os.fsencode(f"{path}{inside}")) as listed:
                names = sorted(entry.name for entry in listed)
            for name in names:
                below = f"{inside}/{os.fsdecode(name)}"
                status = os.lstat(f"{path}{below}")
                target = os.readlink(f"{path}{below}") if stat.S_ISLNK(status.st_mode) else ""
                found.update(os.fsencode(_line(below, status, target)))
                entries += 1
                if stat.S_ISREG(status.st_mode):
                    size += status.st_size
                if stat.S_ISDIR(status.st_mode):
                    pending.append(below)
                if not entries % PAUSE_EVERY:
                    pause()
        except OSError as error:
            if error.errno in (36, 40):  # ENAMETOOLONG, ELOOP
                return UNREADABLE
            raise
    return f"{entries} {size} {found.hexdigest()}"


def _line(path: str, status: os.stat_result, target: str) -> str:
    size = status.st_size if stat.S_ISREG(status.st_mode) else 0
    numbers = (status.st_mode, status.st_uid, status.st_gid, size, status.st_rdev)
    return f"{path}\0{target}\0{' '.join(map(str, numbers))} {status.st_mtime_ns}\n"


class Recorder:
    """Records what new layers look like, in a thread of its own, after whatever made them."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._news = Subscription()
        self._thread = threading.Thread(target=self._run, name="trees", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """The walk under way is given up: the next daemon begins it anew."""
        self._news.wake()
        self._thread.join()

    def _run(self) -> None:
        with self._home.events.subscribe(self._news):
            while not self._home.closing:
                try:
                    self._record_all()
                except _Closing:
                    return
                except (OSError, CoveError):
                    complain("the trees of layers")
                while not self._home.closing:
                    event = self._news.get()
                    if event is not None and event.type == "image":
                        break

    def _record_all(self) -> None:
        store = self._home.store
        for layer in store.layers():
            # One that is pinned is still being finished.
            if layer.tree or layer.broken or layer.diff_id in store.pins():
                continue
            try:
                tree = tree_of(store.layout.layer(layer.key), self._pause)
            except FileNotFoundError:
                continue  # removed meanwhile, or lost: the check says so
            record_tree(self._home, layer, tree)

    def _pause(self) -> None:
        if self._home.closing:
            raise _Closing
        time.sleep(PAUSE)


class _Closing(Exception):
    pass


def record_tree(home: Home, layer: LayerRecord, tree: str) -> None:
    """Unless it was removed or replaced meanwhile."""
    with home.store.transaction():
        if home.store.layer(layer.diff_id) == layer:
            home.store.put_layer(msgspec.structs.replace(layer, tree=tree))
