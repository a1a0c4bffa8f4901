"""Warm clones that wait for a machine. An entry is a slot in which an emulator runs already: a
clone of the template that has been through the start of a machine once, on a placeholder, and has
let go of its disks. A start gives it the machine's own.

An entry has no record. It ends with the daemon, as slots do.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from cove.engine.home import Home
from cove.engine.reactor import Worker
from cove.engine.slots import Slot
from cove.engine.vms import emulators
from cove.engine.vms.emulators import Emulator, key_of
from cove.engine.vms.ground import Ground, ground_of, program
from cove.engine.vms.templates import empty_slot, warm_plan, where_of
from cove.engine.vms.virtual import MEMORY, cpus_of, memory_of
from cove.errors import CoveError, HostError
from cove.linux.disk import available_memory
from cove.linux.timers import Timer
from cove.oci.config import ImageConfig
from cove.planner.cpus import guest_cpu
from cove.planner.defaults import STORAGE
from cove.planner.virtual.guest import plan_let_go
from cove.planner.virtual.jail import OVERHEAD
from cove.roots.scratch import make_scratch
from cove.spec.machine import MachineSpec
from cove.vm import templates as stored
from cove.vm.agent import WARM
from cove.vm.templates import Loaded

READY = 1
"""Entries that are kept, if ``COVE_VM_POOL`` does not say otherwise."""
MOST = 16
SOON = 0.5
"""Seconds after a start in which the machine that was started has the processors for itself."""
LOOK = 5.0
"""Seconds between two looks at the host's memory while entries wait."""
SPARE = 256 << 20
"""Bytes of memory that must be available on the host besides what an entry may take."""
CPUS = 1


@dataclass(slots=True, eq=False)
class Entry(Slot):
    emulator: Emulator | None = None
    memory: int = MEMORY
    cpus: int = CPUS

    def close(self) -> None:
        Slot.close(self)
        if self.emulator is not None:
            self.emulator.close()
            self.emulator = None


class Pool:
    def __init__(self, home: Home, size: int) -> None:
        self._home, self._size = home, size
        self._ready: list[Entry] = []
        self._lock = threading.Lock()
        self._worker = Worker("guests")
        self._closed = False
        self._making: Slot | None = None
        self._timer: Timer | None = None
        self._wanted = threading.Event()

    def open(self) -> None:
        """After recovery. Nothing is made where virtual machines were never asked for."""
        self._worker.start()
        if self._size and stored.names(self._home.store.layout):
            self.refill(SOON)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            making = self._making
        if making is not None and making.ctl is not None:
            with contextlib.suppress(OSError):  # whoever waits for it hears of its end
                making.ctl.shutdown(socket.SHUT_RDWR)
        self._worker.close()
        self._empty()

    def take(self, spec: MachineSpec, image: ImageConfig) -> Entry | None:
        """One that fits the machine, or None: those that wait are of this host's own CPU."""
        memory, cpus = memory_of(spec.limits), cpus_of(spec.limits, self._home.facts)
        if not self._ready or spec.limits.cpuset_cpus:
            return None
        if spec.volumes_from or any(mount.type != "tmpfs" for mount in spec.mounts):
            return None  # it boots, with devices of its own
        if guest_cpu(image, self._home.facts) != self._home.facts.arch:
            return None
        if spec.limits.storage not in (0, STORAGE):  # an entry's emulator may write no larger disk
            return None
        key = key_of(ground_of(self._home, self._home.facts.arch), memory, cpus)
        while True:
            with self._lock:
                fits = [
                    entry for entry in self._ready if (entry.memory, entry.cpus) == (memory, cpus)
                ]
                if not fits:
                    return None
                entry = fits[0]
                self._ready.remove(entry)
            emulator = entry.emulator
            assert emulator is not None
            if emulator.template == key and entry.waits() and emulator.control.alive():
                return entry
            self._home.slots.give_up_later(entry)

    def put_back(self, entry: Entry) -> None:
        """Nothing was made of it."""
        with self._lock:
            if not self._closed:
                self._ready.insert(0, entry)
                return
        self._home.slots.give_up(entry)

    def waiting(self) -> list[Slot]:
        with self._lock:
            found: list[Slot] = list(self._ready)
            return found + ([self._making] if self._making is not None else [])

    def hold(self, slot: Slot | None) -> None:
        """What is being made now: it ends with the daemon, at once."""
        with self._lock:
            self._making = slot
            if slot is not None and self._closed and slot.ctl is not None:
                slot.ctl.shutdown(socket.SHUT_RDWR)

    def count(self, template: str) -> int:
        with self._lock:
            return sum(e.emulator is not None and e.emulator.template == template
                       for e in self._ready)  # fmt: skip

    def drop(self, template: str) -> None:
        """Entries of a template that is removed."""
        with self._lock:
            gone = [e for e in self._ready if e.emulator and e.emulator.template == template]
            self._ready = [entry for entry in self._ready if entry not in gone]
        for entry in gone:
            self._home.slots.give_up(entry)

    def refill(self, seconds: float = SOON) -> None:
        """Later: whoever starts machines does not wait for it."""
        if self._closed or self._wanted.is_set():
            return
        self._wanted.set()
        self._home.reactor.after(seconds, partial(self._worker.do, self._fill))

    def want_template(self, arch: str, memory: int, cpus: int, begun: Callable[[], bool]) -> None:
        """Made in the background, for the next start of this CPU and size, once what boots in its
        place has ``begun``: two at once would both take twice as long.
        """
        if self._closed:
            return
        make = partial(self._make_template, arch, memory, cpus)
        again = partial(self.want_template, arch, memory, cpus, begun)

        def look() -> None:
            if begun():
                self._worker.do(make)
            else:
                again()

        self._home.reactor.after(SOON, look)

    # ---- the worker's thread ----

    def _make_template(self, arch: str, memory: int, cpus: int) -> None:
        if self._closed:
            return
        with _told("make a template"):
            ground = ground_of(self._home, arch)
            self._home.templates.make(self._home, ground, memory, cpus)
        if arch == self._home.facts.arch:
            self.refill(0)

    def _fill(self) -> None:
        self._wanted.clear()
        with _told("fill the pool"):
            while not self._closed and len(self._ready) < self._size and self._room():
                ground = ground_of(self._home, self._home.facts.arch)
                self._home.templates.make(self._home, ground, MEMORY, CPUS)
                if not self._add(ground):
                    break
        if self._ready and self._timer is None:
            self._watch()

    def _add(self, ground: Ground) -> bool:
        home = self._home
        loaded = home.templates.take(home, ground, MEMORY, CPUS)
        if loaded is None:
            return False
        slot = empty_slot(home, MEMORY)
        self.hold(slot)
        emulator: Emulator | None = None
        try:
            emulator = _clone(home, ground, loaded, slot)
            warm(emulator, ground)
            names = ("key", "id", "group", "id_range", "directory", "listener", "generated", "ctl",
                     "limits", "cards")  # fmt: skip
            entry = Entry(**{name: getattr(slot, name) for name in names}, emulator=emulator)
            entry.ahead = emulator.plan
            self.put_back(entry)
            return True
        except BaseException:
            if emulator is not None:
                emulator.close()
            home.slots.give_up(slot)
            raise
        finally:
            self.hold(None)
            loaded.close()

    def _room(self) -> bool:
        return available_memory() > SPARE + OVERHEAD

    def _watch(self) -> None:
        self._timer = self._home.reactor.after(LOOK, partial(self._worker.do, self._look))

    def _look(self) -> None:
        """A host that is short of memory gets back what waits in vain."""
        self._timer = None
        if available_memory() < SPARE:
            self._empty()
            self._home.templates.close()
        if self._ready and not self._closed:
            self._watch()

    def _empty(self) -> None:
        with self._lock:
            left, self._ready = self._ready, []
        for entry in left:
            self._home.slots.give_up(entry)


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Nobody waits for it: what goes wrong is for the daemon's log, and machines boot."""
    try:
        yield
    except (CoveError, OSError) as error:
        emulators.tell(what, error)


