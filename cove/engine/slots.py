"""What every machine needs and no spec changes, made before anybody asks: a key and an id, the
directories, the machine's socket, its generated files, a monitor that waits for its plan.

A slot has no record. What a crash leaves of it is a directory, a socket and a group that nobody
records, which the next daemon sweeps.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
from dataclasses import dataclass

from cove.engine import files
from cove.executor.forker import Forker
from cove.linux.cgroup import Cgroups
from cove.roots import Remover, prepare_root
from cove.store.db import Store

READY = 4
"""Slots that are kept; a burst of more starts makes its own."""


@dataclass(slots=True, eq=False)
class Slot:
    """The beginnings of one machine. ``close`` gives the descriptors back, not the directories."""

    key: int
    id: str
    directory: int
    """machines/<key>, open."""
    listener: int
    generated: dict[str, int]
    """The generated files of a machine without a hostname, hosts or servers of its own."""
    ctl: socket.socket | None

    def close(self) -> None:
        for fd in (self.directory, self.listener, *self.generated.values()):
            os.close(fd)
        if self.ctl is not None:
            self.ctl.close()


class Slots:
    def __init__(
        self, store: Store, forker: Forker, groups: Cgroups, remover: Remover, run_fd: int
    ) -> None:
        self._store, self._forker, self._groups = store, forker, groups
        self._remover, self._run_fd = remover, run_fd
        self._ready: list[Slot] = []
        self._lock = threading.Lock()
        # Until the daemon has swept what nobody records, a slot would be swept with it.
        self._closed = True

    def open(self) -> None:
        """After recovery: make the first slots."""
        self._closed = False
        self.refill()

    def take(self) -> Slot:
        """A slot for a new machine; made now when none is ready."""
        with self._lock:
            if self._ready:
                return self._ready.pop(0)
        return self._make()

    def put_back(self, slot: Slot) -> None:
        """Nothing was made of it: the next machine takes it."""
        with self._lock:
            if not self._closed:
                self._ready.insert(0, slot)
                return
        self.give_up(slot)

    def refill(self) -> None:
        """For a worker: whoever starts machines does not wait for it."""
        if not self._closed:
            self._groups.fill(READY)
        while self._wanted():
            slot = self._make()
            with self._lock:
                if not self._closed:
                    self._ready.append(slot)
                    continue
            self.give_up(slot)

    def _wanted(self) -> bool:
        return not self._closed and len(self._ready) < READY

    def close(self) -> None:
        with self._lock:
            self._closed = True
            left, self._ready = self._ready, []
        for slot in left:
            self.give_up(slot)

    def give_up(self, slot: Slot) -> None:
        """Remove a slot that no machine was made of."""
        slot.close()
        layout = self._store.layout
        self._remover.remove(layout.upper(slot.key))
        self._remover.remove(layout.machine(slot.key))
        try:
            os.unlink(layout.monitor_socket(slot.key))
        except FileNotFoundError:
            pass

    def _make(self) -> Slot:
        key, machine_id = self._store.new_key(), secrets.token_hex(32)
        prepare_root(self._store.layout.root, key, views=0)
        directory = open_directory(self._store.layout.machine(key))
        generated = files.write_default(directory, machine_id[:12])
        listener = listen(self._run_fd, key)
        return Slot(key, machine_id, directory, listener, generated, self._forker.fork())


def open_directory(path: str) -> int:
    """machines/<key>, made where it is missing, without the exit record of a run before."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        try:
            os.unlink(f"{path}/exit")  # a crash from here on must not find it
        except FileNotFoundError:
            pass
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)


def listen(run_fd: int, key: int) -> int:
    """The machine's own socket, where a later daemon finds its monitor."""
    path = f"/proc/self/fd/{run_fd}/{key}.sock"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        try:
            listener.bind(path)
        except OSError:
            os.unlink(path)
            listener.bind(path)
        listener.listen(16)
    except BaseException:
        listener.close()
        raise
    return listener.detach()
