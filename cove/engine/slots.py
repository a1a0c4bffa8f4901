"""What every machine needs and no spec changes, made before anybody asks: a key and an id, the
directories, the machine's socket, its generated files, its group and id range; and a monitor that
has run the beginning of the plan (``plan_ahead``) and waits for the rest.

A slot has no record. What a crash leaves of it is a directory, a socket and a group that nobody
records, which the next daemon sweeps; its monitor ends with the daemon's socket.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from cove.engine import files
from cove.engine.machines.names import choose_id
from cove.engine.ranges import range_base
from cove.errors import Bug, CoveError
from cove.executor.forker import Forker
from cove.executor.messages import Kind, Message, Start, StartFlag, receive, send_start
from cove.linux.cgroups.tree import Cgroups, Group
from cove.linux.network.tap import close_taps
from cove.plan import wire
from cove.plan.facts import Facts
from cove.plan.ops import Barrier, Plan
from cove.planner import Place, plan_ahead
from cove.planner.defaults import PIDS
from cove.roots import Remover, prepare_root
from cove.spec.machine import Limits, MachineSpec
from cove.store.db import Store

READY = 4
"""Slots that are kept; a burst of more starts makes its own."""

PATIENCE = 2.0
"""Seconds in which a monitor is expected to have run its first half."""

FAILURES = 3
"""Slots in a row that may fail before none is run ahead any more: this host cannot."""

PLAIN = MachineSpec(image="")


@dataclass(slots=True, eq=False)
class Slot:
    """The beginnings of one machine. ``close`` gives the descriptors back, not the rest."""

    key: int
    id: str
    group: Group
    id_range: int
    directory: int = -1
    """machines/<key>, open."""
    listener: int = -1
    generated: dict[str, int] = field(default_factory=dict)
    """The generated files of a machine without a hostname, hosts or servers of its own."""
    ctl: socket.socket | None = None
    netns: int = -1
    """The network namespace that its monitor has made."""
    ahead: Plan | None = None
    """What its monitor has run; None: it waits for a whole plan."""
    limits: Limits | None = None
    """Those of its group, where they are not the default ones."""
    cards: tuple[int, ...] = ()
    """Of an emulator: the host's ends."""

    def close(self) -> None:
        for fd in (self.directory, self.listener, self.netns, *self.generated.values()):
            if fd >= 0:
                os.close(fd)
        self.directory, self.listener, self.netns, self.generated = -1, -1, -1, {}
        if self.ctl is not None:
            self.ctl.close()
            self.ctl = None
        cards, self.cards = self.cards, ()
        close_taps(cards)

    def waits(self) -> bool:
        """Whether its monitor does: one that has something to say has failed."""
        assert self.ctl is not None
        try:
            _close(receive(self.ctl, flags=socket.MSG_DONTWAIT))
        except BlockingIOError:
            return True
        except (OSError, Bug):
            pass
        return False