def _clone(home: Home, ground: Ground, loaded: Loaded, slot: Slot) -> Emulator:
    assert slot.ctl is not None
    root = placeholder(home)
    try:
        layout = home.store.layout
        path = f"{layout.machine(slot.key)}/placeholder"
        scratch = make_scratch(layout.scratch(STORAGE, journal=False), path, STORAGE, journal=False)
        try:
            os.unlink(path)
            return emulators.clone(home, where_of(slot), ground, loaded, (root, scratch), slot.ctl)
        finally:
            os.close(scratch)
    finally:
        os.close(root)


def warm(emulator: Emulator, ground: Ground) -> None:
    """Once through all that a start does, and back."""
    emulator.agent.finish(warm_plan(ground)[1], channel=WARM)
    emulator.agent.run(plan_let_go())


def placeholder(home: Home) -> int:
    """An image with one program, cove's own, which says its version; not compressed, as programs
    are in every image's disk.
    """
    data = program(home.store.layout, home.facts.arch)
    path = home.store.layout.placeholder(hashlib.sha256(b"plain" + data).hexdigest()[:16])
    if not os.path.exists(path):
        work = f"{home.store.layout.tmp}/placeholder-{os.getpid()}"
        shutil.rmtree(work, ignore_errors=True)
        os.makedirs(f"{work}/tree/etc", 0o755)
        try:
            with open(f"{work}/tree/probe", "wb") as file:
                file.write(data)
            os.chmod(f"{work}/tree/probe", 0o755)
            subprocess.run(
                ["mkfs.erofs", "--quiet", "-Enoinline_data", f"{work}/disk", f"{work}/tree"],
                check=True, capture_output=True,
                env={"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"},
            )  # fmt: skip
            for old in glob.glob(f"{home.store.layout.templates}/placeholder-*"):
                os.unlink(old)
            os.rename(f"{work}/disk", path)
        except (OSError, subprocess.CalledProcessError) as error:
            raise HostError("cannot make the placeholder image: mkfs.erofs failed") from error
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)


def pool_size(text: str | None) -> int:
    """``COVE_VM_POOL``; what cannot be read is the default."""
    return min(int(text), MOST) if text and text.isdigit() else READY