class Slots:
    def __init__(
        self,
        store: Store,
        forker: Forker,
        groups: Cgroups,
        remover: Remover,
        facts: Facts,
        *,
        state_fd: int,
        run_fd: int,
        later: Callable[[Callable[[], None]], None],
    ) -> None:
        """``later`` gives work to another thread."""
        self._store, self._forker, self._groups = store, forker, groups
        self._remover, self._facts, self._later = remover, facts, later
        self._state_fd, self._run_fd = state_fd, run_fd
        self._ready: list[Slot] = []
        self._lock, self._filling = threading.Lock(), threading.Lock()
        self._failures = 0 if facts.root else FAILURES
        # Until the daemon has swept what nobody records, a slot would be swept with it.
        self._closed = True

    def open(self) -> None:
        """After recovery: make the first slots."""
        self._closed = False
        self.refill()

    def take(self) -> Slot:
        """A slot for a new machine; made now, and not run ahead, when none is ready."""
        while True:
            with self._lock:
                slot = self._ready.pop(0) if self._ready else None
            if slot is None:
                return self._make()
            if slot.waits():
                return slot
            self.give_up_later(slot)

    def waiting(self) -> list[Slot]:
        with self._lock:
            return list(self._ready)

    def put_back(self, slot: Slot) -> None:
        """Nothing was made of it: the next machine takes it, unless another was made meanwhile."""
        with self._lock:
            if not self._closed and len(self._ready) < READY:
                self._ready.insert(0, slot)
                return
        self.give_up(slot)

    def refill(self) -> None:
        """For a worker: whoever starts machines does not wait for it."""
        with self._filling:
            if not self._closed:
                self._groups.reap()
            while self._wanted():
                self._add()

    def _add(self) -> None:
        slot = self._make()
        try:
            if self._failures < FAILURES:
                self._run_ahead(slot)
        except BaseException:
            self.give_up(slot)
            raise
        with self._lock:
            if self._wanted():  # none was put back meanwhile
                self._ready.append(slot)
                return
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
        if slot.ctl is not None:
            end_monitor(slot.ctl)
        slot.close()
        layout = self._store.layout
        for path in layout.sockets(slot.key):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        self._remover.remove(layout.upper(slot.key))
        self._remover.remove(layout.machine(slot.key))
        self._groups.remove(slot.group)
        self._store.free_range(slot.key)

    def give_up_later(self, slot: Slot) -> None:
        self._later(lambda: self.give_up(slot))

    def _make(self) -> Slot:
        return self.fill(Slot(self._store.new_key(), choose_id(), self._group(), -1))

    def _group(self) -> Group:
        return self._groups.make(Limits(pids=PIDS))

    def fill(self, slot: Slot, *, views: int = 0) -> Slot:
        """Everything of ``slot`` that costs something; given up if that fails."""
        key, machine_id = slot.key, slot.id
        try:
            slot.id_range = self._store.take_range(key)
            prepare_root(self._store.layout.root, key, views=views)
            slot.directory = open_directory(self._store.layout.machine(key))
            slot.generated = files.write_default(slot.directory, machine_id[:12])
            slot.listener = listen(self._run_fd, key)
            slot.ctl = self._forker.fork()
        except BaseException:
            self.give_up(slot)
            raise
        return slot

    def _run_ahead(self, slot: Slot) -> None:
        """Have its monitor run the beginning of the plan; one that cannot is replaced."""
        assert slot.ctl is not None
        group, base = slot.group, range_base(slot.id_range)
        place = Place(
            key=slot.key,
            root=self._store.layout.root,
            base=base,
            cgroup_files=group.tasks,
            cgroup_into=bool(group.directory),
            files=files.TARGETS,
        )
        try:
            ahead = plan_ahead(PLAIN, self._facts, place)
        except CoveError:  # no machine can be run here: whoever asks for one is told why
            self._failures = FAILURES
            return
        fds = {"dir": slot.directory, "listen": slot.listener, "state": self._state_fd}
        fds |= slot.generated
        cgroup = open_group(group)
        try:
            if cgroup >= 0:
                fds["cgroup"] = cgroup
            host, machine = wire.encode(ahead.host), wire.encode(ahead.machine)
            send_start(slot.ctl, Start(StartFlag.AHEAD, base, base, host, machine), fds)
            slot.netns = _wait_barrier(slot.ctl, ahead)
            ran = slot.netns >= 0
        except (BrokenPipeError, ConnectionResetError):
            ran = False
        finally:
            if cgroup >= 0:
                os.close(cgroup)
        if ran:
            slot.ahead, self._failures = ahead, 0
            return
        self._failures += 1
        end_monitor(slot.ctl)
        slot.ctl.close()
        slot.ctl = self._forker.fork()


def end_monitor(ctl: socket.socket) -> None:
    """Let a monitor go that has no machine, and wait until its child is gone as well."""
    ctl.settimeout(PATIENCE)
    try:
        ctl.shutdown(socket.SHUT_WR)
        while (message := receive(ctl)) is not None:
            message.close()
    except (OSError, Bug):
        pass


def open_group(group: Group) -> int:
    """For clone3(2) into it; -1 where there is no cgroup2."""
    if not group.directory:
        return -1
    return os.open(group.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _wait_barrier(ctl: socket.socket, ahead: Plan) -> int:
    """The first word of a monitor that runs ahead: the machine's namespaces, of which the network's
    is kept; or that it failed (-1).
    """
    poll = select.poll()
    poll.register(ctl, select.POLLIN)
    if not poll.poll(PATIENCE * 1000):
        return -1
    message = receive(ctl, flags=socket.MSG_DONTWAIT)
    if message is None or message.kind != Kind.BARRIER:
        _close(message)
        return -1
    return keep_network(ahead, message)


def keep_network(plan: Plan, message: Message) -> int:
    """Of the descriptors at a plan's first barrier, the network's; the others are closed."""
    held = next((op for op in plan.host if isinstance(op, Barrier)), None)
    kept = -1
    for name, fd in zip(held.names if held else (), message.fds, strict=False):
        if name == "net":
            kept = fd
        else:
            os.close(fd)
    return kept


def _close(message: Message | None) -> None:
    if message is not None:
        message.close()


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
